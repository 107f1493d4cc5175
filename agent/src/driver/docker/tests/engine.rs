//! An Engine that is away, hangs, or comes back.

use std::sync::Arc;

use super::super::EngineStatus;
use super::support::{PATIENCE, World, until};
use super::wire::{State, Wire};

#[tokio::test]
async fn the_status_follows_the_engine() {
    let Some(world) = World::new().await else { return };
    let wire = Wire::to(world.host().clone()).await;
    let docker = world.again(Some(format!("tcp://{}", wire.address)));
    assert_eq!(docker.status(), EngineStatus::Unknown);
    wire.set(State::Gone);
    world.follow(&docker);
    let mut status = docker.subscribe();
    let mut next = async |what: &str, is_it: fn(&EngineStatus) -> bool| {
        let waiting = tokio::time::timeout(PATIENCE, status.wait_for(is_it)).await;
        waiting.unwrap_or_else(|_| panic!("not in time: {what}")).expect("the driver lives").clone()
    };
    next("absent", |now| matches!(now, EngineStatus::Absent { .. })).await;
    wire.set(State::Open);
    let ready = next("ready", EngineStatus::is_ready).await;
    let EngineStatus::Ready { version, api_version, .. } = ready else { panic!("not ready") };
    assert!(!version.is_empty() && api_version.starts_with("1."), "{version} {api_version}");
    wire.set(State::Silent);
    let hung = next("unresponsive", |now| matches!(now, EngineStatus::Unresponsive { .. })).await;
    let EngineStatus::Unresponsive { error, .. } = hung else { panic!("not hung") };
    assert!(error.ends_with("did not answer a ping within 5 s"), "{error}");
    wire.set(State::Open);
    next("ready again", EngineStatus::is_ready).await;
    wire.set(State::Gone);
    next("absent again", |now| matches!(now, EngineStatus::Absent { .. })).await;
}

#[tokio::test]
async fn one_that_ended_while_the_engine_was_away_is_blameless() {
    let Some(world) = World::new().await else { return };
    let wire = Wire::to(world.host().clone()).await;
    let docker = world.again(Some(format!("tcp://{}", wire.address)));
    world.follow(&docker);
    for is_gone in [true, false] {
        let (container, name) = world.start("echo up; exec sleep 100").await;
        let log = world.log();
        let ending = async {
            until("it is up", async || log.last_words(9, 99).contains("up").then_some(())).await;
            wire.set(State::Gone);
            until("its stream breaks", async || (docker.outages() > 0).then_some(())).await;
            if is_gone {
                world.docker.remove(container).await.expect("it is removed");
            } else {
                world.docker.signal(container, crate::replica::machine::Signal::Kill).await;
            }
            wire.set(State::Open);
        };
        let watching = docker.watch(container, name.replica, Arc::clone(&log));
        let both = async { tokio::join!(watching, ending).0 };
        let ended = tokio::time::timeout(PATIENCE, both).await.expect("it ends");
        assert!(ended.blameless, "{ended:?}");
        assert!(ended.output.contains("up") && !ended.output.contains("by somebody"), "{}", ended.output);
        assert_eq!(world.containers().await.len(), 0);
    }
}

#[tokio::test]
async fn one_that_outlives_the_engines_absence_goes_on() {
    let Some(world) = World::new().await else { return };
    let wire = Wire::to(world.host().clone()).await;
    let docker = world.again(Some(format!("tcp://{}", wire.address)));
    world.follow(&docker);
    let (container, name) = world.start("echo up; trap 'exit 6' TERM; while :; do sleep 0.1; done").await;
    let log = world.log();
    let ending = async {
        until("it is up", async || log.last_words(9, 99).contains("up").then_some(())).await;
        wire.set(State::Gone);
        until("its stream breaks", async || (docker.outages() > 0).then_some(())).await;
        wire.set(State::Open);
        until("the engine is back", async || docker.status().is_ready().then_some(())).await;
        world.docker.signal(container, crate::replica::machine::Signal::Term).await;
    };
    let watching = docker.watch(container, name.replica, Arc::clone(&log));
    let both = async { tokio::join!(watching, ending).0 };
    let ended = tokio::time::timeout(PATIENCE, both).await.expect("it ends");
    assert_eq!(ended.code, Some(6));
}
