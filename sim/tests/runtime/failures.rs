//! The failure modes, as a client sees them.

use std::time::Duration;

use nebula_sim::runtime::{Args, Fail, start};
use tokio::io::AsyncReadExt as _;

use crate::support::{chat, quick, rest, sim, until_text, within};

const CHAT: &str = "/v1/chat/completions";
const HOUR: Duration = Duration::from_secs(3600);

fn failing(fail: Fail) -> Args {
    Args { fail, ..quick() }
}

/// All that comes for a streamed chat.
async fn streamed(fail: Fail) -> String {
    let sim = sim(failing(fail));
    let mut client = sim.open(CHAT, "", &chat(true).to_string()).await;
    rest(&mut client).await
}

const END_OF_BODY: &str = "0\r\n\r\n";

#[actix_web::test]
async fn errors_come_in_the_form_of_the_api() {
    let sim = sim(failing(Fail::Error500));
    let reply = sim.post(CHAT, &[], &chat(true)).await;
    assert_eq!((reply.status, reply.json()["error"]["type"].as_str()), (500, Some("server_error")));
    let reply = sim.post("/api/chat", &[("x-sim-fail", "error-429")], &chat(true)).await;
    assert_eq!((reply.status, reply.header("retry-after")), (429, Some("1")));
    assert!(reply.json()["error"].is_string());
    let reply = sim.post(CHAT, &[("x-sim-fail", "none")], &chat(false)).await;
    assert_eq!(reply.status, 200);
    let stats = sim.until("finished", 3).await;
    assert_eq!(stats["requests"], 3);
}

#[actix_web::test]
async fn a_runtime_that_hangs_sends_nothing() {
    let sim = sim(failing(Fail::Hang));
    let mut client = sim.open(CHAT, "", &chat(false).to_string()).await;
    sim.until("inflight", 1).await;
    assert_eq!(sim.get("/sim/last").await.json()["body"], chat(false).to_string());
    let silence = tokio::time::timeout(Duration::from_millis(100), client.read_u8()).await;
    assert!(silence.is_err(), "{silence:?}");
    drop(client);
    sim.until("cancelled", 1).await;
}

#[actix_web::test]
async fn a_stream_breaks_after_so_many_chunks() {
    for chunks in [0, 1, 3] {
        let sim = sim(failing(Fail::DieMidStream(chunks)));
        let mut client = sim.open(CHAT, "", &chat(true).to_string()).await;
        let text = rest(&mut client).await;
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        assert_eq!(text.matches("data: ").count() as u64, chunks, "{text}");
        assert!(!text.ends_with(END_OF_BODY), "{text}");
        sim.until("failed", 1).await;
    }
}

#[actix_web::test]
async fn an_answer_in_one_piece_breaks_in_its_middle() {
    let sim = sim(failing(Fail::DieMidStream(1)));
    let mut client = sim.open(CHAT, "", &chat(false).to_string()).await;
    let text = rest(&mut client).await;
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    let length: usize = length.parse().expect("a number");
    assert!(!body.is_empty() && body.len() < length, "{} of {length}", body.len());
    sim.until("failed", 1).await;
}

#[actix_web::test]
async fn a_stream_ends_too_soon_but_cleanly() {
    let text = streamed(Fail::CutShort(3)).await;
    assert_eq!(text.matches("data: ").count(), 3, "{text}");
    assert!(text.ends_with(END_OF_BODY), "{text}");
    let text = streamed(Fail::NoDone).await;
    assert!(text.contains(r#""finish_reason":"stop""#) && !text.contains("[DONE]"), "{text}");
    assert!(text.ends_with(END_OF_BODY), "{text}");
    let text = streamed(Fail::ErrorMidStream(2)).await;
    assert_eq!(text.matches("data: ").count(), 3, "{text}");
    assert!(text.contains(r#"data: {"error":{"#) && text.ends_with(END_OF_BODY), "{text}");
}

#[actix_web::test]
async fn garbage_is_a_200_without_json() {
    let sim = sim(failing(Fail::Garbage));
    for streamed in [true, false] {
        let reply = sim.post(CHAT, &[], &chat(streamed)).await;
        assert_eq!(reply.status, 200);
        assert!(serde_json::from_slice::<serde_json::Value>(&reply.body).is_err());
        assert!(std::str::from_utf8(&reply.body).is_err());
    }
}

#[actix_web::test]
async fn a_runtime_that_exits_breaks_all_connections() {
    let mut sim = sim(Args { fail: Fail::ExitAfter(2), token_interval: HOUR, ..quick() });
    let headers = "x-sim-token-interval: 0\r\n";
    let mut first = sim.open(CHAT, headers, &chat(true).to_string()).await;
    assert!(rest(&mut first).await.contains("[DONE]"));
    let mut second = sim.open(CHAT, "", &chat(true).to_string()).await;
    until_text(&mut second, r#""content":"This ""#).await;
    let mut third = sim.open(CHAT, "", &chat(true).to_string()).await;
    assert_eq!(rest(&mut third).await, "");
    assert!(!rest(&mut second).await.contains("[DONE]"));
    within("the server's end", &mut sim.server).await.expect("joined").expect("stopped");
}

#[actix_web::test]
async fn a_model_is_not_ready_while_it_loads() {
    for args in [failing(Fail::NeverReady), Args { start_delay: HOUR, ..quick() }] {
        let sim = sim(args);
        assert_eq!(sim.get("/health").await.status, 503);
        assert_eq!(sim.get("/v1/models").await.status, 503);
        let reply = sim.post(CHAT, &[], &chat(false)).await;
        assert_eq!((reply.status, reply.json()["error"]["code"].as_str()), (503, Some("model_not_ready")));
    }
    let sim = sim(Args { start_delay: Duration::from_millis(30), ..quick() });
    let loading = async { while sim.get("/health").await.status != 200 {} };
    within("loading", loading).await;
    assert_eq!(sim.post(CHAT, &[], &chat(false)).await.status, 200);
}

#[actix_web::test]
async fn what_cannot_start_says_so() {
    let error = start(failing(Fail::ExitAtStart)).map(|(_, address)| address).expect_err("no start");
    assert!(error.to_string().contains("exit-at-start"), "{error}");
    let sim = sim(quick());
    let taken = Args { port: Some(sim.address.port()), ..quick() };
    let error = start(taken).map(|(_, address)| address).expect_err("no start");
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
}
