//! The machine by example: what follows from what.

use std::collections::BTreeMap;

use nebula_core::runtime::RuntimeKind;

use super::*;
use crate::replica::spec::{Ended, Instance, ProcessRef};

pub(super) const NOW: Tick = Tick(1_000_000);

pub(super) fn spec(name: &str) -> Arc<Spec> {
    Arc::new(Spec {
        runtime: RuntimeKind::Sim,
        model: name.to_owned(),
        source: None,
        served_name: name.to_owned(),
        command: Vec::new(),
        args: Vec::new(),
        env: BTreeMap::new(),
        gpu_devices: Vec::new(),
        image: None,
        driver: None,
    })
}

pub(super) fn process(pid: u32) -> Instance {
    Instance::Process(ProcessRef { pid, started: u64::from(pid), boot: [0; 16] })
}

pub(super) fn start(generation: u64) -> Event {
    let generation = Generation(generation);
    Event::Start {
        generation,
        spec: spec("m"),
        access: Access::default(),
        port: 30_000,
        drain: Duration::ZERO,
    }
}

pub(super) fn stop(generation: u64) -> Event {
    Event::Stop { generation: Some(Generation(generation)), grace: None, drain: Duration::ZERO }
}

pub(super) fn delete(generation: Option<Generation>) -> Event {
    Event::Delete { generation, drain: Duration::ZERO }
}

pub(super) fn exited(attempt: u32, code: i32) -> Event {
    let ended = Ended { code: Some(code), output: "last words".to_owned(), ..Ended::default() };
    Event::Exited { attempt, ended }
}

fn machine() -> Machine {
    Machine::new(Policy::default(), DeploymentId::random(), ReplicaId::random(), spec("m"))
}

/// A machine to which these events happened.
pub(super) fn after(events: impl IntoIterator<Item = Event>) -> Machine {
    let mut machine = machine();
    for event in events {
        machine.step(event, NOW);
    }
    machine
}

pub(super) fn starting() -> Vec<Event> {
    vec![
        start(5),
        Event::Prepared { attempt: 1, port: 30_000 },
        Event::Spawned { attempt: 1, instance: process(7) },
    ]
}

pub(super) fn running() -> Vec<Event> {
    let mut events = starting();
    events.push(Event::Healthy { attempt: 1 });
    events
}

/// Effects without the journal's words.
pub(super) fn names(effects: &[Effect]) -> Vec<String> {
    effects
        .iter()
        .map(|effect| match effect {
            Effect::Persist(journal) => {
                let kinds: Vec<_> = journal.iter().map(|entry| entry.kind).collect();
                format!("persist({})", kinds.join(" "))
            }
            Effect::Remove(generation) => format!("remove({generation})"),
            Effect::Reply(Ok(())) => "reply(ok)".to_owned(),
            Effect::Reply(Err(refusal)) => format!("reply({refusal})"),
            Effect::Route { ready } => format!("route({ready})"),
            Effect::Prepare { attempt } => format!("prepare({attempt})"),
            Effect::Spawn { attempt } => format!("spawn({attempt})"),
            Effect::Watch { attempt, .. } => format!("watch({attempt})"),
            Effect::Probe { attempt } => format!("probe({attempt})"),
            Effect::Guard { attempt } => format!("guard({attempt})"),
            Effect::Drain { attempt } => format!("drain({attempt})"),
            Effect::StopProbe => "stop_probe".to_owned(),
            Effect::Signal { instance: Instance::Process(process), signal } => {
                format!("signal({} {signal:?})", process.pid)
            }
            Effect::Signal { instance: Instance::Container(container), signal } => {
                format!("signal(c{} {signal:?})", container.0[0])
            }
            Effect::SetTimer { after, .. } => format!("timer({}s)", after.as_secs()),
            Effect::CancelTimer => "cancel_timer".to_owned(),
            Effect::Report => "report".to_owned(),
            Effect::Done => "done".to_owned(),
        })
        .collect()
}

pub(super) fn step(machine: &mut Machine, event: Event) -> String {
    names(&machine.step(event, NOW)).join(", ")
}

pub(super) fn fence_of(effects: &[Effect]) -> Event {
    let fence = effects.iter().find_map(|effect| match effect {
        Effect::SetTimer { fence, .. } => Some(*fence),
        _ => None,
    });
    Event::Timer { fence: fence.expect("a timer was set") }
}

#[test]
fn from_nothing_to_running_and_away_again() {
    let mut machine = machine();
    assert_eq!(machine.view(), None);
    for (event, effects, status) in [
        (start(5), "persist(accepted), reply(ok), route(false), prepare(1), report", Some(Status::Preparing)),
        (Event::Prepared { attempt: 1, port: 30_001 }, "persist(), spawn(1)", Some(Status::Preparing)),
        (
            Event::Spawned { attempt: 1, instance: process(7) },
            "persist(started), watch(1), probe(1), timer(900s), report",
            Some(Status::Starting),
        ),
        (
            Event::Healthy { attempt: 1 },
            "persist(running), cancel_timer, guard(1), route(true), report",
            Some(Status::Running),
        ),
        (
            stop(5),
            "persist(stopping), reply(ok), stop_probe, route(false), signal(7 Term), timer(10s), report",
            Some(Status::Stopping),
        ),
        (exited(1, 0), "persist(stopped), cancel_timer, route(false), report", Some(Status::Stopped)),
        (delete(None), "remove(6), reply(ok), report, done", None),
    ] {
        assert_eq!(step(&mut machine, event.clone()), effects, "{event:?}");
        assert_eq!(machine.view().map(|view| view.status), status, "{event:?}");
    }
    assert_eq!(machine.state().port, 30_001);
    assert_eq!(machine.state().restarts, 0);
}

#[test]
fn the_same_start_again_changes_nothing() {
    for events in [vec![start(5)], starting(), running(), [running(), vec![stop(5)]].concat()] {
        let mut machine = after(events);
        let before = machine.state().clone();
        assert_eq!(step(&mut machine, start(5)), "reply(ok)");
        assert_eq!(*machine.state(), before);
    }
}

#[test]
fn older_generations_are_refused_whatever_they_want() {
    let old = Some(Generation(4));
    for event in [
        start(4),
        Event::Stop { generation: old, grace: None, drain: Duration::ZERO },
        Event::Restart { generation: old },
        delete(old),
    ] {
        let mut machine = after(running());
        let before = machine.state().clone();
        assert_eq!(
            step(&mut machine, event.clone()),
            "reply(generation 4 is older than 5, the newest seen for this replica)",
            "{event:?}"
        );
        assert_eq!(*machine.state(), before);
    }
}

#[test]
fn a_newer_generation_replaces_what_runs() {
    let mut machine = after(running());
    assert_eq!(
        step(&mut machine, start(6)),
        "persist(accepted stopping), reply(ok), stop_probe, route(false), signal(7 Term), timer(10s), report"
    );
    assert_eq!(machine.view().map(|view| view.status), Some(Status::Starting));
    assert_eq!(
        step(&mut machine, exited(1, 143)),
        "persist(), cancel_timer, route(false), prepare(2), report"
    );
    assert_eq!(machine.state().generation, Generation(6));
    assert_eq!(machine.state().restarts, 0, "it was ended by us");
}

#[test]
fn a_stop_while_the_process_is_made_ends_it_as_soon_as_it_exists() {
    let mut machine = after([start(5), Event::Prepared { attempt: 1, port: 1 }]);
    assert_eq!(step(&mut machine, stop(5)), "persist(), reply(ok)");
    assert_eq!(
        step(&mut machine, Event::Spawned { attempt: 1, instance: process(7) }),
        "persist(stopping), watch(1), route(false), signal(7 Term), timer(10s), report"
    );
}

#[test]
fn the_hard_signal_follows_when_the_polite_one_does_nothing() {
    let mut machine = after(running());
    let grace = Some(Duration::from_secs(3));
    let effects = machine.step(Event::Stop { generation: None, grace, drain: Duration::ZERO }, NOW);
    assert!(names(&effects).contains(&"timer(3s)".to_owned()));
    // A repeated stop does not put it off.
    assert_eq!(step(&mut machine, stop(5)), "persist(), reply(ok)");
    assert_eq!(step(&mut machine, fence_of(&effects)), "signal(7 Kill), timer(10s)");
}

#[test]
fn an_exit_before_the_first_health_fails_with_the_last_words() {
    let mut machine = after(starting());
    assert_eq!(
        step(&mut machine, exited(1, 3)),
        "persist(failed), stop_probe, cancel_timer, route(false), report"
    );
    let view = machine.view().expect("a view");
    assert_eq!((view.status, view.exit_code), (Status::Failed, Some(3)));
    assert_eq!(
        view.message,
        "exited: the runtime exited with code 3 before it was healthy; its last lines:\nlast words"
    );
}

#[test]
fn a_runtime_that_never_gets_healthy_is_ended_and_fails() {
    let mut machine = machine();
    let mut effects = Vec::new();
    for event in starting() {
        effects = machine.step(event, NOW);
    }
    assert_eq!(
        step(&mut machine, fence_of(&effects)),
        "persist(stopping), stop_probe, route(false), signal(7 Term), timer(10s), report"
    );
    step(&mut machine, exited(1, 0));
    let view = machine.view().expect("a view");
    assert_eq!(view.status, Status::Failed);
    assert!(
        view.message.starts_with("not_healthy: the runtime was not healthy within 15m 00s"),
        "{}",
        view.message
    );
}

#[test]
fn crashes_are_followed_by_longer_and_longer_waits_and_then_by_failure() {
    let mut machine = after(running());
    let mut now = NOW;
    for (attempt, wait) in [(1, 10), (2, 20), (3, 40), (4, 80)] {
        let effects = machine.step(exited(attempt, 9), now);
        assert!(names(&effects).contains(&format!("timer({wait}s)")), "{:?}", names(&effects));
        assert_eq!(machine.view().map(|view| view.status), Some(Status::Starting));
        now = now.plus(Duration::from_secs(wait));
        machine.step(fence_of(&effects), now);
        let attempt = attempt + 1;
        machine.step(Event::Prepared { attempt, port: 1 }, now);
        machine.step(Event::Spawned { attempt, instance: process(attempt) }, now);
        machine.step(Event::Healthy { attempt }, now);
    }
    machine.step(exited(5, 9), now);
    let view = machine.view().expect("a view");
    assert_eq!((view.status, view.restarts, view.exit_code), (Status::Failed, 4, Some(9)));
    assert!(
        view.message.starts_with("crash_loop: the runtime ended 5 times within 10m 00s"),
        "{}",
        view.message
    );
}

#[test]
fn old_crashes_are_forgotten() {
    let mut machine = after(running());
    let mut now = NOW;
    for attempt in 1..=10 {
        let effects = machine.step(exited(attempt, 1), now);
        assert!(names(&effects).contains(&"timer(10s)".to_owned()), "{:?}", names(&effects));
        now = now.plus(Duration::from_secs(10));
        machine.step(fence_of(&effects), now);
        let attempt = attempt + 1;
        machine.step(Event::Prepared { attempt, port: 1 }, now);
        machine.step(Event::Spawned { attempt, instance: process(attempt) }, now);
        machine.step(Event::Healthy { attempt }, now);
        now = now.plus(Duration::from_secs(600));
    }
    assert_eq!(machine.state().restarts, 10);
}

#[test]
fn crashes_of_one_that_has_run_well_since_are_forgotten_by_the_next_agent_too() {
    let crashed = || {
        let mut machine = after(running());
        let effects = machine.step(exited(1, 1), NOW);
        machine.step(fence_of(&effects), NOW);
        machine.step(Event::Prepared { attempt: 2, port: 1 }, NOW);
        machine.step(Event::Spawned { attempt: 2, instance: process(2) }, NOW);
        let effects = machine.step(Event::Healthy { attempt: 2 }, NOW);
        assert!(names(&effects).contains(&"timer(600s)".to_owned()), "{:?}", names(&effects));
        (machine, fence_of(&effects))
    };
    let (mut machine, well) = crashed();
    assert_eq!(step(&mut machine, well), "persist()");
    assert_eq!(machine.state().recent_crashes, 0);
    let (mut machine, well) = crashed();
    machine.step(exited(2, 1), NOW);
    assert_eq!((step(&mut machine, well).as_str(), machine.state().recent_crashes), ("", 2));
}

#[test]
fn a_restart_is_carried_out_once_per_generation() {
    let restart = |generation| Event::Restart { generation };
    let mut machine = after(running());
    assert!(step(&mut machine, restart(Some(Generation(5)))).contains("signal(7 Term)"));
    assert_eq!(step(&mut machine, restart(Some(Generation(5)))), "reply(ok)");
    assert!(step(&mut machine, restart(Some(Generation(6)))).starts_with("persist(restarted), reply(ok)"));
    assert_eq!(step(&mut machine, exited(1, 0)), "persist(), cancel_timer, route(false), prepare(2), report");
    assert!(step(&mut machine, restart(None)).contains("prepare(3)"));
    let mut stopped = after([running(), vec![stop(5), exited(1, 0)]].concat());
    assert!(step(&mut stopped, restart(None)).contains("prepare(2)"));
}

#[test]
fn other_credentials_reach_the_proxy_after_they_are_durable() {
    let mut machine = after(running());
    let gateway = nebula_core::token::TokenHash::of("g");
    let access = Access { public: false, tokens: Vec::new(), gateway: Some(gateway) };
    assert_eq!(step(&mut machine, Event::SetAccess { access }), "persist(access), reply(ok), route(true)");
    step(&mut machine, Event::SetAccess { access: Access { public: true, ..Access::default() } });
    assert_eq!(machine.state().access.gateway, Some(gateway), "none given keeps the old one");
}

#[test]
fn what_is_unknown_or_going_away_is_refused() {
    assert_eq!(step(&mut machine(), stop(1)), "reply(no such replica on this node)");
    let mut deleting = after([running(), vec![delete(None)]].concat());
    assert_eq!(step(&mut deleting, start(9)), "reply(the replica is being deleted)");
    assert_eq!(step(&mut deleting, delete(None)), "reply(ok)");
    let mut halting = after([running(), vec![Event::Halt { leave: false }]].concat());
    assert_eq!(step(&mut halting, start(9)), "reply(the agent is stopping)");
}

#[test]
fn the_agents_own_stop_ends_processes_without_blaming_them() {
    let mut machine = after(running());
    assert_eq!(
        step(&mut machine, Event::Halt { leave: false }),
        "persist(stopping), stop_probe, route(false), signal(7 Term), timer(10s), report"
    );
    assert_eq!(machine.view().map(|view| view.status), Some(Status::Stopping));
    assert_eq!(step(&mut machine, exited(1, 143)), "persist(), cancel_timer, done");
    let mut next = machine.state().clone();
    next.phase = Phase::Preparing;
    let (next, effects) =
        Machine::load(Policy::default(), next, spec("m"), Found::Gone(Ended::default()), NOW);
    assert_eq!(names(&effects).join(", "), "persist(), route(false), prepare(2), report");
    assert_eq!(next.state().restarts, 0);
    assert_eq!(step(&mut after(running()), Event::Halt { leave: true }), "done");
    assert_eq!(step(&mut after([start(5)]), Event::Halt { leave: false }), "persist(), done");
}

#[test]
fn the_agents_own_stop_grants_no_more_than_its_own_grace() {
    let mut machine = after(running());
    let grace = Some(Duration::from_secs(600));
    machine.step(Event::Stop { generation: None, grace, drain: Duration::ZERO }, NOW);
    let effects = machine.step(Event::Halt { leave: false }, NOW);
    assert_eq!(names(&effects).join(", "), "persist(), timer(10s)");
    assert_eq!(step(&mut machine, fence_of(&effects)), "signal(7 Kill), timer(10s)");
}

#[test]
fn a_grace_of_nothing_does_not_spin() {
    let policy = Policy { grace: Duration::ZERO, ..Policy::default() };
    let mut machine = Machine { policy, ..after(running()) };
    let effects = machine.step(stop(5), NOW);
    assert!(names(&effects).contains(&"timer(0s)".to_owned()), "{:?}", names(&effects));
    assert_eq!(step(&mut machine, fence_of(&effects)), "signal(7 Kill), timer(1s)");
}

#[test]
fn without_a_generation_a_start_begins_anew_what_has_come_to_an_end() {
    let begins = |events: Vec<Event>| {
        let mut machine = after([vec![start(0)], events].concat());
        step(&mut machine, start(0))
    };
    let up = |mut events: Vec<Event>| events.split_off(1);
    let stop = || Event::Stop { generation: None, grace: None, drain: Duration::ZERO };
    assert_eq!(begins(up(running())), "reply(ok)");
    let anew = "persist(accepted), reply(ok), route(false), prepare(2), report";
    assert_eq!(begins([up(running()), vec![stop(), exited(1, 0)]].concat()), anew);
    assert_eq!(begins([up(starting()), vec![exited(1, 3)]].concat()), anew);
    // While it is still ending, it starts after that.
    assert_eq!(begins([up(running()), vec![stop()]].concat()), "persist(accepted), reply(ok)");
}

#[test]
fn a_runtime_whose_port_was_taken_gets_another_one_a_few_times() {
    let taken = |attempt| {
        let ended = Ended { code: Some(1), port_taken: true, ..Ended::default() };
        Event::Exited { attempt, ended }
    };
    let mut machine = after(starting());
    for attempt in 1..=3 {
        let next = attempt + 1;
        assert_eq!(
            step(&mut machine, taken(attempt)),
            format!("persist(exited), stop_probe, cancel_timer, route(false), prepare({next}), report")
        );
        let view = machine.view().expect("a view");
        assert_eq!(view.status, Status::Starting);
        assert!(view.message.starts_with("another program took port 3000"), "{}", view.message);
        step(
            &mut machine,
            Event::Prepared { attempt: next, port: 30_000 + u16::try_from(next).expect("few") },
        );
        step(&mut machine, Event::Spawned { attempt: next, instance: process(next) });
    }
    step(&mut machine, taken(4));
    assert_eq!(machine.view().map(|view| (view.status, view.restarts)), Some((Status::Failed, 0)));
    // Once it was healthy, a crash is a crash.
    let mut machine = after(running());
    assert!(step(&mut machine, taken(1)).contains("timer(10s)"));
}

#[test]
fn what_runs_is_kept_by_the_next_agent() {
    let load = |events: Vec<Event>, found| {
        let state = after(events).state().clone();
        let (machine, effects) = Machine::load(Policy::default(), state, spec("m"), found, NOW);
        (names(&effects).join(", "), machine.view().map(|view| view.status))
    };
    let alive = || Found::Alive(process(7));
    let gone = || Found::Gone(Ended::default());
    for (events, found, effects, status) in [
        (
            running(),
            alive(),
            "persist(running), route(false), watch(1), guard(1), route(true), report",
            Status::Running,
        ),
        (
            starting(),
            alive(),
            "persist(started), route(false), watch(1), probe(1), timer(900s), report",
            Status::Starting,
        ),
        (
            running(),
            gone(),
            "persist(exited), stop_probe, route(false), timer(10s), report",
            Status::Starting,
        ),
        (
            starting(),
            gone(),
            "persist(failed), stop_probe, cancel_timer, route(false), report",
            Status::Failed,
        ),
        (
            running(),
            Found::Rebooted,
            "persist(), stop_probe, route(false), prepare(2), report",
            Status::Preparing,
        ),
        (
            vec![start(5), Event::Prepared { attempt: 1, port: 1 }],
            alive(),
            "persist(started), route(false), watch(1), probe(1), timer(900s), report",
            Status::Starting,
        ),
        (
            [running(), vec![stop(5)]].concat(),
            gone(),
            "persist(stopped), cancel_timer, route(false), report",
            Status::Stopped,
        ),
        ([running(), vec![stop(5), exited(1, 0)]].concat(), gone(), "route(false)", Status::Stopped),
    ] {
        let label = format!("{events:?} {found:?}");
        let (got, got_status) = load(events, found);
        assert_eq!(got, effects, "{label}");
        assert_eq!(got_status, Some(status), "{label}");
    }
}
