//! The machine by example, for what happens outside: containers, an Engine that goes away, runtimes that hang, GPUs that
//! are lost.

use super::tests::{NOW, after, exited, fence_of, names, running, spec, start, starting, step, stop};
use super::*;
use crate::replica::spec::{ContainerRef, Ended, Instance};

const CONTAINER: Instance = Instance::Container(ContainerRef([9; 32]));

fn contained(mut events: Vec<Event>) -> Vec<Event> {
    for event in &mut events {
        if let Event::Spawned { instance, .. } = event {
            *instance = CONTAINER;
        }
    }
    events
}

fn ended(attempt: u32, ended: Ended) -> Event {
    Event::Exited { attempt, ended }
}

fn view(machine: &Machine) -> View {
    machine.view().expect("a view")
}

/// What a machine says of itself after one more event.
fn said(machine: &mut Machine, event: Event) -> (Status, String) {
    machine.step(event, NOW);
    let view = view(machine);
    (view.status, view.message)
}

#[test]
fn a_container_that_ends_before_it_is_healthy_is_tried_again_and_then_fails() {
    let mut machine = after(contained(starting()));
    for (attempt, wait) in [(1, 10), (2, 20), (3, 40), (4, 80)] {
        let effects = machine.step(exited(attempt, 2), NOW);
        assert!(names(&effects).contains(&format!("timer({wait}s)")), "{:?}", names(&effects));
        let message = view(&machine).message;
        let expected = format!(
            "after the end of attempt {attempt}: the runtime exited with code 2; its last lines:\nlast words"
        );
        assert!(message.starts_with("starts again ") && message.ends_with(&expected), "{message}");
        machine.step(fence_of(&effects), NOW);
        let attempt = attempt + 1;
        machine.step(Event::Prepared { attempt, port: 1 }, NOW);
        machine.step(Event::Spawned { attempt, instance: CONTAINER }, NOW);
    }
    machine.step(exited(5, 2), NOW);
    let view = view(&machine);
    assert_eq!((view.status, view.restarts, view.exit_code), (Status::Failed, 4, Some(2)));
    assert!(view.message.starts_with("crash_loop: the runtime ended 5 times"), "{}", view.message);
}

#[test]
fn the_wait_before_a_restart_has_a_limit() {
    let policy = Policy { crash_max: 20, ..Policy::default() };
    let mut machine = Machine { policy, ..after(running()) };
    let mut waits = Vec::new();
    for attempt in 1..=8 {
        let effects = machine.step(exited(attempt, 1), NOW);
        waits.extend(effects.iter().find_map(|effect| match effect {
            Effect::SetTimer { after, .. } => Some(after.as_secs()),
            _ => None,
        }));
        machine.step(fence_of(&effects), NOW);
        let attempt = attempt + 1;
        machine.step(Event::Prepared { attempt, port: 1 }, NOW);
        machine.step(Event::Spawned { attempt, instance: CONTAINER }, NOW);
    }
    assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300, 300]);
}

#[test]
fn what_had_no_memory_left_says_so_until_it_is_healthy_again() {
    let mut machine = after(contained(running()));
    let oom = Ended { code: Some(137), out_of_memory: true, ..Ended::default() };
    let effects = machine.step(ended(1, oom.clone()), NOW);
    assert!(view(&machine).message.contains("the runtime had no memory left and was killed (exit code 137)"));
    assert!(view(&machine).out_of_memory);
    machine.step(fence_of(&effects), NOW);
    machine.step(Event::Prepared { attempt: 2, port: 1 }, NOW);
    machine.step(Event::Spawned { attempt: 2, instance: CONTAINER }, NOW);
    assert!(view(&machine).out_of_memory);
    machine.step(Event::Healthy { attempt: 2 }, NOW);
    assert!(!view(&machine).out_of_memory);
    let mut process = after(starting());
    process.step(ended(1, oom), NOW);
    assert_eq!((view(&process).status, view(&process).out_of_memory), (Status::Failed, true));
}

#[test]
fn what_goes_with_the_engine_starts_again_at_once_and_counts_as_nothing() {
    for events in [starting(), running()] {
        let mut machine = after(contained(events));
        for attempt in 1..=9 {
            let lost = Ended { blameless: true, code: Some(255), ..Ended::default() };
            let effects = step(&mut machine, ended(attempt, lost));
            assert!(effects.starts_with("persist(exited), stop_probe"), "{effects}");
            let attempt = attempt + 1;
            assert!(effects.ends_with(&format!("route(false), prepare({attempt}), report")), "{effects}");
            machine.step(Event::Prepared { attempt, port: 1 }, NOW);
            machine.step(Event::Spawned { attempt, instance: CONTAINER }, NOW);
        }
        assert_eq!((machine.state().restarts, machine.state().recent_crashes), (0, 0));
    }
    let mut stopping = after([contained(running()), vec![stop(5)]].concat());
    let lost = Ended { blameless: true, ..Ended::default() };
    assert_eq!(said(&mut stopping, ended(1, lost)).0, Status::Stopped);
}

#[test]
fn progress_puts_the_deadline_off_within_a_limit() {
    let mut machine = after(starting());
    let late = NOW.plus(Duration::from_secs(899));
    let effects = machine.step(Event::Progressed { attempt: 1 }, late);
    assert_eq!(names(&effects), ["timer(900s)"]);
    assert!(machine.step(Event::Progressed { attempt: 2 }, late).is_empty(), "of another attempt");
    machine.step(fence_of(&effects), late.plus(Duration::from_secs(900)));
    machine.step(exited(1, 143), late);
    let message = view(&machine).message;
    let expected = "not_healthy: the runtime made no progress for 15m 00s and is not healthy";
    assert!(message.starts_with(expected), "{message}");

    let mut machine = after(starting());
    let mut now = NOW;
    let mut effects = Vec::new();
    for _ in 0..(4 * 60 - 10) {
        now = now.plus(Duration::from_secs(60));
        effects = machine.step(Event::Progressed { attempt: 1 }, now);
    }
    assert_eq!(names(&effects), ["timer(600s)"]);
    machine.step(fence_of(&effects), now.plus(Duration::from_secs(600)));
    machine.step(exited(1, 143), now);
    let message = view(&machine).message;
    assert!(message.starts_with("not_healthy: the runtime was not healthy within 4h"), "{message}");
    assert!(after(running()).step(Event::Progressed { attempt: 1 }, NOW).is_empty());
}

#[test]
fn one_that_hangs_leaves_the_route_comes_back_or_is_started_again() {
    let silent = || Event::Silent { attempt: 1, message: "the runtime does not answer".to_owned() };
    let mut machine = after(contained(running()));
    assert_eq!(step(&mut machine, silent()), "persist(unresponsive), route(false), timer(60s), report");
    assert_eq!(
        (view(&machine).status, view(&machine).message.as_str()),
        (Status::Starting, "the runtime does not answer; after 1m 00s of that it is started again")
    );
    assert_eq!(step(&mut machine, silent()), "");
    assert_eq!(
        step(&mut machine, Event::Answering { attempt: 1 }),
        "persist(running), cancel_timer, guard(1), route(true), report"
    );
    assert_eq!(machine.state().restarts, 0);
    let early = machine.step(silent(), NOW);
    let effects = machine.step(Event::Excused { attempt: 1 }, NOW);
    assert_eq!(names(&effects), ["timer(60s)"]);
    assert_eq!(step(&mut machine, fence_of(&early)), "", "it is not ended for what is not its fault");
    assert_eq!(
        step(&mut machine, fence_of(&effects)),
        "persist(stopping), stop_probe, route(false), signal(c9 Term), timer(10s), report"
    );
    assert_eq!(view(&machine).status, Status::Starting);
    // The same start again is no reason to begin anew.
    assert_eq!(step(&mut machine, start(5)), "reply(ok)");
    assert_eq!(step(&mut machine, exited(1, 143)), "persist(exited), route(false), timer(10s), report");
    assert_eq!(machine.state().recent_crashes, 1);
    assert!(
        view(&machine).message.contains("attempt 1: the runtime answered nothing for 1m 00s and was ended")
    );
    // A command counts more.
    let mut machine = after(contained(running()));
    let effects = machine.step(silent(), NOW);
    machine.step(fence_of(&effects), NOW);
    machine.step(stop(5), NOW);
    assert_eq!(said(&mut machine, exited(1, 143)), (Status::Stopped, String::new()));
    // It may also end by itself meanwhile.
    let mut machine = after(contained(running()));
    machine.step(silent(), NOW);
    assert_eq!(
        step(&mut machine, exited(1, 139)),
        "persist(exited), stop_probe, route(false), timer(10s), report"
    );
}

#[test]
fn what_it_needs_and_loses_ends_it() {
    for (reason, prefix) in [(FailureReason::Gpu, "gpu: "), (FailureReason::Model, "model: ")] {
        for events in [starting(), running()] {
            let mut machine = after(contained(events));
            let message = "fell off the bus".to_owned();
            let effects = step(&mut machine, Event::Broken { attempt: 1, reason, message });
            assert!(effects.contains("route(false), signal(c9 Term)"), "{effects}");
            let (status, message) = said(&mut machine, ended(1, Ended::default()));
            assert_eq!((status, message), (Status::Failed, format!("{prefix}fell off the bus")));
        }
    }
    let broken = || Event::Broken { attempt: 1, reason: FailureReason::Gpu, message: "x".to_owned() };
    assert_eq!(step(&mut after([start(5)]), broken()), "", "its preparation says so");
}

#[test]
fn what_cannot_be_prepared_fails_with_its_reason() {
    for (reason, expected) in [
        (FailureReason::ImagePull, "image_pull: no"),
        (FailureReason::Model, "model: no"),
        (FailureReason::Gpu, "gpu: no"),
        (FailureReason::Prepare, "cannot_start: no"),
    ] {
        let mut machine = after([start(5)]);
        let event = Event::PrepareFailed { attempt: 1, reason, message: "no".to_owned() };
        assert_eq!(said(&mut machine, event), (Status::Failed, expected.to_owned()));
    }
    let mut machine = after([start(5)]);
    let entry = Entry { kind: "pulling", message: "image x".to_owned() };
    let noted = |attempt| Event::Noted { attempt, entry: entry.clone() };
    assert_eq!(step(&mut machine, noted(1)), "persist(pulling)");
    assert_eq!(step(&mut machine, noted(2)), "");
}

#[test]
fn a_port_that_the_engine_cannot_have_is_left_for_another_a_few_times() {
    let taken = |attempt| Event::PortTaken { attempt, message: "port is allocated".to_owned() };
    let mut machine = after([start(5), Event::Prepared { attempt: 1, port: 30_000 }]);
    for attempt in 1..=3 {
        let next = attempt + 1;
        let expected = format!("persist(exited), route(false), prepare({next}), report");
        assert_eq!(step(&mut machine, taken(attempt)), expected);
        machine.step(Event::Prepared { attempt: next, port: 30_000 }, NOW);
    }
    let failed = (Status::Failed, "cannot_spawn: port is allocated".to_owned());
    assert_eq!(said(&mut machine, taken(4)), failed);
    let mut stale = after([start(5), Event::Prepared { attempt: 1, port: 30_000 }, stop(5)]);
    assert_eq!(said(&mut stale, taken(1)).0, Status::Stopped);
}

#[test]
fn while_the_engine_does_not_answer_all_stays_as_it_was() {
    let load = |events: Vec<Event>| {
        let state = after(contained(events)).state().clone();
        let (machine, effects) = Machine::load(Policy::default(), state, spec("m"), Found::Unknown, NOW);
        (names(&effects).join(", "), view(&machine).status)
    };
    let killing = [running(), vec![stop(5)]].concat();
    for (events, effects, status) in [
        (
            running(),
            "persist(running), route(false), watch(1), guard(1), route(true), report",
            Status::Running,
        ),
        (
            starting(),
            "persist(started), route(false), watch(1), probe(1), timer(900s), report",
            Status::Starting,
        ),
        (
            killing,
            "persist(stopping), route(false), watch(1), route(false), signal(c9 Term), timer(10s), report",
            Status::Stopping,
        ),
        (
            vec![start(5), Event::Prepared { attempt: 1, port: 1 }],
            "persist(), route(false), prepare(2), report",
            Status::Preparing,
        ),
    ] {
        assert_eq!(load(events), (effects.to_owned(), status));
    }
}

#[test]
fn what_hung_when_the_agent_died_is_taken_up_as_running() {
    let silent = Event::Silent { attempt: 1, message: "nothing".to_owned() };
    let state = after([contained(running()), vec![silent]].concat()).state().clone();
    for found in [Found::Alive(CONTAINER), Found::Unknown] {
        let (machine, _) = Machine::load(Policy::default(), state.clone(), spec("m"), found, NOW);
        assert_eq!(view(&machine).status, Status::Running);
    }
    let gone = Found::Gone(Ended::default());
    let (machine, _) = Machine::load(Policy::default(), state, spec("m"), gone, NOW);
    assert_eq!(machine.state().recent_crashes, 1);
}
