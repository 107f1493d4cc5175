//! The threads and the task around the machine, against the stand-in for NVIDIA's library.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nebula_core::clock::Clock;

use super::sampler::Pace;
use super::*;

#[path = "../../tests/nvml/stand_in.rs"]
mod stand_in;

use stand_in::StandIn;

const QUICK: Pace = Pace { sample_every: Duration::from_millis(20), open_every: Duration::from_millis(50) };
/// How long something may take to be seen.
const PATIENCE: Duration = Duration::from_secs(20);

async fn until(gpus: &Gpus, what: &str, is: impl Fn(&Inventory) -> bool) -> Arc<Inventory> {
    let mut seen = gpus.inventory.clone();
    let found = tokio::time::timeout(PATIENCE, seen.wait_for(|inventory| is(inventory))).await;
    match found {
        Ok(found) => Arc::clone(&found.expect("the task runs")),
        Err(_) => panic!("not seen: {what}; {:?}", gpus.inventory()),
    }
}

fn usable(inventory: &Inventory) -> Vec<u32> {
    inventory.usable().map(|gpu| gpu.index).collect()
}

fn problem(inventory: &Inventory, index: usize) -> &str {
    inventory.gpus[index].problem.as_deref().unwrap_or_default()
}

async fn eight(commands: &str) -> (StandIn, Gpus) {
    let stand_in = StandIn::new();
    stand_in.control(commands);
    let gpus = Gpus::start_at(Some(stand_in.path()), QUICK);
    gpus.first_look(PATIENCE).await;
    (stand_in, gpus)
}

#[tokio::test]
async fn all_gpus_are_listed_with_what_they_are_and_do() {
    let (_stand_in, gpus) = eight("used 2 4294967295 1024").await;
    let seen = gpus.inventory();
    assert_eq!((seen.driver_version.as_str(), seen.cuda_version.as_str()), ("580.65.06", "12.4"));
    assert_eq!(usable(&seen), [0, 1, 2, 3, 4, 5, 6, 7]);
    let gpu = &seen.gpus[2];
    assert_eq!(gpu.uuid, "GPU-00000000-0000-0000-0000-000000000002");
    assert_eq!((gpu.name.as_str(), gpu.memory_bytes), ("NVIDIA Stand-In 80GB", 80 << 30));
    assert_eq!((gpu.compute_capability.as_str(), gpu.pci_bus_id.as_str()), ("9.0", "00000000:02:00.0"));
    assert_eq!((gpu.stats.utilization_percent, gpu.stats.memory_used_bytes), (12.0, 1024));
    assert_eq!((gpu.stats.temperature_celsius, gpu.stats.power_watts), (42.0, 250.5));
    assert_eq!(gpus.resolve(&[7]), Ok(vec!["GPU-00000000-0000-0000-0000-000000000007".to_owned()]));
    assert_eq!(gpus.resolve(&[8]), Err("gpu: this node has no GPU 8; it has 0 to 7".to_owned()));
}

#[tokio::test]
async fn memory_of_others_is_what_our_processes_do_not_hold() {
    let (_stand_in, gpus) = eight("used 1 7 600\nused 1 8 400\nused 2 8 50").await;
    assert!(
        gpus.inventory().gpus.iter().all(|gpu| gpu.stats.memory_used_by_others_bytes == 0),
        "nothing is said yet"
    );
    gpus.set_ours(|pids| pids.iter().copied().filter(|pid| *pid == 7).collect());
    let seen = until(&gpus, "memory of others", |inventory| {
        inventory.gpus[1].stats.memory_used_by_others_bytes == 400
    });
    assert_eq!(seen.await.gpus[2].stats.memory_used_by_others_bytes, 50);
}

#[tokio::test]
async fn a_lost_gpu_is_named_and_comes_back() {
    let (stand_in, gpus) = eight("lost 3").await;
    let seen = until(&gpus, "the loss", |inventory| inventory.gpus.len() == 8).await;
    assert_eq!(usable(&seen), [0, 1, 2, 4, 5, 6, 7]);
    assert_eq!(problem(&seen, 3), "fell off the bus; drain the node and reset or reboot it");
    stand_in.control("unknown 4");
    let seen = until(&gpus, "another loss", |inventory| inventory.gpus[4].problem.is_some()).await;
    assert!(problem(&seen, 4).starts_with("the driver has an internal error"), "{}", problem(&seen, 4));
    stand_in.control("");
    until(&gpus, "the return", |inventory| inventory.gpus[4].problem.is_none()).await;
}

#[tokio::test]
async fn a_call_that_hangs_makes_that_gpu_unusable_and_nobody_wait() {
    let (stand_in, gpus) = eight("").await;
    let clock = Clock::start();
    stand_in.control("hang 5");
    let seen = until(&gpus, "the hang", |inventory| inventory.gpus[5].problem.is_some()).await;
    assert!(clock.elapsed() < CALL_DEADLINE * 2, "{:?}", clock.elapsed());
    assert_eq!(usable(&seen), [0, 1, 2, 3, 4, 6, 7]);
    assert_eq!(seen.gpus[6].stats.temperature_celsius, 46.0, "what was known is served");
    assert_eq!(gpus.resolve(&[6]).map(|uuids| uuids.len()), Ok(1));
    stand_in.control("");
    until(&gpus, "the return", |inventory| usable(inventory).len() == 8).await;
}

#[tokio::test]
async fn a_fatal_xid_takes_its_gpu_away_and_an_applications_does_not() {
    let (stand_in, gpus) = eight("").await;
    let mut changes = gpus.subscribe();
    changes.mark_unchanged();
    stand_in.control("xid 1 13\nxid 2 79");
    let seen = until(&gpus, "the XID", |inventory| inventory.gpus[2].problem.is_some()).await;
    assert_eq!(usable(&seen), [0, 1, 3, 4, 5, 6, 7]);
    assert_eq!(problem(&seen, 2), "fell off the bus (XID 79); drain the node and reset or reboot it");
    assert!(changes.has_changed().expect("the task runs"));
    let issue = "gpu 2 (GPU-00000000-0000-0000-0000-000000000002): fell off the bus (XID 79); drain the node";
    assert!(seen.issues()[0].starts_with(issue), "{:?}", seen.issues());
    stand_in.control("xid 1 13\nxid 2 79\naction 2 2");
    until(&gpus, "the advice", |inventory| problem(inventory, 2).ends_with("; drain the node and reboot it"))
        .await;
}

#[tokio::test]
async fn what_the_driver_wants_recovered_is_not_used() {
    let (stand_in, gpus) = eight("").await;
    stand_in.control("action 0 1");
    let seen = until(&gpus, "the action", |inventory| inventory.gpus[0].problem.is_some()).await;
    assert_eq!(problem(&seen, 0), "the driver wants it recovered; drain the node and reset the GPU");
    stand_in.control("");
    until(&gpus, "the return", |inventory| usable(inventory).len() == 8).await;
}

#[tokio::test]
async fn gpus_appear_when_the_driver_comes_and_go_with_it() {
    let (stand_in, gpus) = eight("absent").await;
    assert_eq!(*gpus.inventory(), Inventory::default());
    assert_eq!(gpus.resolve(&[0]), Err("gpu: this node has no GPU 0; it has none".to_owned()));
    stand_in.control("xid 0 48");
    until(&gpus, "the GPUs with a fatal XID", |inventory| usable(inventory) == [1, 2, 3, 4, 5, 6, 7]).await;
    stand_in.control("absent");
    let seen = until(&gpus, "the driver's end", |inventory| usable(inventory).is_empty()).await;
    assert!(problem(&seen, 1).starts_with("the driver is away: "), "{}", problem(&seen, 1));
    assert_eq!(seen.problem, None);
    stand_in.control("mismatch");
    let seen = until(&gpus, "the mismatch", |inventory| inventory.problem.is_some()).await;
    assert!(seen.issues()[0].contains("different versions; reboot the machine"), "{:?}", seen.issues());
    // A driver that was loaded anew has reset its GPUs.
    stand_in.control("");
    until(&gpus, "all GPUs", |inventory| usable(inventory).len() == 8).await;
}

#[tokio::test]
async fn gpus_keep_their_indices_when_others_are_gone() {
    let (stand_in, gpus) = eight("count 3").await;
    stand_in.control("absent");
    until(&gpus, "the driver's end", |inventory| usable(inventory).is_empty()).await;
    stand_in.control("count 2");
    let seen = until(&gpus, "the two that are left", |inventory| usable(inventory).len() == 2).await;
    assert_eq!(usable(&seen), [0, 1]);
    assert!(problem(&seen, 2).starts_with("the driver does not list it any more"), "{}", problem(&seen, 2));
}

/// Counts what is said of a node without GPUs.
struct Ear(Arc<AtomicUsize>);

impl tracing::Subscriber for Ear {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn event(&self, event: &tracing::Event<'_>) {
        if event.metadata().target().ends_with("::gpu") {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn that_there_are_no_gpus_is_said_once_however_often_it_is_tried() {
    for lib in ["/nonexistent/libnvidia-ml.so.1", "/dev/null"] {
        let said = Arc::new(AtomicUsize::new(0));
        let _listening = tracing::subscriber::set_default(Ear(Arc::clone(&said)));
        let gpus = Gpus::start_at(Some(lib.into()), QUICK);
        let mut looked = gpus.looked.clone();
        for _ in 0..4 {
            looked.changed().await.expect("the task runs");
        }
        assert_eq!(*gpus.inventory(), Inventory::default());
        assert_eq!(said.load(Ordering::SeqCst), 1, "{lib}");
    }
}
