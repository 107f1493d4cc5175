use proptest::prelude::*;

use super::*;

const TIMING: Timing = Timing {
    heartbeat_interval: Duration::from_secs(30),
    heartbeat_timeout: Duration::from_secs(90),
    restart_grace: Duration::from_secs(120),
};

fn id(n: u16) -> NodeId {
    format!("node-{n}").parse().expect("an id")
}

fn registration(n: u16, boot: &str) -> Box<Registration> {
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

fn with_nodes(count: u16) -> Machine {
    let mut machine = empty();
    for n in 0..count {
        machine.step(Event::Register(ReplyTo(0), registration(n, "a"), WallTime(0)), at(0));
    }
    machine
}

fn availability(machine: &Machine, n: u16) -> Availability {
    machine.node(&id(n)).expect("known").availability
}

/// Fires every timer up to `until`, as the shell does.
fn run(machine: &mut Machine, until: Tick) -> Vec<Effect> {
    let mut effects = Vec::new();
    loop {
        let next = machine.next_timer();
        if next > until {
            return effects;
        }
        effects.extend(machine.step(Event::Timer, next));
    }
}

/// Lets `beating` nodes report every 10 s from `from` to `to`, with every timer in between.
fn beat(machine: &mut Machine, beating: std::ops::Range<u16>, from: u64, to: u64) -> Vec<Effect> {
    let mut effects = Vec::new();
    for secs in (from..=to).step_by(10) {
        effects.extend(run(machine, at(secs)));
        for n in beating.clone() {
            effects.extend(machine.heartbeat(&id(n), "a", at(secs)).1);
        }
    }
    effects
}

fn notices(effects: &[Effect]) -> Vec<Notice> {
    let notice = |effect: &Effect| match effect {
        Effect::Notice(notice) => Some(*notice),
        _ => None,
    };
    effects.iter().filter_map(notice).collect()
}

fn persisted(effects: &[Effect]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::Persist(_))).count()
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
    run(&mut machine, at(30));
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
    run(&mut machine, at(100));
    machine.heartbeat(&id(0), "a", at(100));
    run(&mut machine, Tick(119_999));
    assert_eq!(availability(&machine, 1), Availability::Suspect);
    run(&mut machine, at(120));
    assert_eq!(availability(&machine, 0), Availability::Online);
    assert_eq!(availability(&machine, 1), Availability::Offline);
}

#[test]
fn when_most_nodes_vanish_together_nobody_is_declared_offline() {
    let mut machine = with_nodes(10);
    let effects = beat(&mut machine, 0..4, 10, 3_600);
    assert_eq!(notices(&effects), [Notice::BrakeClosed(Share { missing: 6, expected: 10 })], "said once");
    assert_eq!(persisted(&effects), 0);
    for n in 4..10 {
        assert_eq!(availability(&machine, n), Availability::Suspect);
    }
    assert!(machine.brake().is_closed());
}

#[test]
fn the_brake_holds_until_less_than_two_fifths_are_missing_and_then_gives_the_others_time() {
    let mut machine = with_nodes(10);
    beat(&mut machine, 0..4, 10, 200);
    let effects = beat(&mut machine, 0..6, 210, 400);
    assert_eq!(notices(&effects), [], "4 of 10 are missing");
    let effects = beat(&mut machine, 0..7, 410, 410);
    assert_eq!(notices(&effects), [Notice::BrakeOpened(Share { missing: 3, expected: 10 })]);
    let effects = beat(&mut machine, 0..8, 420, 450);
    assert_eq!(persisted(&effects), 0, "the others may still call");
    beat(&mut machine, 0..8, 460, 460);
    assert_eq!(availability(&machine, 7), Availability::Online);
    assert_eq!(availability(&machine, 8), Availability::Offline);
    assert_eq!(availability(&machine, 9), Availability::Offline);
}

#[test]
fn when_all_nodes_are_lost_all_are_kept() {
    let mut machine = with_nodes(3);
    let effects = run(&mut machine, at(86_400));
    assert_eq!(notices(&effects), [Notice::BrakeClosed(Share { missing: 3, expected: 3 })]);
    assert_eq!((machine.count(Availability::Suspect), persisted(&effects)), (3, 0));
}

#[test]
fn the_operator_opens_the_brake_and_it_works_again_afterwards() {
    let mut machine = with_nodes(5);
    let refused = machine.step(Event::ReleaseBrake(ReplyTo(1)), at(0));
    assert!(
        matches!(refused.as_slice(), [Effect::Reply(_, Err(error))] if error.class == ErrorClass::Conflict)
    );
    beat(&mut machine, 0..2, 10, 200);
    let effects = machine.step(Event::ReleaseBrake(ReplyTo(2)), at(200));
    assert_eq!(notices(&effects), [Notice::BrakeReleased(Share { missing: 3, expected: 5 })]);
    assert_eq!(persisted(&run(&mut machine, at(200))), 3);
    assert_eq!(machine.count(Availability::Offline), 3);
    // What is gone for long is no longer missing; the next time most vanish, they are held again.
    beat(&mut machine, 0..5, 210, 400);
    let effects = run(&mut machine, at(1_000));
    assert!(machine.brake().is_closed());
    assert_eq!(persisted(&effects), 0);
}

#[test]
fn after_a_restart_those_who_are_waited_for_say_nothing_about_the_network() {
    let nodes = with_nodes(10).nodes().map(|update| update.node).collect();
    let mut machine = Machine::load(TIMING, "example.com".to_owned(), nodes, at(0));
    assert_eq!(notices(&run(&mut machine, at(10))), []);
    for n in 0..3 {
        machine.heartbeat(&id(n), "a", at(10));
    }
    // The network breaks while seven have not called yet: the three that had are kept.
    let effects = run(&mut machine, at(110));
    assert_eq!(notices(&effects).len(), 1);
    assert_eq!(persisted(&effects), 0);
    // The grace is over and nobody came: all together are most of all.
    let effects = run(&mut machine, at(300));
    assert_eq!((persisted(&effects), machine.share()), (0, Share { missing: 10, expected: 10 }));
}

#[test]
fn a_few_who_do_not_come_back_after_a_restart_are_offline_when_the_grace_is_over() {
    let nodes = with_nodes(10).nodes().map(|update| update.node).collect();
    let mut machine = Machine::load(TIMING, "example.com".to_owned(), nodes, at(0));
    beat(&mut machine, 0..7, 10, 110);
    let effects = run(&mut machine, at(120));
    assert_eq!((persisted(&effects), notices(&effects)), (3, Vec::new()));
}

#[test]
fn a_minority_goes_offline_in_time() {
    let mut machine = with_nodes(5);
    beat(&mut machine, 0..3, 10, 90);
    run(&mut machine, at(90));
    assert_eq!(availability(&machine, 3), Availability::Offline);
    assert_eq!(availability(&machine, 4), Availability::Offline);
}

#[test]
fn a_process_that_stood_still_blames_nobody() {
    let mut machine = with_nodes(4);
    beat(&mut machine, 0..4, 10, 60);
    run(&mut machine, at(70));
    // Stopped for five minutes; the timer comes first.
    let effects = machine.step(Event::Timer, at(370));
    assert_eq!(notices(&effects), [Notice::StoodStill(Duration::from_secs(300))]);
    assert_eq!((machine.count(Availability::Online), machine.pauses()), (4, 1));
    // What was left of each deadline is left of it now: 45 s after the last heartbeat less the 10 s before the stop.
    run(&mut machine, Tick(404_999));
    assert_eq!(machine.count(Availability::Online), 4);
    for secs in [405, 440] {
        run(&mut machine, Tick(secs * 1_000 - 1));
        machine.heartbeat(&id(0), "a", at(secs));
        machine.heartbeat(&id(1), "a", at(secs));
    }
    run(&mut machine, Tick(449_999));
    assert_eq!(
        (availability(&machine, 2), availability(&machine, 3)),
        (Availability::Suspect, Availability::Suspect)
    );
    run(&mut machine, at(450));
    assert_eq!(
        (availability(&machine, 2), availability(&machine, 3)),
        (Availability::Offline, Availability::Offline)
    );
}

#[test]
fn a_heartbeat_that_comes_first_after_a_stop_saves_the_others_too() {
    let mut machine = with_nodes(4);
    run(&mut machine, at(40));
    let (verdict, effects) = machine.heartbeat(&id(0), "a", at(1_000));
    assert_eq!(verdict, Verdict::Known);
    assert_eq!(notices(&effects), [Notice::StoodStill(Duration::from_secs(960))]);
    machine.step(Event::Timer, at(1_000));
    assert_eq!(machine.count(Availability::Online), 4);
}

#[test]
fn a_timer_that_is_a_little_late_is_no_stop() {
    let mut machine = with_nodes(1);
    run(&mut machine, at(10));
    assert_eq!(machine.step(Event::Timer, at(13)), []);
    assert_eq!(machine.pauses(), 0);
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
    assert_eq!((machine.deadlines.len(), machine.overdue.len()), (0, 0));
    assert_eq!(machine.subdomains.len(), 0);
}

/// Ten thousand nodes, of which a third fall silent at one moment while the others report: each step declares a
/// bounded number of nodes, all are declared at their deadline, and no other is touched.
#[test]
fn ten_thousand_nodes_expire_in_bounded_steps() {
    const NODES: u16 = 10_000;
    const SILENT: u16 = 3_333;
    let mut machine = with_nodes(NODES);
    let mut silent = Vec::new();
    for secs in [20, 40, 60, 80] {
        silent.extend(run(&mut machine, at(secs)));
        for n in SILENT..NODES {
            assert_eq!(machine.heartbeat(&id(n), "a", at(secs)).1, []);
        }
    }
    assert_eq!(machine.count(Availability::Suspect), usize::from(SILENT));
    assert_eq!(persisted(&silent), 0);
    let mut steps = 0;
    while machine.next_timer() <= at(90) {
        let effects = machine.step(Event::Timer, machine.next_timer());
        assert!(persisted(&effects) <= OFFLINE_PER_STEP, "{}", effects.len());
        steps += 1;
    }
    assert_eq!(machine.count(Availability::Offline), usize::from(SILENT));
    assert_eq!(machine.count(Availability::Online), usize::from(NODES - SILENT));
    let needed = usize::from(SILENT).div_ceil(OFFLINE_PER_STEP);
    assert!(steps <= needed + 20, "{steps} steps, {needed} needed");
}

fn recount(machine: &Machine) -> [usize; 3] {
    [Availability::Online, Availability::Suspect, Availability::Offline]
        .map(|wanted| machine.nodes().filter(|update| update.availability == wanted).count())
}

proptest! {
    /// No node that was heard within the timeout is ever offline, whatever happens in whatever order; every node that
    /// is not offline has a deadline or is held; and the counts are those of the nodes.
    #[test]
    fn nobody_heard_in_time_is_offline(
        steps in proptest::collection::vec((0_u16..6, 0_u8..8, 0_u64..40_000, any::<bool>()), 1..200)
    ) {
        let mut machine = with_nodes(6);
        let mut now = Tick(0);
        for (n, what, later, standing_still) in steps {
            let until = Tick(now.0 + later);
            if !standing_still {
                run(&mut machine, until);
            }
            now = until;
            match what {
                0 => drop(machine.step(Event::Register(ReplyTo(0), registration(n, "a"), WallTime(0)), now)),
                1 => drop(machine.step(Event::Deregister(ReplyTo(0), id(n)), now)),
                2 => drop(machine.step(Event::Timer, now)),
                3 => {
                    let nodes = machine.nodes().map(|update| update.node).collect();
                    machine = Machine::load(TIMING, "example.com".to_owned(), nodes, now);
                }
                4 => drop(machine.step(Event::ReleaseBrake(ReplyTo(0)), now)),
                5 => drop(machine.step(Event::Forget(ReplyTo(0), id(n)), now)),
                _ => drop(machine.heartbeat(&id(n), "a", now)),
            }
            for update in machine.nodes() {
                let heard = machine.heard_at(&update.node.id);
                if update.node.presence == Presence::Expected {
                    let recent = heard.is_some_and(|heard| now.since(heard) < TIMING.heartbeat_timeout);
                    prop_assert!(!(recent && update.availability == Availability::Offline));
                }
                let armed = machine.deadlines.iter().any(|(_, node)| *node == update.node.id);
                let held = machine.overdue.contains(&update.node.id);
                prop_assert!(armed != held || update.availability == Availability::Offline);
            }
            let counted = [Availability::Online, Availability::Suspect, Availability::Offline]
                .map(|availability| machine.count(availability));
            prop_assert_eq!(counted, recount(&machine));
        }
    }
}
