//! The number of replicas where the load decides about it.

use super::fixtures::{deployment, running};
use super::world::World;
use super::*;
use crate::domain::deployment::Autoscale;

const SCALE: Autoscale = Autoscale {
    min: 0,
    max: 3,
    target: 2,
    cooldown: Duration::from_secs(10),
    idle_after: Duration::from_secs(30),
};

fn world(replicas: u32) -> World {
    let mut dep = deployment(Vec::new());
    dep.spec.replicas = replicas;
    dep.spec.autoscale = Some(SCALE);
    let mut world = World::new(dep, 2, 8);
    world.heal();
    world.happened.clear();
    world
}

/// Looks at the load every two seconds, with so much of it on each replica by index and so many who wait.
fn look(world: &mut World, secs: u64, inflight: &[u32], waiting: u32) {
    for _ in 0..secs / 2 {
        let replicas = &world.machine.deployment().replicas;
        let busy = |replica: &Replica| inflight.get(replica.index as usize).copied().unwrap_or(0);
        let running = replicas.iter().filter(|replica| replica.phase == Phase::Running && !replica.leaving);
        let inflight = running.map(|replica| (replica.id, busy(replica))).collect();
        world.wait(2);
        world.event(Event::Load(Load { inflight, waiting, asked: 0 }));
        world.settle();
    }
}

fn wanted(world: &World) -> u32 {
    world.machine.deployment().spec.replicas
}

#[test]
fn more_load_wants_more_replicas_and_says_why() {
    let mut world = world(1);
    look(&mut world, 2, &[6], 0);
    assert_eq!((wanted(&world), world.running().len()), (3, 3));
    let line = world.happened.iter().find(|line| line.kind == "scaled").expect("told");
    assert_eq!(line.message, "from 1 to 3 replicas: 6 in flight, 2 for each replica");
}

#[test]
fn a_replica_that_has_requests_is_not_the_one_that_goes() {
    let mut world = world(3);
    let busy = world.machine.deployment().replicas.iter().find(|r| r.index == 2).expect("the last").id;
    let mut inflight = vec![0, 0, 1];
    for _ in 0..30 {
        look(&mut world, 2, &inflight, 0);
        let index =
            world.machine.deployment().replicas.iter().find(|r| r.id == busy).expect("it stays").index;
        inflight = (0..3).map(|at| u32::from(at == index)).collect();
    }
    assert_eq!(wanted(&world), 1, "{:?}", world.happened);
    assert_eq!(world.running().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [busy]);
}

#[test]
fn the_last_one_goes_when_nobody_asks_and_a_request_brings_one_back() {
    let mut world = world(1);
    look(&mut world, 60, &[1], 0);
    assert_eq!(wanted(&world), 1, "never while it has a request");
    look(&mut world, 20, &[], 0);
    let next = world.machine.next(world.now);
    assert!(
        next.iter().any(|next| next.what.contains("unless somebody asks") && next.at.is_some()),
        "{next:?}"
    );
    look(&mut world, 20, &[], 0);
    assert_eq!((wanted(&world), world.running().len()), (0, 0));
    let next: Vec<String> = world.machine.next(world.now).into_iter().map(|next| next.what).collect();
    assert_eq!(next, ["a replica is started when somebody asks"], "there is no last one to stop");
    let dep = world.machine.deployment();
    assert_eq!(
        (dep.state(), dep.message().as_str()),
        (Phase::Stopped, "no replica runs; a request starts one")
    );
    assert!(world.route.as_ref().is_some_and(|route| route.wakes));
    world.event(Event::Demand);
    world.settle();
    assert_eq!((wanted(&world), world.endpoints()), (1, 1));
    world.event(Event::Demand);
    assert_eq!(wanted(&world), 1);
}

#[test]
fn a_start_wakes_what_sleeps() {
    for stop in [false, true] {
        let mut world = world(0);
        assert!(world.machine.deployment().sleeps());
        if stop {
            world.intend(Intent::Stop);
        }
        world.intend(Intent::Start);
        world.settle();
        assert_eq!((wanted(&world), world.endpoints()), (1, 1), "{stop}");
    }
}

#[test]
fn without_an_autoscaler_or_when_stopped_the_load_decides_nothing() {
    let load = Load { waiting: 100, ..Load::default() };
    let mut machine = Machine::load(deployment(vec![running(0, "a")]));
    machine.step(Event::Started, super::fixtures::NOW);
    assert!(!machine.wants_load());
    assert_eq!(machine.step(Event::Load(load.clone()), super::fixtures::NOW), []);
    let mut world = world(1);
    world.intend(Intent::Stop);
    world.settle();
    world.event(Event::Load(load));
    world.event(Event::Demand);
    assert_eq!((wanted(&world), world.machine.wants_load()), (1, false));
}

#[test]
fn while_a_change_is_under_way_nobody_is_taken_away() {
    let mut world = world(2);
    world.nodes.iter_mut().for_each(|node| node.room = 0);
    let change = world.other("--fast");
    world.intend(change);
    world.machine.step(Event::Timer, world.now);
    for _ in 0..10 {
        world.wait(2);
        world.event(Event::Load(Load::default()));
    }
    assert_eq!(wanted(&world), 2);
}
