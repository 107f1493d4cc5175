//! Our server and our routes, as Caddy is to have them. Pure: text from nouns.
//!
//! Keys are written in the order in which Caddy gives them back, so that what is right is the same text. Nothing sets
//! `flush_interval`: Caddy flushes event streams at once by itself, and with -1 it would not pass on a client's hang-up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nebula_core::address::HostPort;
use serde_json::{Map, Value, json};

use super::listen::Listener;

/// The name of our server among the others.
pub(crate) const SERVER_KEY: &str = "nebula";
/// The mark of the server that holds our routes, whatever it is called.
pub(crate) const SERVER_ID: &str = "nebula-server";
const GATEWAY_ID: &str = "nebula-gateway";
const UNKNOWN_ID: &str = "nebula-unknown";
const NODE_PREFIX: &str = "nebula-node-";

/// What the gateway's name does not show: nebulad gives it to everybody who can reach its port.
const INSIDE_ONLY: [&str; 2] = ["/metrics", "/metrics/*"];

/// How long Caddy tries to connect to a node, in its own words. Nothing limits how long a node may take to answer.
const DIAL_TIMEOUT: &str = "3s";

/// What all our objects have in common.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// What our server listens on, as it is written in Caddy's configuration.
    pub(crate) listen: String,
    /// The same, understood.
    pub(crate) listener: Listener,
    /// The gateway's own name.
    pub(crate) domain: String,
    /// Where nebulad serves HTTP.
    pub(crate) gateway: SocketAddr,
}

/// One route of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ours {
    /// Its `@id`.
    pub(crate) id: String,
    /// What people call it: its host.
    pub(crate) name: String,
    /// Where it leads, for people.
    pub(crate) to: String,
    /// The route itself.
    pub(crate) text: String,
}

/// Whether this `@id` marks a route as ours.
pub(crate) fn is_ours(id: &str) -> bool {
    is_node(id) || id == GATEWAY_ID || id == UNKNOWN_ID
}

/// Whether this `@id` marks a node's route.
pub(crate) fn is_node(id: &str) -> bool {
    id.starts_with(NODE_PREFIX)
}

/// The route of the gateway's own name.
pub(crate) fn gateway(site: &Site) -> Ours {
    let dial = dialled(site.gateway).to_string();
    let matcher = json!({"host": [site.domain], "not": [{"path": INSIDE_ONLY}]});
    proxy(GATEWAY_ID.to_owned(), &site.domain, &matcher, dial)
}

/// A node's route.
pub(crate) fn node(site: &Site, host: &str, proxy_address: &HostPort) -> Ours {
    proxy(node_id(site, host), host, &json!({"host": [host]}), proxy_address.to_string())
}

/// The route that answers for names that no node has; the last one.
pub(crate) fn unknown() -> Ours {
    let error = json!({"error": {
        "code": "unknown_host",
        "message": "there is nothing at this name",
        "param": null,
        "type": "invalid_request_error",
    }});
    let text = json!({
        "@id": UNKNOWN_ID,
        "handle": [{
            "body": error.to_string(),
            "handler": "static_response",
            "headers": {"Content-Type": ["application/json"]},
            "status_code": 404,
        }],
    });
    let (name, to) = ("any other name".to_owned(), "404".to_owned());
    Ours { id: UNKNOWN_ID.to_owned(), name, to, text: text.to_string() }
}

/// The fields of our own server but for its routes. On any other port than Caddy's for HTTPS it serves plain HTTP.
pub(crate) fn server_fields(site: &Site) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("@id".to_owned(), json!(SERVER_ID));
    if !site.listener.is_https() {
        fields.insert("automatic_https".to_owned(), json!({"disable": true}));
    }
    fields.insert("listen".to_owned(), json!([site.listen]));
    fields
}

/// The mark of a node's route: its first label, as all names are below the gateway's; else the whole name.
pub(crate) fn node_id(site: &Site, host: &str) -> String {
    let below = host.strip_suffix(&site.domain).and_then(|rest| rest.strip_suffix('.'));
    format!("{NODE_PREFIX}{}", below.unwrap_or(host))
}

fn proxy(id: String, host: &str, matcher: &Value, dial: String) -> Ours {
    let text = json!({
        "@id": id,
        "handle": [{
            "handler": "reverse_proxy",
            "transport": {"dial_timeout": DIAL_TIMEOUT, "protocol": "http"},
            "upstreams": [{"dial": dial}],
        }],
        "match": [matcher],
        "terminal": true,
    });
    Ours { id, name: host.to_owned(), to: dial, text: text.to_string() }
}

/// Where a server that listens on `bound` is reached from its own machine.
fn dialled(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, bound.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(listen: &str, gateway: &str) -> Site {
        Site {
            listen: listen.to_owned(),
            listener: Listener::parse(listen).expect(listen),
            domain: "example.com".to_owned(),
            gateway: gateway.parse().expect(gateway),
        }
    }

    #[test]
    fn a_node_has_a_route_of_its_own() {
        let address: HostPort = "10.0.0.7:8888".parse().expect("valid");
        let route = node(&site(":443", "127.0.0.1:8080"), "ab12cd34.example.com", &address);
        assert_eq!(route.id, "nebula-node-ab12cd34");
        assert!(is_ours(&route.id) && is_node(&route.id));
        assert_eq!(
            route.text,
            r#"{"@id":"nebula-node-ab12cd34","handle":[{"handler":"reverse_proxy","transport":{"dial_timeout":"3s","protocol":"http"},"upstreams":[{"dial":"10.0.0.7:8888"}]}],"match":[{"host":["ab12cd34.example.com"]}],"terminal":true}"#
        );
    }

    #[test]
    fn the_gateways_metrics_are_not_shown() {
        let route = gateway(&site(":443", "127.0.0.1:8080"));
        let matcher = r#""match":[{"host":["example.com"],"not":[{"path":["/metrics","/metrics/*"]}]}]"#;
        assert!(route.text.contains(matcher), "{}", route.text);
    }

    #[test]
    fn addresses_are_written_so_that_they_can_be_dialled() {
        let site = site(":443", "127.0.0.1:8080");
        for (address, dial) in [("[::1]:8888", "[::1]:8888"), ("gpu-1.lan:8888", "gpu-1.lan:8888")] {
            let route = node(&site, "a.example.com", &address.parse().expect(address));
            assert!(route.text.contains(&format!(r#""dial":"{dial}""#)), "{}", route.text);
        }
    }

    #[test]
    fn the_gateway_is_reached_where_nebulad_listens() {
        for (bound, dial) in [
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("0.0.0.0:8080", "127.0.0.1:8080"),
            ("[::]:8080", "[::1]:8080"),
            ("10.0.0.1:80", "10.0.0.1:80"),
        ] {
            assert_eq!(gateway(&site(":443", bound)).to, dial, "{bound}");
        }
    }

    #[test]
    fn names_elsewhere_keep_their_whole_name_in_the_mark() {
        let site = site(":443", "127.0.0.1:8080");
        for (host, id) in [
            ("a.example.com", "nebula-node-a"),
            ("a.other.org", "nebula-node-a.other.org"),
            ("anexample.com", "nebula-node-anexample.com"),
        ] {
            assert_eq!(node_id(&site, host), id);
        }
    }

    #[test]
    fn automatic_https_is_left_to_caddy_on_its_port_only() {
        let fields = |listen: &str| Value::Object(server_fields(&site(listen, "127.0.0.1:1"))).to_string();
        assert_eq!(fields(":443"), r#"{"@id":"nebula-server","listen":[":443"]}"#);
        let plain =
            r#"{"@id":"nebula-server","automatic_https":{"disable":true},"listen":["127.0.0.1:8081"]}"#;
        assert_eq!(fields("127.0.0.1:8081"), plain);
    }
}
