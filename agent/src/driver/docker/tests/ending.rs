//! How containers end, and how that is seen.

use std::time::Duration;

use super::support::{PATIENCE, World, until};
use crate::replica::machine::Signal;

/// What happens by hand is seen within this time.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

#[tokio::test]
async fn an_exit_is_told_with_its_code_and_last_words() {
    let Some(world) = World::new().await else { return };
    world.follow(&world.docker);
    let (container, name) = world.start("echo out; echo err >&2; echo the end; exit 7").await;
    let ended = world.watch(container, &name, &world.log()).await;
    assert_eq!((ended.code, ended.out_of_memory, ended.blameless), (Some(7), false, false));
    let mut lines: Vec<&str> = ended.output.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["err", "out", "the end"]);
    assert_eq!(world.containers().await.len(), 0, "an ended container is removed");
}

#[tokio::test]
async fn an_end_is_seen_without_events_too() {
    let Some(world) = World::new().await else { return };
    let (container, name) = world.start("exit 3").await;
    assert_eq!(world.watch(container, &name, &world.log()).await.code, Some(3));
}

#[tokio::test]
async fn signals_end_a_container() {
    let Some(world) = World::new().await else { return };
    world.follow(&world.docker);
    for (signal, script, code) in [
        (Signal::Term, "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.1; done", 5),
        (Signal::Kill, "trap '' TERM; echo up; exec sleep 100", 137),
    ] {
        let (container, name) = world.start(script).await;
        let log = world.log();
        let telling = async {
            until("it is up", async || log.last_words(9, 99).contains("up").then_some(())).await;
            world.docker.signal(container, signal).await;
        };
        let (ended, ()) = tokio::join!(world.watch(container, &name, &log), telling);
        assert_eq!((ended.code, ended.blameless), (Some(code), false), "{script}");
        // It is gone: that is as wanted.
        world.docker.signal(container, signal).await;
    }
}

#[tokio::test]
async fn one_that_takes_too_much_memory_is_told_apart() {
    let Some(world) = World::new().await else { return };
    let (container, name) = world.start("exec tail /dev/zero").await;
    let ended = world.watch(container, &name, &world.log()).await;
    assert_eq!((ended.code, ended.out_of_memory), (Some(137), true));
}

#[tokio::test]
async fn what_somebody_removes_or_stops_is_seen_at_once() {
    let Some(world) = World::new().await else { return };
    world.follow(&world.docker);
    for is_removed in [true, false] {
        let (container, name) = world.start("echo up; exec sleep 100").await;
        let log = world.log();
        let by_hand = async {
            until("it is up", async || log.last_words(9, 99).contains("up").then_some(())).await;
            if is_removed {
                world.docker.remove(container).await.expect("it is removed");
            } else {
                let client = world.docker.0.engine.client(PATIENCE).expect("a client");
                let now = bollard::query_parameters::StopContainerOptionsBuilder::default().t(0).build();
                client.stop_container(&container.to_hex(), Some(now)).await.expect("it is stopped");
            }
            tokio::time::timeout(SEEN_WITHIN, std::future::pending::<()>()).await
        };
        let watching = world.watch(container, &name, &log);
        let ended = tokio::select! {
            ended = watching => ended,
            _ = by_hand => panic!("it is not seen within 5 s"),
        };
        assert_eq!((ended.code, ended.blameless), (Some(137), false));
        let note = ended.output.contains("[nebula] the container was removed by somebody");
        assert!(!is_removed || note || ended.output.trim() == "up", "{}", ended.output);
        assert_eq!(world.containers().await.len(), 0);
    }
}
