//! The proxy under what the world does to it: clients that leave, runtimes that come and go, bad tokens in masses, and
//! no nebulad.

use std::time::Duration;

use nebula_core::clock::Clock;
use nebula_core::token::TokenHash;
use nebula_proto::{StartRuntimeRequest, StopRuntimeRequest};
use tokio::io::AsyncReadExt as _;

use crate::nebulad::Nebulad;
use crate::node::{Home, Node, sim, until};
use crate::web;

/// How soon a runtime must stop working for a client that has left.
const CANCEL_WITHIN: Duration = Duration::from_millis(250);

fn runtime(port: i32) -> std::net::SocketAddr {
    ([127, 0, 0, 1], u16::try_from(port).expect("a port")).into()
}

async fn count(runtime: std::net::SocketAddr, what: &str) -> Option<u64> {
    let stats = web::ask(runtime, "GET /sim/stats", &[], "").await.body;
    serde_json::from_str::<serde_json::Value>(&stats).ok()?[what].as_u64()
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_runtimes_work_whenever_it_leaves() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let mut node = Node::start(&home, nebulad.addr, &[]).await;
    let mut late = sim("late");
    late.args = ["--ttft", "60s", "--tokens", "5"].map(str::to_owned).into();
    let mut slow = sim("slow");
    slow.args = ["--ttft", "1ms", "--token-interval", "200ms", "--tokens", "1000"].map(str::to_owned).into();
    for start in [&late, &slow] {
        node.api.start_runtime(start.clone()).await.expect("accepted");
    }
    for (start, stream, what) in [
        (&late, true, "before the first byte"),
        (&late, false, "before an answer that comes whole"),
        (&slow, true, "between two bytes"),
        (&slow, false, "while an answer is made that comes whole"),
    ] {
        let runtime = runtime(node.until(&start.deployment_id, "running").await.port);
        let mut best = Duration::MAX;
        // On a busy machine one look may come late; of three one does not.
        for _ in 0..3 {
            let before = count(runtime, "cancelled").await.expect("a count");
            let headers = [("x-nebula-deployment", start.deployment_id.as_str())];
            let body = web::chat_body(&start.model, stream);
            let mut client = web::send(node.proxy, "POST /v1/chat/completions", &headers, &body).await;
            until("the runtime works", async || (count(runtime, "inflight").await? > 0).then_some(())).await;
            if start.model == "slow" && stream {
                assert!(client.read_buf(&mut Vec::new()).await.expect("something") > 0);
            }
            let clock = Clock::start();
            drop(client);
            until(what, async || (count(runtime, "cancelled").await? > before).then_some(())).await;
            best = best.min(clock.elapsed());
        }
        assert!(best <= CANCEL_WITHIN, "{what}: {best:?}");
    }
}

#[tokio::test]
async fn what_comes_up_or_goes_down_is_to_be_asked_again_later() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let mut node = Node::start(&home, nebulad.addr, &[]).await;
    let mut coming = sim("coming");
    coming.command = ["sleep", "600"].map(str::to_owned).into();
    coming.args = Vec::new();
    let mut going = sim("going");
    let program = env!("CARGO_BIN_EXE_nebula-agent");
    let deaf = "trap '' TERM; \"$0\" \"$@\" & while :; do wait; sleep 1; done";
    going.command = ["sh", "-c", deaf, program, "sim-runtime", "--port", "{port}", "--model", "going"]
        .map(str::to_owned)
        .into();
    for start in [&coming, &going] {
        node.api.start_runtime(start.clone()).await.expect("accepted");
    }
    node.until(&coming.deployment_id, "starting").await;
    node.until(&going.deployment_id, "running").await;
    let ask = async |start: &StartRuntimeRequest| {
        let headers = [("x-nebula-deployment", start.deployment_id.as_str())];
        web::chat(node.proxy, &start.model, &headers, false).await
    };
    assert_eq!(ask(&going).await.status, 200);
    let deployment_id = going.deployment_id.clone();
    let stop = StopRuntimeRequest { deployment_id, timeout_seconds: 60, ..StopRuntimeRequest::default() };
    node.api.clone().stop_runtime(stop).await.expect("accepted");
    node.until(&going.deployment_id, "stopping").await;
    for start in [&coming, &going] {
        let answer = ask(start).await;
        assert_eq!(answer.status, 503, "{}: {}", start.model, answer.body);
        assert!(answer.head.contains("\r\nretry-after: 1"), "{}", answer.head);
        assert!(answer.body.contains("model_not_ready"), "{}", answer.body);
    }
}

#[tokio::test]
async fn it_serves_without_nebulad_also_after_a_crash_of_the_agent() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let mut node = Node::start(&home, nebulad.addr, &[]).await;
    let mut start = sim("demo");
    start.is_public = false;
    start.access_token_sha256 = TokenHash::of("nbtok_one").to_hex();
    node.api.start_runtime(start.clone()).await.expect("accepted");
    node.until(&start.deployment_id, "running").await;
    node.crash().await;

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let node = Node::start(&home, nobody.expect("an address"), &[]).await;
    let clock = Clock::start();
    let status = async |token| web::chat(node.proxy, "demo", &[("authorization", token)], false).await.status;
    until("it serves", async || (status("Bearer nbtok_one").await == 200).then_some(())).await;
    assert!(clock.elapsed() < Duration::from_secs(3), "{:?}", clock.elapsed());
    assert_eq!(status("Bearer nbtok_two").await, 401);
}

#[tokio::test]
async fn bad_tokens_in_masses_harm_nobody() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let mut node = Node::start(&home, nebulad.addr, &[]).await;
    let mut start = sim("demo");
    start.is_public = false;
    start.access_token_sha256 = TokenHash::of("nbtok_one").to_hex();
    node.api.start_runtime(start.clone()).await.expect("accepted");
    let port = node.until(&start.deployment_id, "running").await.port;
    let proxy = node.proxy;
    let flood = (0..8).map(|flooder: usize| {
        tokio::spawn(async move {
            for number in 0..250 {
                // As long as a head may be, or short.
                let token = format!("Bearer nbtok_{}{number}", "x".repeat(flooder * 1_000));
                let answer = web::chat(proxy, "demo", &[("authorization", &token)], false).await;
                assert_eq!(answer.status, 401);
            }
        })
    });
    let flood: Vec<_> = flood.collect();
    let mut slowest = Duration::ZERO;
    for _ in 0..50 {
        let clock = Clock::start();
        let answer = web::chat(proxy, "demo", &[("authorization", "Bearer nbtok_one")], false).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        slowest = slowest.max(clock.elapsed());
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    for flooder in flood {
        flooder.await.expect("all were refused");
    }
    let metrics = web::ask(node.metrics, "GET /metrics", &[], "").await.body;
    for (code, answers) in [("2xx", 50), ("4xx", 2_000), ("5xx", 0)] {
        let line = format!("nebula_agent_proxy_requests_total{{code=\"{code}\"}} {answers}\n");
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    assert_eq!(count(runtime(port), "requests").await, Some(50), "nothing else has reached the runtime");
}
