//! Agents come and go, runtimes stay, or end when that is meant.

use nebula_proto::StopRuntimeRequest;
use nebula_proto::agent_service_client::AgentServiceClient;
use rustix::process::Signal;

use crate::nebulad::Nebulad;
use crate::node::{Home, Node, processes_of, signal, sim, until};
use crate::web::{self, Stranger};

#[tokio::test]
async fn a_runtime_outlives_a_crash_of_the_agent_and_is_taken_up() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let mut node = Node::start(&home, nebulad.addr, &[]).await;
    let start = sim("demo");
    node.api.start_runtime(start.clone()).await.expect("accepted");
    let before = node.until(&start.deployment_id, "running").await;
    node.crash().await;
    assert_eq!(processes_of(&start.replica_id).len(), 1);

    let node = Node::start(&home, nebulad.addr, &[]).await;
    let after = node.until(&start.deployment_id, "running").await;
    assert_eq!((&after.container_id, after.port, after.restarts), (&before.container_id, before.port, 0));
    assert_eq!(processes_of(&start.replica_id).len(), 1);
    assert_eq!(web::chat(node.proxy, "demo", &[], false).await.status, 200);

    // Its end is noticed though it is nobody's child any more.
    signal(after.container_id.parse().expect("a number"), Signal::KILL);
    let waiting = node.until(&start.deployment_id, "starting").await;
    assert!(
        waiting
            .error_message
            .starts_with("starts again 10.0 s after the end of attempt 1: the runtime ended"),
        "{waiting:?}"
    );
    assert_eq!(web::chat(node.proxy, "demo", &[], false).await.status, 503);
}

#[tokio::test]
async fn what_ended_while_no_agent_watched_is_handled_as_ended() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let mut node = Node::start(&home, nebulad.addr, &[]).await;
    let start = sim("demo");
    node.api.start_runtime(start.clone()).await.expect("accepted");
    let pid = node.until(&start.deployment_id, "running").await.container_id.parse().expect("a number");
    node.crash().await;
    signal(pid, Signal::KILL);
    until("it is gone", async || processes_of(&start.replica_id).is_empty().then_some(())).await;
    let node = Node::start(&home, nebulad.addr, &[]).await;
    let found = node.until(&start.deployment_id, "starting").await;
    assert!(found.error_message.contains("ended while the agent was not watching"), "{found:?}");
}

#[tokio::test]
async fn an_agents_own_stop_ends_runtimes_and_the_next_one_starts_them() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let mut node = Node::start(&home, nebulad.addr, &[]).await;
    let start = sim("demo");
    node.api.start_runtime(start.clone()).await.expect("accepted");
    let before = node.until(&start.deployment_id, "running").await;
    assert!(node.stop().await.success());
    assert!(processes_of(&start.replica_id).is_empty());
    nebulad.hears("stopping", |book| book.status(&start.deployment_id) == Some("stopping")).await;
    let node = Node::start(&home, nebulad.addr, &[]).await;
    let after = node.until(&start.deployment_id, "running").await;
    assert_ne!(after.container_id, before.container_id);
    assert_eq!((after.port, after.restarts), (before.port, 0));
    assert!(node.stop().await.success());
}

#[tokio::test]
async fn runtimes_are_left_when_that_is_wanted() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let mut node = Node::start(&home, nebulad.addr, &["--leave-runtimes"]).await;
    let start = sim("demo");
    node.api.start_runtime(start.clone()).await.expect("accepted");
    let before = node.until(&start.deployment_id, "running").await;
    assert!(node.stop().await.success());
    assert_eq!(processes_of(&start.replica_id).len(), 1);
    let node = Node::start(&home, nebulad.addr, &[]).await;
    let after = node.until(&start.deployment_id, "running").await;
    assert_eq!(after.container_id, before.container_id);
    assert!(node.stop().await.success());
    assert!(processes_of(&start.replica_id).is_empty());
}

#[tokio::test]
async fn what_no_record_speaks_of_is_removed() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let mut node = Node::start(&home, nebulad.addr, &[]).await;
    let start = sim("demo");
    node.api.start_runtime(start.clone()).await.expect("accepted");
    node.until(&start.deployment_id, "running").await;
    node.crash().await;
    for lost in ["db", "redo", "exports"] {
        std::fs::remove_dir_all(home.data().join(lost)).expect("the store is lost");
    }
    let node = Node::start(&home, nebulad.addr, &[]).await;
    assert!(processes_of(&start.replica_id).is_empty());
    assert!(node.deployment(&start.deployment_id).await.is_none());
}

#[tokio::test]
async fn a_store_that_can_be_rebuilt_loses_no_runtime() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let mut node = Node::start(&home, nebulad.addr, &[]).await;
    let start = sim("demo");
    node.api.start_runtime(start.clone()).await.expect("accepted");
    let before = node.until(&start.deployment_id, "running").await;
    node.crash().await;
    std::fs::remove_dir_all(home.data().join("db")).expect("the engine is lost");
    let node = Node::start(&home, nebulad.addr, &[]).await;
    let after = node.until(&start.deployment_id, "running").await;
    assert_eq!(after.container_id, before.container_id);
    assert_eq!(processes_of(&start.replica_id).len(), 1);
}

#[tokio::test]
async fn closing_the_terminal_stops_it_in_order() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let mut node = Node::start(&home, nebulad.addr, &[]).await;
    let start = sim("demo");
    node.api.start_runtime(start.clone()).await.expect("accepted");
    node.until(&start.deployment_id, "running").await;
    assert!(node.stop_with(Signal::HUP).await.success());
    assert!(processes_of(&start.replica_id).is_empty());
}

#[tokio::test]
async fn a_runtime_that_will_not_end_is_killed_when_the_agent_stops() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let mut node = Node::start(&home, nebulad.addr, &["--stop-grace", "300ms"]).await;
    let mut start = sim("demo");
    let deaf = home.path().join("deaf");
    let script = format!("trap '' TERM; : > {}; while :; do sleep 60; done", deaf.display());
    start.command = ["sh", "-c", &script].map(str::to_owned).into();
    start.args = Vec::new();
    node.api.start_runtime(start.clone()).await.expect("accepted");
    until("it hears no signal", async || deaf.exists().then_some(())).await;
    // The stop grants it ten minutes; the agent's own stop does not.
    let (deployment_id, replica_id) = (start.deployment_id.clone(), start.replica_id.clone());
    let patient = StopRuntimeRequest {
        drain_seconds: 0,
        deployment_id,
        replica_id,
        timeout_seconds: 600,
        generation: 0,
    };
    node.api.stop_runtime(patient).await.expect("accepted");
    assert!(node.stop().await.success());
    assert!(processes_of(&start.replica_id).is_empty());
}

#[tokio::test]
async fn what_another_program_answers_on_its_port_does_not_make_a_replica_run() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let mut node = Node::start(&home, nebulad.addr, &[]).await;
    // Takes its port only when it is told to, and gives up when that is taken by then.
    let (ready, go) = (home.path().join("port"), home.path().join("go"));
    let script = format!(
        "if [ -e {go} ]; then exec \"$0\" \"$@\"; fi; echo $PORT > {ready}.new; mv {ready}.new {ready}; \
         while [ ! -e {go} ]; do sleep 0.02; done; exit 1",
        go = go.display(),
        ready = ready.display()
    );
    let mut start = sim("demo");
    let program = env!("CARGO_BIN_EXE_nebula-agent");
    start.command = ["sh", "-c", &script, program, "sim-runtime", "--port", "{port}", "--model", "demo"]
        .map(str::to_owned)
        .into();
    node.api.start_runtime(start.clone()).await.expect("accepted");
    let port: u16 =
        until("it is up", async || std::fs::read_to_string(&ready).ok()?.trim().parse().ok()).await;
    let stranger = Stranger::start(port).await;
    // That it is asked again shows that its first answer did not count.
    until("the stranger was asked again", async || (stranger.asked() > 2).then_some(())).await;
    assert_eq!(node.deployment(&start.deployment_id).await.expect("it is there").status, "starting");
    std::fs::write(&go, "").expect("writes");
    let running = node.until(&start.deployment_id, "running").await;
    assert_ne!(running.port, i32::from(port));
    assert_eq!(running.restarts, 0);
    assert_eq!(web::chat(node.proxy, "demo", &[], false).await.status, 200);
}

#[test]
fn all_runtimes_can_be_killed_at_once() {
    let (home, system) = (Home::new(), actix_rt::System::new());
    system.block_on(async {
        let nebulad = Nebulad::start().await;
        let (data, control_plane) = (home.data().display().to_string(), nebulad.addr.to_string());
        let ports = ["--grpc-port", "0", "--proxy-port", "0", "--metrics-port", "0", "--driver", "process"];
        let words = [&ports[..], &["--data-dir", &data, "--control-plane", &control_plane]].concat();
        let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
        let sim_command = vec![env!("CARGO_BIN_EXE_nebula-agent").to_owned(), "sim-runtime".to_owned()];
        let config = nebula_agent::Config::from_words(&words, sim_command).expect("valid");
        let running = nebula_agent::start(config).await.expect("it starts");
        let start = sim("demo");
        let address = format!("http://{}", running.grpc_addr);
        let mut api = AgentServiceClient::connect(address).await.expect("it answers");
        api.start_runtime(start.clone()).await.expect("accepted");
        nebulad.hears("running", |book| book.status(&start.deployment_id) == Some("running")).await;
        running.kill_now();
        until("it is gone", async || processes_of(&start.replica_id).is_empty().then_some(())).await;
        running.stop().await;
    });
}
