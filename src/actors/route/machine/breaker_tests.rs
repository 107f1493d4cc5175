//! The breaker's times and limits, and what each answer does in each state.

use super::*;

fn first() -> ReplicaId {
    ReplicaId::from_bytes([1; 16])
}

fn second() -> ReplicaId {
    ReplicaId::from_bytes([2; 16])
}

fn at(secs: u64) -> Tick {
    Tick(secs * 1_000)
}

fn two() -> Machine {
    let mut machine = Machine::default();
    machine.replicas(&[first(), second()]);
    machine
}

fn fail(machine: &mut Machine, times: u32, now: Tick) -> Vec<SetGate> {
    (0..times).filter_map(|_| machine.outcome(first(), Outcome::Failed, now)).collect()
}

/// A machine whose first replica is in the state of that name at second 10.
fn in_state(name: &str) -> Machine {
    let mut machine = two();
    match name {
        "open" => {}
        "doubted" => drop(fail(&mut machine, 1, at(9))),
        "saturated" => drop(machine.outcome(first(), Outcome::Saturated, at(9))),
        "shut" => drop(fail(&mut machine, 5, at(9))),
        "on trial" => {
            fail(&mut machine, 5, at(5));
            machine.timer(at(10));
        }
        other => panic!("no state {other}"),
    }
    machine
}

fn gate(machine: &Machine, id: ReplicaId) -> GateState {
    machine.gates().find(|gate| gate.0 == id).expect("known").1
}

#[test]
fn every_answer_moves_the_gate_as_its_state_allows() {
    use GateState::{Doubted, Limited, Open, Shut};
    for (state, outcome, after, due) in [
        ("open", Outcome::Answered, Open, None),
        ("open", Outcome::Failed, Doubted, None),
        ("doubted", Outcome::Answered, Open, None),
        ("doubted", Outcome::Failed, Doubted, None),
        ("doubted", Outcome::Saturated, Limited, Some(12)),
        ("open", Outcome::Saturated, Limited, Some(12)),
        ("saturated", Outcome::Answered, Limited, Some(11)),
        ("saturated", Outcome::Failed, Limited, Some(11)),
        ("saturated", Outcome::Saturated, Limited, Some(12)),
        ("shut", Outcome::Answered, Open, None),
        ("shut", Outcome::Failed, Shut, Some(14)),
        ("shut", Outcome::Saturated, Shut, Some(14)),
        ("on trial", Outcome::Answered, Open, None),
        ("on trial", Outcome::Failed, Shut, Some(20)),
        ("on trial", Outcome::Saturated, Limited, Some(12)),
    ] {
        let mut machine = in_state(state);
        let before = gate(&machine, first());
        let told = machine.outcome(first(), outcome, at(10));
        assert_eq!(gate(&machine, first()), after, "{outcome:?} while {state}");
        assert_eq!(told, (after != before).then_some(SetGate(first(), after)), "{outcome:?} while {state}");
        assert_eq!(machine.next_deadline(), due.map(at), "{outcome:?} while {state}");
        assert_eq!(gate(&machine, second()), Open, "its neighbour has nothing to do with it");
    }
}

#[test]
fn a_saturated_replica_that_also_fails_is_shut_at_the_fifth_time() {
    let mut machine = in_state("saturated");
    assert_eq!(fail(&mut machine, 4, at(10)), []);
    assert_eq!(fail(&mut machine, 1, at(10)), [SetGate(first(), GateState::Shut)]);
}

#[test]
fn an_answer_or_too_much_to_do_starts_the_count_of_failures_over() {
    for outcome in [Outcome::Answered, Outcome::Saturated] {
        let mut machine = two();
        fail(&mut machine, 4, at(0));
        machine.outcome(first(), outcome, at(0));
        fail(&mut machine, 4, at(0));
        assert_ne!(gate(&machine, first()), GateState::Shut, "{outcome:?}");
        assert_eq!(fail(&mut machine, 1, at(0)), [SetGate(first(), GateState::Shut)], "{outcome:?}");
    }
}

#[test]
fn a_gate_moves_at_its_time_and_not_before() {
    for (state, due, after) in [("saturated", 11, GateState::Open), ("shut", 14, GateState::Limited)] {
        let mut machine = in_state(state);
        assert_eq!(machine.timer(Tick(due * 1_000 - 1)), [], "{state}");
        assert_eq!(machine.timer(at(due)), [SetGate(first(), after)], "{state}");
        assert_eq!(machine.timer(at(due)), [], "{state}: said once");
    }
    let mut machine = in_state("open");
    assert_eq!(machine.timer(at(1_000)), []);
}

#[test]
fn each_trial_that_fails_doubles_the_pause_up_to_a_minute() {
    let mut machine = two();
    let mut now = 0;
    fail(&mut machine, 5, at(now));
    for pause in [5, 10, 20, 40, 60, 60] {
        assert_eq!(machine.next_deadline(), Some(at(now + pause)));
        now += pause;
        machine.timer(at(now));
        fail(&mut machine, 1, at(now));
    }
    machine.timer(at(now + 60));
    machine.outcome(first(), Outcome::Answered, at(now + 60));
    fail(&mut machine, 5, at(now + 60));
    assert_eq!(machine.next_deadline(), Some(at(now + 65)), "an answer on trial makes good for all");
}

#[test]
fn the_first_deadline_of_all_replicas_comes_next() {
    let mut machine = in_state("shut");
    machine.outcome(second(), Outcome::Saturated, at(10));
    assert_eq!(machine.next_deadline(), Some(at(12)));
    assert_eq!(
        machine.timer(at(20)),
        [SetGate(first(), GateState::Limited), SetGate(second(), GateState::Open)]
    );
    assert_eq!(machine.next_deadline(), None);
}

#[test]
fn replicas_that_stay_keep_their_gates_and_strangers_have_none() {
    let mut machine = in_state("shut");
    let third = ReplicaId::from_bytes([3; 16]);
    assert_eq!(machine.outcome(third, Outcome::Saturated, at(10)), None);
    machine.replicas(&[first(), third]);
    let gates: Vec<_> = machine.gates().collect();
    assert_eq!(gates, [SetGate(first(), GateState::Shut), SetGate(third, GateState::Open)]);
}
