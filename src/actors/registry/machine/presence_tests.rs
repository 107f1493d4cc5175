//! What time does: when the registry looks again, who is suspect and who is offline, what the brake weighs.

use nebula_core::timing::{HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT, RESTART_GRACE};

use super::brake::Moved;
use super::*;

const TIMING: Timing = Timing {
    heartbeat_interval: HEARTBEAT_INTERVAL,
    heartbeat_timeout: HEARTBEAT_TIMEOUT,
    restart_grace: RESTART_GRACE,
};

fn id(n: usize) -> NodeId {
    format!("node-{n:03}").parse().expect("an id")
}

fn at(secs: u64) -> Tick {
    Tick(secs * 1_000)
}

/// So many online nodes, heard at second 0.
fn with_nodes(count: usize) -> Machine {
    let mut machine = Machine::load(TIMING, "example.com".to_owned(), Vec::new(), at(0));
    for n in 0..count {
        let registration = Registration {
            node_id: id(n),
            name: String::new(),
            version: String::new(),
            address: "10.0.0.1:9091".parse().expect("an address"),
            proxy_port: 8888,
            capabilities: Capabilities::default(),
            labels: BTreeMap::new(),
            boot_id: String::new(),
        };
        machine.step(Event::Register(ReplyTo(0), Box::new(registration), WallTime(0)), at(0));
    }
    machine
}

/// Looks every second from `from` to `to`, while `alive` nodes are heard.
fn watch(machine: &mut Machine, alive: std::ops::Range<usize>, from: u64, to: u64) -> Vec<Effect> {
    let mut effects = Vec::new();
    for secs in from..=to {
        for n in alive.clone() {
            effects.extend(machine.heartbeat(&id(n), "", at(secs)).1);
        }
        effects.extend(machine.step(Event::Timer, at(secs)));
    }
    effects
}

fn counts(machine: &Machine) -> [usize; 3] {
    [Availability::Online, Availability::Suspect, Availability::Offline].map(|how| machine.count(how))
}

/// What is said of the first node: how it stands, and whether that is stored.
fn said(effects: &[Effect]) -> (Vec<Availability>, usize) {
    let announced = effects.iter().filter_map(|effect| match effect {
        Effect::Announce(update) if update.node.id == id(0) => Some(update.availability),
        _ => None,
    });
    let stored = effects.iter().filter(|effect| matches!(effect, Effect::Persist(_)));
    (announced.collect(), stored.count())
}

#[test]
fn it_looks_every_second_and_at_the_earliest_deadline() {
    let mut machine = with_nodes(0);
    assert_eq!(machine.next_timer(), at(1));
    machine.step(Event::Timer, Tick(700));
    assert_eq!(machine.next_timer(), Tick(1_700));
    let mut machine = with_nodes(1);
    watch(&mut machine, 0..0, 1, 44);
    machine.step(Event::Timer, Tick(44_400));
    assert_eq!(machine.next_timer(), at(45), "suspect");
    watch(&mut machine, 0..0, 45, 89);
    machine.step(Event::Timer, Tick(89_999));
    assert_eq!(machine.next_timer(), at(90), "offline");
}

#[test]
fn a_clock_that_is_read_out_of_order_moves_nothing_back() {
    let mut machine = with_nodes(0);
    machine.step(Event::Timer, at(2));
    machine.step(Event::Timer, at(1));
    assert_eq!(machine.next_timer(), at(3));
}

#[test]
fn being_late_is_announced_and_being_offline_is_stored_too() {
    let mut machine = with_nodes(2);
    assert_eq!(said(&watch(&mut machine, 1..2, 1, 44)), (vec![], 0));
    assert_eq!(said(&watch(&mut machine, 1..2, 45, 89)), (vec![Availability::Suspect], 0));
    assert_eq!(said(&watch(&mut machine, 1..2, 90, 90)), (vec![Availability::Offline], 1));
    assert_eq!(machine.node(&id(0)).expect("known").node.presence, Presence::Offline);
    assert_eq!(said(&watch(&mut machine, 1..2, 91, 500)), (vec![], 0), "said once");
}

#[test]
fn a_suspect_node_that_is_heard_is_announced_and_not_stored() {
    let mut machine = with_nodes(2);
    watch(&mut machine, 1..2, 1, 45);
    assert_eq!(said(&machine.heartbeat(&id(0), "", at(46)).1), (vec![Availability::Online], 0));
    assert_eq!(said(&machine.heartbeat(&id(0), "", at(47)).1), (vec![], 0), "it is online already");
    assert_eq!(machine.heard_at(&id(0)), Some(at(47)));
    assert_eq!(said(&watch(&mut machine, 1..2, 48, 91)), (vec![], 0));
    assert_eq!(said(&watch(&mut machine, 1..2, 92, 92)), (vec![Availability::Suspect], 0), "45 s after that");
}

#[test]
fn one_step_declares_at_most_fifty_nodes_offline_and_the_next_comes_at_once() {
    let mut machine = with_nodes(300);
    watch(&mut machine, 120..300, 1, 89);
    for offline in [50, 100, 120] {
        assert_eq!(machine.next_timer(), if offline == 50 { at(90) } else { machine.seen });
        machine.step(Event::Timer, at(90));
        assert_eq!(counts(&machine), [180, 120 - offline, offline]);
    }
    assert_eq!(machine.next_timer(), at(91));
}

#[test]
fn three_seconds_late_is_a_busy_moment_and_more_is_a_standstill() {
    for (now, still) in [(1_000, None), (3_000, None), (3_001, Some(3_001)), (60_000, Some(60_000))] {
        let mut machine = with_nodes(0);
        let effects = machine.step(Event::Timer, Tick(now));
        let expected: Vec<Effect> = still
            .map(|gap| Effect::Notice(Notice::StoodStill(Duration::from_millis(gap))))
            .into_iter()
            .collect();
        assert_eq!(effects, expected, "{now}");
        assert_eq!(machine.pauses(), u64::from(still.is_some()), "{now}");
    }
}

#[test]
fn each_standstill_counts_and_moves_every_deadline_by_its_length() {
    let mut machine = with_nodes(2);
    machine.step(Event::Timer, at(100));
    machine.step(Event::Timer, at(200));
    assert_eq!(machine.pauses(), 2);
    watch(&mut machine, 1..2, 201, 244);
    assert_eq!(counts(&machine), [2, 0, 0]);
    watch(&mut machine, 1..2, 245, 245);
    assert_eq!(counts(&machine), [1, 1, 0], "45 s of ours after it was heard");
    machine.step(Event::Timer, at(345));
    watch(&mut machine, 1..2, 346, 389);
    assert_eq!(counts(&machine), [1, 1, 0]);
    watch(&mut machine, 1..2, 390, 390);
    assert_eq!(counts(&machine), [1, 0, 1]);
}

#[test]
fn the_brake_weighs_whom_it_should_hear_and_misses_for_one_more_timeout_who_is_offline() {
    let mut machine = with_nodes(4);
    let share = |missing, expected| Share { missing, expected };
    assert_eq!(machine.share(), share(0, 4));
    watch(&mut machine, 1..4, 1, 45);
    assert_eq!(machine.share(), share(1, 4), "late");
    watch(&mut machine, 1..4, 46, 90);
    assert_eq!(machine.share(), share(1, 4), "offline");
    watch(&mut machine, 1..4, 91, 179);
    assert_eq!(machine.share(), share(1, 4));
    watch(&mut machine, 1..4, 180, 180);
    assert_eq!(machine.share(), share(0, 3), "offline for long");
    machine.step(Event::Deregister(ReplyTo(1), id(1)), at(181));
    assert_eq!(machine.share(), share(0, 2), "gone with leave");
}

#[test]
fn how_long_the_brake_holds_is_known() {
    let mut machine = with_nodes(4);
    watch(&mut machine, 3..4, 1, 44);
    assert_eq!((machine.brake(), machine.brake_closed_for(at(44))), (Brake::Open, None));
    watch(&mut machine, 3..4, 45, 100);
    assert_eq!(machine.brake(), Brake::Closed(at(45)));
    assert_eq!(machine.brake_closed_for(at(100)), Some(Duration::from_secs(55)));
    assert_eq!(counts(&machine), [1, 3, 0], "nobody is declared offline");
    let effects = machine.step(Event::ReleaseBrake(ReplyTo(7)), at(101));
    let share = Share { missing: 3, expected: 4 };
    let answer = Effect::Reply(ReplyTo(7), Ok(Reply::Done(None)));
    assert_eq!(effects, [Effect::Notice(Notice::BrakeReleased(share)), answer]);
    assert_eq!((machine.brake(), machine.brake_closed_for(at(101))), (Brake::Overruled, None));
    assert_eq!(machine.next_timer(), machine.seen, "those who were held are next");
}

#[test]
fn a_brake_that_is_open_cannot_be_opened() {
    let effects = with_nodes(1).step(Event::ReleaseBrake(ReplyTo(7)), at(1));
    let error = Error::new(ErrorClass::Conflict, "the brake is open; nothing is held");
    assert_eq!(effects, [Effect::Reply(ReplyTo(7), Err(error))]);
}

#[test]
fn a_heartbeat_may_open_the_brake() {
    let mut machine = with_nodes(4);
    watch(&mut machine, 3..4, 1, 45);
    let opened = |effects: &[Effect]| {
        effects.contains(&Effect::Notice(Notice::BrakeOpened(Share { missing: 1, expected: 4 })))
    };
    assert!(!opened(&machine.heartbeat(&id(0), "", at(46)).1), "half are missing");
    assert!(opened(&machine.heartbeat(&id(1), "", at(46)).1));
    assert_eq!(machine.brake(), Brake::Open);
}

#[test]
fn between_its_limits_and_among_few_nodes_the_brake_does_as_it_says() {
    let closed = Brake::Closed(at(1));
    for (brake, missing, expected, after, moved) in [
        (Brake::Open, 1, 2, Brake::Open, None),
        (Brake::Open, 2, 3, Brake::Closed(at(9)), Some(Moved::Closed)),
        (Brake::Open, 50, 100, Brake::Open, None),
        (Brake::Open, 51, 100, Brake::Closed(at(9)), Some(Moved::Closed)),
        (closed, 100, 100, closed, None),
        (closed, 40, 100, closed, None),
        (closed, 39, 100, Brake::Open, Some(Moved::Opened)),
        (closed, 3, 3, closed, None),
        (closed, 2, 2, Brake::Open, Some(Moved::Opened)),
        (closed, 0, 0, Brake::Open, Some(Moved::Opened)),
        (Brake::Overruled, 60, 100, Brake::Overruled, None),
        (Brake::Overruled, 40, 100, Brake::Overruled, None),
        (Brake::Overruled, 39, 100, Brake::Open, None),
    ] {
        let mut now = brake;
        assert_eq!(now.weigh(Share { missing, expected }, at(9)), moved, "{brake:?} {missing}/{expected}");
        assert_eq!(now, after, "{brake:?} {missing}/{expected}");
    }
}
