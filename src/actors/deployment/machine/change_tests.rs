//! A change of what runs: who is started and who goes, in which order, and how it ends.

use super::fixtures::deployment;
use super::world::{BAD, World};
use super::*;
use crate::domain::deployment::Strategy;
use crate::domain::node::Scheduling;

/// So many replicas that run, on three nodes with room for `spare` more on the first.
fn running(replicas: u32, spare: usize) -> World {
    let mut dep = deployment(Vec::new());
    dep.spec.replicas = replicas;
    let wanted = replicas as usize;
    let mut world = World::new(dep, 3, wanted);
    world.heal();
    for node in &mut world.nodes {
        node.room = world.reserved.values().filter(|at| **at == node.id).count();
    }
    world.nodes[0].room += spare;
    world.fewest = wanted;
    world.happened.clear();
    world
}

fn change(world: &mut World, arg: &str) {
    let intent = world.other(arg);
    world.intend(intent);
}

fn story(world: &World) -> Vec<&'static str> {
    let told = ["change_started", "change_done", "change_failed", "rolled_back", "made_room"];
    world.kinds().into_iter().filter(|kind| told.contains(kind)).collect()
}

fn staying(world: &World) -> Vec<(u32, bool)> {
    let dep = world.machine.deployment();
    let staying = dep.replicas.iter().filter(|replica| !replica.leaving);
    staying.map(|replica| (replica.index, replica.revision == dep.revision)).collect()
}

#[test]
fn new_replicas_come_beside_the_old_ones_a_quarter_at_a_time() {
    for (replicas, beside) in [(1, 1), (3, 1), (4, 1), (8, 2)] {
        let mut world = running(replicas, 4);
        change(&mut world, "--fast");
        let new = staying(&world).iter().filter(|(_, new)| *new).count();
        assert_eq!((new, staying(&world).len()), (beside, replicas as usize + beside), "{replicas}");
        assert_eq!(world.endpoints(), replicas as usize, "the old ones serve on");
        world.settle();
        let dep = world.machine.deployment();
        assert!(dep.replicas.iter().all(|replica| replica.revision == dep.revision), "{replicas}");
        assert_eq!((dep.previous.as_ref(), world.running().len()), (None, replicas as usize));
        assert_eq!(world.fewest, replicas as usize, "{replicas}");
        assert_eq!(story(&world), ["change_started", "change_done"], "{replicas}");
    }
}

#[test]
fn a_change_of_what_does_not_run_replaces_nothing() {
    let mut world = running(2, 0);
    let before = world.running();
    let spec = world.machine.deployment().spec.clone();
    let spec = DeploymentSpec { public: true, drain: Duration::from_secs(1), replicas: 3, ..spec };
    world.nodes[0].room += 1;
    world.intend(Intent::Change(Box::new(spec)));
    let access = |node: &super::world::FakeNode| {
        node.outbox.iter().any(|(.., action)| matches!(action, Action::Access { public: true, .. }))
    };
    assert_eq!(world.nodes.iter().filter(|node| access(node)).count(), 2, "all are told who may call");
    world.settle();
    assert_eq!(world.running().len(), 3);
    assert!(before.iter().all(|replica| world.running().contains(replica)));
    assert_eq!((world.machine.deployment().generation, story(&world).len()), (Generation(1), 0));
}

#[test]
fn a_new_version_that_fails_is_taken_back_and_what_ran_has_never_stopped() {
    let mut world = running(3, 1);
    let before = world.running();
    change(&mut world, BAD);
    world.settle();
    assert_eq!(world.running(), before, "not one was touched");
    assert_eq!((world.fewest, story(&world)), (3, vec!["change_started", "change_failed", "rolled_back"]));
    let dep = world.machine.deployment();
    assert_eq!((dep.spec.args.len(), dep.previous.as_ref()), (0, None));
    assert_eq!((dep.generation, dep.revision), (Generation(3), Generation(3)));
    let failed = world.happened.iter().find(|line| line.kind == "change_failed").expect("why");
    assert!(failed.message.contains("has failed"), "{}", failed.message);
}

#[test]
fn a_new_version_that_never_gets_a_place_is_taken_back_after_ten_minutes() {
    let mut world = running(1, 0);
    change(&mut world, "--large");
    world.settle();
    assert_eq!(story(&world), ["change_started"], "one alone is not let go");
    assert!(world.machine.next(world.now).iter().any(|next| next.what.contains("taken back")));
    world.wait(599);
    assert_eq!(story(&world), ["change_started"]);
    world.wait(1);
    world.settle();
    assert_eq!(story(&world), ["change_started", "change_failed", "rolled_back"]);
    assert_eq!((world.fewest, world.running().len()), (1, 1));
}

#[test]
fn where_there_is_no_room_one_old_replica_goes_first() {
    let mut world = running(3, 0);
    change(&mut world, "--fast");
    world.settle();
    let story = story(&world);
    assert_eq!(
        (story[..2].to_vec(), story.last()),
        (vec!["change_started", "made_room"], Some(&"change_done"))
    );
    assert_eq!((world.fewest, world.running().len()), (2, 3), "never more than one is missing");
}

#[test]
fn a_replica_whose_place_is_of_no_use_does_not_make_room() {
    let mut world = running(2, 0);
    (0..3).for_each(|at| world.schedule(at, Scheduling::Cordoned));
    change(&mut world, "--fast");
    world.settle();
    assert_eq!((world.fewest, story(&world)), (2, vec!["change_started"]));
}

#[test]
fn with_recreate_the_old_replicas_are_gone_before_new_ones_seek_a_place() {
    let mut world = running(2, 0);
    let spec = world.machine.deployment().spec.clone();
    let spec = DeploymentSpec { strategy: Strategy::Recreate, args: vec!["--fast".to_owned()], ..spec };
    world.intend(Intent::Change(Box::new(spec)));
    assert_eq!((world.endpoints(), world.wanted.len()), (0, 0), "the old ones are to stop first");
    world.settle();
    assert_eq!((world.running().len(), story(&world)), (2, vec!["change_started", "change_done"]));
    change(&mut world, BAD);
    world.settle();
    assert_eq!(world.running().len(), 2, "the version before is put up again");
    assert_eq!(story(&world)[2..], ["change_started", "change_failed", "rolled_back"]);
    assert_eq!(world.machine.deployment().spec.args, ["--fast"]);
}

#[test]
fn a_change_that_its_user_takes_back_in_the_middle_keeps_what_runs() {
    let mut world = running(2, 2);
    let (before, spec) = (world.running(), world.machine.deployment().spec.clone());
    change(&mut world, "--fast");
    world.round();
    world.crash();
    world.intend(Intent::Change(Box::new(spec)));
    world.settle();
    let kept = before.iter().filter(|replica| world.running().contains(replica)).count();
    assert!(kept >= 1, "at most the first was replaced");
    assert_eq!((world.fewest, world.running().len()), (2, 2));
    assert_eq!(story(&world), ["change_started", "rolled_back"]);
}

#[test]
fn a_second_change_overtakes_the_first_and_can_be_taken_back_too() {
    let mut world = running(2, 2);
    change(&mut world, "--a");
    world.round();
    change(&mut world, "--b");
    world.settle();
    assert_eq!((world.fewest, world.running().len()), (2, 2));
    assert_eq!(world.machine.deployment().spec.args, ["--b"]);
    change(&mut world, "--c");
    change(&mut world, BAD);
    world.settle();
    assert_eq!(world.machine.deployment().spec.args, ["--b"], "what last ran everywhere");
    assert_eq!((world.fewest, world.running().len()), (2, 2));
}

#[test]
fn who_may_call_stays_as_it_was_said_last_when_a_change_is_taken_back() {
    let mut world = running(1, 0);
    change(&mut world, "--large");
    let spec = DeploymentSpec { public: true, ..world.machine.deployment().spec.clone() };
    world.intend(Intent::Change(Box::new(spec)));
    world.intend(Intent::Scale(2));
    world.settle();
    world.wait(601);
    let dep = world.machine.deployment();
    assert_eq!((dep.spec.public, dep.spec.replicas, dep.spec.args.len()), (true, 2, 0));
}

#[test]
fn what_never_answered_is_replaced_at_once_and_not_returned_to() {
    let mut dep = deployment(Vec::new());
    dep.spec.args = vec![BAD.to_owned()];
    dep.spec.replicas = 2;
    let mut world = World::new(dep, 2, 1);
    world.settle();
    assert_eq!(world.machine.deployment().state(), Phase::Failed);
    change(&mut world, "--good");
    assert_eq!(world.machine.deployment().previous, None);
    world.settle();
    assert_eq!((world.running().len(), world.machine.deployment().state()), (2, Phase::Running));
}

#[test]
fn a_change_goes_on_after_a_stop_and_a_start() {
    let mut world = running(2, 1);
    change(&mut world, BAD);
    world.intend(Intent::Stop);
    world.settle();
    assert_eq!((world.running().len(), world.reserved.len()), (0, 0));
    world.intend(Intent::Start);
    world.settle();
    assert_eq!((world.running().len(), world.machine.deployment().spec.args.len()), (2, 0));
    assert_eq!(story(&world), ["change_started", "change_failed", "rolled_back"]);
}

#[test]
fn another_model_has_another_hint() {
    let mut world = running(1, 1);
    let hint = MemoryHint { bytes: 1, weights_bytes: 1, how: "1 + 0".to_owned() };
    world.event(Event::Hint(hint.clone()));
    change(&mut world, "--fast");
    assert_eq!(world.machine.deployment().hint, Some(hint));
    let spec = DeploymentSpec { model: "other".to_owned(), ..world.machine.deployment().spec.clone() };
    world.intend(Intent::Change(Box::new(spec)));
    assert_eq!(world.machine.deployment().hint, None);
}
