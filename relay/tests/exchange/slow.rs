//! Readers that do not read, upstreams that send byte by byte, and clients that leave halfway.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::front::Front;
use super::net::{CANCELLED, Caller, DEADLINE, Peer, Script};
use super::{POST, STREAM, chunk, dechunked, relayed_by};

/// A write that takes longer is taken for one that waits for a reader.
const STALLED: Duration = Duration::from_millis(500);
/// What an upstream would send: far more than the sockets' buffers on the way hold.
const OFFERED: usize = 256 * 1024 * 1024;
/// What may be on the way to a client that does not read.
const ON_THE_WAY_MAX: usize = OFFERED / 4;

/// Sends until nothing more is taken, at most what is offered: how much went.
async fn flood(peer: &mut Peer) -> usize {
    let piece = vec![b'x'; 64 * 1024];
    let mut sent = 0;
    while sent < OFFERED {
        match tokio::time::timeout(STALLED, peer.stream.write(&piece)).await {
            Ok(count) => sent += count.expect("sent"),
            Err(_) => break,
        }
    }
    sent
}

#[actix_rt::test]
async fn a_client_that_does_not_read_stops_the_upstream() {
    for kind in ["text/plain", "text/event-stream"] {
        let (stalled, mut at) = mpsc::channel(1);
        let script = Script::start(move |mut peer| {
            let stalled = stalled.clone();
            async move {
                peer.request().await;
                peer.send(&format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n\r\n")).await;
                stalled.send(flood(&mut peer).await).await.expect("the test waits");
                peer.gone().await;
            }
        })
        .await;
        let front = Front::before(script.address).await;
        let mut caller = Caller::connect(front.address).await;
        caller.send(POST).await;
        let sent = at.recv().await.expect("it stalls");
        assert!(
            sent < ON_THE_WAY_MAX,
            "{sent} bytes of {kind} are on the way to a client that reads nothing"
        );
        // All of it arrives once the client reads.
        let mut read = 0;
        let mut buffer = vec![0; 1 << 16];
        while read < sent {
            let count =
                tokio::time::timeout(DEADLINE, caller.stream.read(&mut buffer)).await.expect("in time");
            read += count.expect("data");
        }
        front.stop().await;
    }
}

#[actix_rt::test]
async fn a_stream_that_comes_byte_by_byte_passes_whole() {
    let stream = "data: {\"x\":\"ä€😀\"}\r\n\r\n: note\r\r\ndata:b\n\ndata: [DONE]\r\n\r\n";
    let script = Script::start(move |mut peer| async move {
        peer.request().await;
        peer.send(STREAM).await;
        for byte in stream.bytes() {
            // One chunk and, as nothing waits in between, one packet for each.
            peer.stream.write_all(b"1\r\n").await.expect("sent");
            peer.stream.write_all(&[byte]).await.expect("sent");
            peer.send("\r\n").await;
            tokio::task::yield_now().await;
        }
        peer.send("0\r\n\r\n").await;
        peer.gone().await;
    })
    .await;
    let front = Front::before(script.address).await;
    let mut caller = Caller::connect(front.address).await;
    caller.send(POST).await;
    assert_eq!(dechunked(&caller.until("\r\n0\r\n\r\n").await), stream);
    front.stop().await;
}

#[actix_rt::test]
async fn chunks_that_come_together_go_out_together() {
    let events: Vec<String> =
        (0..20).map(|number| format!("data: {number}\n\n")).chain(["data: [DONE]\n\n".to_owned()]).collect();
    let wire = events.iter().map(|event| chunk(event)).collect::<String>() + "0\r\n\r\n";
    let script = Script::start(move |mut peer| {
        let wire = format!("{STREAM}{wire}");
        async move {
            peer.request().await;
            peer.send(&wire).await;
            peer.gone().await;
        }
    })
    .await;
    let front = Front::before(script.address).await;
    let mut caller = Caller::connect(front.address).await;
    caller.send(POST).await;
    let answer = caller.until("\r\n0\r\n\r\n").await;
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert_eq!(body.to_lowercase(), chunk(&events.concat()).to_lowercase() + "0\r\n\r\n");
    front.stop().await;
}

#[actix_rt::test]
async fn interim_answers_are_passed_over() {
    let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n";
    for pieces in [
        [interim, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"],
        ["HTTP/1.1 100 Continue\r\n\r", "\nHTTP/1.1 200 OK\r\n\r\nok"],
    ] {
        let answer = relayed_by(|body| body, pieces).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("ok"), "{answer}");
        assert!(!answer.contains("link"), "{answer}");
    }
    let answer = relayed_by(|body| body, ["HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n"]).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
}

#[actix_rt::test]
async fn a_client_that_closes_its_half_has_left() {
    let (gone, mut noticed) = mpsc::channel(1);
    let (asked, mut request_came) = mpsc::channel(1);
    let script = Script::start(move |mut peer| {
        let (gone, asked) = (gone.clone(), asked.clone());
        async move {
            peer.request().await.expect("a request");
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
    caller.stream.shutdown().await.expect("half closed");
    tokio::time::timeout(CANCELLED, noticed.recv()).await.expect("cancelled in time");
    front.stop().await;
}
