//! GPUs, as nebulad and people see them: the stand-in for NVIDIA's library says what they do.

use std::time::Duration;

use nebula_core::clock::Clock;
use nebula_proto::{
    GetCapabilitiesRequest, GetSystemInfoRequest, GpuStats, HealthRequest, StartRuntimeRequest, StatsRequest,
};

use crate::nebulad::Nebulad;
use crate::node::{Home, Node, processes_of, sim, until};
use crate::stand_in::StandIn;
use crate::web;

/// An agent with the stand-in's GPUs.
async fn start(home: &Home, nebulad: &Nebulad, stand_in: &StandIn) -> Node {
    let lib = stand_in.path().display().to_string();
    let node = Node::start(home, nebulad.addr, &["--nvml-lib", &lib]).await;
    nebulad.hears("a first heartbeat", |book| !book.heartbeats.is_empty()).await;
    node
}

/// The GPUs that the last registration offers.
fn offered(nebulad: &Nebulad) -> Vec<i32> {
    nebulad.book(|book| {
        let capabilities = book.registrations.last().and_then(|last| last.capabilities.clone());
        capabilities.unwrap_or_default().gpus.iter().map(|gpu| gpu.index).collect()
    })
}

/// Waits for a registration that offers just these, and for a heartbeat that knows of the trouble with the others.
async fn hears_offer(nebulad: &Nebulad, gpus: &[i32]) {
    nebulad
        .hears("the offer and a heartbeat", |book| {
            let offer = book.registrations.last().and_then(|last| last.capabilities.as_ref());
            let offered =
                offer.is_some_and(|offer| offer.gpus.iter().map(|gpu| gpu.index).eq(gpus.iter().copied()));
            let stats = book.heartbeats.last().and_then(|beat| beat.stats.as_ref());
            let well = |gpu: &&GpuStats| gpu.problem.is_empty();
            offered && stats.is_some_and(|stats| stats.gpu_stats.iter().filter(well).count() == gpus.len())
        })
        .await;
}

async fn stats(node: &Node) -> Vec<GpuStats> {
    let answer = node.api.clone().get_stats(StatsRequest {}).await.expect("an answer").into_inner();
    answer.stats.expect("stats").gpu_stats
}

async fn issues(node: &Node) -> (String, Vec<String>) {
    let answer = node.api.clone().get_health(HealthRequest {}).await.expect("an answer").into_inner();
    let health = answer.health.expect("health");
    (health.status, health.issues)
}

#[tokio::test]
async fn gpus_are_offered_but_for_the_one_that_is_lost() {
    let (home, nebulad, stand_in) = (Home::new(), Nebulad::start().await, StandIn::new());
    stand_in.control("lost 3");
    let node = start(&home, &nebulad, &stand_in).await;
    assert_eq!(offered(&nebulad), [0, 1, 2, 4, 5, 6, 7]);
    let answer = node.api.clone().get_capabilities(GetCapabilitiesRequest {}).await.expect("an answer");
    let offer = answer.into_inner().capabilities.expect("capabilities");
    assert_eq!((offer.driver_version.as_str(), offer.cuda_version.as_str()), ("580.65.06", "12.4"));
    let gpu = &offer.gpus[3];
    assert_eq!((gpu.index, gpu.uuid.as_str()), (4, "GPU-00000000-0000-0000-0000-000000000004"));
    assert_eq!((gpu.name.as_str(), gpu.memory_bytes), ("NVIDIA Stand-In 80GB", 80 << 30));
    assert_eq!((gpu.compute_capability.as_str(), gpu.pci_bus_id.as_str()), ("9.0", "00000000:04:00.0"));
    let (status, issues) = issues(&node).await;
    assert_eq!(status, "degraded");
    assert_eq!(issues, ["gpu 3: fell off the bus; drain the node and reset or reboot it"]);
    let told = stats(&node).await;
    assert_eq!(told.len(), 8, "what is lost is told of");
    assert!(told[3].problem.starts_with("fell off the bus") && told[4].problem.is_empty());
    let info =
        node.api.clone().get_system_info(GetSystemInfoRequest {}).await.expect("an answer").into_inner();
    assert_eq!((info.driver_version.as_str(), info.cuda_version.as_str()), ("580.65.06", "12.4"));
    node.stop().await;
}

#[tokio::test]
async fn a_driver_that_hangs_costs_its_gpu_and_delays_nothing() {
    let (home, nebulad, stand_in) = (Home::new(), Nebulad::start().await, StandIn::new());
    let node = start(&home, &nebulad, &stand_in).await;
    assert_eq!(offered(&nebulad), [0, 1, 2, 3, 4, 5, 6, 7]);
    stand_in.control("hang 5");
    let clock = Clock::start();
    let told = until("GPU 5 is in trouble", async || {
        let asked = clock.elapsed();
        let told = stats(&node).await;
        assert!(clock.elapsed() - asked < Duration::from_secs(1), "statistics waited for the driver");
        told[5].problem.starts_with("the driver does not answer").then_some(told)
    })
    .await;
    assert!(told.iter().enumerate().all(|(index, gpu)| gpu.problem.is_empty() == (index != 5)), "{told:?}");
    assert_eq!(told[6].temperature_celsius, 46.0, "what was known is served");
    hears_offer(&nebulad, &[0, 1, 2, 3, 4, 6, 7]).await;
    let last = nebulad.book(|book| book.heartbeats.last().and_then(|beat| beat.health.clone()));
    assert_eq!(last.expect("health").status, "degraded");
    node.stop().await;
}

#[tokio::test]
async fn an_xid_takes_its_gpu_away_at_once_unless_it_is_an_applications_own() {
    let (home, nebulad, stand_in) = (Home::new(), Nebulad::start().await, StandIn::new());
    let node = start(&home, &nebulad, &stand_in).await;
    stand_in.control("xid 1 13\nxid 2 79");
    let clock = Clock::start();
    hears_offer(&nebulad, &[0, 1, 3, 4, 5, 6, 7]).await;
    assert!(clock.elapsed() < Duration::from_millis(2_500), "{:?}", clock.elapsed());
    let (_, issues) = issues(&node).await;
    let uuid = "GPU-00000000-0000-0000-0000-000000000002";
    let issue = format!("gpu 2 ({uuid}): fell off the bus (XID 79); drain the node and reset or reboot it");
    assert_eq!(issues, [issue]);
    let page = web::ask(node.metrics, "GET /metrics", &[], "").await.body;
    assert!(page.contains(&format!("nebula_agent_gpu_problem{{uuid=\"{uuid}\"}} 1")), "{page}");
    assert!(page.contains(
        "nebula_agent_gpu_utilization_percent{uuid=\"GPU-00000000-0000-0000-0000-000000000001\"} 11"
    ));
    node.stop().await;
}

#[tokio::test]
async fn memory_of_others_is_told_apart_from_that_of_replicas() {
    let (home, nebulad, stand_in) = (Home::new(), Nebulad::start().await, StandIn::new());
    let node = start(&home, &nebulad, &stand_in).await;
    let request = sim("m");
    node.api.clone().start_runtime(request.clone()).await.expect("accepted");
    node.until(&request.deployment_id, "running").await;
    let own = processes_of(&request.replica_id)[0];
    let stranger = std::process::id();
    stand_in.control(&format!("used 0 {own} 1000\nused 0 {stranger} 234"));
    until("the strangers' memory", async || {
        let gpu = stats(&node).await.swap_remove(0);
        (gpu.memory_used_bytes == 1234 && gpu.memory_used_by_others_bytes == 234).then_some(())
    })
    .await;
    node.stop().await;
}

#[tokio::test]
async fn what_runs_on_a_gpu_outlives_an_agent_whose_driver_hangs_and_ends_with_the_gpu() {
    let (home, nebulad, stand_in) = (Home::new(), Nebulad::start().await, StandIn::new());
    let mut node = start(&home, &nebulad, &stand_in).await;
    let request = StartRuntimeRequest { gpu_devices: vec![1], ..sim("m") };
    node.api.start_runtime(request.clone()).await.expect("accepted");
    let before = node.until(&request.deployment_id, "running").await;
    node.crash().await;
    stand_in.control("hang 5");
    let node = start(&home, &nebulad, &stand_in).await;
    until("GPU 1 is known and was not read", async || {
        let told = stats(&node).await;
        told.get(1).filter(|gpu| gpu.problem == "was not read yet").map(drop)
    })
    .await;
    let after = node.deployment(&request.deployment_id).await.expect("it is there");
    assert_eq!((after.status.as_str(), &after.container_id), ("running", &before.container_id));
    assert_eq!(processes_of(&request.replica_id).len(), 1);
    stand_in.control("lost 1");
    let failed = node.until(&request.deployment_id, "failed").await;
    assert!(failed.error_message.starts_with("gpu: gpu 1: fell off the bus"), "{}", failed.error_message);
    assert!(processes_of(&request.replica_id).is_empty());
    node.stop().await;
}

#[tokio::test]
async fn without_a_library_the_node_has_no_gpus() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let node = Node::start(&home, nebulad.addr, &["--nvml-lib", "/nonexistent/libnvidia-ml.so.1"]).await;
    nebulad.hears("a heartbeat", |book| !book.heartbeats.is_empty()).await;
    assert_eq!(offered(&nebulad), [0_i32; 0]);
    assert_eq!(stats(&node).await, []);
    assert_eq!(issues(&node).await, ("healthy".to_owned(), Vec::new()));
    node.stop().await;
}
