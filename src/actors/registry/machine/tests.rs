use proptest::prelude::*;

use super::*;

const TIMING: Timing = Timing {
    heartbeat_interval: Duration::from_secs(30),
    heartbeat_timeout: Duration::from_secs(90),
    restart_grace: Duration::from_secs(120),
};

fn id(n: u8) -> NodeId {
    format!("node-{n}").parse().expect("an id")
}

fn registration(n: u8, boot: &str) -> Box<Registration> {
    Box::new(Registration {
        node_id: id(n),
        name: format!("gpu-{n}"),
        version: "0.1.0".to_owned(),
        address: "127.0.0.1:9091".parse().expect("an address"),
        proxy_port: 8888,
        capabilities: Capabilities::default(),
        labels: BTreeMap::new(),
        boot_id: boot.to_owned(),
    })
}

fn at(secs: u64) -> Tick {
    Tick(secs * 1_000)
}

fn empty() -> Machine {
    Machine::load(TIMING, "example.com".to_owned(), Vec::new(), at(0))
}

fn with_nodes(count: u8) -> Machine {
    let mut machine = empty();
    for n in 0..count {
        machine.step(Event::Register(ReplyTo(0), registration(n, "a"), WallTime(0)), at(0));
    }
    machine
}

fn availability(machine: &Machine, n: u8) -> Availability {
    machine.node(&id(n)).expect("known").availability
}

/// Fires every timer up to `until`, as the shell does.
fn run(machine: &mut Machine, until: Tick) -> Vec<Effect> {
    let mut effects = Vec::new();
    while let Some(next) = machine.next_deadline().filter(|next| *next <= until) {
        effects.extend(machine.step(Event::Timer, next));
    }
    effects
}

#[test]
fn nothing_is_answered_before_it_is_persisted() {
    let effects = empty().step(Event::Register(ReplyTo(7), registration(1, "a"), WallTime(0)), at(0));
    let persist = effects.iter().position(|e| matches!(e, Effect::Persist(_))).expect("persisted");
    let reply = effects.iter().position(|e| matches!(e, Effect::Reply(ReplyTo(7), Ok(_)))).expect("answered");
    assert!(persist < reply);
}

#[test]
fn a_silent_node_is_suspect_at_half_the_timeout_and_offline_at_the_timeout() {
    let mut machine = with_nodes(1);
    run(&mut machine, Tick(44_999));
    assert_eq!(availability(&machine, 0), Availability::Online);
    run(&mut machine, at(45));
    assert_eq!(availability(&machine, 0), Availability::Suspect);
    run(&mut machine, Tick(89_999));
    assert_eq!(availability(&machine, 0), Availability::Suspect);
    let effects = run(&mut machine, at(90));
    assert_eq!(availability(&machine, 0), Availability::Offline);
    assert!(matches!(effects.as_slice(), [Effect::Persist(_), Effect::Announce(_)]));
}

#[test]
fn a_heartbeat_brings_a_node_back_and_is_not_written_while_it_is_online() {
    let mut machine = with_nodes(1);
    assert_eq!(machine.heartbeat(&id(0), "a", at(30)), (Verdict::Known, Vec::new()));
    run(&mut machine, at(200));
    assert_eq!(availability(&machine, 0), Availability::Offline);
    let (verdict, effects) = machine.heartbeat(&id(0), "a", at(201));
    assert_eq!(verdict, Verdict::Known);
    assert!(matches!(effects.as_slice(), [Effect::Persist(_), Effect::Announce(_)]));
    assert_eq!(availability(&machine, 0), Availability::Online);
}

#[test]
fn strangers_and_leavers_must_register_and_new_starts_register_again() {
    let mut machine = with_nodes(1);
    assert_eq!(machine.heartbeat(&id(9), "a", at(1)).0, Verdict::Unknown);
    assert_eq!(machine.heartbeat(&id(0), "b", at(1)).0, Verdict::Reregister);
    assert_eq!(machine.heartbeat(&id(0), "", at(1)).0, Verdict::Known);
    machine.step(Event::Deregister(ReplyTo(1), id(0)), at(2));
    assert_eq!(availability(&machine, 0), Availability::Offline);
    assert_eq!(machine.heartbeat(&id(0), "a", at(3)).0, Verdict::Unknown);
    for repeated in [id(0), id(9)] {
        let effects = machine.step(Event::Deregister(ReplyTo(2), repeated), at(4));
        assert!(matches!(effects.last(), Some(Effect::Reply(ReplyTo(2), Ok(_)))));
    }
}

#[test]
fn known_nodes_are_waited_for_after_a_restart() {
    let nodes = with_nodes(2).nodes().map(|update| update.node).collect();
    let mut machine = Machine::load(TIMING, "example.com".to_owned(), nodes, at(0));
    assert_eq!(availability(&machine, 0), Availability::Suspect);
    machine.heartbeat(&id(0), "a", at(100));
    run(&mut machine, Tick(119_999));
    assert_eq!(availability(&machine, 1), Availability::Suspect);
    run(&mut machine, at(120));
    assert_eq!(availability(&machine, 0), Availability::Online);
    assert_eq!(availability(&machine, 1), Availability::Offline);
}

#[test]
fn when_most_nodes_vanish_together_nobody_is_declared_offline() {
    let mut machine = with_nodes(5);
    for secs in [30, 60, 90, 120] {
        for n in 0..2 {
            machine.heartbeat(&id(n), "a", at(secs));
        }
    }
    run(&mut machine, at(130));
    for n in 2..5 {
        assert_eq!(availability(&machine, n), Availability::Suspect);
    }
    machine.heartbeat(&id(2), "a", at(131));
    run(&mut machine, at(140));
    assert_eq!(availability(&machine, 2), Availability::Online);
    assert_eq!(availability(&machine, 3), Availability::Offline);
}

#[test]
fn a_minority_goes_offline_in_time() {
    let mut machine = with_nodes(5);
    for secs in [30, 60, 90] {
        for n in 0..3 {
            machine.heartbeat(&id(n), "a", at(secs));
        }
    }
    run(&mut machine, at(90));
    assert_eq!(availability(&machine, 3), Availability::Offline);
    assert_eq!(availability(&machine, 4), Availability::Offline);
}

#[test]
fn the_operators_will_and_the_subdomain_survive_a_new_registration() {
    let mut machine = with_nodes(1);
    let before = machine.node(&id(0)).expect("known").node;
    machine.step(Event::Schedule(ReplyTo(1), id(0), Scheduling::Cordoned), at(1));
    machine.step(Event::Register(ReplyTo(2), registration(0, "b"), WallTime(99)), at(2));
    let after = machine.node(&id(0)).expect("known").node;
    assert_eq!(after.scheduling, Scheduling::Cordoned);
    assert_eq!(after.subdomain, before.subdomain);
    assert_eq!(after.created_at, before.created_at);
    assert_eq!(after.boot_id, "b");
}

#[test]
fn an_online_node_is_not_forgotten_and_an_offline_one_is() {
    let mut machine = with_nodes(1);
    let refused = machine.step(Event::Forget(ReplyTo(1), id(0)), at(1));
    assert!(
        matches!(refused.as_slice(), [Effect::Reply(_, Err(error))] if error.class == ErrorClass::Conflict)
    );
    run(&mut machine, at(90));
    machine.step(Event::Forget(ReplyTo(2), id(0)), at(91));
    assert!(machine.node(&id(0)).is_none());
    assert_eq!(machine.next_deadline(), None);
}

proptest! {
    /// No node that was heard within the timeout is ever offline, whatever happens in whatever order, and every
    /// node that is not offline has a deadline.
    #[test]
    fn nobody_heard_in_time_is_offline(steps in proptest::collection::vec((0_u8..4, 0_u8..5, 0_u64..40_000), 1..200)) {
        let mut machine = with_nodes(4);
        let mut now = Tick(0);
        for (n, what, later) in steps {
            now = Tick(now.0 + later);
            match what {
                0 => drop(machine.step(Event::Register(ReplyTo(0), registration(n, "a"), WallTime(0)), now)),
                1 => drop(machine.step(Event::Deregister(ReplyTo(0), id(n)), now)),
                2 => drop(run(&mut machine, now)),
                3 => {
                    let nodes = machine.nodes().map(|update| update.node).collect();
                    machine = Machine::load(TIMING, "example.com".to_owned(), nodes, now);
                }
                _ => drop(machine.heartbeat(&id(n), "a", now)),
            }
            for update in machine.nodes() {
                let heard = machine.heard_at(&update.node.id);
                if update.node.presence == Presence::Expected {
                    let recent = heard.is_some_and(|heard| now.since(heard) < TIMING.heartbeat_timeout);
                    prop_assert!(!(recent && update.availability == Availability::Offline));
                }
                let armed = machine.deadlines.iter().any(|(_, node)| *node == update.node.id);
                prop_assert_eq!(armed, update.availability != Availability::Offline);
            }
        }
    }
}
