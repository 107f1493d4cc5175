//! Where credentials come from. The standard AWS chain reads the environment, so each case is a process of its own:
//! this very test program, told to run one test.

use std::process::{Command, Output};

use nebulad::edge::route53::{Route53, Route53Options};
use nebulad::ports::Edge as _;

use crate::options;
use crate::zone::Zone;

/// Set in the processes that are started by [`child`].
const CHILD: &str = "NEBULA_TEST_CREDENTIALS_CHILD";

/// Runs [`in_a_process_of_its_own`] with this environment, an empty home folder and no instance role.
fn child(environment: &[(&str, &str)], files: &[(&str, &str)]) -> Output {
    let home = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(home.path().join(".aws")).expect("a folder");
    for (name, text) in files {
        std::fs::write(home.path().join(".aws").join(name), text).expect("a file");
    }
    let inherited = std::env::vars().map(|(name, _)| name).filter(|name| name.starts_with("AWS_"));
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    inherited.for_each(|name| {
        command.env_remove(name);
    });
    command
        .args(["credentials::in_a_process_of_its_own", "--exact", "--nocapture"])
        .env("HOME", home.path())
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")
        .env(CHILD, "1")
        .envs(environment.iter().copied())
        .output()
        .expect("the child runs")
}

fn said(output: &Output) -> String {
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    text
}

/// Asks a zone once with credentials of the standard chain, and prints what came of it. Does so in a child only.
#[tokio::test]
async fn in_a_process_of_its_own() {
    if std::env::var_os(CHILD).is_none() {
        println!("nothing to do: the other tests of this file start it with an environment");
        return;
    }
    let zone = Zone::start().await;
    let edge = Route53::new(Route53Options { credentials: None, ..options(&zone) }).expect("good options");
    let clock = nebula_core::clock::Clock::start();
    match edge.probe().await {
        Ok(()) => println!("answered to {}", zone.state().seen[0].authorization),
        Err(error) => println!("{:?} {} / {}", error.trouble, error.message, error.hint),
    }
    println!("in time: {}", clock.elapsed().as_secs() < 10);
}

#[test]
fn without_any_it_says_both_ways_to_give_them_and_does_not_hang() {
    let text = said(&child(&[], &[]));
    for part in [
        "Refused route 53, zone Z0TEST",
        "no AWS credentials",
        "--route53-access-key-id",
        "AWS_ACCESS_KEY_ID",
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    assert!(text.contains("in time: true"), "{text}");
}

#[test]
fn a_metadata_service_that_hangs_ends_in_time() {
    // Connections are taken by the operating system; nobody ever answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", silent.local_addr().expect("an address"));
    let text = said(&child(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &url)], &[]));
    assert!(text.contains("Refused route 53") && text.contains("no AWS credentials"), "{text}");
    assert!(text.contains("in time: true"), "{text}");
}

#[test]
fn they_come_from_the_environment() {
    let keys = [("AWS_ACCESS_KEY_ID", "AKIDENV"), ("AWS_SECRET_ACCESS_KEY", "secret-of-environment")];
    let text = said(&child(&keys, &[]));
    assert!(text.contains("Credential=AKIDENV/") && !text.contains("secret-of-environment"), "{text}");
}

#[test]
fn they_come_from_a_profile() {
    let file = "[default]\naws_access_key_id = AKIDDEFAULT\naws_secret_access_key = x\n\
                [edge]\naws_access_key_id = AKIDEDGE\naws_secret_access_key = y\n";
    let text = said(&child(&[], &[("credentials", file)]));
    assert!(text.contains("Credential=AKIDDEFAULT/"), "{text}");
    let text = said(&child(&[("AWS_PROFILE", "edge")], &[("credentials", file)]));
    assert!(text.contains("Credential=AKIDEDGE/"), "{text}");
}

#[test]
fn options_that_cannot_be_are_refused_before_anything_is_asked() {
    let good = Route53Options {
        zone_id: "Z1".to_owned(),
        credentials: None,
        region: "us-east-1".to_owned(),
        ttl_seconds: 300,
        endpoint_url: None,
        domain: "gw.example.com".to_owned(),
        gateway_ip: "203.0.113.7".parse().expect("an address"),
        wildcard: false,
    };
    let edge = Route53::new(good.clone()).expect("good options");
    assert_eq!(edge.target(), "zone Z1");
    let url = |text: &str| Route53Options { endpoint_url: Some(text.to_owned()), ..good.clone() };
    for (options, flag) in [
        (Route53Options { zone_id: String::new(), ..good.clone() }, "--route53-hosted-zone-id"),
        (Route53Options { zone_id: "Z1/../x".to_owned(), ..good.clone() }, "--route53-hosted-zone-id"),
        (Route53Options { domain: "no domain".to_owned(), ..good.clone() }, "--gateway-domain"),
        (url("localhost:5555"), "--route53-endpoint-url"),
        (url("ftp://localhost"), "--route53-endpoint-url"),
        (url("http://key:hunter2@localhost"), "--route53-endpoint-url"),
    ] {
        let error = Route53::new(options).expect_err("bad options");
        assert!(error.hint.as_deref().unwrap_or_default().contains(flag), "{error:?}");
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}
