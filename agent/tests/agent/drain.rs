//! Requests in flight when a runtime is to end: they are answered to their end, new ones are refused, and neither takes
//! longer than was granted.

use std::collections::HashMap;
use std::time::Duration;

use nebula_core::clock::Clock;
use nebula_proto::{DeleteDeploymentRequest, PlatformCommand, StartRuntimeRequest, StopRuntimeRequest};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::nebulad::Nebulad;
use crate::node::{Home, Node, PATIENCE, processes_of, sim, until};
use crate::web;

/// A runtime whose streams take about this long: `tokens` of them, 20 ms each.
fn slow(tokens: u32) -> StartRuntimeRequest {
    let mut start = sim("slow");
    let tokens = tokens.to_string();
    start.args = ["--ttft", "1ms", "--token-interval", "20ms", "--tokens", &tokens].map(str::to_owned).into();
    start
}

/// Asks for a stream and waits for its first bytes.
async fn stream(node: &Node) -> (TcpStream, Vec<u8>) {
    let body = web::chat_body("slow", true);
    let mut stream = web::send(node.proxy, "POST /v1/chat/completions", &[], &body).await;
    let mut begun = Vec::new();
    while !String::from_utf8_lossy(&begun).contains("data: ") {
        assert!(stream.read_buf(&mut begun).await.expect("something comes") > 0);
    }
    (stream, begun)
}

/// The rest of a stream as text.
async fn rest((mut stream, mut bytes): (TcpStream, Vec<u8>)) -> String {
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    // A connection that is reset ends a stream too.
    let _ = read.expect("it ends in time");
    String::from_utf8_lossy(&bytes).into_owned()
}

fn stop(start: &StartRuntimeRequest, drain_seconds: i32) -> StopRuntimeRequest {
    let (deployment_id, replica_id) = (start.deployment_id.clone(), start.replica_id.clone());
    StopRuntimeRequest { deployment_id, replica_id, generation: 0, timeout_seconds: 5, drain_seconds }
}

async fn running(tokens: u32) -> (Home, Nebulad, Node, StartRuntimeRequest) {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let mut node = Node::start(&home, nebulad.addr, &[]).await;
    let start = slow(tokens);
    node.api.start_runtime(start.clone()).await.expect("accepted");
    node.until(&start.deployment_id, "running").await;
    (home, nebulad, node, start)
}

#[tokio::test]
async fn a_stop_waits_for_streams_and_new_requests_are_refused_meanwhile() {
    let (_home, nebulad, mut node, start) = running(100).await;
    let (one, two) = (stream(&node).await, stream(&node).await);
    assert_eq!(node.deployment(&start.deployment_id).await.and_then(|found| found.inflight), Some(2));
    node.api.stop_runtime(stop(&start, 60)).await.expect("accepted");
    let stopping = node.until(&start.deployment_id, "stopping").await;
    assert_eq!(stopping.inflight, Some(2), "{stopping:?}");
    nebulad
        .hears("what it waits for", |book| {
            let last = book.heartbeats.last().map(|beat| beat.deployments.as_slice()).unwrap_or_default();
            last.iter().any(|one| one.status == "stopping" && one.progress_message == "waits for 2 requests")
        })
        .await;
    let refused = web::chat(node.proxy, "slow", &[], false).await;
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert!(refused.head.contains("\r\nx-nebula-proxy-error: model_not_ready"), "{}", refused.head);
    // One that leaves is waited for no longer.
    drop(one);
    until("one is left", async || {
        let found = node.deployment(&start.deployment_id).await?;
        (found.progress_message == "waits for 1 request").then_some(())
    })
    .await;
    let text = rest(two).await;
    assert!(text.contains("data: [DONE]") && !text.contains("\"error\""), "{text}");
    let stopped = node.until(&start.deployment_id, "stopped").await;
    assert_eq!((stopped.progress_message.as_str(), stopped.inflight), ("", Some(0)));
    assert!(processes_of(&start.replica_id).is_empty());
}

#[tokio::test]
async fn without_requests_and_without_time_it_stops_at_once() {
    let (_home, _nebulad, mut node, start) = running(10_000).await;
    let clock = Clock::start();
    node.api.stop_runtime(stop(&start, 60)).await.expect("accepted");
    node.until(&start.deployment_id, "stopped").await;
    assert!(clock.elapsed() < Duration::from_secs(10), "nobody was there: {:?}", clock.elapsed());

    node.api.start_runtime(StartRuntimeRequest { generation: 2, ..start.clone() }).await.expect("accepted");
    node.until(&start.deployment_id, "running").await;
    let endless = stream(&node).await;
    node.api.stop_runtime(stop(&start, 0)).await.expect("accepted");
    node.until(&start.deployment_id, "stopped").await;
    assert!(!rest(endless).await.contains("[DONE]"), "no time was granted");
}

#[tokio::test]
async fn the_time_has_an_end_and_a_later_stop_may_shorten_it() {
    let (_home, _nebulad, mut node, start) = running(10_000).await;
    let endless = stream(&node).await;
    let clock = Clock::start();
    node.api.stop_runtime(stop(&start, 1)).await.expect("accepted");
    node.until(&start.deployment_id, "stopped").await;
    assert!(clock.elapsed() >= Duration::from_secs(1), "{:?}", clock.elapsed());
    let text = rest(endless).await;
    assert!(text.contains("upstream_error") && !text.contains("[DONE]"), "{text}");

    node.api.start_runtime(StartRuntimeRequest { generation: 2, ..start.clone() }).await.expect("accepted");
    node.until(&start.deployment_id, "running").await;
    let _endless = stream(&node).await;
    node.api.stop_runtime(stop(&start, 600)).await.expect("accepted");
    node.until(&start.deployment_id, "stopping").await;
    node.api.stop_runtime(stop(&start, 0)).await.expect("accepted");
    node.until(&start.deployment_id, "stopped").await;
}

#[tokio::test]
async fn a_newer_generation_and_a_deletion_wait_too() {
    let (_home, _nebulad, mut node, start) = running(50).await;
    let old = stream(&node).await;
    let newer = StartRuntimeRequest { generation: 2, drain_seconds: 60, ..start.clone() };
    node.api.start_runtime(newer).await.expect("accepted");
    let found = node.deployment(&start.deployment_id).await.expect("it is there");
    assert_eq!((found.status.as_str(), found.generation), ("starting", 2), "{found:?}");
    assert_eq!(found.error_message, "the one before answers its last requests");
    assert!(rest(old).await.contains("data: [DONE]"));
    node.until(&start.deployment_id, "running").await;

    let last = stream(&node).await;
    let delete = DeleteDeploymentRequest {
        deployment_id: start.deployment_id.clone(),
        replica_id: start.replica_id.clone(),
        generation: 2,
        drain_seconds: 60,
    };
    node.api.delete_deployment(delete).await.expect("accepted");
    node.until(&start.deployment_id, "stopping").await;
    assert!(rest(last).await.contains("data: [DONE]"));
    until("nothing is left", async || node.deployment(&start.deployment_id).await.is_none().then_some(()))
        .await;
}

#[tokio::test]
async fn commands_of_heartbeats_grant_time_and_the_agents_own_stop_does_not_wait() {
    let (_home, nebulad, mut node, start) = running(10_000).await;
    let _endless = stream(&node).await;
    let order = PlatformCommand {
        id: uuid::Uuid::new_v4().to_string(),
        r#type: "stop".to_owned(),
        target_id: start.deployment_id.clone(),
        params: HashMap::from([("drain_seconds".to_owned(), "600".to_owned())]),
        generation: 1,
        replica_id: start.replica_id.clone(),
        start: None,
    };
    nebulad.book(|book| book.commands.push(order));
    // Any change makes the agent speak, and the answer brings the command.
    node.api.start_runtime(sim("other")).await.expect("accepted");
    let stopping = node.until(&start.deployment_id, "stopping").await;
    assert_eq!(stopping.inflight, Some(1), "{stopping:?}");
    let clock = Clock::start();
    assert!(node.stop().await.success());
    assert!(clock.elapsed() < Duration::from_secs(20), "{:?}", clock.elapsed());
    assert!(processes_of(&start.replica_id).is_empty());
}

#[tokio::test]
async fn the_next_agent_ends_what_drained() {
    let (home, nebulad, mut node, start) = running(10_000).await;
    let _endless = stream(&node).await;
    node.api.stop_runtime(stop(&start, 600)).await.expect("accepted");
    node.until(&start.deployment_id, "stopping").await;
    node.crash().await;
    let node = Node::start(&home, nebulad.addr, &[]).await;
    node.until(&start.deployment_id, "stopped").await;
    assert!(processes_of(&start.replica_id).is_empty());
}
