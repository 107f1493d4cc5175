//! The life of a deployment as its user sees it, told by a small world.

use super::fixtures::{NOW, deployment};
use super::world::World;
use super::*;
use crate::domain::report::ReportedStatus;

/// A world with two roomy nodes and a deployment of so many replicas.
fn world_of(replicas: u32) -> World {
    let mut dep = deployment(Vec::new());
    dep.spec.replicas = replicas;
    World::new(dep, 2, 8)
}

fn machine(replicas: u32) -> Machine {
    let mut dep = deployment(Vec::new());
    dep.spec.replicas = replicas;
    Machine::load(dep)
}

#[test]
fn a_new_deployment_is_placed_started_and_routed() {
    let mut world = world_of(2);
    assert_eq!(world.machine.deployment().state(), Phase::Pending);
    world.heal();
    assert_eq!(world.machine.deployment().state(), Phase::Running);
    assert_eq!(world.running().len(), 2);
    assert_eq!(world.route.as_ref().expect("a route").endpoints.len(), 2);
}

#[test]
fn nothing_is_sent_before_it_is_stored() {
    let mut machine = machine(1);
    let effects = machine.step(Event::Started, NOW);
    assert!(
        matches!(effects.as_slice(), [Effect::Persist(..), Effect::Publish(_), Effect::Place(..)]),
        "{effects:?}"
    );
}

#[test]
fn stop_withdraws_the_route_before_it_stops_anything_and_start_brings_it_back() {
    let mut world = world_of(1);
    world.heal();
    let effects = world.machine.step(Event::Intent(ReplyTo(1), Intent::Stop), NOW);
    let publish = effects.iter().position(|e| matches!(e, Effect::Publish(s) if s.endpoints.is_empty()));
    let stop = effects.iter().position(|e| matches!(e, Effect::Send(_, _, _, Action::Stop)));
    assert!(publish.expect("withdrawn") < stop.expect("stopped"));
    let mut world = world_of(1);
    world.heal();
    world.intend(Intent::Stop);
    world.heal();
    assert_eq!((world.machine.deployment().state(), world.running().len()), (Phase::Stopped, 0));
    world.intend(Intent::Start);
    world.heal();
    assert_eq!((world.machine.deployment().state(), world.running().len()), (Phase::Running, 1));
}

#[test]
fn a_replica_on_an_offline_node_is_unreachable_without_a_route_and_comes_back_as_it_was() {
    let mut world = world_of(1);
    world.heal();
    let before = world.running();
    let at = world.nodes.iter().position(|node| node.running().count() == 1).expect("a node");
    world.nodes[at].online = false;
    world.report(at);
    assert_eq!(world.machine.deployment().state(), Phase::Unreachable);
    assert_eq!(world.route.as_ref().expect("a route").endpoints, []);
    world.heal();
    assert_eq!(world.machine.deployment().state(), Phase::Running);
    assert_eq!(world.running(), before, "it was never restarted");
}

#[test]
fn a_failure_is_shown_with_its_reason_and_starting_again_tries_again() {
    let mut world = world_of(1);
    world.heal();
    let at = world.nodes.iter().position(|node| node.running().count() == 1).expect("a node");
    let mut facts = world.nodes[at].facts();
    facts.replicas[0].status = ReportedStatus::Failed;
    facts.replicas[0].message = "exit code 1: no such file".to_owned();
    world.event(Event::Node(facts));
    let dep = world.machine.deployment();
    assert_eq!((dep.state(), dep.message().as_str()), (Phase::Failed, "exit code 1: no such file"));
    world.nodes[at].runs.values_mut().for_each(|runs| runs.status = ReportedStatus::Failed);
    world.intend(Intent::Start);
    world.heal();
    assert_eq!(world.machine.deployment().state(), Phase::Running);
    assert_eq!(world.running().len(), 1);
}

#[test]
fn starting_again_leaves_alone_what_runs() {
    let mut world = world_of(2);
    world.heal();
    let at = world.nodes.iter().position(|node| node.running().count() == 1).expect("a node");
    let (failed, healthy) = (world.nodes[at].running().next().map(|(id, _)| id), world.running());
    world.nodes[at].runs.values_mut().for_each(|runs| runs.status = ReportedStatus::Failed);
    world.report(at);
    world.intend(Intent::Start);
    world.heal();
    let kept: Vec<_> = healthy.into_iter().filter(|(id, _)| Some(*id) != failed).collect();
    assert_eq!(world.running().len(), 2);
    assert!(
        kept.iter().all(|replica| world.running().contains(replica)),
        "the healthy one was never touched"
    );
}

#[test]
fn a_restart_whose_command_was_lost_in_a_crash_is_told_again() {
    let mut world = world_of(1);
    world.heal();
    world.intend(Intent::Restart);
    world.nodes.iter_mut().for_each(|node| node.outbox.clear());
    world.crash();
    world.heal();
    assert_eq!(world.running().iter().map(|(_, g)| *g).collect::<Vec<_>>(), [Generation(2)]);
}

#[test]
fn a_replica_of_a_forgotten_node_is_replaced_under_a_new_id() {
    let mut world = world_of(1);
    world.heal();
    let (old, at) =
        (world.running()[0].0, world.nodes.iter().position(|n| n.running().count() == 1).expect("one"));
    let node = world.nodes[at].id.clone();
    world.nodes[at].online = false;
    world.event(Event::NodeGone(node));
    assert!(world.machine.deployment().replicas.iter().all(|replica| replica.id != old));
    assert_eq!(world.machine.deployment().state(), Phase::Pending);
}

#[test]
fn a_replica_that_its_agent_took_down_is_unreachable_once_the_node_is_offline() {
    let mut world = world_of(1);
    world.heal();
    let at = world.nodes.iter().position(|node| node.running().count() == 1).expect("a node");
    world.nodes[at].runs.values_mut().for_each(|runs| runs.status = ReportedStatus::Stopping);
    world.report(at);
    assert_eq!(world.machine.deployment().state(), Phase::Stopping);
    world.nodes[at].online = false;
    world.report(at);
    assert_eq!(world.machine.deployment().state(), Phase::Unreachable);
}

#[test]
fn a_refused_start_is_a_failure_and_an_older_refusal_is_not() {
    let mut world = world_of(1);
    world.place_one();
    let replica = world.machine.deployment().replicas[0].id;
    world.event(Event::Rejected(replica, Generation(0), "old".to_owned()));
    assert_eq!(world.machine.deployment().state(), Phase::Preparing);
    world.event(Event::Rejected(replica, Generation(1), "no such runtime".to_owned()));
    assert_eq!(world.machine.deployment().message(), "the agent refused: no such runtime");
}

#[test]
fn reports_of_an_older_generation_bring_no_route() {
    let mut world = world_of(1);
    world.heal();
    world.intend(Intent::Restart);
    let at = world.nodes.iter().position(|node| node.running().count() == 1).expect("a node");
    world.report(at);
    assert_eq!(world.route.as_ref().expect("a route").endpoints, []);
    world.heal();
    let route = world.route.as_ref().expect("a route");
    assert_eq!(route.endpoints.iter().map(|e| e.generation).collect::<Vec<_>>(), [Generation(2)]);
}

#[test]
fn scaling_down_removes_the_last_ones_and_deleting_removes_all() {
    let mut world = world_of(3);
    world.heal();
    let kept = world.machine.deployment().replicas[0].id;
    world.intend(Intent::Scale(1));
    world.heal();
    assert_eq!(world.running(), [(kept, Generation(1))]);
    world.intend(Intent::Delete);
    world.heal();
    assert_eq!((world.running().len(), world.stored, world.route), (0, None, None));
}

#[test]
fn deleting_does_not_wait_for_a_node_that_is_offline() {
    let mut world = world_of(1);
    world.heal();
    let at = world.nodes.iter().position(|node| node.running().count() == 1).expect("a node");
    world.nodes[at].online = false;
    world.report(at);
    world.intend(Intent::Delete);
    assert_eq!(world.stored, None);
    assert!(
        world.nodes[at].outbox.iter().any(|(_, _, action)| *action == Action::Delete),
        "told when it is back"
    );
}

#[test]
fn after_the_end_deleting_is_done_and_the_rest_is_refused() {
    let mut world = world_of(0);
    world.intend(Intent::Delete);
    let again = world.machine.step(Event::Intent(ReplyTo(1), Intent::Delete), NOW);
    assert_eq!(again, [Effect::Reply(ReplyTo(1), Ok(()))]);
    let start = world.machine.step(Event::Intent(ReplyTo(2), Intent::Start), NOW);
    assert!(
        matches!(start.as_slice(), [Effect::Reply(_, Err(error))] if error.class == ErrorClass::Conflict)
    );
}
