//! What is known of children, and the limits to the millisecond.

use super::*;

fn family(strategy: Strategy, children: &[&str]) -> Machine {
    let mut machine = Machine::new(strategy);
    for id in children {
        machine.step(Event::Add((*id).to_owned(), Restart::Permanent), Tick(0));
        built(&mut machine, id, 1, Tick(0));
    }
    machine
}

fn built(machine: &mut Machine, id: &str, incarnation: u64, now: Tick) -> Vec<Effect> {
    machine.step(Event::Built { id: id.to_owned(), incarnation, result: Ok(()) }, now)
}

fn falls(machine: &mut Machine, id: &str, incarnation: u64, now: Tick) -> Vec<Effect> {
    let exit = Exit::Fell("test".to_owned());
    machine.step(Event::Exited { id: id.to_owned(), incarnation, exit }, now)
}

#[test]
fn a_child_is_known_from_when_it_is_added_and_down_unless_it_runs_or_is_being_built() {
    let mut machine = family(Strategy::OneForOne, &["a"]);
    assert!(machine.knows("a") && !machine.knows("b"));
    assert_eq!((machine.is_down("a"), machine.is_down("b")), (Some(false), None));
    falls(&mut machine, "a", 1, Tick(0));
    assert_eq!(machine.is_down("a"), Some(true), "until its pause is over");
    machine.step(Event::Look, Tick(100));
    assert_eq!(machine.is_down("a"), Some(false), "it is being built");
}

#[test]
fn a_fall_counts_for_a_minute_and_not_a_millisecond_longer() {
    for (sixth, crashes) in [(60_000, true), (60_001, false)] {
        let mut machine = family(Strategy::OneForOne, &["a"]);
        for (n, at) in [0, 100, 300, 700, 1_500].into_iter().enumerate() {
            let incarnation = n as u64 + 1;
            falls(&mut machine, "a", incarnation, Tick(at));
            let next = machine.next_deadline(Tick(at)).expect("a pause");
            machine.step(Event::Look, next);
            built(&mut machine, "a", incarnation + 1, next);
        }
        let expected = if crashes {
            Effect::Crashed("a".to_owned(), "test".to_owned())
        } else {
            Effect::Fell("a".to_owned(), "test".to_owned(), Duration::from_millis(1_600))
        };
        assert_eq!(falls(&mut machine, "a", 6, Tick(sixth)), [expected], "{sixth}");
    }
}

#[test]
fn one_whose_time_has_come_and_that_waits_for_others_to_end_needs_no_further_look() {
    let mut machine = family(Strategy::RestForOne, &["a", "b"]);
    falls(&mut machine, "a", 1, Tick(0));
    assert_eq!(machine.next_deadline(Tick(99)), Some(Tick(100)));
    assert_eq!(machine.step(Event::Look, Tick(100)), [], "the other has not ended");
    assert_eq!(machine.next_deadline(Tick(100)), None);
    let exit = Exit::Stopped;
    let effects = machine.step(Event::Exited { id: "b".to_owned(), incarnation: 1, exit }, Tick(150));
    assert_eq!(effects, [Effect::Ended("b".to_owned()), Effect::Build("a".to_owned(), 2)]);
}
