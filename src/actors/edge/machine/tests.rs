//! What an edge's reconciler does, one thing at a time.

use super::*;
use crate::domain::edge::{Blocked, Change, Differences, Verb};

const PACE: Pace = Pace {
    gap: Duration::from_secs(2),
    probe_every: Duration::from_secs(10),
    busy_max: Duration::from_secs(8),
};
/// Pauses are neither longer nor shorter.
const EVEN: Chance = Chance(0.5);

fn at(millis: u64) -> Tick {
    Tick(millis)
}

fn error(trouble: Trouble) -> EdgeError {
    EdgeError { trouble, message: "no".to_owned(), hint: "do something".to_owned() }
}

fn changes(count: usize) -> Vec<Change> {
    let change =
        |n: usize| Change { verb: Verb::Add, kind: "route", name: format!("n{n:04}"), to: "x:1".to_owned() };
    (0..count).map(change).collect()
}

fn blocked(count: usize) -> Vec<Blocked> {
    (0..count).map(|n| Blocked { name: format!("b{n:04}"), why: "taken".to_owned() }).collect()
}

fn round(changed: usize, left: usize, in_the_way: usize) -> Result<Round, EdgeError> {
    let left = Differences { changes: changes(left), blocked: blocked(in_the_way) };
    Ok(Round { observed: 7, changed, left })
}

fn new() -> Machine {
    Machine::new(PACE, at(0))
}

fn ended(result: Result<Round, EdgeError>) -> Event {
    Event::Rounded(result, EVEN)
}

/// An edge that was found as it should be at the second 0, by a round that took no time.
fn in_sync() -> Machine {
    let mut machine = new();
    assert_eq!(machine.step(Event::Changed, at(0)), [Effect::Reconcile]);
    assert_eq!(machine.step(ended(round(0, 0, 0)), at(0)), []);
    assert_eq!(machine.picture().state, State::InSync);
    machine
}

/// An edge that has failed so often in a row with rounds that took no time, and when the last one ended.
fn failing(times: u32, trouble: Trouble) -> (Machine, Tick) {
    let mut machine = new();
    let mut now = at(0);
    assert_eq!(machine.step(Event::Changed, now), [Effect::Reconcile]);
    for n in 1..=times {
        machine.step(ended(Err(error(trouble))), now);
        if n < times {
            now = machine.due.expect("it is tried again");
            machine.probe_due = None;
            assert_eq!(machine.step(Event::Timer, now), [Effect::Reconcile]);
        }
    }
    (machine, now)
}

fn secs(since: Tick, at: Option<Tick>) -> f64 {
    at.expect("something is due").since(since).as_secs_f64()
}

#[test]
fn nothing_is_done_before_it_is_known_what_is_wanted() {
    let mut machine = new();
    assert_eq!((machine.next_timer(), machine.picture().state), (None, State::Starting));
    assert_eq!(machine.step(Event::Timer, at(100_000)), []);
    assert_eq!(machine.step(Event::Changed, at(100_000)), [Effect::Reconcile]);
    assert_eq!(machine.picture().state, State::Starting);
}

#[test]
fn one_that_fell_waits_before_its_first_round() {
    let mut machine = Machine::new(PACE, at(20_000));
    assert_eq!(machine.step(Event::Changed, at(100)), []);
    assert_eq!(machine.next_timer(), Some(at(20_000)));
    assert_eq!(machine.step(Event::Changed, at(200)), []);
    assert_eq!(machine.step(Event::Timer, at(20_000)), [Effect::Reconcile]);
}

#[test]
fn an_edge_in_sync_is_looked_at_every_15_seconds() {
    let mut machine = in_sync();
    for n in 1..4 {
        assert_eq!(machine.next_timer(), Some(at(n * 15_000)));
        assert_eq!(machine.step(Event::Timer, at(n * 15_000 - 1)), []);
        assert_eq!(machine.step(Event::Timer, at(n * 15_000)), [Effect::Reconcile]);
        assert_eq!(machine.step(ended(round(0, 0, 0)), at(n * 15_000 + 700)), []);
    }
    assert_eq!(machine.picture().rounds_total, 4);
}

#[test]
fn a_change_begins_a_round_and_many_in_the_gap_begin_one() {
    let mut machine = in_sync();
    for n in 1..100 {
        assert_eq!(machine.step(Event::Changed, at(n)), []);
    }
    assert_eq!(machine.picture().state, State::Changing);
    assert_eq!(machine.picture().differ_since, Some(at(1)));
    assert_eq!(machine.next_timer(), Some(at(2_000)));
    assert_eq!(machine.step(Event::Timer, at(2_000)), [Effect::Reconcile]);
    let told = machine.step(ended(round(99, 0, 0)), at(2_500));
    assert_eq!(told, [Effect::Notice(Notice::InSync(99))]);
    assert_eq!((machine.picture().state, machine.picture().differ_since), (State::InSync, None));
    assert_eq!(machine.step(Event::Changed, at(9_000)), [Effect::Reconcile]);
}

#[test]
fn a_change_in_a_round_begins_the_next_one() {
    let mut machine = in_sync();
    assert_eq!(machine.step(Event::Changed, at(10_000)), [Effect::Reconcile]);
    assert_eq!(machine.step(Event::Changed, at(10_100)), []);
    assert_eq!(machine.next_timer(), None);
    let told = machine.step(ended(round(1, 0, 0)), at(10_500));
    assert_eq!(told, [Effect::Notice(Notice::InSync(1))]);
    assert_eq!(machine.picture().differ_since, Some(at(10_100)), "the second one is still to be done");
    assert_eq!(machine.picture().state, State::Changing);
    assert_eq!(machine.next_timer(), Some(at(12_000)));
    assert_eq!(machine.step(Event::Timer, at(12_000)), [Effect::Reconcile]);
    machine.step(ended(round(1, 0, 0)), at(12_001));
    assert_eq!(machine.picture().state, State::InSync);
}

#[test]
fn what_is_left_is_gone_on_with_as_long_as_it_gets_less() {
    let mut machine = in_sync();
    assert_eq!(machine.step(Event::Changed, at(10_000)), [Effect::Reconcile]);
    assert_eq!(machine.step(ended(round(500, 700, 0)), at(10_100)), []);
    assert_eq!(machine.next_timer(), Some(at(12_000)));
    assert_eq!((machine.picture().state, machine.picture().left.add), (State::Changing, 700));
    assert_eq!(machine.step(Event::Timer, at(12_000)), [Effect::Reconcile]);
    assert_eq!(machine.step(ended(round(0, 700, 0)), at(12_100)), []);
    assert_eq!(machine.next_timer(), Some(at(27_000)), "nothing was got on with");
    assert_eq!(machine.step(Event::Timer, at(27_000)), [Effect::Reconcile]);
    let told = machine.step(ended(round(700, 0, 0)), at(27_100));
    assert_eq!(told, [Effect::Notice(Notice::InSync(1_200))]);
    assert_eq!(machine.picture().changes_total, 1_200);
}

#[test]
fn pauses_double_up_to_a_minute_and_the_circuit_opens_after_three() {
    let expected = [1.0_f64, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0];
    for (times, pause) in (1..).zip(expected) {
        let (machine, now) = failing(times, Trouble::Refused);
        assert_eq!(secs(now, machine.picture().next_round), pause.max(2.0), "the gap, or the pause");
        assert_eq!(machine.picture().circuit_open, times >= 3);
        assert_eq!(machine.picture().failures, times);
        let (machine, now) = failing(times, Trouble::Busy);
        assert_eq!(secs(now, machine.picture().next_round), pause.clamp(2.0, 8.0));
    }
}

#[test]
fn that_a_person_must_do_something_is_told_whatever_failed_before() {
    let (mut machine, _) = failing(4, Trouble::Unreachable);
    for (trouble, is_told) in [
        (Trouble::Unreachable, false),
        (Trouble::Refused, true),
        (Trouble::Refused, false),
        (Trouble::Busy, false),
        (Trouble::Unreachable, false),
    ] {
        let due = machine.picture().next_round.expect("due");
        assert_eq!(machine.step(Event::Timer, due), [Effect::Reconcile]);
        let told = machine.step(ended(Err(error(trouble))), due);
        let expected = is_told.then(|| Effect::Notice(Notice::Failing(error(trouble))));
        assert_eq!(told, Vec::from_iter(expected), "{trouble:?}");
    }
}

#[test]
fn pauses_are_spread_and_stay_between_a_second_and_a_minute() {
    for (chance, first, last) in [(0.0, 1.0, 48.0), (0.5, 1.0, 60.0), (1.0, 1.2, 60.0)] {
        let fail = |times: u32| {
            let (mut machine, now) = failing(times, Trouble::Refused);
            let again = machine.due.expect("due").max(now);
            machine.step(Event::Timer, again);
            machine.not_before = at(0);
            machine.step(Event::Rounded(Err(error(Trouble::Refused)), Chance(chance)), again);
            secs(again, machine.picture().next_round)
        };
        let once = {
            let mut machine = Machine::new(Pace { gap: Duration::ZERO, ..PACE }, at(0));
            machine.step(Event::Changed, at(0));
            machine.step(Event::Rounded(Err(error(Trouble::Busy)), Chance(chance)), at(0));
            secs(at(0), machine.picture().next_round)
        };
        assert_eq!((once, fail(9)), (first, last), "{chance}");
    }
}

#[test]
fn an_open_circuit_lets_changes_wait() {
    let (mut machine, now) = failing(2, Trouble::Busy);
    assert_eq!(machine.step(Event::Changed, now.plus(PACE.gap)), [Effect::Reconcile], "it is closed");
    let (mut machine, now) = failing(4, Trouble::Busy);
    let due = machine.next_timer();
    assert_eq!(machine.step(Event::Changed, now.plus(PACE.gap)), []);
    assert_eq!(machine.next_timer(), due);
    let due = due.expect("due");
    assert_eq!(machine.step(Event::Timer, due), [Effect::Reconcile]);
    let told = machine.step(ended(round(3, 0, 0)), due);
    assert_eq!(told, [Effect::Notice(Notice::Well(4)), Effect::Notice(Notice::InSync(3))]);
    let picture = machine.picture();
    assert_eq!((picture.circuit_open, picture.failures, &picture.last_error), (false, 0, &None));
    assert_eq!((picture.state, picture.up), (State::InSync, true));
}

#[test]
fn an_edge_that_is_away_is_probed_and_its_return_begins_a_round() {
    let (mut machine, now) = failing(7, Trouble::Unreachable);
    assert_eq!(secs(now, machine.next_timer()), 10.0);
    let probe = machine.next_timer().expect("due");
    assert_eq!(machine.step(Event::Timer, probe), [Effect::Probe]);
    assert_eq!(machine.step(Event::Timer, probe), [], "one at a time");
    let no = Event::Probed(Err(error(Trouble::Unreachable)), EVEN);
    assert_eq!(machine.step(no, probe.plus(Duration::from_secs(5))), []);
    let next = probe.plus(Duration::from_secs(10));
    assert_eq!(machine.next_timer(), Some(next), "what a probe hangs takes no time from the next one");
    assert_eq!(machine.step(Event::Timer, next), [Effect::Probe]);
    assert_eq!(machine.step(Event::Probed(Ok(()), EVEN), next), [Effect::Reconcile]);
    machine.step(ended(round(1, 0, 0)), next);
    assert_eq!(machine.picture().state, State::InSync);
    assert_eq!(machine.next_timer(), Some(next.plus(LOOK_AGAIN)), "no probe any more");
}

#[test]
fn only_what_is_away_is_probed_and_only_with_an_open_circuit() {
    for (times, trouble, probed) in [
        (2, Trouble::Unreachable, false),
        (3, Trouble::Unreachable, true),
        (9, Trouble::Busy, false),
        (9, Trouble::Refused, false),
    ] {
        let (machine, _) = failing(times, trouble);
        assert_eq!(machine.probe_due.is_some(), probed, "{times} {trouble:?}");
    }
}

#[test]
fn a_round_that_is_due_while_a_probe_hangs_begins_after_it() {
    let (mut machine, now) = failing(3, Trouble::Unreachable);
    machine.probe_due = Some(now);
    assert_eq!(machine.step(Event::Timer, now), [Effect::Probe]);
    let late = now.plus(Duration::from_secs(5));
    assert_eq!(machine.step(Event::Timer, late), []);
    let no = Event::Probed(Err(error(Trouble::Unreachable)), EVEN);
    assert_eq!(machine.step(no, late), [Effect::Reconcile]);
}

#[test]
fn operators_are_told_once_when_it_begins_to_fail_and_once_when_it_is_well() {
    let mut machine = in_sync();
    machine.step(Event::Timer, at(15_000));
    let told = machine.step(ended(Err(error(Trouble::Unreachable))), at(15_000));
    assert_eq!(told, [Effect::Notice(Notice::Failing(error(Trouble::Unreachable)))]);
    assert_eq!((machine.picture().state, machine.picture().up), (State::Failing, false));
    assert_eq!(machine.picture().differ_since, None, "nobody knows of a difference");
    let again = machine.next_timer().expect("due");
    machine.step(Event::Timer, again);
    assert_eq!(machine.step(ended(Err(error(Trouble::Busy))), again), [], "not again");
    let again = machine.next_timer().expect("due");
    machine.step(Event::Timer, again);
    assert_eq!(machine.step(ended(round(0, 0, 0)), again), [Effect::Notice(Notice::Well(2))]);
}

#[test]
fn names_that_are_blocked_are_shown_and_told_once() {
    let mut machine = in_sync();
    assert_eq!(machine.step(Event::Changed, at(10_000)), [Effect::Reconcile]);
    let told = machine.step(ended(round(2, 0, 12)), at(10_100));
    assert_eq!(told, [Effect::Notice(Notice::Blocked(12, "b0000".to_owned(), "taken".to_owned()))]);
    let picture = machine.picture();
    assert_eq!((picture.state, picture.left.blocked), (State::Blocked, 12));
    assert_eq!(picture.left.first_blocked.len(), 10);
    assert_eq!(picture.differ_since, Some(at(10_000)));
    assert_eq!(machine.next_timer(), Some(at(25_000)));
    assert_eq!(machine.step(Event::Timer, at(25_000)), [Effect::Reconcile]);
    assert_eq!(machine.step(ended(round(0, 0, 12)), at(25_000)), []);
    assert_eq!(machine.step(Event::Timer, at(40_000)), [Effect::Reconcile]);
    assert_eq!(machine.step(ended(round(12, 0, 0)), at(40_000)), [Effect::Notice(Notice::InSync(14))]);
}

#[test]
fn an_edge_that_refuses_us_is_blocked() {
    let (machine, _) = failing(1, Trouble::Refused);
    assert_eq!(machine.picture().state, State::Blocked);
    assert!(!machine.picture().up);
}

#[test]
fn the_end_of_a_call_that_nobody_waits_for_changes_nothing() {
    let mut machine = in_sync();
    let before = machine.picture().clone();
    assert_eq!(machine.step(ended(Err(error(Trouble::Busy))), at(1)), []);
    assert_eq!(machine.step(Event::Probed(Ok(()), EVEN), at(1)), []);
    assert_eq!(machine.picture(), &before);
}
