//! What nodes, the scheduler and agents say of replicas, and what is made of it.

use super::fixtures::*;
use super::*;
use crate::domain::report::{ReplicaReport, ReportedStatus, Seen};

fn phase(machine: &Machine) -> Phase {
    replica(machine, 0).phase
}

fn says(status: ReportedStatus, message: &str) -> Event {
    let report = ReplicaReport { message: message.to_owned(), ..reported(0, 1, status) };
    Event::Node(facts("a", 1, vec![report]))
}

#[test]
fn what_a_node_reports_is_shown_in_the_light_of_what_is_wanted() {
    use ReportedStatus as Said;
    // What is reported; then phase and message while it is to run, and while it is to go.
    for (status, run, said, go) in [
        (Said::Preparing, Phase::Preparing, "words", Phase::Stopping),
        (Said::Starting, Phase::Starting, "words", Phase::Stopping),
        (Said::Running, Phase::Running, "", Phase::Stopping),
        (Said::Stopping, Phase::Stopping, "words", Phase::Stopping),
        (Said::Stopped, Phase::Failed, "the runtime was stopped on its node", Phase::Stopped),
        (Said::Failed, Phase::Failed, "words", Phase::Stopped),
    ] {
        let from = if status == Said::Preparing { Phase::Running } else { Phase::Preparing };
        let before = Replica { phase: from, message: "before".to_owned(), ..running(0, "a") };
        let mut machine = started(deployment(vec![before.clone()]));
        machine.step(says(status, "words"), NOW);
        assert_eq!((phase(&machine), replica(&machine, 0).message.as_str()), (run, said), "{status:?}");
        let stopped = Deployment { desired: Desired::Stopped, ..deployment(vec![before]) };
        let mut machine = started(stopped);
        machine.step(says(status, "words"), NOW);
        assert_eq!(phase(&machine), go, "{status:?} while it is to be stopped");
        if status == Said::Stopped {
            assert_eq!(replica(&machine, 0).message, "", "it did what was asked of it");
        }
    }
}

#[test]
fn a_replica_that_leaves_is_stopping_until_it_is_gone() {
    let leaving = Replica { leaving: true, index: 0, ..running(1, "a") };
    let mut machine = started(deployment(vec![running(0, "b"), leaving]));
    machine.step(Event::Node(facts("a", 1, vec![reported(1, 1, ReportedStatus::Running)])), NOW);
    assert_eq!(phase(&machine), Phase::Running, "the other one");
    assert_eq!(replica(&machine, 1).phase, Phase::Stopping);
}

#[test]
fn a_report_brings_what_the_runtime_looks_like() {
    let mut machine = started(deployment(vec![running(0, "a"), running(1, "a")]));
    let report = ReplicaReport {
        container_id: "c9".to_owned(),
        port: 30_009,
        restarts: 4,
        ..reported(0, 1, ReportedStatus::Running)
    };
    let other = reported(1, 1, ReportedStatus::Running);
    let effects = machine.step(Event::Node(facts("a", 1, vec![other, report])), NOW);
    let expected = Replica { container_id: "c9".to_owned(), port: 30_009, restarts: 4, ..running(0, "a") };
    assert_eq!(*replica(&machine, 0), expected);
    assert_eq!(*replica(&machine, 1), running(1, "a"));
    let write = Write::PutReplica(deployment_id(), Box::new(expected));
    assert_eq!(effects, [Effect::Persist(vec![write], Vec::new())], "durable, though nothing is to be said");
}

#[test]
fn a_report_of_an_older_generation_says_nothing() {
    let dep = Deployment {
        generation: Generation(2),
        ..deployment(vec![Replica { generation: Generation(2), phase: Phase::Starting, ..running(0, "a") }])
    };
    let mut machine = started(dep);
    machine.step(Event::Node(facts("a", 0, vec![reported(0, 1, ReportedStatus::Running)])), NOW);
    assert_eq!(phase(&machine), Phase::Starting);
}

#[test]
fn only_replicas_on_the_node_that_reports_are_concerned() {
    let mut machine = started(deployment(vec![running(0, "a"), running(1, "b")]));
    machine.step(Event::Node(offline("b")), NOW);
    assert_eq!(phase(&machine), Phase::Running);
    assert_eq!(replica(&machine, 1).phase, Phase::Unreachable);
    assert_eq!(replica(&machine, 1).message, "node b is offline");
}

#[test]
fn what_is_known_of_a_replica_outlives_its_node_going_offline() {
    let at = |phase, leaving| Replica { phase, leaving, message: "why".to_owned(), ..running(0, "a") };
    for (what, desired, before, after, message) in [
        ("it ran", Desired::Running, Phase::Running, Phase::Unreachable, "node a is offline"),
        ("it started", Desired::Running, Phase::Starting, Phase::Unreachable, "node a is offline"),
        ("it was stopping", Desired::Running, Phase::Stopping, Phase::Unreachable, "node a is offline"),
        ("it has failed", Desired::Running, Phase::Failed, Phase::Failed, "why"),
        ("it was stopped", Desired::Running, Phase::Stopped, Phase::Stopped, "why"),
        ("it is to stop", Desired::Stopped, Phase::Stopping, Phase::Stopping, "why"),
    ] {
        let mut machine = started(Deployment { desired, ..deployment(vec![at(before, false)]) });
        machine.step(Event::Node(offline("a")), NOW);
        assert_eq!((phase(&machine), replica(&machine, 0).message.as_str()), (after, message), "{what}");
    }
    let mut machine = started(deployment(vec![at(Phase::Running, true)]));
    let effects = machine.step(Event::Node(offline("a")), NOW);
    let waited_for = machine.deployment().replicas.iter().any(|replica| replica.id == replica_id(0));
    assert!(!waited_for, "it leaves");
    assert_eq!(released(&effects), [replica_id(0)]);
}

#[test]
fn a_node_that_comes_back_by_another_name_is_shown_by_it() {
    let mut machine = started(deployment(vec![running(0, "a")]));
    let renamed = NodeFacts { node_name: "renamed".to_owned(), ..offline("a") };
    machine.step(Event::Node(renamed), NOW);
    let place = replica(&machine, 0).placement.as_ref().expect("a place");
    assert_eq!(place.node_name, "renamed");
}

#[test]
fn a_forgotten_node_takes_its_replicas_with_it_and_new_ones_are_sought_a_place() {
    let mut machine = started(deployment(vec![running(0, "a"), running(1, "b")]));
    let effects = machine.step(Event::NodeGone(node_id("a")), NOW);
    assert_eq!(released(&effects), [replica_id(0)]);
    assert!(effects.contains(&Effect::Unwatch(node_id("a"))));
    assert!(!effects.contains(&Effect::Unwatch(node_id("b"))));
    let dep = machine.deployment();
    assert!(dep.replicas.iter().all(|replica| replica.id != replica_id(0)), "under a new id");
    assert_eq!(*replica(&machine, 1), running(1, "b"));
    assert_eq!(sought(&effects), [(replica(&machine, 0).id, 1)]);
    let Some(Effect::Persist(writes, _)) = effects.first() else { panic!("{effects:?}") };
    assert!(writes.contains(&Write::DeleteReplica(deployment_id(), replica_id(0))));
}

#[test]
fn forgetting_one_node_says_nothing_twice_to_another() {
    let mut machine = started(deployment(vec![running(0, "a"), running(1, "b")]));
    assert_eq!(told(&intend(&mut machine, Intent::Stop)), ["stop", "stop"]);
    assert_eq!(told(&machine.step(Event::NodeGone(node_id("a")), NOW)), Vec::<&str>::new());
}

#[test]
fn a_place_is_taken_by_the_replica_that_waits_for_it() {
    let mut machine = started(deployment(vec![pending(0), pending(1)]));
    let effects = machine.step(Event::Placed(replica_id(1), Generation(1), placement("a")), NOW);
    assert!(effects.contains(&Effect::Watch(node_id("a"))));
    assert_eq!(sent(&effects), [("a".to_owned(), replica_id(1), 1, "start")]);
    assert_eq!(released(&effects), []);
    let placed = Replica {
        phase: Phase::Preparing,
        generation: Generation(1),
        placement: Some(placement("a")),
        ..pending(1)
    };
    assert_eq!([replica(&machine, 0), replica(&machine, 1)], [&pending(0), &placed]);
}

#[test]
fn a_place_that_nobody_waits_for_any_more_is_given_back() {
    let leaving = Replica { leaving: true, ..pending(0) };
    let newer = Deployment { generation: Generation(2), ..deployment(vec![pending(0)]) };
    for (what, dep, id) in [
        ("stopped", Deployment { desired: Desired::Stopped, ..deployment(vec![pending(0)]) }, 0),
        ("no such replica", deployment(vec![pending(0)]), 9),
        ("it has one", deployment(vec![running(0, "b")]), 0),
        ("sought for an older spec", newer, 0),
    ] {
        let mut machine = Machine::load(dep.clone());
        let effects = machine.step(Event::Placed(replica_id(id), Generation(1), placement("a")), NOW);
        assert_eq!(released(&effects), [replica_id(id)], "{what}");
        let places: Vec<_> = machine.deployment().replicas.iter().map(|r| r.placement.clone()).collect();
        let before: Vec<_> = dep.replicas.iter().map(|r| r.placement.clone()).collect();
        assert_eq!(places, before, "{what}");
        assert!(!effects.contains(&Effect::Watch(node_id("a"))), "{what}");
    }
    let mut machine = Machine::load(deployment(vec![leaving]));
    let effects = machine.step(Event::Placed(replica_id(0), Generation(1), placement("a")), NOW);
    assert!(released(&effects).contains(&replica_id(0)), "it leaves");
    assert_eq!(sent(&effects), []);
}

#[test]
fn a_place_that_was_sought_for_an_older_spec_is_sought_anew() {
    let mut machine = started(deployment(vec![pending(0)]));
    assert_eq!(sought(&intend(&mut machine, Intent::Restart)), [], "it is being sought still");
    let effects = machine.step(Event::Placed(replica_id(0), Generation(1), placement("a")), NOW);
    assert_eq!(sought(&effects), [(replica_id(0), 2)]);
    let effects = machine.step(Event::Placed(replica_id(0), Generation(2), placement("a")), NOW);
    assert_eq!(sent(&effects), [("a".to_owned(), replica_id(0), 2, "start")]);
}

#[test]
fn a_replica_without_a_place_says_why_and_asks_again_later_once() {
    let mut machine = started(deployment(vec![pending(0), pending(1)]));
    let unplaceable = |n| Event::Unplaceable(replica_id(n), Generation(1), "no node fits".to_owned());
    let effects = machine.step(unplaceable(0), NOW);
    let later = NOW.tick.plus(Duration::from_secs(60));
    assert_eq!((sought(&effects), machine.next_timer()), (vec![], Some(later)));
    assert_eq!(replica(&machine, 0).message, "no node fits");
    assert_eq!(replica(&machine, 1).message, "", "it was not spoken of");
    assert_eq!(machine.deployment().state(), Phase::Pending);
    let effects = machine.step(unplaceable(1), NOW);
    assert_eq!(sought(&effects), [], "not before it is time");
    assert_eq!(sought(&machine.step(Event::Capacity, NOW)), [(replica_id(0), 1), (replica_id(1), 1)]);
    assert_eq!(sought(&machine.step(Event::Capacity, NOW)), [], "these are being sought");
    let refused = machine.step(unplaceable(0), NOW);
    assert_eq!(sought(&refused), [(replica_id(0), 1)], "this was said before there was news");
    assert_eq!(sought(&machine.step(unplaceable(0), NOW)), []);
    assert_eq!(sought(&machine.step(Event::Timer, NOW)), [], "not before it is time");
    let due = Now { tick: later, ..NOW };
    assert_eq!(sought(&machine.step(Event::Timer, due)), [(replica_id(0), 1)]);
}

#[test]
fn a_refusal_concerns_the_replica_and_the_generation_it_names() {
    let mut machine = started(Deployment {
        generation: Generation(2),
        ..deployment(vec![
            Replica { generation: Generation(2), ..running(0, "a") },
            Replica { generation: Generation(2), ..running(1, "a") },
        ])
    });
    assert_eq!(machine.step(Event::Rejected(replica_id(1), Generation(1), "old".to_owned()), NOW), []);
    assert_eq!(machine.step(Event::Rejected(replica_id(9), Generation(2), "who".to_owned()), NOW), []);
    machine.step(Event::Rejected(replica_id(1), Generation(2), "no such runtime".to_owned()), NOW);
    assert_eq!(phase(&machine), Phase::Running);
    assert_eq!(replica(&machine, 1).phase, Phase::Failed);
    assert_eq!(replica(&machine, 1).message, "the agent refused: no such runtime");
}

#[test]
fn long_messages_are_cut_between_characters() {
    for (text, length) in [("a".repeat(1_999), 1_999), ("a".repeat(2_000), 2_000), ("a".repeat(2_001), 2_000)]
    {
        let mut machine = started(deployment(vec![running(0, "a")]));
        machine.step(says(ReportedStatus::Failed, &text), NOW);
        assert_eq!(replica(&machine, 0).message.len(), length);
    }
    let mut machine = started(deployment(vec![running(0, "a")]));
    machine.step(says(ReportedStatus::Failed, &format!("{}{}", "a".repeat(1_998), "€".repeat(9))), NOW);
    assert_eq!(replica(&machine, 0).message, "a".repeat(1_998));
}

#[test]
fn want_of_memory_is_said_where_the_agent_does_not_say_it() {
    for (message, told) in [
        ("", "it ran out of memory"),
        ("the runtime was killed by signal 9", "out of memory: the runtime was killed by signal 9"),
        ("the runtime had no Memory left", "the runtime had no Memory left"),
    ] {
        let mut machine = started(deployment(vec![running(0, "a")]));
        let seen = Seen { progress: None, out_of_memory: true };
        let report =
            ReplicaReport { message: message.to_owned(), seen, ..reported(0, 1, ReportedStatus::Failed) };
        machine.step(Event::Node(facts("a", 1, vec![report])), NOW);
        assert_eq!(replica(&machine, 0).message, told);
    }
}

#[test]
fn who_seeks_a_place_no_longer_waits_for_none() {
    let mut machine = started(deployment(vec![pending(0)]));
    assert_eq!(released(&intend(&mut machine, Intent::Stop)), [replica_id(0)]);
    let late = Event::Unplaceable(replica_id(0), Generation(1), "no room".to_owned());
    assert_eq!(released(&machine.step(late, NOW)), [replica_id(0)], "it may have begun to wait only now");
    let unknown = Event::Unplaceable(replica_id(9), Generation(1), "no room".to_owned());
    assert_eq!(released(&machine.step(unknown, NOW)), [replica_id(9)]);
}

/// A heartbeat may have been on its way when the start was sent, and a node's first news is older than what it was told.
#[test]
fn a_report_that_does_not_know_of_the_start_yet_gives_no_place_back() {
    for end in [Intent::Stop, Intent::Scale(0)] {
        for first in [None, Some(facts("a", 6, Vec::new()))] {
            let mut machine = started(deployment(vec![pending(0)]));
            machine.step(Event::Placed(replica_id(0), Generation(1), placement("a")), NOW);
            first.into_iter().for_each(|first| drop(machine.step(Event::Node(first), NOW)));
            let effects = intend(&mut machine, end.clone());
            assert_eq!(released(&effects), []);
            let effects = machine.step(Event::Node(facts("a", 7, Vec::new())), NOW);
            assert_eq!(released(&effects), [], "{end:?}");
            let runs = facts("a", 8, vec![reported(0, 1, ReportedStatus::Starting)]);
            assert_eq!(released(&machine.step(Event::Node(runs), NOW)), [], "{end:?}");
            let effects = machine.step(Event::Node(facts("a", 9, Vec::new())), NOW);
            assert_eq!(released(&effects), [replica_id(0)], "{end:?}: it was there, and is gone");
        }
    }
}

#[test]
fn what_runs_on_after_its_restart_was_refused_is_stopped() {
    let mut machine = started(deployment(vec![running(0, "a")]));
    let runs = |seq| Event::Node(facts("a", seq, vec![reported(0, 1, ReportedStatus::Running)]));
    machine.step(runs(1), NOW);
    intend(&mut machine, Intent::Restart);
    machine.step(Event::Rejected(replica_id(0), Generation(2), "no".to_owned()), NOW);
    assert_eq!(phase(&machine), Phase::Failed);
    let effects = intend(&mut machine, Intent::Stop);
    assert_eq!(sent(&effects).iter().map(|(.., what)| *what).collect::<Vec<_>>(), ["stop"]);
    assert_eq!(released(&effects), []);
    let stopped = facts("a", 2, vec![reported(0, 2, ReportedStatus::Stopped)]);
    assert_eq!(released(&machine.step(Event::Node(stopped), NOW)), [replica_id(0)]);
}

#[test]
fn a_node_that_is_back_is_not_believed_for_what_it_said_before_it_was_lost() {
    let mut machine = started(deployment(vec![running(0, "a")]));
    let said = |seq| facts("a", seq, vec![reported(0, 1, ReportedStatus::Running)]);
    machine.step(Event::Node(said(5)), NOW);
    machine.step(Event::Node(NodeFacts { availability: Availability::Offline, ..said(5) }), NOW);
    for _ in 0..2 {
        machine.step(Event::Node(said(5)), NOW);
        assert_eq!(phase(&machine), Phase::Unreachable);
    }
    machine.step(Event::Node(said(6)), NOW);
    assert_eq!(phase(&machine), Phase::Running);
}
