//! Streams with keepalives, filters and a limit on lines.

use std::time::Duration;

use bytes::Bytes;
use nebula_relay::{Filter, Incoming, RelayBody, Unfinished};

use super::front::{Front, Shape};
use super::net::{Caller, Script};
use super::{POST, STREAM, chunk, dechunked, relayed_by, sized};

const KEEP_ALIVE: &str = ": keep-alive\n\n";

/// Four times as often as the front gives up.
fn keeping_alive(body: RelayBody) -> RelayBody {
    body.keepalive(Duration::from_millis(100))
}

/// What the client gets of a stream that says this and then nothing.
async fn silent_after(said: &'static str, shape: Shape) -> String {
    let script = Script::start(move |mut peer| async move {
        peer.request().await;
        peer.send(STREAM).await;
        if !said.is_empty() {
            peer.send(&chunk(said)).await;
        }
        peer.gone().await;
    })
    .await;
    let front = Front::shaping(script.address, shape).await;
    let mut caller = Caller::connect(front.address).await;
    caller.send(POST).await;
    let answer = caller.until("0\r\n\r\n").await;
    front.stop().await;
    dechunked(&answer)
}

#[actix_rt::test]
async fn a_silent_stream_is_kept_alive_until_it_times_out() {
    for said in ["", "data: a\n\n", "data: a\r\n\r\n"] {
        let answer = silent_after(said, keeping_alive).await;
        let rest = answer.strip_prefix(said).expect("what was said");
        let rest = rest.strip_suffix("data: {\"error\":\"Timeout\"}\n\n").expect("the end");
        assert!(rest.starts_with(KEEP_ALIVE) && rest.replace(KEEP_ALIVE, "").is_empty(), "{rest:?}");
        assert!(rest.len() <= 4 * KEEP_ALIVE.len(), "{rest:?}");
    }
}

#[actix_rt::test]
async fn nothing_of_ours_comes_within_an_event_or_after_the_last() {
    let error = "data: {\"error\":\"Timeout\"}\n\n";
    for (said, got) in [
        ("data: a\n\ndata: b", format!("data: a\n\n{error}")),
        ("data: a\r\n\r", format!("data: a\r\n\r{error}")),
        ("data: [DONE]\n\n", "data: [DONE]\n\n".to_owned()),
    ] {
        assert_eq!(silent_after(said, keeping_alive).await, got);
    }
}

#[actix_rt::test]
async fn an_answer_that_is_no_event_stream_is_never_kept_alive() {
    let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n";
    let script = Script::start(move |mut peer| async move {
        peer.request().await;
        peer.send(answer).await;
        peer.gone().await;
    })
    .await;
    let front = Front::shaping(script.address, keeping_alive).await;
    let mut caller = Caller::connect(front.address).await;
    caller.send(POST).await;
    assert!(caller.rest().await.ends_with("\r\n\r\n2\r\n{}\r\n"));
    front.stop().await;
}

#[actix_rt::test]
async fn a_line_that_is_too_long_ends_the_stream_and_the_upstreams_work() {
    let (gone, mut noticed) = tokio::sync::mpsc::channel(1);
    let script = Script::start(move |mut peer| {
        let gone = gone.clone();
        async move {
            peer.request().await;
            peer.send(STREAM).await;
            peer.send(&chunk("data: a\n\n")).await;
            peer.send(&chunk(&format!("data: {}", "x".repeat(1_000)))).await;
            peer.gone().await;
            gone.send(()).await.expect("the test waits");
        }
    })
    .await;
    let front = Front::shaping(script.address, |body| body.line_limit(1_000)).await;
    let mut caller = Caller::connect(front.address).await;
    caller.send(POST).await;
    let answer = caller.until("0\r\n\r\n").await;
    assert_eq!(dechunked(&answer), "data: a\n\ndata: {\"error\":\"TooLong\"}\n\n");
    noticed.recv().await.expect("cancelled");
    front.stop().await;
}

/// Marks where each piece of an event stream ends, and says of anything else what it is, line by line as events.
#[derive(Default)]
struct Marking {
    line: Vec<u8>,
    makes_events: bool,
    ended: bool,
}

impl Filter for Marking {
    fn begin(&mut self, incoming: Incoming) -> bool {
        self.makes_events = incoming == Incoming::Other;
        self.makes_events
    }

    fn pass(&mut self, data: Bytes) -> Bytes {
        let mut out = Vec::new();
        if !self.makes_events {
            out.extend_from_slice(&data);
            out.extend_from_slice(b": piece\n\n");
            return out.into();
        }
        for byte in data {
            self.line.push(byte);
            if byte == b'\n' {
                self.ended |= self.line == b"end\n";
                out.extend_from_slice(b"data: ");
                out.append(&mut self.line);
                out.push(b'\n');
            }
        }
        out.into()
    }

    fn finish(&mut self) -> Result<Bytes, Unfinished> {
        if self.makes_events && !self.ended {
            return Err(Unfinished { told: false });
        }
        Ok(Bytes::from_static(b"data: [DONE]\n\n"))
    }
}

fn marking(body: RelayBody) -> RelayBody {
    let body = body.filtered(Box::new(Marking::default()));
    assert!(body.events_out());
    keeping_alive(body)
}

#[actix_rt::test]
async fn a_filter_gets_whole_events_and_ends_the_stream() {
    let pieces = [STREAM, "2\r\nda\r\n", "f\r\nta: a\n\ndata: b\n\r\n", "1\r\n\n\r\n", "0\r\n\r\n"];
    let answer = relayed_by(marking, pieces).await;
    // How much comes in one read is chance; where it may be cut is not.
    let passed = dechunked(&answer);
    let pieces: Vec<&str> = passed.split(": piece\n\n").collect();
    assert!(pieces.len() > 1 && pieces.iter().all(|piece| piece.ends_with("\n\n")), "{passed:?}");
    assert_eq!(pieces.concat(), "data: a\n\ndata: b\n\ndata: [DONE]\n\n");
}

#[actix_rt::test]
async fn a_filter_makes_an_event_stream_of_another_answer() {
    let answer =
        relayed_by(marking, ["HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n", "one\n", "end\n"]).await;
    assert!(!answer.contains("content-length"), "{answer}");
    assert_eq!(dechunked(&answer), "data: one\n\ndata: end\n\ndata: [DONE]\n\n");
}

#[actix_rt::test]
async fn what_a_filter_makes_breaks_as_an_event_stream_does() {
    for (head, end) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n", "Upstream"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n", "Unfinished"),
        ("HTTP/1.1 200 OK\r\n\r\n", "Unfinished"),
    ] {
        let answer = relayed_by(marking, [head, "one\ntw"]).await;
        assert_eq!(dechunked(&answer), format!("data: one\n\ndata: {{\"error\":\"{end}\"}}\n\n"));
    }
}

#[actix_rt::test]
async fn an_error_that_a_filter_tells_ends_the_stream_and_the_upstreams_work() {
    let (gone, mut noticed) = tokio::sync::mpsc::channel(1);
    let script = Script::start(move |mut peer| {
        let gone = gone.clone();
        async move {
            peer.request().await;
            peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
            peer.send(&chunk("one\n{\"error\":1}\n")).await;
            peer.gone().await;
            gone.send(()).await.expect("the test waits");
        }
    })
    .await;
    let front = Front::shaping(script.address, marking).await;
    let mut caller = Caller::connect(front.address).await;
    caller.send(POST).await;
    let answer = caller.until("0\r\n\r\n").await;
    assert_eq!(dechunked(&answer), "data: one\n\ndata: {\"error\":1}\n\n");
    noticed.recv().await.expect("cancelled");
    front.stop().await;
}

/// Counts on nothing and changes nothing.
struct Idle;

impl Filter for Idle {
    fn begin(&mut self, _: Incoming) -> bool {
        false
    }

    fn pass(&mut self, data: Bytes) -> Bytes {
        data
    }

    fn finish(&mut self) -> Result<Bytes, Unfinished> {
        Ok(Bytes::new())
    }
}

#[actix_rt::test]
async fn a_filter_that_changes_nothing_leaves_the_length() {
    fn idle(body: RelayBody) -> RelayBody {
        body.filtered(Box::new(Idle))
    }
    let script = Script::start(|peer| super::always(peer, sized("ok"))).await;
    let front = Front::shaping(script.address, idle).await;
    let mut caller = Caller::connect(front.address).await;
    caller.send(POST).await;
    assert!(caller.until("\r\n\r\nok").await.contains("content-length: 2\r\n"));
    front.stop().await;
}
