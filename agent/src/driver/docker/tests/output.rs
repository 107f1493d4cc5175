//! A container's output: all of it, once, and never more than fits.

use std::sync::Arc;
use std::time::Duration;

use super::support::{PATIENCE, World, until};
use super::wire::{State, Wire};
use crate::driver::logs::{Log, Logs};

fn numbers(log: &Log) -> Vec<u32> {
    let (bytes, _) = log.tail(usize::MAX, 4 << 20).expect("a log");
    String::from_utf8_lossy(&bytes).lines().map(|line| line.parse().expect("a number")).collect()
}

#[tokio::test]
async fn a_stream_that_breaks_loses_and_doubles_nothing() {
    let Some(world) = World::new().await else { return };
    let wire = Wire::to(world.host().clone()).await;
    let docker = world.again(Some(format!("tcp://{}", wire.address)));
    let (container, name) = world.start("for i in $(seq 1 400); do echo $i; sleep 0.01; done").await;
    let log = world.log();
    let mut watching = Box::pin(docker.watch(container, name.replica, Arc::clone(&log)));
    for at in [50, 120, 200] {
        let reached =
            until("some output", async || numbers(&log).last().filter(|last| **last >= at).copied());
        tokio::select! { _ = reached => {}, ended = &mut watching => panic!("it ended: {ended:?}") }
        wire.set(State::Gone);
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(300)) => {}
            ended = &mut watching => panic!("it ended: {ended:?}"),
        }
        wire.set(State::Open);
    }
    // One that is stopped and begun again by the same agent goes on where it was.
    drop(watching);
    let ended = docker.watch(container, name.replica, Arc::clone(&log)).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(numbers(&log), (1..=400).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_later_agent_has_all_of_it_once() {
    let Some(world) = World::new().await else { return };
    let (container, name) = world.start("for i in $(seq 1 200); do echo $i; sleep 0.01; done").await;
    let log = world.log();
    let reached = until("some output", async || numbers(&log).last().filter(|last| **last >= 30).copied());
    let watching = world.docker.watch(container, name.replica, Arc::clone(&log));
    tokio::select! { _ = reached => {}, ended = watching => panic!("it ended: {ended:?}") }
    let log = Logs::open(world.dir.path().join("logs")).of(1);
    assert!(!numbers(&log).is_empty());
    let ended = world.again(None).watch(container, name.replica, Arc::clone(&log)).await;
    assert_eq!(ended.code, Some(0));
    assert_eq!(numbers(&log), (1..=200).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_flood_of_output_is_bounded_and_harms_nothing() {
    let Some(world) = World::new().await else { return };
    world.follow(&world.docker);
    let script = "echo begin; head -c 10000000 /dev/zero | tr '\\0' x; echo; head -c 5000000 /dev/urandom; \
                  seq 1 100000; echo the end; exit 4";
    let (container, name) = world.start(script).await;
    let log = world.log();
    let watching = world.docker.watch(container, name.replica, Arc::clone(&log));
    let ended = tokio::time::timeout(2 * PATIENCE, watching).await.expect("it ends");
    assert_eq!((ended.code, ended.out_of_memory), (Some(4), false));
    let last: Vec<&str> = ended.output.lines().rev().take(3).collect();
    assert_eq!(last, ["the end", "100000", "99999"]);
    let files = std::fs::read_dir(world.dir.path().join("logs")).expect("a directory");
    let kept: u64 = files.map(|file| file.and_then(|file| file.metadata()).expect("a file").len()).sum();
    assert!(kept < 4 << 20, "{kept} bytes are kept");
}
