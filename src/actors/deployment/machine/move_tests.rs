//! Replicas that move: off nodes that are drained, and from nodes that are lost.

use super::fixtures::deployment;
use super::world::World;
use super::*;
use crate::domain::deployment::LostAfter;
use crate::domain::node::Scheduling;

/// One replica that runs, where it runs, and another node with room.
fn running(lost_after: LostAfter) -> (World, usize) {
    let mut dep = deployment(Vec::new());
    dep.spec.replicas = 1;
    dep.spec.lost_after = lost_after;
    let mut world = World::new(dep, 2, 1);
    world.heal();
    let at = world.nodes.iter().position(|node| node.running().count() == 1).expect("a node");
    world.fewest = 1;
    (world, at)
}

fn five_minutes() -> LostAfter {
    LostAfter::After(Duration::from_secs(300))
}

#[test]
fn a_drained_node_is_left_when_the_successor_answers() {
    let (mut world, at) = running(five_minutes());
    let before = world.running();
    world.schedule(at, Scheduling::Draining);
    assert_eq!(world.endpoints(), 1, "it serves on");
    world.settle();
    assert_eq!((world.fewest, world.nodes[at].runs.len(), world.running().len()), (1, 0, 1));
    assert_ne!(world.running(), before);
    let moved = world.happened.iter().find(|line| line.kind == "moved").expect("told");
    assert!(moved.message.ends_with("its node is drained"), "{}", moved.message);
    world.schedule(at, Scheduling::Drained);
    assert!(world.machine.next(world.now).is_empty());
}

#[test]
fn a_drain_that_is_cancelled_keeps_what_runs() {
    let (mut world, at) = running(five_minutes());
    let before = world.running();
    world.schedule(at, Scheduling::Draining);
    world.place_one();
    assert_eq!(world.machine.deployment().replicas.len(), 2);
    world.schedule(at, Scheduling::Cordoned);
    world.settle();
    assert_eq!((world.running(), world.fewest, world.reserved.len()), (before, 1, 1));
}

#[test]
fn without_room_elsewhere_a_drain_waits_and_a_crash_forgets_nothing() {
    let (mut world, at) = running(five_minutes());
    world.nodes[1 - at].room = 0;
    world.schedule(at, Scheduling::Draining);
    world.settle();
    world.crash();
    assert_eq!(world.machine.deployment().replicas.len(), 2, "nobody knows yet whether it is drained still");
    world.settle();
    assert_eq!((world.running().len(), world.nodes[at].runs.len()), (1, 1));
    let next = world.machine.next(world.now);
    assert!(next.iter().any(|next| next.what.contains("is being drained")), "{next:?}");
    world.nodes[1 - at].room = 1;
    world.settle();
    assert_eq!((world.fewest, world.nodes[at].runs.len(), world.running().len()), (1, 0, 1));
}

#[test]
fn what_was_stopped_leaves_a_node_that_is_drained_at_once() {
    let (mut world, at) = running(five_minutes());
    world.intend(Intent::Stop);
    world.settle();
    assert_eq!(world.nodes[at].runs.len(), 1, "its record is kept");
    world.schedule(at, Scheduling::Draining);
    world.settle();
    assert_eq!((world.nodes[at].runs.len(), world.machine.deployment().replicas.len()), (0, 0));
    assert_eq!(world.machine.deployment().state(), Phase::Stopped);
}

#[test]
fn what_is_on_a_lost_node_is_replaced_when_its_time_is_over_and_the_scheduler_lets_it() {
    let (mut world, at) = running(five_minutes());
    let old = world.running()[0].0;
    world.presence(at, false);
    assert_eq!((world.endpoints(), world.machine.deployment().state()), (0, Phase::Unreachable));
    world.wait(299);
    assert_eq!((world.moves.len(), world.wanted.len()), (0, 0));
    world.wait(1);
    assert_eq!(world.moves.len(), 1);
    world.answer_move(false);
    world.wait(4);
    assert_eq!(world.moves.len(), 0, "not before five seconds");
    world.wait(1);
    assert_eq!(world.moves.len(), 1);
    world.answer_move(true);
    world.wait(5);
    assert_eq!((world.moves.len(), world.wanted.len()), (0, 1), "it is granted for good");
    let ids = |world: &World| world.machine.deployment().replicas.iter().map(|r| r.id).collect::<Vec<_>>();
    assert!(ids(&world).contains(&old), "it may come back first");
    world.settle();
    assert_eq!((ids(&world).len(), world.endpoints()), (1, 1));
    assert!(!ids(&world).contains(&old));
    assert_eq!(world.kinds().iter().filter(|kind| ["lost", "moved"].contains(kind)).count(), 2);
    world.presence(at, true);
    world.settle();
    assert_eq!((world.nodes[at].runs.len(), world.running().len()), (0, 1), "what came back is ended");
}

#[test]
fn a_node_that_is_back_before_the_successor_answers_keeps_its_replica() {
    let (mut world, at) = running(five_minutes());
    let before = world.running();
    world.presence(at, false);
    world.wait(300);
    world.answer_move(true);
    world.place_one();
    world.presence(at, true);
    assert_eq!(world.endpoints(), 1);
    world.settle();
    assert_eq!((world.running(), world.machine.deployment().replicas.len()), (before, 1));
    world.presence(at, false);
    world.wait(299);
    assert_eq!(world.moves.len(), 0, "the time counts anew");
}

#[test]
fn never_is_never_and_nobody_asks_for_what_is_stopped_or_has_failed() {
    let (mut world, at) = running(LostAfter::Never);
    world.presence(at, false);
    world.wait(1_000_000);
    assert_eq!(world.moves.len(), 0);
    assert_eq!(
        world.machine.next(world.now)[0].what,
        format!("replica 0 waits for node node-{at}, however long")
    );
    let (mut world, at) = running(five_minutes());
    world.intend(Intent::Stop);
    world.presence(at, false);
    world.wait(1_000);
    assert_eq!((world.moves.len(), world.wanted.len()), (0, 0));
}

#[test]
fn after_a_restart_of_nebulad_the_time_counts_anew_and_the_successor_goes_on() {
    let (mut world, at) = running(five_minutes());
    world.presence(at, false);
    world.wait(300);
    world.answer_move(true);
    world.place_one();
    let both: BTreeSet<_> = world.machine.deployment().replicas.iter().map(|r| r.id).collect();
    world.crash();
    world.report(at);
    world.report(1 - at);
    let now: BTreeSet<_> = world.machine.deployment().replicas.iter().map(|r| r.id).collect();
    assert_eq!(now, both);
    world.settle();
    assert_eq!((world.endpoints(), world.machine.deployment().replicas.len()), (1, 1));
}

#[test]
fn what_names_its_node_is_said_to_wait_for_it() {
    let (mut world, at) = running(five_minutes());
    let place = world.machine.deployment().replicas.first().and_then(|replica| replica.placement.clone());
    let place = place.expect("a place");
    world.machine.dep.spec.node = Some(place.node_name.clone());
    world.presence(at, false);
    let told = world.machine.next(world.now);
    let expected = format!("replica 0 waits for node {}, which its deployment names", place.node_name);
    assert!(told.iter().any(|next| next.what == expected && next.at.is_none()), "{told:?}");
}

#[test]
fn a_restart_while_its_node_is_offline_does_not_keep_a_replica_there() {
    let (mut world, at) = running(five_minutes());
    world.presence(at, false);
    world.intend(Intent::Restart);
    assert_eq!(world.machine.deployment().state(), Phase::Unreachable);
    assert!(world.nodes[at].outbox.is_empty(), "it may be lost");
    world.wait(300);
    world.settle();
    assert_eq!(world.nodes[1 - at].running().count(), 1, "replaced");
    let (mut world, at) = running(five_minutes());
    let before = world.running();
    world.presence(at, false);
    world.intend(Intent::Restart);
    world.heal();
    assert_eq!(world.running(), [(before[0].0, Generation(2))], "it is restarted where it was");
}
