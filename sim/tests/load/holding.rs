//! Connections that are held open.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::support::{ended, load, reported, sim, within};

#[actix_web::test]
async fn connections_are_held_while_others_ask() {
    let sim = sim(|_| {});
    let (code, report, said) = reported(sim.address, "--idle 20 --requests 30 --connections 2").await;
    assert_eq!((code, &report["requests"]), (Some(0), &30.into()));
    assert_eq!(said, "holding 20 idle connections and 0 streams\n");
    assert_eq!((&report["idle"]["opened"], &report["idle"]["lost"]), (&20.into(), &0.into()));
}

#[actix_web::test]
async fn streams_are_held_until_a_signal() {
    let sim = sim(|args| args.token_interval = Duration::from_secs(5));
    let mut child = load(sim.address, "--json --hold-streams 10 --connections 0 --duration 1h");
    let mut said = BufReader::new(child.stderr.take().expect("stderr")).lines();
    let line = within("the line", said.next_line()).await.expect("a line");
    assert_eq!(line.as_deref(), Some("holding 0 idle connections and 10 streams"));
    let pid = child.id().expect("a process").to_string();
    let sent = Command::new("sh").args(["-c", &format!("kill -TERM {pid}")]).status().await;
    assert!(sent.expect("kill").success());
    let (code, out, _) = ended(child).await;
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(
        (code, &report["streams"]["opened"], &report["streams"]["lost"]),
        (Some(0), &10.into(), &0.into())
    );
}

#[actix_web::test]
async fn what_does_not_stay_open_is_a_failure() {
    let sim = sim(|_| {});
    let (code, report, said) =
        reported(sim.address, "--hold-streams 3 --connections 0 --duration 300ms").await;
    assert_eq!((code, &report["streams"]["lost"]), (Some(1), &3.into()), "the streams end: {said}");
    let gone = crate::support::server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
    let (code, report, said) = reported(gone, "--idle 3 --connections 0 --duration 300ms").await;
    assert_eq!((code, &report["idle"]["opened"], &report["idle"]["lost"]), (Some(1), &3.into(), &3.into()));
    assert!(said.contains("error: 3 connections were not held to the end"), "{said}");
}
