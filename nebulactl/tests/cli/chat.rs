//! `chat`: streamed answers, cut anywhere, broken, or not streamed at all.

use std::io::{Read, Write};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::mpsc;

use serde_json::{Value, json};

use crate::server::{Answer, Piece, Server};
use crate::{Ended, command, run};

const STREAM: &str = "text/event-stream; charset=utf-8";

fn chunk(text: &str) -> String {
    format!(
        "data: {}\n\n",
        json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]})
    )
}

fn stream(body: String) -> Server {
    Server::saying("200 OK", STREAM, &body)
}

#[test]
fn text_is_printed_as_it_arrives_also_when_characters_are_cut_in_two() {
    let body = format!("{}{}data: [DONE]\n\n", chunk("grü"), chunk("ße!"));
    // After the first event and one byte of the second's "ß".
    let cut = body.rfind('ß').expect("in the second event") + 1;
    let (open, gate) = mpsc::channel();
    let gate = Mutex::new(Some(gate));
    let server = Server::start(move |_| {
        let (first, rest) = body.as_bytes().split_at(cut);
        let gate = gate.lock().expect("no panic").take().expect("one request");
        let pieces = vec![Piece::Bytes(first.to_vec()), Piece::Gate(gate), Piece::Bytes(rest.to_vec())];
        Answer::pieces(STREAM, pieces)
    });
    let mut child = command(&["chat", "demo", "hi", "--server", &server.url()]).spawn().expect("it runs");
    let mut out = child.stdout.take().expect("a pipe");

    let mut first = [0; 4];
    out.read_exact(&mut first).expect("the first words, while the rest is held back");
    assert_eq!(&first, "grü".as_bytes());
    open.send(()).expect("the server waits");
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("UTF-8");
    assert_eq!(rest, "ße!\n");
    assert!(child.wait().expect("it ends").success());
    let request = server.requests()[0].json();
    let messages = json!([{"role": "user", "content": "hi"}]);
    assert_eq!(request, json!({"model": "demo", "messages": messages, "stream": true}));
}

#[test]
fn an_error_in_the_stream_ends_with_its_message() {
    let error =
        json!({"error": {"message": "the upstream broke", "type": "server_error", "code": "upstream_error"}});
    let ended = run(&stream(format!("{}data: {error}\n\n", chunk("half an ans"))), &["chat", "demo", "hi"]);
    assert_eq!((ended.code, ended.out.as_str()), (1, "half an ans\n"));
    assert_eq!(ended.err, "error: the upstream broke\n");
}

#[test]
fn a_stream_that_just_ends_is_an_error_unless_the_model_had_finished() {
    let ended = run(&stream(chunk("half")), &["chat", "demo", "hi"]);
    assert_eq!((ended.code, ended.err.as_str()), (1, "error: the answer broke off before its end\n"));
    let finish = r#"data: {"choices":[{"delta":{},"finish_reason":"stop"}]}"#;
    let ended = run(&stream(format!("{}{finish}\n\n", chunk("whole"))), &["chat", "demo", "hi"]);
    assert_eq!((ended.code, ended.out.as_str()), (0, "whole\n"));
}

#[test]
fn a_broken_connection_is_an_error() {
    let server =
        Server::start(|_| Answer::pieces(STREAM, vec![Piece::Bytes(chunk("half").into_bytes()), Piece::Cut]));
    let ended = run(&server, &["chat", "demo", "hi"]);
    assert_eq!((ended.code, ended.out.as_str()), (1, "half\n"));
    assert!(ended.err.contains("broke off"), "{}", ended.err);
}

#[test]
fn whole_answers_are_printed_or_shown_as_they_are() {
    let completion =
        json!({"id": "c", "choices": [{"message": {"role": "assistant", "content": "hello\n"}}]});
    let server = Server::saying("200 OK", "application/json", &completion.to_string());
    let ended = run(&server, &["chat", "demo", "hi", "--no-stream", "--max-tokens", "7"]);
    assert_eq!((ended.code, ended.out.as_str()), (0, "hello\n"));
    let sent = server.requests()[0].json();
    assert_eq!((&sent["stream"], &sent["max_tokens"]), (&json!(false), &json!(7)));
    let ended = run(&server, &["chat", "demo", "hi", "-o", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&ended.out).expect("json"), completion);
    let ended = run(&server, &["chat", "demo", "hi"]);
    assert_eq!(ended.out, "hello\n", "a server that does not stream is understood");
}

#[test]
fn the_message_may_come_from_standard_input() {
    let server = stream(format!("{}data: [DONE]\n\n", chunk("ok")));
    let mut nebulactl = command(&["chat", "demo", "--server", &server.url()]);
    let mut child = nebulactl.stdin(Stdio::piped()).spawn().expect("it runs");
    child.stdin.take().expect("a pipe").write_all(b"two\nlines\n").expect("it reads");
    let ended = Ended::of(child.wait_with_output().expect("it ends"));
    assert_eq!((ended.code, ended.out.as_str()), (0, "ok\n"));
    assert_eq!(server.requests()[0].json()["messages"][0]["content"], "two\nlines\n");
    assert_eq!(run(&server, &["chat", "demo"]).code, 2, "an empty message is not sent");
}

#[test]
fn the_key_wins_over_the_token() {
    let server = stream("data: [DONE]\n\n".to_owned());
    for flag in ["--api-key", "--key"] {
        run(&server, &["chat", "demo", "hi", flag, "nbtok_mine"]);
    }
    run(&server, &["chat", "demo", "hi"]);
    let sent: Vec<_> = server.requests().into_iter().filter_map(|request| request.authorization).collect();
    assert_eq!(sent, ["Bearer nbtok_mine", "Bearer nbtok_mine", "Bearer nbadm_test"]);
}

#[test]
fn the_gateways_errors_keep_their_words() {
    for (status, message, code, hint) in [
        (
            "401 Unauthorized",
            "the model needs a credential",
            77,
            "hint: the token from NEBULA_TOKEN was not accepted",
        ),
        ("404 Not Found", "the model \"demo\" does not exist", 1, "hint: `nebulactl models`"),
        ("503 Service Unavailable", "nothing serves \"demo\" now", 1, "hint: `nebulactl get demo`"),
        ("429 Too Many Requests", "slow down", 1, ""),
    ] {
        let body = json!({"error": {"message": message, "type": "t", "param": null, "code": "c"}});
        let ended =
            run(&Server::saying(status, "application/json", &body.to_string()), &["chat", "demo", "hi"]);
        assert_eq!((ended.code, ended.out.as_str()), (code, ""));
        assert!(ended.err.starts_with(&format!("error: {message}\n")), "{}", ended.err);
        assert!(ended.err.contains(hint), "{}", ended.err);
    }
}
