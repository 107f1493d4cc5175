//! The conversation with nebulad: registration, heartbeats, commands.

use std::collections::HashMap;

use nebula_proto::{PlatformCommand, StartRuntimeRequest};
use tonic::Status;

use crate::nebulad::{NODE_ID, Nebulad};
use crate::node::{Home, Node, processes_of, sim, until};

fn command(kind: &str, start: &nebula_proto::StartRuntimeRequest) -> PlatformCommand {
    PlatformCommand {
        id: uuid::Uuid::new_v4().to_string(),
        r#type: kind.to_owned(),
        target_id: start.deployment_id.clone(),
        params: HashMap::new(),
        generation: start.generation,
        replica_id: start.replica_id.clone(),
        start: (kind == "start").then(|| start.clone()),
    }
}

#[tokio::test]
async fn commands_are_carried_out_once_however_often_they_come() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let start = sim("demo");
    let order = command("start", &start);
    nebulad.book(|book| {
        book.commands.push(order.clone());
        book.extra = 3;
    });
    let node = Node::start(&home, nebulad.addr, &["--label", "zone=a", "--node-name", "n1"]).await;
    nebulad.hears("running", |book| book.status(&start.deployment_id) == Some("running")).await;
    nebulad.hears("four acknowledgements", |book| book.acked == vec![order.id.clone(); 4]).await;
    let running = node.deployment(&start.deployment_id).await.expect("it is there");
    assert_eq!((running.status.as_str(), running.restarts), ("running", 0));
    assert_eq!(processes_of(&start.replica_id).len(), 1);

    nebulad.book(|book| {
        let first = &book.registrations[0];
        assert_eq!((first.node_id.as_str(), first.node_name.as_str()), ("auto", "n1"));
        assert_eq!(first.labels.get("zone").map(String::as_str), Some("a"));
        assert_eq!(first.agent_address, node.grpc.to_string());
        assert_eq!(first.proxy_port, i32::from(node.proxy.port()));
        let capabilities = first.capabilities.as_ref().expect("capabilities");
        assert!(capabilities.supported_runtimes.contains(&"sim".to_owned()));
        assert!(capabilities.total_memory_bytes > 0 && capabilities.gpus.is_empty());
        let beat = book.heartbeats.last().expect("a heartbeat");
        assert_eq!((beat.node_id.as_str(), &beat.boot_id), (NODE_ID, &first.boot_id));
        assert_eq!(beat.health.as_ref().map(|health| health.status.as_str()), Some("healthy"));
    });

    // The commands after it, in their order; what cannot be done is acknowledged too.
    let stop = command("stop", &start);
    let stale = PlatformCommand { generation: 0, ..command("nonsense", &start) };
    let delete = command("delete", &start);
    let ids = [stop.id.clone(), stale.id.clone(), delete.id.clone()];
    nebulad.book(|book| book.commands = vec![stop, stale, delete]);
    // Any change makes it speak: a new life of the agent does too.
    node.crash().await;
    let node = Node::start(&home, nebulad.addr, &[]).await;
    nebulad.hears("all acknowledgements", |book| ids.iter().all(|id| book.acked.contains(id))).await;
    until("it is gone", async || node.deployment(&start.deployment_id).await.is_none().then_some(())).await;
    nebulad.hears("nothing left", |book| book.status(&start.deployment_id).is_none()).await;
    nebulad.book(|book| {
        let first = &book.registrations[0];
        let last = book.registrations.last().expect("a registration");
        assert_eq!(last.node_id, NODE_ID, "the assigned id is kept");
        assert_ne!(first.boot_id, last.boot_id);
    });
}

#[tokio::test]
async fn a_start_that_can_never_work_is_told_as_failed_until_something_newer_comes() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let mut start = sim("demo");
    start.driver = "lxc".to_owned();
    let order = command("start", &start);
    nebulad.book(|book| book.commands.push(order.clone()));
    let node = Node::start(&home, nebulad.addr, &[]).await;
    nebulad
        .hears("the acknowledgement with the reason", |book| {
            let mut beats = book.heartbeats.iter();
            let Some(beat) = beats.find(|beat| beat.acked_command_ids.contains(&order.id)) else {
                return false;
            };
            let told = beat.deployments.iter().find(|one| one.replica_id == start.replica_id);
            told.is_some_and(|one| {
                (one.status.as_str(), one.generation) == ("failed", 1)
                    && one.error_message.contains("unknown driver \"lxc\"")
            })
        })
        .await;
    let better = StartRuntimeRequest { driver: String::new(), generation: 2, ..start.clone() };
    node.api.clone().start_runtime(better).await.expect("accepted");
    nebulad.hears("running", |book| book.status(&start.deployment_id) == Some("running")).await;
    let beat = nebulad.book(|book| book.heartbeats.last().cloned()).expect("a heartbeat");
    assert_eq!(beat.deployments.len(), 1, "{:?}", beat.deployments);
}

#[tokio::test]
async fn a_command_is_remembered_across_a_crash() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let start = sim("demo");
    let restart = PlatformCommand { generation: 0, ..command("restart", &start) };
    let node = Node::start(&home, nebulad.addr, &[]).await;
    nebulad.hears("a heartbeat", |book| !book.heartbeats.is_empty()).await;
    node.api.clone().start_runtime(start.clone()).await.expect("accepted");
    let before = node.until(&start.deployment_id, "running").await.container_id;
    node.crash().await;
    nebulad.book(|book| book.commands.push(restart.clone()));
    let node = Node::start(&home, nebulad.addr, &[]).await;
    let after = until("it was restarted", async || {
        let found = node.deployment(&start.deployment_id).await?;
        (found.status == "running" && found.container_id != before).then_some(found.container_id)
    })
    .await;
    nebulad.hears("the acknowledgement", |book| book.acked.contains(&restart.id)).await;
    node.crash().await;
    // nebulad lost the acknowledgement and sends it again.
    nebulad.book(|book| {
        book.acked.clear();
        book.commands = vec![restart.clone()];
    });
    let node = Node::start(&home, nebulad.addr, &[]).await;
    nebulad.hears("the acknowledgement again", |book| book.acked.contains(&restart.id)).await;
    let found = node.until(&start.deployment_id, "running").await;
    assert_eq!(found.container_id, after);
}

#[tokio::test]
async fn it_registers_again_when_it_is_unknown_and_tries_again_when_refused() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    nebulad.book(|book| book.refuse = vec![Status::unavailable("not now")]);
    let node = Node::start(&home, nebulad.addr, &["--node-id", "gpu-1"]).await;
    nebulad.hears("a second registration", |book| book.registrations.len() == 2).await;
    nebulad.hears("a heartbeat", |book| !book.heartbeats.is_empty()).await;

    let count = nebulad.book(|book| {
        book.refuse = vec![Status::not_found("register first")];
        book.registrations.len()
    });
    // A change makes it speak at once, long before the next heartbeat is due.
    let start = sim("demo");
    node.api.clone().start_runtime(start.clone()).await.expect("accepted");
    nebulad.hears("a new registration", |book| book.registrations.len() > count).await;
    nebulad.hears("running", |book| book.status(&start.deployment_id) == Some("running")).await;

    let count = nebulad.book(|book| {
        book.reregister = true;
        book.registrations.len()
    });
    let (deployment_id, replica_id) = (start.deployment_id.clone(), start.replica_id.clone());
    let stop = nebula_proto::StopRuntimeRequest { deployment_id, replica_id, ..Default::default() };
    node.api.clone().stop_runtime(stop).await.expect("accepted");
    nebulad.hears("a registration when asked for", |book| book.registrations.len() > count).await;
    nebulad.book(|book| {
        let last = book.registrations.last().expect("a registration");
        assert_eq!(last.node_id, "gpu-1");
        assert_eq!(last.deployments.len(), 1, "with what runs here");
    });
    nebulad.hears("stopped", |book| book.status(&start.deployment_id) == Some("stopped")).await;
    assert!(nebulad.book(|book| book.deregistrations.is_empty()));
}

#[tokio::test]
async fn it_withdraws_only_when_told_to() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let node = Node::start(&home, nebulad.addr, &[]).await;
    nebulad.hears("a heartbeat", |book| !book.heartbeats.is_empty()).await;
    assert!(node.stop().await.success());
    assert!(nebulad.book(|book| book.deregistrations.is_empty()));
    let beats = nebulad.book(|book| book.heartbeats.len());
    let node = Node::start(&home, nebulad.addr, &["--deregister-on-stop"]).await;
    nebulad.hears("another heartbeat", |book| book.heartbeats.len() > beats).await;
    assert!(node.stop().await.success());
    nebulad.book(|book| assert_eq!(book.deregistrations[0].node_id, NODE_ID));
}

#[tokio::test]
async fn a_runtime_that_is_found_later_is_told() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    // A Python that has every module, and takes its time to say so.
    let python = home.path().join("python3");
    std::fs::write(&python, "#!/bin/sh\nsleep 0.5\n").expect("writes");
    let program = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&python, program).expect("is made a program");
    let _node = Node::start(&home, nebulad.addr, &["--python", &python.display().to_string()]).await;
    nebulad.hears("a registration", |book| !book.registrations.is_empty()).await;
    nebulad
        .hears("llamacpp", |book| {
            let capabilities = book.registrations.last().and_then(|last| last.capabilities.as_ref());
            capabilities.is_some_and(|found| found.supported_runtimes.contains(&"llamacpp".to_owned()))
        })
        .await;
}
