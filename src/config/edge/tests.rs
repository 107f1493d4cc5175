use clap::Parser as _;
use nebula_core::exit::Fatal;

use crate::config::{Cli, Config};

const ZONE: [&str; 4] = ["--route53-hosted-zone-id", "Z0123456789ABC", "--gateway-ip", "10.0.0.1"];
const DOMAIN: [&str; 2] = ["--gateway-domain", "gateway.example.com"];

fn config(args: &[&str]) -> Result<Config, Fatal> {
    let cli = Cli::try_parse_from(std::iter::once("nebulad").chain(args.iter().copied())).expect("parsed");
    Config::try_from(cli.flags)
}

/// With these flags beside those of a zone.
fn zone_and(args: &[&str]) -> Result<Config, Fatal> {
    config(&[&ZONE[..], &DOMAIN, args].concat())
}

fn caddy_at<'a>(url: &'a str, args: &[&'a str]) -> Result<Config, Fatal> {
    config(&[&["--caddy-admin-url", url], &DOMAIN[..], args].concat())
}

fn message(refused: Result<Config, Fatal>) -> String {
    refused.expect_err("refused").message
}

#[test]
fn nothing_is_managed_unless_it_is_said() {
    let config = config(&[]).expect("valid");
    assert!(config.caddy.is_none() && config.route53.is_none());
    assert_eq!(config.warnings, Vec::<String>::new());
    let shown = config.redacted();
    assert!(shown["caddy"].is_null() && shown["route53"].is_null(), "{shown}");
}

#[test]
fn caddys_address_is_scheme_host_and_port() {
    for (given, kept) in [
        ("http://localhost:2019", "http://localhost:2019"),
        ("http://localhost:2019/", "http://localhost:2019"),
        ("HTTP://127.0.0.1", "http://127.0.0.1"),
        ("http://[::1]:2019", "http://[::1]:2019"),
        ("https://[::1]", "https://[::1]"),
    ] {
        let config = caddy_at(given, &[]).expect(given);
        assert_eq!(config.caddy.expect("managed").admin_url, kept);
        assert_eq!(config.warnings, Vec::<String>::new(), "{given}");
    }
    for (given, part) in [
        ("localhost:2019", "\"localhost:2019\" is no http:// or https:// address"),
        ("ftp://localhost:2019", "\"ftp://localhost:2019\" is no http"),
        ("unix//run/caddy.sock", "is no http"),
        ("http://", "is no http"),
        ("http://:2019", "is no http"),
        ("http://localhost:0", "is no http"),
        ("http://localhost:99999", "is no http"),
        ("http://::1:2019", "is no http"),
        ("http://a b:2019", "is no http"),
        ("http://localhost:2019/config/", "goes on after http://localhost:2019, where a path or a query"),
        ("http://localhost:2019?token=geheim", "goes on after http://localhost:2019,"),
        ("http://localhost:2019#top", "goes on after"),
        ("http://me:geheim@localhost:2019", "holds a user name or a password"),
        ("me:geheim@localhost:2019", "holds a user name or a password"),
    ] {
        let message = message(caddy_at(given, &[]));
        assert!(message.starts_with("--caddy-admin-url") && message.contains(part), "{given}: {message}");
        assert!(!message.contains("geheim"), "{message}");
    }
}

#[test]
fn caddy_listens_on_a_port_with_or_without_an_address() {
    for listen in [":443", ":8081", "127.0.0.1:8081", "[::1]:8081", "localhost:8081", "0.0.0.0:80"] {
        let config = caddy_at("http://localhost:2019", &["--caddy-listen", listen]).expect(listen);
        assert_eq!(config.caddy.expect("managed").listen, listen);
        assert_eq!(config.warnings, Vec::<String>::new(), "{listen}");
    }
    for listen in [
        "443",
        ":0",
        ":65536",
        ":",
        ":x",
        "tcp/:443",
        "::1:443",
        "*:443",
        "example.com:443",
        ":8081-8090",
        "[]:1",
    ] {
        let message = message(caddy_at("http://localhost:2019", &["--caddy-listen", listen]));
        assert!(message.contains(&format!("--caddy-listen \"{listen}\" is neither")), "{listen}: {message}");
    }
}

#[test]
fn what_an_operator_should_know_of_caddy_is_said() {
    let open = ["--bind", "0.0.0.0", "--insecure"];
    let own = ["--bind", "10.0.0.5", "--insecure"];
    for (url, args, parts) in [
        (
            "http://10.0.0.9:2019",
            &[][..],
            &["neither on this machine nor encrypted", "listens on 127.0.0.1 only"][..],
        ),
        ("https://caddy.example.com", &[], &["listens on 127.0.0.1 only"]),
        ("https://caddy.example.com", &open, &["others can reach", "listens on every address (0.0.0.0)"]),
        ("http://10.0.0.9:2019", &own, &["others can reach", "neither on this machine nor encrypted"]),
        ("https://10.0.0.9:2019", &own, &["others can reach"]),
        ("http://127.0.0.1:2019", &["--caddy-listen", ":8080"], &["nebulad's own --http-port 8080"]),
        ("http://127.0.0.1:2019", &["--caddy-listen", ":9090"], &["nebulad's own --grpc-port 9090"]),
        (
            "https://10.0.0.9:2019",
            &["--bind", "10.0.0.5", "--insecure", "--caddy-listen", ":8080"],
            &["others can reach"],
        ),
    ] {
        let warnings = caddy_at(url, args).expect(url).warnings;
        assert_eq!(warnings.len(), parts.len(), "{url} {args:?}: {warnings:?}");
        for part in parts {
            assert!(warnings.iter().any(|warning| warning.contains(part)), "{url} {args:?}: {warnings:?}");
        }
    }
}

#[test]
fn a_zone_is_read() {
    let keys = ["--route53-access-key-id", "AKIA1", "--route53-secret-access-key", "geheim"];
    let more =
        ["--route53-ttl", "60", "--route53-wildcard", "--route53-endpoint-url", "http://127.0.0.1:5000/"];
    let config = zone_and(&[&keys[..], &more].concat()).expect("valid");
    assert_eq!(config.warnings, Vec::<String>::new());
    let zone = config.route53.clone().expect("managed");
    assert_eq!((zone.zone_id.as_str(), zone.region.as_str()), ("Z0123456789ABC", "us-east-1"));
    assert_eq!(
        (zone.ttl_seconds, zone.wildcard, zone.gateway_ip.to_string().as_str()),
        (60, true, "10.0.0.1")
    );
    assert_eq!(zone.endpoint_url.as_deref(), Some("http://127.0.0.1:5000"));
    let (id, secret) = zone.credentials.as_ref().expect("given");
    assert_eq!((id.as_str(), secret.expose()), ("AKIA1", "geheim"));
    let shown = config.redacted();
    assert_eq!(shown["route53"]["credentials"], "given");
    for shown in [shown.to_string(), zone.to_string(), format!("{config:?}")] {
        assert!(!shown.contains("geheim"), "{shown}");
    }

    let plain = zone_and(&["--route53-region", ""]).expect("valid");
    assert_eq!(plain.redacted()["route53"]["credentials"], "the standard AWS chain");
    let zone = plain.route53.expect("managed");
    assert_eq!((zone.ttl_seconds, zone.wildcard, zone.region.as_str()), (300, false, "us-east-1"));
    assert!(zone.credentials.is_none() && zone.endpoint_url.is_none());
}

#[test]
fn an_edge_for_a_domain_that_nobody_gave_is_warned_of() {
    for args in [&["--caddy-admin-url", "http://localhost:2019"][..], &ZONE] {
        let warnings = config(args).expect("valid").warnings;
        assert!(warnings.len() == 1 && warnings[0].contains("--gateway-domain"), "{warnings:?}");
        assert_eq!(config(&[args, &DOMAIN].concat()).expect("valid").warnings, Vec::<String>::new());
    }
}

#[test]
fn a_ttl_is_a_time_like_others() {
    for (text, seconds) in [("60", 60), ("60s", 60), ("5m", 300), ("1h", 3_600)] {
        let config = zone_and(&["--route53-ttl", text]).expect(text);
        assert_eq!(config.route53.expect("managed").ttl_seconds, seconds, "{text}");
    }
    for text in ["1500ms", "-1", "long", "60000d", ""] {
        let args = ["nebulad", "--route53-ttl", text];
        assert!(Cli::try_parse_from(args).is_err(), "{text}");
    }
}

#[test]
fn a_zones_id_is_taken_in_every_form() {
    for id in ["Z123", "/hostedzone/Z123", "hostedzone/Z123"] {
        let config = config(&["--route53-hosted-zone-id", id, "--gateway-ip", "192.0.2.1"]).expect(id);
        assert_eq!(config.route53.expect("managed").zone_id, "Z123");
    }
    for id in ["z123", "Z 1", "example.com", "/hostedzone/", "hostedzone/Z1/Z2", &"Z".repeat(33)] {
        let message = message(config(&["--route53-hosted-zone-id", id, "--gateway-ip", "192.0.2.1"]));
        assert!(message.contains("is no id of a hosted zone"), "{id}: {message}");
    }
}

#[test]
fn what_records_cannot_hold_is_refused() {
    for (args, part) in [
        (&["--gateway-ip", "2001:db8::1"][..], "2001:db8::1 is no IPv4 address"),
        (&["--gateway-ip", "gateway"], "--gateway-ip \"gateway\" is no IP address"),
        (&["--gateway-ip", "0.0.0.0"], "0.0.0.0 is no address that one machine has"),
        (&["--gateway-ip", "255.255.255.255"], "no address that one machine has"),
        (&["--gateway-ip", "224.0.0.1"], "no address that one machine has"),
        (&[], "needs --gateway-ip"),
        (&["--gateway-ip", ""], "needs --gateway-ip"),
        (&["--gateway-ip", "10.0.0.1", "--route53-ttl", "0"], "--route53-ttl is 0, not from 1"),
        (&["--gateway-ip", "10.0.0.1", "--route53-ttl", "2147483648"], "--route53-ttl is 2147483648"),
        (&["--gateway-ip", "10.0.0.1", "--route53-region", "Us East"], "--route53-region \"Us East\""),
        (&["--gateway-ip", "10.0.0.1", "--route53-access-key-id", "A"], "belong together"),
        (
            &["--gateway-ip", "10.0.0.1", "--route53-endpoint-url", "aws"],
            "--route53-endpoint-url \"aws\" is no",
        ),
    ] {
        let message = message(config(&[&["--route53-hosted-zone-id", "Z1"], args].concat()));
        assert!(message.contains(part), "{args:?}: {message}");
        assert!(!message.contains(';'), "one thing is wrong: {message}");
    }
    for ip in ["10.0.0.1", "127.0.0.1", "192.168.1.9", "203.0.113.7"] {
        let args = [&["--route53-hosted-zone-id", "Z1", "--gateway-ip", ip], &DOMAIN[..]].concat();
        let config = config(&args).expect(ip);
        assert_eq!(config.warnings, Vec::<String>::new(), "{ip}");
    }
}

#[test]
fn flags_without_their_partner_are_told() {
    for (args, warning) in [
        (
            &["--caddy-listen", ":80"][..],
            "--caddy-listen does nothing without --caddy-admin-url: Caddy is not used",
        ),
        (
            &["--gateway-ip", "10.0.0.1"],
            "--gateway-ip does nothing without --route53-hosted-zone-id: Route 53 is not used",
        ),
        (
            &["--route53-access-key-id", "A", "--route53-secret-access-key", "B", "--route53-wildcard"],
            "--route53-access-key-id, --route53-secret-access-key, --route53-wildcard do nothing without \
             --route53-hosted-zone-id: Route 53 is not used",
        ),
        (
            &["--route53-ttl", "60", "--route53-region", "eu-west-1", "--route53-endpoint-url", "http://a:1"],
            "--route53-region, --route53-ttl, --route53-endpoint-url do nothing without \
             --route53-hosted-zone-id: Route 53 is not used",
        ),
    ] {
        assert_eq!(config(args).expect("valid").warnings, [warning]);
    }
}

#[test]
fn the_edge_is_told_in_a_line_each() {
    let config =
        zone_and(&["--caddy-admin-url", "http://localhost:2019", "--caddy-listen", ":8443"]).expect("valid");
    assert_eq!(
        config.caddy.expect("managed").to_string(),
        "http://localhost:2019, serves on :8443 (plain HTTP)"
    );
    assert_eq!(
        config.route53.expect("managed").to_string(),
        "zone Z0123456789ABC, a record per node to 10.0.0.1, TTL 300 s, region us-east-1, credentials from the \
         standard AWS chain"
    );
}
