//! Streams: each token goes out when it is made, and nothing is made for a client that left.

use std::time::Duration;

use futures_util::StreamExt as _;
use nebula_core::clock::{Clock, Tick};
use nebula_sim::runtime::Args;

use crate::support::{chat, quick, rest, sim, until_text, within};

const CHAT: &str = "/v1/chat/completions";
const HOUR: Duration = Duration::from_secs(3600);

#[actix_web::test]
async fn a_token_is_sent_before_the_next_one_is_made_and_a_hang_up_ends_it() {
    let sim = sim(Args { token_interval: HOUR, ..quick() });
    let mut client = sim.open(CHAT, "", &chat(true).to_string()).await;
    let text = until_text(&mut client, r#""content":"This ""#).await;
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert!(text.contains("content-type: text/event-stream"), "{text}");
    let stats = sim.until("inflight", 1).await;
    assert_eq!(stats["tokens"], 1);
    drop(client);
    let stats = sim.until("cancelled", 1).await;
    assert_eq!((&stats["inflight"], &stats["finished"], &stats["tokens"]), (&0.into(), &0.into(), &1.into()));
}

#[actix_web::test]
async fn a_hang_up_counts_at_any_time() {
    for (args, streamed) in [
        (Args { ttft: HOUR, ..quick() }, true),
        (Args { ttft: HOUR, ..quick() }, false),
        (Args { token_interval: HOUR, ..quick() }, false),
    ] {
        let sim = sim(args);
        let client = sim.open(CHAT, "", &chat(streamed).to_string()).await;
        sim.until("inflight", 1).await;
        drop(client);
        sim.until("cancelled", 1).await;
    }
}

#[actix_web::test]
async fn tokens_come_in_order_and_not_before_their_time() {
    let ttft = Duration::from_millis(60);
    let interval = Duration::from_millis(25);
    let sim = sim(Args { ttft, token_interval: interval, tokens: 6, ..quick() });
    let clock = Clock::start();
    let sent = sim.client.post(sim.url(CHAT)).json(&chat(true)).send();
    let response = within("the head", sent).await.expect("an answer");
    let mut chunks = response.bytes_stream();
    let (mut text, mut tokens) = (String::new(), 0);
    while let Some(chunk) = within("a chunk", chunks.next()).await {
        text.push_str(std::str::from_utf8(&chunk.expect("a chunk")).expect("UTF-8"));
        // The opening holds an empty text that is no token.
        let seen = u32::try_from(text.matches(r#""content":"#).count()).expect("few").saturating_sub(1);
        if seen > tokens {
            tokens = seen;
            let due = ttft + interval * (tokens - 1);
            // Timers and ticks are whole milliseconds.
            let elapsed = clock.now().since(Tick(0)) + Duration::from_millis(2);
            assert!(elapsed >= due, "token {tokens} came after {elapsed:?}, due at {due:?}");
        }
    }
    assert_eq!(tokens, 6);
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    sim.until("finished", 1).await;
}

#[actix_web::test]
async fn headers_overrule_the_pace_and_the_length() {
    let sim = sim(Args { ttft: HOUR, token_interval: HOUR, ..quick() });
    let headers = [("x-sim-ttft", "0"), ("x-sim-token-interval", "1ms"), ("x-sim-tokens", "3")];
    let reply = sim.post(CHAT, &headers, &chat(false)).await;
    assert_eq!(reply.json()["usage"]["completion_tokens"], 3);
    let reply = sim.post(CHAT, &[("x-sim-tokens", "many")], &chat(false)).await;
    assert_eq!(reply.status, 400);
    assert!(reply.text().contains("x-sim-tokens"), "{}", reply.text());
}

#[actix_web::test]
async fn a_finished_stream_ends_its_body_and_keeps_its_books() {
    let sim = sim(quick());
    let mut client = sim.open(CHAT, "", &chat(true).to_string()).await;
    let text = rest(&mut client).await;
    assert!(text.ends_with("\r\n0\r\n\r\n"), "{text}");
    let stats = sim.until("finished", 1).await;
    assert_eq!((&stats["requests"], &stats["tokens"]), (&1.into(), &32.into()));
    assert_eq!((&stats["cancelled"], &stats["failed"]), (&0.into(), &0.into()));
}
