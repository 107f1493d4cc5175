//! A replica's life by gRPC: from StartRuntime to nothing left.

use nebula_proto::{
    DeleteDeploymentRequest, GetDeploymentEventsRequest, GetDeploymentLogsRequest, ListDeploymentsRequest,
    RestartDeploymentRequest, StartRuntimeRequest, StopRuntimeRequest, StreamDeploymentLogsRequest,
};
use tonic::Code;

use crate::nebulad::Nebulad;
use crate::node::{Home, Node, processes_of, sim, until};
use crate::web;

fn stop(start: &StartRuntimeRequest, generation: u64) -> StopRuntimeRequest {
    let (deployment_id, replica_id) = (start.deployment_id.clone(), start.replica_id.clone());
    StopRuntimeRequest { drain_seconds: 0, deployment_id, replica_id, generation, timeout_seconds: 5 }
}

fn delete(start: &StartRuntimeRequest, generation: u64) -> DeleteDeploymentRequest {
    let (deployment_id, replica_id) = (start.deployment_id.clone(), start.replica_id.clone());
    DeleteDeploymentRequest { drain_seconds: 0, deployment_id, replica_id, generation }
}

#[tokio::test]
async fn started_called_stopped_deleted_and_nothing_is_left() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let mut node = Node::start(&home, nebulad.addr, &[]).await;
    let start = StartRuntimeRequest { generation: 2, ..sim("demo") };
    let answer = node.api.start_runtime(start.clone()).await.expect("accepted").into_inner();
    assert!(answer.success && answer.port > 0);
    let running = node.until(&start.deployment_id, "running").await;
    assert_eq!((running.port, running.generation, running.restarts), (answer.port, 2, 0));
    assert_eq!((running.model.as_str(), running.runtime.as_str()), ("demo", "sim"));
    assert_eq!(processes_of(&start.replica_id), [running.container_id.parse::<u32>().expect("a number")]);

    let plain = web::chat(node.proxy, "demo", &[], false).await;
    assert_eq!(plain.status, 200, "{}", plain.body);
    assert!(plain.body.contains("nebula-sim"), "{}", plain.body);
    let streamed = web::chat(node.proxy, "demo", &[], true).await;
    assert!(streamed.body.contains("data: ") && streamed.body.contains("[DONE]"), "{}", streamed.body);
    let metrics = web::ask(node.metrics, "GET /metrics", &[], "").await;
    assert!(metrics.body.contains("nebula_agent_replicas{state=\"running\"} 1"), "{}", metrics.body);
    assert_eq!(web::ask(node.metrics, "GET /health", &[], "").await.status, 200);

    node.api.stop_runtime(stop(&start, 2)).await.expect("accepted");
    let stopped = node.until(&start.deployment_id, "stopped").await;
    assert_eq!((stopped.restarts, stopped.container_id.as_str()), (0, ""));
    assert!(processes_of(&start.replica_id).is_empty());
    let refused = web::chat(node.proxy, "demo", &[], false).await;
    assert_eq!(refused.status, 503);
    assert!(refused.head.contains("retry-after: ") && refused.body.contains("model_not_ready"));

    let request = GetDeploymentEventsRequest { deployment_id: start.deployment_id.clone(), limit: 0 };
    let events =
        node.api.get_deployment_events(request.clone()).await.expect("a journal").into_inner().events;
    let kinds: Vec<_> = events.iter().map(|event| event.r#type.as_str()).collect();
    assert_eq!(kinds, ["accepted", "started", "running", "stopping", "stopped"]);

    node.api.delete_deployment(delete(&start, 2)).await.expect("accepted");
    until("it is gone", async || node.deployment(&start.deployment_id).await.is_none().then_some(())).await;
    assert_eq!(web::chat(node.proxy, "demo", &[], false).await.status, 404);
    let error = node.api.get_deployment_events(request).await.expect_err("no journal");
    assert_eq!(error.code(), Code::NotFound);
    let files: Vec<_> = std::fs::read_dir(home.data().join("replicas")).expect("a directory").collect();
    assert!(files.is_empty(), "{files:?}");
    std::net::TcpListener::bind(("127.0.0.1", u16::try_from(answer.port).expect("a port"))).expect("free");
    node.api.delete_deployment(delete(&start, 2)).await.expect("a second time too");
    let late = StartRuntimeRequest { generation: 1, ..start };
    let late = node.api.start_runtime(late).await.expect_err("a late start does not bring it back");
    assert_eq!(late.code(), Code::FailedPrecondition);
    assert!(node.stop().await.success());
}

#[tokio::test]
async fn delete_ends_what_runs() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let mut node = Node::start(&home, nebulad.addr, &[]).await;
    let mut start = sim("demo");
    // A runtime that starts another process which does not end with it.
    start.command = ["sh", "-c", "sleep 600 & exec python3 -m http.server {port} || exec sleep 600"]
        .map(str::to_owned)
        .into();
    start.args.clear();
    node.api.start_runtime(start.clone()).await.expect("accepted");
    until("both run", async || (processes_of(&start.replica_id).len() == 2).then_some(())).await;
    node.api.delete_deployment(delete(&start, 0)).await.expect("accepted");
    until("it is gone", async || node.deployment(&start.deployment_id).await.is_none().then_some(())).await;
    assert!(processes_of(&start.replica_id).is_empty());
}

#[tokio::test]
async fn generations_fence() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let mut node = Node::start(&home, nebulad.addr, &[]).await;
    let mut start = sim("demo");
    start.generation = 5;
    let port = node.api.start_runtime(start.clone()).await.expect("accepted").into_inner().port;
    let first = node.until(&start.deployment_id, "running").await;
    let again = node.api.start_runtime(start.clone()).await.expect("accepted").into_inner();
    assert_eq!((again.port, again.success), (port, true));
    for code in [
        node.api.start_runtime(StartRuntimeRequest { generation: 4, ..start.clone() }).await.map(drop),
        node.api.stop_runtime(stop(&start, 4)).await.map(drop),
        node.api.delete_deployment(delete(&start, 4)).await.map(drop),
    ] {
        assert_eq!(code.expect_err("stale").code(), Code::FailedPrecondition);
    }
    let same = node.deployment(&start.deployment_id).await.expect("it is there");
    assert_eq!((same.status.as_str(), &same.container_id), ("running", &first.container_id));

    start.generation = 6;
    start.served_model_name = "renamed".to_owned();
    let answer = node.api.start_runtime(start.clone()).await.expect("accepted").into_inner();
    assert_eq!(answer.port, port, "the port stays");
    let newer = until("the newer one runs", async || {
        let found = node.deployment(&start.deployment_id).await?;
        (found.status == "running" && found.container_id != first.container_id).then_some(found)
    })
    .await;
    assert_eq!((newer.generation, newer.restarts, newer.port), (6, 0, port));
    assert_eq!(processes_of(&start.replica_id).len(), 1);

    let (deployment_id, replica_id) = (start.deployment_id.clone(), start.replica_id.clone());
    let restart = RestartDeploymentRequest { deployment_id, replica_id, generation: 6 };
    node.api.restart_deployment(restart.clone()).await.expect("accepted");
    let restarted = until("it was restarted", async || {
        let found = node.deployment(&start.deployment_id).await?;
        (found.status == "running" && found.container_id != newer.container_id).then_some(found)
    })
    .await;
    node.api.restart_deployment(restart).await.expect("a repetition changes nothing");
    let same = node.deployment(&start.deployment_id).await.expect("it is there");
    assert_eq!((same.status.as_str(), same.container_id), ("running", restarted.container_id));
}

#[tokio::test]
async fn logs_are_kept_and_followed() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let mut node = Node::start(&home, nebulad.addr, &[]).await;
    let mut start = sim("demo");
    start.command =
        ["sh", "-c", "echo one; echo two >&2; while [ ! -e ../go ]; do sleep 0.05; done; echo three; exit 7"]
            .map(str::to_owned)
            .into();
    start.args.clear();
    node.api.start_runtime(start.clone()).await.expect("accepted");
    node.until(&start.deployment_id, "starting").await;
    let request = StreamDeploymentLogsRequest {
        deployment_id: start.deployment_id.clone(),
        follow: true,
        ..StreamDeploymentLogsRequest::default()
    };
    let mut stream = node.api.stream_deployment_logs(request).await.expect("a stream").into_inner();
    let mut text = String::new();
    while !text.contains("two\n") {
        let chunk = stream.message().await.expect("no error").expect("more");
        text.push_str(&String::from_utf8_lossy(&chunk.data));
    }
    assert!(!text.contains("three"));
    std::fs::write(home.data().join("replicas").join(&start.replica_id).join("go"), "").expect("writes");
    while let Some(chunk) = stream.message().await.expect("no error") {
        text.push_str(&String::from_utf8_lossy(&chunk.data));
    }
    assert_eq!(text, "one\ntwo\nthree\n", "and the stream ends with the replica");
    let request = GetDeploymentLogsRequest {
        deployment_id: start.deployment_id.clone(),
        tail: 2,
        ..GetDeploymentLogsRequest::default()
    };
    assert_eq!(node.api.get_deployment_logs(request).await.expect("logs").into_inner().logs, "two\nthree\n");
    let failed = node.until(&start.deployment_id, "failed").await;
    assert_eq!(failed.exit_code, Some(7));
}

#[tokio::test]
async fn the_list_holds_every_replica() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let mut node = Node::start(&home, nebulad.addr, &[]).await;
    let first = sim("one");
    let second = StartRuntimeRequest { deployment_id: first.deployment_id.clone(), ..sim("one") };
    for start in [&first, &second] {
        node.api.start_runtime(start.clone()).await.expect("accepted");
    }
    until("both run", async || {
        let list = node.api.list_deployments(ListDeploymentsRequest {}).await.ok()?.into_inner().deployments;
        let ports: std::collections::BTreeSet<_> = list.iter().map(|one| one.port).collect();
        (list.len() == 2 && ports.len() == 2 && list.iter().all(|one| one.status == "running")).then_some(())
    })
    .await;
    let replica = [("x-nebula-replica", second.replica_id.as_str())];
    assert_eq!(web::chat(node.proxy, "one", &replica, false).await.status, 200);
    // Without a replica's id all of them are meant.
    let all = StopRuntimeRequest { drain_seconds: 0, replica_id: String::new(), ..stop(&first, 0) };
    node.api.stop_runtime(all).await.expect("accepted");
    until("both are stopped", async || {
        let list = node.api.list_deployments(ListDeploymentsRequest {}).await.ok()?.into_inner().deployments;
        list.iter().all(|one| one.status == "stopped").then_some(())
    })
    .await;
}
