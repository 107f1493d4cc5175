//! The relay between real sockets: what passes, what is cancelled, and how breaks look to the client.
#![allow(clippy::expect_used, clippy::panic, reason = "that is how a test fails")]

#[path = "support/front.rs"]
mod front;
#[path = "support/net.rs"]
mod net;
#[path = "exchange/shaped.rs"]
mod shaped;
#[path = "exchange/slow.rs"]
mod slow;

use front::{Front, Shape};
use net::{CANCELLED, Caller, Peer, Script};
use tokio::sync::mpsc;

const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\
                      transfer-encoding: chunked\r\n\r\n";

const POST: &str = "POST /v1/x HTTP/1.1\r\nhost: t\r\ncontent-length: 2\r\n\r\n{}";

fn chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}

fn sized(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// The payload of a chunked response.
fn dechunked(response: &str) -> String {
    let (_, mut rest) = response.split_once("\r\n\r\n").expect("a head");
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n").expect("a size");
        let size = usize::from_str_radix(size, 16).expect("a number");
        if size == 0 {
            assert_eq!(after, "\r\n", "nothing after the last chunk");
            return body;
        }
        body.push_str(&after[..size]);
        rest = after[size..].strip_prefix("\r\n").expect("the chunk's end");
    }
}

/// Answers every request on a connection with `answer` and keeps it open.
async fn always(mut peer: Peer, answer: String) {
    while peer.request().await.is_some() {
        peer.send(&answer).await;
    }
}

/// What a client gets from an answer that the upstream ends by closing after these bytes.
async fn relayed(pieces: &'static [&'static str]) -> String {
    answered(|body| body, pieces.iter().copied()).await
}

/// The same with a body that this is done to.
async fn relayed_by<const N: usize>(shape: Shape, pieces: [&'static str; N]) -> String {
    answered(shape, pieces).await
}

async fn answered(shape: Shape, pieces: impl IntoIterator<Item = &'static str> + Clone + 'static) -> String {
    let script = Script::start(move |mut peer| {
        let pieces = pieces.clone();
        async move {
            peer.request().await;
            for piece in pieces {
                peer.send(piece).await;
            }
        }
    })
    .await;
    let front = Front::shaping(script.address, shape).await;
    let mut caller = Caller::connect(front.address).await;
    caller.send(POST).await;
    let answer = caller.answer().await;
    front.stop().await;
    answer
}

#[actix_rt::test]
async fn events_pass_one_by_one_and_byte_for_byte() {
    let (next, proceed) = mpsc::channel::<()>(1);
    let proceed = std::rc::Rc::new(tokio::sync::Mutex::new(proceed));
    let script = Script::start(move |mut peer| {
        let proceed = std::rc::Rc::clone(&proceed);
        async move {
            peer.request().await;
            peer.send(STREAM).await;
            for event in ["data: {\"a\":1.10}\r\n\r\n", ": ping\n\n", "data: [DONE]\n\n"] {
                peer.send(&chunk(event)).await;
                proceed.lock().await.recv().await;
            }
            peer.send("0\r\n\r\n").await;
            peer.gone().await;
        }
    })
    .await;
    let front = Front::before(script.address).await;
    let mut caller = Caller::connect(front.address).await;
    caller.send(POST).await;
    let mut all = String::new();
    for end in ["1.10}\r\n\r\n\r\n", "ping\n\n\r\n", "[DONE]\n\n\r\n"] {
        all += &caller.until(end).await;
        next.send(()).await.expect("the upstream waits");
    }
    all += &caller.until("0\r\n\r\n").await;
    assert!(all.contains("content-type: text/event-stream; charset=utf-8\r\n"), "{all}");
    assert_eq!(dechunked(&all), "data: {\"a\":1.10}\r\n\r\n: ping\n\ndata: [DONE]\n\n");
    front.stop().await;
}

#[actix_rt::test]
async fn a_stream_that_breaks_ends_in_order_after_the_error_event() {
    let answer = relayed(&[STREAM, "9\r\ndata: a\n\n\r\n", "6\r\ndata: \r\n"]).await;
    assert_eq!(dechunked(&answer), "data: a\n\ndata: {\"error\":\"Upstream\"}\n\n");
}

#[actix_rt::test]
async fn a_stream_that_ends_without_done_gets_the_error_event() {
    let answer = relayed(&[STREAM, "9\r\ndata: a\n\n\r\n0\r\n\r\n"]).await;
    assert_eq!(dechunked(&answer), "data: a\n\ndata: {\"error\":\"Unfinished\"}\n\n");
    let answer =
        relayed(&["HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n", "data: a\n\n"]).await;
    assert_eq!(dechunked(&answer), "data: a\n\ndata: {\"error\":\"Unfinished\"}\n\n");
}

#[actix_rt::test]
async fn an_error_event_of_the_upstream_is_not_followed_by_another() {
    let answer = relayed(&[STREAM, "13\r\ndata: {\"error\":1}\n\n\r\n0\r\n\r\n"]).await;
    assert_eq!(dechunked(&answer), "data: {\"error\":1}\n\n");
}

#[actix_rt::test]
async fn a_break_after_done_is_no_break() {
    let answer = relayed(&[STREAM, "e\r\ndata: [DONE]\n\n\r\n"]).await;
    assert_eq!(dechunked(&answer), "data: [DONE]\n\n");
}

#[actix_rt::test]
async fn a_silent_stream_times_out_into_the_error_event() {
    let script = Script::start(|mut peer| async move {
        peer.request().await;
        peer.send(STREAM).await;
        peer.send(&chunk("data: a\n\n")).await;
        peer.gone().await;
    })
    .await;
    let front = Front::before(script.address).await;
    let mut caller = Caller::connect(front.address).await;
    caller.send(POST).await;
    let answer = caller.until("0\r\n\r\n").await;
    assert_eq!(dechunked(&answer), "data: a\n\ndata: {\"error\":\"Timeout\"}\n\n");
    front.stop().await;
}

#[actix_rt::test]
async fn a_cut_body_that_is_no_stream_looks_cut() {
    let script = Script::start(|mut peer| async move {
        peer.request().await;
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345").await;
    })
    .await;
    let front = Front::before(script.address).await;
    let mut caller = Caller::connect(front.address).await;
    caller.send(POST).await;
    let answer = caller.rest().await;
    assert!(answer.contains("content-length: 10\r\n") && answer.ends_with("\r\n\r\n12345"), "{answer}");
    front.stop().await;
}

/// The client leaves once `seen` has arrived; the upstream, which has sent `answer`, must notice in time.
async fn cancelled_after(answer: &'static str, seen: &'static str) {
    let (gone, mut noticed) = mpsc::channel(1);
    let (asked, mut request_came) = mpsc::channel(1);
    let script = Script::start(move |mut peer| {
        let (gone, asked) = (gone.clone(), asked.clone());
        async move {
            peer.request().await.expect("a request");
            peer.send(answer).await;
            asked.send(()).await.expect("the test waits");
            peer.gone().await;
            gone.send(()).await.expect("the test waits");
        }
    })
    .await;
    let front = Front::before(script.address).await;
    let mut caller = Caller::connect(front.address).await;
    caller.send(POST).await;
    request_came.recv().await.expect("a request");
    if !seen.is_empty() {
        caller.until(seen).await;
    }
    drop(caller);
    tokio::time::timeout(CANCELLED, noticed.recv()).await.expect("cancelled in time");
    front.stop().await;
}

#[actix_rt::test]
async fn hang_up_before_the_first_byte_cancels() {
    cancelled_after("", "").await;
}

#[actix_rt::test]
async fn hang_up_in_a_gap_between_events_cancels() {
    cancelled_after(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: a\n\n",
        "data: a\n\n\r\n",
    )
    .await;
}

#[actix_rt::test]
async fn hang_up_within_a_plain_answer_cancels() {
    cancelled_after("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{", "{").await;
}

#[actix_rt::test]
async fn hang_up_in_the_middle_of_a_stream_cancels() {
    let (gone, mut noticed) = mpsc::channel(1);
    let script = Script::start(move |mut peer| {
        let gone = gone.clone();
        async move {
            peer.request().await.expect("a request");
            peer.send(STREAM).await;
            let mut ticks = tokio::time::interval(std::time::Duration::from_millis(5));
            loop {
                tokio::select! {
                    () = peer.gone() => break,
                    _ = ticks.tick() => {}
                }
                peer.send(&chunk("data: a\n\n")).await;
            }
            gone.send(()).await.expect("the test waits");
        }
    })
    .await;
    let front = Front::before(script.address).await;
    let mut caller = Caller::connect(front.address).await;
    caller.send(POST).await;
    caller.until("data: a\n\n\r\n").await;
    drop(caller);
    tokio::time::timeout(CANCELLED, noticed.recv()).await.expect("cancelled in time");
    front.stop().await;
}

#[actix_rt::test]
async fn connections_are_kept_and_reused() {
    let script = Script::start(|peer| always(peer, sized("ok"))).await;
    let front = Front::before(script.address).await;
    let mut caller = Caller::connect(front.address).await;
    for _ in 0..3 {
        caller.send(POST).await;
        assert!(caller.until("\r\n\r\nok").await.starts_with("HTTP/1.1 200"));
    }
    assert_eq!(script.connections.get(), 1);
    front.stop().await;
}

#[actix_rt::test]
async fn a_kept_connection_that_the_upstream_closes_is_replaced() {
    // Every connection serves one request in order and closes on the second, without a byte.
    let script = Script::start(|mut peer| async move {
        peer.request().await;
        peer.send(&sized("ok")).await;
        peer.request().await;
    })
    .await;
    let front = Front::before(script.address).await;
    let mut caller = Caller::connect(front.address).await;
    for _ in 0..4 {
        caller.send(POST).await;
        assert!(caller.until("\r\n\r\nok").await.starts_with("HTTP/1.1 200"));
    }
    front.stop().await;
}

#[actix_rt::test]
async fn a_kept_connection_that_was_closed_at_once_is_replaced() {
    let script = Script::start(|mut peer| async move {
        peer.request().await;
        peer.send(&sized("ok")).await;
    })
    .await;
    let front = Front::before(script.address).await;
    let mut caller = Caller::connect(front.address).await;
    for _ in 0..4 {
        caller.send(POST).await;
        assert!(caller.until("\r\n\r\nok").await.starts_with("HTTP/1.1 200"));
    }
    assert_eq!(script.connections.get(), 4);
    front.stop().await;
}

#[actix_rt::test]
async fn a_new_connection_that_breaks_is_not_tried_again() {
    let script = Script::start(|mut peer| async move {
        peer.request().await;
    })
    .await;
    let front = Front::before(script.address).await;
    let mut caller = Caller::connect(front.address).await;
    caller.send(POST).await;
    assert!(caller.until("answered").await.starts_with("HTTP/1.1 502"));
    assert_eq!(script.connections.get(), 1);
    front.stop().await;
}

#[actix_rt::test]
async fn a_kept_connection_that_breaks_within_an_answer_is_not_replaced() {
    let script = Script::start(|mut peer| async move {
        peer.request().await;
        peer.send(&sized("ok")).await;
        peer.request().await;
        peer.send("HTTP/1.1 2").await;
    })
    .await;
    let front = Front::before(script.address).await;
    let mut caller = Caller::connect(front.address).await;
    caller.send(POST).await;
    caller.until("\r\n\r\nok").await;
    caller.send(POST).await;
    assert!(caller.until("answered").await.starts_with("HTTP/1.1 502"));
    assert_eq!(script.connections.get(), 1);
    front.stop().await;
}

#[actix_rt::test]
async fn a_silent_upstream_times_out() {
    let script = Script::start(|mut peer| async move {
        peer.request().await;
        peer.gone().await;
    })
    .await;
    let front = Front::before(script.address).await;
    let mut caller = Caller::connect(front.address).await;
    caller.send(POST).await;
    assert!(caller.until("\r\n\r\n").await.starts_with("HTTP/1.1 504"));
    front.stop().await;
}

#[actix_rt::test]
async fn nobody_listening_is_a_connect_error() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let front = Front::before(free).await;
    let mut caller = Caller::connect(front.address).await;
    caller.send(POST).await;
    let answer = caller.until(")").await;
    assert!(answer.starts_with("HTTP/1.1 502") && answer.contains("cannot connect"), "{answer}");
    front.stop().await;
}

#[actix_rt::test]
async fn the_upstream_gets_the_body_as_it_was_and_headers_without_hops() {
    let (seen, mut saw) = mpsc::channel(1);
    let script = Script::start(move |mut peer| {
        let seen = seen.clone();
        async move {
            seen.send(peer.request().await.expect("a request")).await.expect("the test waits");
            peer.send(&sized("ok")).await;
            peer.gone().await;
        }
    })
    .await;
    let front = Front::before(script.address).await;
    let mut caller = Caller::connect(front.address).await;
    let body = format!("{{\"x\": 0.30000000000000004, \"pad\":\"{}\"}}", "ä".repeat(400_000));
    caller
        .send(&format!(
            "POST /v1/x?y=%20z HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\nauthorization: Bearer secret\r\n\
             x-nebula-replica: forged\r\nconnection: x-hop\r\nx-hop: 1\r\nx-kept: 2\r\n\r\n{body}",
            body.len()
        ))
        .await;
    caller.until("\r\n\r\nok").await;
    let (head, got) = saw.recv().await.expect("a request");
    assert_eq!(got, body.as_bytes());
    assert!(head.starts_with("POST /v1/x?y=%20z HTTP/1.1\r\n"), "{head}");
    assert!(
        head.contains("x-kept: 2\r\n") && head.contains(&format!("host: {}\r\n", script.address)),
        "{head}"
    );
    for absent in ["secret", "forged", "x-hop", "transfer-encoding"] {
        assert!(!head.contains(absent), "{absent} in {head}");
    }
    front.stop().await;
}

#[actix_rt::test]
async fn an_early_answer_to_a_large_body_reaches_the_client() {
    let script = Script::start(|mut peer| async move {
        // Answers after the head, reads nothing of the rest and waits.
        peer.send("HTTP/1.1 413 Payload Too Large\r\ncontent-length: 3\r\n\r\nbig").await;
        std::future::pending::<()>().await;
    })
    .await;
    let front = Front::before(script.address).await;
    let mut caller = Caller::connect(front.address).await;
    caller.send("POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let piece = chunk(&"x".repeat(64 * 1024));
    for _ in 0..5 {
        caller.send(&piece).await;
    }
    assert!(caller.until("\r\n\r\nbig").await.contains("HTTP/1.1 413"));
    front.stop().await;
}

#[actix_rt::test]
async fn a_head_request_keeps_the_length_and_has_no_body() {
    let script =
        Script::start(|peer| always(peer, "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n".to_owned())).await;
    let front = Front::before(script.address).await;
    let mut caller = Caller::connect(front.address).await;
    for _ in 0..2 {
        caller.send("HEAD / HTTP/1.1\r\nhost: t\r\n\r\n").await;
        assert!(caller.until("\r\n\r\n").await.contains("content-length: 7\r\n"));
    }
    front.stop().await;
}

#[actix_rt::test]
async fn a_head_request_to_a_chunked_answer_claims_no_length() {
    let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-last: 1\r\n\r\n";
    let script = Script::start(move |peer| always(peer, answer.to_owned())).await;
    let front = Front::before(script.address).await;
    let mut caller = Caller::connect(front.address).await;
    for _ in 0..2 {
        caller.send("HEAD / HTTP/1.1\r\nhost: t\r\n\r\n").await;
        let head = caller.until("\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200") && !head.contains("content-length"), "{head}");
    }
    front.stop().await;
}

#[actix_rt::test]
async fn a_body_that_stalls_after_its_first_part_is_the_clients_fault() {
    let script = Script::start(|mut peer| async move { peer.gone().await }).await;
    let front = Front::before(script.address).await;
    let mut caller = Caller::connect(front.address).await;
    caller.send("POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let piece = chunk(&"x".repeat(64 * 1024));
    for _ in 0..5 {
        caller.send(&piece).await;
    }
    let answer = caller.until("for 400ms").await;
    assert!(answer.starts_with("HTTP/1.1 502") && answer.contains("client's body broke"), "{answer}");
    assert_eq!(script.connections.get(), 1);
    front.stop().await;
}

#[actix_rt::test]
async fn a_mark_of_ours_that_an_upstream_forges_does_not_pass() {
    let answer = "HTTP/1.1 200 OK\r\nx-nebula-proxy-error: model_not_ready\r\nx-kept: 1\r\ncontent-length: 2\r\n\r\nok";
    let script = Script::start(move |peer| always(peer, answer.to_owned())).await;
    let front = Front::before(script.address).await;
    let mut caller = Caller::connect(front.address).await;
    caller.send(POST).await;
    let answer = caller.until("\r\n\r\nok").await;
    assert!(answer.contains("x-kept: 1\r\n") && !answer.contains("x-nebula"), "{answer}");
    front.stop().await;
}
