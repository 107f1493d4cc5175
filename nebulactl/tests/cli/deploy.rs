//! `deploy`, with and without waiting.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::run;
use crate::server::{Answer, Request, Server};

const TOKEN: &str = "nbtok_00112233445566778899aabbccddeeff0011223344556677";

fn deployment(state: &str, message: &str) -> Value {
    json!({"id": "d-1", "name": "demo", "state": state, "desired_state": "running", "message": message,
           "model": "m", "runtime": "sim", "public": false, "replicas": [], "spec": {"replicas": 1}})
}

/// A server whose deployment pulls its image, one layer per look, and then runs.
pub(crate) fn pulling(layers: usize) -> Server {
    let looks = AtomicUsize::new(0);
    Server::start(move |request: &Request| match request.line().as_str() {
        "POST /api/v1/deployments" => Answer::json("201 Created", &deployment("pending", "")),
        "GET /api/v1/deployments/d-1" => {
            let look = looks.fetch_add(1, Ordering::SeqCst);
            if look >= layers {
                return Answer::json("200 OK", &deployment("running", ""));
            }
            let (message, percent) =
                (format!("pulling image x: {look} of {layers} layers"), look * 100 / layers);
            let mut shown = deployment("preparing", &format!("{message}, {percent} %"));
            shown["replicas"] = json!([{"index": 0, "state": "preparing", "message": "",
                                        "progress": {"percent": percent, "message": message}}]);
            Answer::json("200 OK", &shown)
        }
        other => panic!("unexpected {other}"),
    })
}

/// A server that accepts a deployment and then shows it in these states, one per look, the last for ever.
fn server(states: &'static [(&'static str, &'static str)]) -> Server {
    let looks = AtomicUsize::new(0);
    Server::start(move |request: &Request| match request.line().as_str() {
        "POST /api/v1/deployments" => {
            let mut created = deployment("pending", "");
            created["access_token"] = TOKEN.into();
            Answer::json("201 Created", &created)
        }
        "GET /api/v1/deployments/d-1" => {
            let look = looks.fetch_add(1, Ordering::SeqCst).min(states.len() - 1);
            match states[look] {
                ("unavailable", message) => Answer::error("503 Service Unavailable", "restarting", message),
                (state, message) => Answer::json("200 OK", &deployment(state, message)),
            }
        }
        "GET /api/v1/deployments/demo/logs?tail=20" => {
            Answer::new("200 OK", "text/plain", "loading\nout of \u{1b}[31mmemory\n")
        }
        other => panic!("unexpected {other}"),
    })
}

#[test]
fn what_was_made_is_printed_with_its_access_token() {
    let server = server(&[]);
    let ended =
        run(&server, &["deploy", "--model", "m", "--runtime", "sim", "--arg", "--ttft", "--arg", "5"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(
        ended.out.starts_with("Name:          demo\nId:            d-1\nState:         pending\n"),
        "{}",
        ended.out
    );
    assert!(ended.out.contains(&format!("Access token:  {TOKEN}\n")));
    assert!(ended.err.contains("shown only this once") && !ended.err.contains(TOKEN));
    let sent = server.requests()[0].json();
    assert_eq!(sent, json!({"model": "m", "runtime": "sim", "args": ["--ttft", "5"]}));
}

#[test]
fn json_is_the_answer_itself() {
    let ended = run(&server(&[]), &["deploy", "--model", "m", "-o", "json"]);
    let mut expected = deployment("pending", "");
    expected["access_token"] = TOKEN.into();
    assert_eq!(serde_json::from_str::<Value>(&ended.out).expect("json"), expected);
}

#[test]
fn waiting_tells_each_change_once_and_ends_when_it_runs() {
    let server = server(&[("preparing", "40 %"), ("unavailable", "back in a moment"), ("running", "")]);
    let ended = run(&server, &["deploy", "--model", "m", "--wait", "-o", "json"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.err.starts_with("preparing: 40 %\nback in a moment\nrunning\n"), "{}", ended.err);
    let shown: Value = serde_json::from_str(&ended.out).expect("json");
    assert_eq!((&shown["state"], &shown["access_token"]), (&json!("running"), &json!(TOKEN)));
}

#[test]
fn waiting_for_what_fails_ends_with_the_reason_and_the_log() {
    let ended = run(
        &server(&[("failed", "the runtime ended with exit code 1")]),
        &["deploy", "--model", "m", "--wait"],
    );
    assert_eq!(ended.code, 1);
    assert!(ended.out.contains("State:         failed\n") && ended.out.contains(TOKEN), "{}", ended.out);
    assert!(
        ended.err.contains("\nlast lines of its log:\n  loading\n  out of [31mmemory\n"),
        "{}",
        ended.err
    );
    let error =
        "error: deployment demo failed: the runtime ended with exit code 1\n\nhint: `nebulactl why demo`";
    assert!(ended.err.contains(error), "{}", ended.err);
}

#[test]
fn waiting_is_bounded() {
    let server = server(&[("starting", "")]);
    let ended = run(&server, &["deploy", "--model", "m", "--wait", "--wait-timeout", "500ms"]);
    assert_eq!(ended.code, 1);
    assert!(ended.out.contains(TOKEN), "the token is not lost");
    assert!(
        ended.err.contains("error: deployment demo is still starting after 500 ms\n\nhint: "),
        "{}",
        ended.err
    );
}

#[test]
fn a_refusal_is_passed_on() {
    let server = Server::start(|_| {
        Answer::error("409 Conflict", "name_taken", "there is a deployment named \"demo\" already")
    });
    let ended = run(&server, &["deploy", "--model", "m", "--wait"]);
    assert_eq!((ended.code, ended.out.as_str()), (1, ""));
    assert_eq!(ended.err, "error: there is a deployment named \"demo\" already\n");
}

#[test]
fn progress_takes_few_lines_where_no_line_can_be_rewritten() {
    let ended = run(&pulling(3), &["deploy", "--model", "m", "--wait"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let told = "preparing: pulling image x: 0 of 3 layers, 0 %\nrunning\n";
    assert!(ended.err.starts_with(told), "{}", ended.err);
}
