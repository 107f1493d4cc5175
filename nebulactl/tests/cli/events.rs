//! Events: listed, followed, and followed on after the connection was lost.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::run;
use super::server::{Answer, Piece, Server};

#[test]
fn events_keep_to_one_line_each() {
    let server = Server::start(|_| {
        Answer::list(
            &json!([{"seq": 1, "time": "2026-01-02T03:04:05Z", "type": "created", "message": "by\nada"},
                             {"seq": 2, "time": "2026-01-02T03:04:06Z", "type": "placed", "message": "on gpu-1",
                              "node": "gpu-1"}]),
        )
    });
    let expected = "TIME                  TYPE     NODE   MESSAGE\n2026-01-02T03:04:05Z  created  -      by ada\n\
                    2026-01-02T03:04:06Z  placed   gpu-1  on gpu-1\n";
    assert_eq!(run(&server, &["events", "demo"]).out, expected);
    assert_eq!(server.lines(), ["GET /api/v1/deployments/demo/events?limit=500"]);
}

fn line(seq: u64, kind: &str) -> Value {
    json!({"seq": seq, "time": "2026-01-02T03:04:05.000Z", "type": kind, "message": format!("{kind} happened"),
           "deployment": "d-1"})
}

/// An event of the stream, as nebulad writes it.
fn event(seq: u64, kind: &str) -> String {
    format!("id: {seq}\nevent: {kind}\ndata: {}\n\n", line(seq, kind))
}

fn stream(text: &str, end: Piece) -> Answer {
    let text = format!(": hello\n\n{text}");
    Answer::pieces("text/event-stream", vec![Piece::Bytes(text.into_bytes()), end])
}

fn nothing() -> Piece {
    Piece::Bytes(Vec::new())
}

#[test]
fn the_whole_journal_says_whom_it_is_about_and_who_did_it() {
    let mut audit = line(2, "audit.deployment.scale");
    audit["by"] = json!("admin token");
    let lines = json!([line(1, "created"), audit]);
    let server = Server::start(move |_| Answer::list(&lines));
    let ended = run(&server, &["events", "--tail", "2"]);
    let expected = "TIME                      TYPE                    DEPLOYMENT  BY           MESSAGE\n\
                    2026-01-02T03:04:05.000Z  created                 d-1         -            created happened\n\
                    2026-01-02T03:04:05.000Z  audit.deployment.scale  d-1         admin token  audit.deployment.scale happened\n";
    assert_eq!((ended.code, ended.out.as_str()), (0, expected));
    assert_eq!(server.lines(), ["GET /api/v1/events?limit=500&tail=2"]);
}

#[test]
fn following_goes_on_after_the_last_event_when_the_connection_was_lost() {
    let connections = AtomicUsize::new(0);
    let server = Server::start(move |_| match connections.fetch_add(1, Ordering::SeqCst) {
        0 => stream(&(event(1, "created") + &event(2, "placed")), Piece::Cut),
        1 => Answer::error("503 Service Unavailable", "restarting", "not yet"),
        _ => stream(&(event(3, "running") + &event(4, "audit.deployment.deleted")), nothing()),
    });
    let ended = run(&server, &["events", "demo", "-f", "-o", "json"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let lines: Vec<Value> =
        ended.out.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    let expected =
        [line(1, "created"), line(2, "placed"), line(3, "running"), line(4, "audit.deployment.deleted")];
    assert_eq!(lines, expected);
    for told in ["broke off", "trying again in 0.5 s", "not yet; trying again in 1 s", "following again"] {
        assert!(ended.err.contains(told), "{told:?} in {}", ended.err);
    }
    let ids: Vec<_> = server.requests().iter().map(|request| request.last_event_id.clone()).collect();
    assert_eq!(ids, [None, Some("2".to_owned()), Some("2".to_owned())]);
    assert_eq!(server.lines()[2], "GET /api/v1/deployments/demo/events?follow=true");
}

#[test]
fn followed_events_are_rows_and_what_the_stream_says_of_itself_is_a_note() {
    let skipped = "event: skipped\ndata: {\"type\":\"skipped\",\"message\":\"some are missing\"}\n\n";
    let text = event(7, "placed") + skipped + &event(8, "audit.deployment.deleted");
    let connections = AtomicUsize::new(0);
    let server = Server::start(move |_| match connections.fetch_add(1, Ordering::SeqCst) {
        0 => stream(&text, nothing()),
        _ => Answer::error("403 Forbidden", "unauthenticated", "no longer"),
    });
    let ended = run(&server, &["events", "-f", "--tail", "2"]);
    let about = format!("{:<36}", "d-1");
    let expected = format!(
        "{:<24}  {:<26}  {:<36}  MESSAGE\n\
         2026-01-02T03:04:05.000Z  {:<26}  {about}  placed happened\n\
         2026-01-02T03:04:05.000Z  {:<26}  {about}  audit.deployment.deleted happened\n",
        "TIME", "TYPE", "ABOUT", "placed", "audit.deployment.deleted"
    );
    assert_eq!((ended.code, ended.out.as_str()), (77, expected.as_str()), "{ended:?}");
    assert!(
        ended.err.starts_with("some are missing\nnebulad has ended the stream; trying again"),
        "{}",
        ended.err
    );
    assert_eq!(server.lines()[0], "GET /api/v1/events?follow=true&tail=2");
}

#[test]
fn what_cannot_be_followed_in_the_first_place_is_an_error_at_once() {
    let server = Server::start(|_| Answer::error("503 Service Unavailable", "overloaded", "too many follow"));
    let ended = run(&server, &["events", "-f"]);
    assert_eq!((ended.code, server.requests().len()), (1, 1), "{ended:?}");
    assert!(ended.err.contains("too many follow"), "{}", ended.err);
}
