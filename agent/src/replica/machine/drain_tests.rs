//! The machine by example, for requests in flight when a runtime is to end.

use super::tests::{NOW, after, exited, fence_of, names, process, running, start, starting, step};
use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn drained_stop(secs: u64) -> Event {
    Event::Stop { generation: None, grace: None, drain: Duration::from_secs(secs) }
}

fn hung() -> Vec<Event> {
    [running(), vec![Event::Silent { attempt: 1, message: "no".to_owned() }]].concat()
}

fn told(machine: &Machine) -> (Status, String) {
    let view = machine.view().expect("a view");
    (view.status, view.message)
}

#[test]
fn a_command_that_grants_time_drains_what_runs_and_ends_the_rest_at_once() {
    let newer = || {
        let mut event = start(6);
        if let Event::Start { drain, .. } = &mut event {
            *drain = MINUTE;
        }
        event
    };
    let delete = Event::Delete { generation: None, drain: MINUTE };
    let drains = "stop_probe, route(false), drain(1), timer(60s), report";
    let kills = "stop_probe, route(false), signal(7 Term), timer(10s), report";
    for (before, command, expected, status) in [
        (running(), drained_stop(60), format!("persist(draining), reply(ok), {drains}"), Status::Stopping),
        (
            running(),
            delete.clone(),
            format!("persist(deleted draining), reply(ok), {drains}"),
            Status::Stopping,
        ),
        (running(), newer(), format!("persist(accepted draining), reply(ok), {drains}"), Status::Starting),
        (running(), drained_stop(0), format!("persist(stopping), reply(ok), {kills}"), Status::Stopping),
        (hung(), drained_stop(60), format!("persist(draining), reply(ok), {drains}"), Status::Stopping),
        (starting(), drained_stop(60), format!("persist(stopping), reply(ok), {kills}"), Status::Stopping),
        // A restart grants nothing.
        (
            running(),
            Event::Restart { generation: None },
            format!("persist(restarted stopping), reply(ok), {kills}"),
            Status::Starting,
        ),
        (
            vec![start(5)],
            drained_stop(60),
            "persist(stopped), reply(ok), route(false), report".to_owned(),
            Status::Stopped,
        ),
    ] {
        let mut machine = after(before);
        assert_eq!(step(&mut machine, command.clone()), expected, "{command:?}");
        assert_eq!(told(&machine).0, status, "{command:?}");
    }
}

#[test]
fn the_last_request_the_deadline_a_crash_or_the_agents_stop_ends_it() {
    let ends = "persist(stopping), route(false), signal(7 Term), timer(10s), report";
    let late = "persist(draining stopping), route(false), signal(7 Term), timer(10s), report";
    let drain = || {
        let mut machine = after(running());
        let effects = machine.step(drained_stop(60), NOW);
        (machine, fence_of(&effects))
    };
    let (_, timer) = drain();
    for (event, expected, phase) in [
        (Event::Drained { attempt: 1 }, ends, "killing"),
        (timer, late, "killing"),
        (exited(1, 1), "persist(stopped), cancel_timer, route(false), report", "stopped"),
        (Event::Halt { leave: false }, ends, "killing"),
        (Event::Halt { leave: true }, "done", "draining"),
        // Of another try, or nothing to do with it.
        (Event::Drained { attempt: 0 }, "", "draining"),
        (Event::Healthy { attempt: 1 }, "", "draining"),
        (Event::Answering { attempt: 1 }, "", "draining"),
        (Event::Timer { fence: 0 }, "", "draining"),
    ] {
        let (mut machine, _) = drain();
        assert_eq!(step(&mut machine, event.clone()), expected, "{event:?}");
        assert_eq!(machine.state().phase.as_str(), phase, "{event:?}");
    }
    // A crash counts as nothing: it was to end.
    let (mut machine, _) = drain();
    machine.step(exited(1, 1), NOW);
    assert_eq!((machine.state().recent_crashes, told(&machine)), (0, (Status::Stopped, String::new())));
}

#[test]
fn what_is_wanted_by_then_follows() {
    let mut machine = after([running(), vec![drained_stop(60), start(6)]].concat());
    assert_eq!(machine.state().phase.as_str(), "killing", "a start that grants nothing hastens it");
    assert_eq!(told(&machine), (Status::Starting, "the one before is told to end".to_owned()));
    assert!(step(&mut machine, exited(1, 0)).contains("prepare(2)"));

    let mut machine = after([running(), vec![Event::Delete { generation: None, drain: MINUTE }]].concat());
    assert_eq!(step(&mut machine, start(6)), "reply(the replica is being deleted)");
    machine.step(Event::Drained { attempt: 1 }, NOW);
    assert_eq!(step(&mut machine, exited(1, 0)), "remove(6), cancel_timer, report, done");
}

#[test]
fn the_time_only_gets_shorter() {
    // So many seconds are granted, and so many when half a minute has passed: the timer that is set, if any.
    for (first, second, expected) in [
        (60, 60, "persist(), reply(ok)"),
        (60, 600, "persist(), reply(ok)"),
        (60, 30, "persist(), reply(ok)"),
        (60, 29, "persist(), reply(ok), timer(29s)"),
        (60, 1, "persist(), reply(ok), timer(1s)"),
        (60, 0, "persist(stopping), reply(ok), route(false), signal(7 Term), timer(10s), report"),
    ] {
        let mut machine = after(running());
        let old = fence_of(&machine.step(drained_stop(first), NOW));
        let effects = machine.step(drained_stop(second), NOW.plus(MINUTE / 2));
        assert_eq!(names(&effects).join(", "), expected, "{first} then {second}");
        let ends = step(&mut machine, old).contains("signal");
        assert_eq!(ends, expected == "persist(), reply(ok)", "{first} then {second}: the old timer");
    }
    // A deletion that is repeated is answered as done, and hastens too.
    let delete = |secs| Event::Delete { generation: None, drain: Duration::from_secs(secs) };
    let mut machine = after([running(), vec![delete(60)]].concat());
    assert_eq!(step(&mut machine, delete(60)), "persist(), reply(ok)");
    assert_eq!(step(&mut machine, delete(5)), "persist(), reply(ok), timer(5s)");
    assert!(step(&mut machine, delete(0)).contains("signal(7 Term)"));
    assert_eq!(step(&mut machine, delete(0)), "reply(ok)");
}

#[test]
fn the_next_agent_ends_what_drained() {
    let stored = || {
        let machine = after([running(), vec![drained_stop(60)]].concat());
        (machine.state().clone(), Arc::clone(machine.spec()))
    };
    for (found, expected) in [
        (
            Found::Alive(process(7)),
            "route(false), watch(1), route(false), signal(7 Term), timer(10s), report",
        ),
        (Found::Unknown, "route(false), watch(1), route(false), signal(7 Term), timer(10s), report"),
        (Found::Gone(Default::default()), "cancel_timer, route(false), report"),
        (Found::Rebooted, "cancel_timer, route(false), report"),
    ] {
        let (state, spec) = stored();
        let (_, effects) = Machine::load(Policy::default(), state, spec, found.clone(), NOW);
        let names = names(&effects);
        assert_eq!(names[1..].join(", "), expected, "{found:?}");
        assert!(names[0].starts_with("persist("), "{names:?}");
    }
}
