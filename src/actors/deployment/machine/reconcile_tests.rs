//! What is wanted against what is there: who is started, stopped and deleted, how often, and who is waited for.

use super::fixtures::*;
use super::*;
use crate::domain::report::ReportedStatus;

const NOTHING: [&str; 0] = [];

/// A machine with one replica on node `a` that has reported so.
fn known(dep: Deployment, seq: u64, status: ReportedStatus) -> Machine {
    let mut machine = started(dep);
    machine.step(Event::Node(facts("a", seq, vec![reported(0, 1, status)])), NOW);
    machine
}

fn one() -> Deployment {
    deployment(vec![running(0, "a")])
}

fn stopped(phase: Phase) -> Deployment {
    Deployment {
        desired: Desired::Stopped,
        ..deployment(vec![Replica { phase, message: "why".to_owned(), ..running(0, "a") }])
    }
}

/// A node's report without replicas.
fn nothing_there(seq: u64) -> Event {
    Event::Node(facts("a", seq, Vec::new()))
}

fn still(seq: u64, status: ReportedStatus) -> Event {
    Event::Node(facts("a", seq, vec![reported(0, 1, status)]))
}

#[test]
fn a_replica_that_its_node_does_not_know_is_started_again() {
    let mut machine = known(one(), 1, ReportedStatus::Running);
    let effects = machine.step(nothing_there(2), NOW);
    assert_eq!(sent(&effects), [("a".to_owned(), replica_id(0), 1, "start")]);
    assert_eq!(replica(&machine, 0).phase, Phase::Running, "one report may be old and late");
    machine.step(still(3, ReportedStatus::Running), NOW);
    assert_eq!(told(&machine.step(nothing_there(4), NOW)), ["start"]);
    assert_eq!(replica(&machine, 0).phase, Phase::Running);
    assert_eq!(told(&machine.step(nothing_there(5), NOW)), ["start"]);
    let replica = replica(&machine, 0);
    assert_eq!((replica.phase, replica.message.as_str()), (Phase::Preparing, ""), "two are not");
}

#[test]
fn a_replica_is_started_once_for_each_report_that_lacks_it() {
    let mut machine = started(one());
    assert_eq!(told(&machine.step(nothing_there(5), NOW)), ["start"]);
    assert_eq!(told(&machine.step(nothing_there(5), NOW)), NOTHING, "the report is older than the start");
    assert_eq!(told(&machine.step(Event::Capacity, NOW)), NOTHING);
    assert_eq!(told(&machine.step(nothing_there(6), NOW)), ["start"]);
}

#[test]
fn a_node_that_has_not_reported_yet_says_nothing() {
    let mut machine = started(one());
    assert_eq!(told(&machine.step(nothing_there(0), NOW)), NOTHING);
    assert_eq!(replica(&machine, 0).phase, Phase::Running);
}

#[test]
fn a_session_that_counts_anew_is_believed_again() {
    let mut machine = started(one());
    assert_eq!(told(&machine.step(nothing_there(5), NOW)), ["start"]);
    assert_eq!(told(&machine.step(nothing_there(1), NOW)), ["start"]);
}

#[test]
fn a_replica_that_has_failed_is_not_started_by_itself() {
    let mut machine = known(one(), 1, ReportedStatus::Failed);
    assert_eq!(told(&machine.step(nothing_there(2), NOW)), NOTHING);
    assert_eq!(replica(&machine, 0).phase, Phase::Failed);
}

#[test]
fn a_new_generation_starts_each_replica_once_whatever_it_does_and_clears_its_words() {
    for phase in [Phase::Running, Phase::Preparing, Phase::Failed, Phase::Unreachable] {
        let replica_before = Replica { phase, message: "why".to_owned(), ..running(0, "a") };
        let mut machine = started(deployment(vec![replica_before]));
        let effects = intend(&mut machine, Intent::Restart);
        assert_eq!(sent(&effects), [("a".to_owned(), replica_id(0), 2, "start")], "{phase:?}");
        let replica = replica(&machine, 0);
        assert_eq!((replica.phase, replica.message.as_str()), (Phase::Preparing, ""), "{phase:?}");
        assert_eq!(replica.generation, Generation(2), "{phase:?}");
        assert_eq!(told(&machine.step(Event::Capacity, NOW)), NOTHING, "{phase:?}");
    }
}

#[test]
fn a_report_of_the_older_generation_says_that_the_newer_start_was_lost() {
    let mut machine = known(one(), 1, ReportedStatus::Running);
    assert_eq!(told(&intend(&mut machine, Intent::Restart)), ["start"]);
    assert_eq!(told(&machine.step(still(1, ReportedStatus::Running), NOW)), NOTHING, "too old to know");
    assert_eq!(told(&machine.step(still(2, ReportedStatus::Running), NOW)), ["start"]);
    let newer = facts("a", 3, vec![reported(0, 2, ReportedStatus::Starting)]);
    assert_eq!(told(&machine.step(Event::Node(newer), NOW)), NOTHING);
}

#[test]
fn an_offline_node_is_told_nothing_until_it_is_back() {
    let mut machine = started(one());
    assert_eq!(told(&machine.step(Event::Node(NodeFacts { report_seq: 9, ..offline("a") }), NOW)), NOTHING);
    assert_eq!(told(&machine.step(nothing_there(10), NOW)), ["start"]);
}

#[test]
fn missing_replicas_are_created_with_the_lowest_free_index_and_sought_a_place() {
    let mut dep = deployment(vec![running(1, "a")]);
    dep.spec.replicas = 3;
    let mut machine = Machine::load(dep);
    let effects = machine.step(Event::Started, NOW);
    let indices: Vec<_> = machine.deployment().replicas.iter().map(|r| (r.index, r.phase)).collect();
    assert_eq!(indices, [(0, Phase::Pending), (1, Phase::Running), (2, Phase::Pending)]);
    let (first, last) = (replica(&machine, 0), replica(&machine, 2));
    assert_eq!(sought(&effects), [(first.id, 1), (last.id, 1)]);
    assert_eq!((first.generation, first.leaving, first.port, first.restarts), (Generation(0), false, 0, 0));
}

#[test]
fn replicas_that_are_too_many_leave_from_the_end() {
    let mut machine = started(deployment(vec![running(0, "a"), running(1, "a"), pending(2)]));
    let both = vec![reported(0, 1, ReportedStatus::Running), reported(1, 1, ReportedStatus::Running)];
    machine.step(Event::Node(facts("a", 1, both)), NOW);
    let effects = intend(&mut machine, Intent::Scale(1));
    assert_eq!(sent(&effects), [("a".to_owned(), replica_id(1), 1, "delete")]);
    assert_eq!(released(&effects), [replica_id(2)], "it was nowhere yet");
    let left: Vec<_> = machine.deployment().replicas.iter().map(|r| (r.id, r.leaving, r.phase)).collect();
    assert_eq!(left, [(replica_id(0), false, Phase::Running), (replica_id(1), true, Phase::Stopping)]);
    let gone = facts("a", 2, vec![reported(0, 1, ReportedStatus::Running)]);
    let effects = machine.step(Event::Node(gone), NOW);
    assert_eq!(released(&effects), [replica_id(1)]);
    assert_eq!(machine.deployment().replicas.len(), 1);
}

#[test]
fn a_place_that_is_being_sought_is_not_sought_twice() {
    let mut machine = Machine::load(deployment(vec![pending(0)]));
    assert_eq!(sought(&machine.step(Event::Started, NOW)), [(replica_id(0), 1)]);
    assert_eq!(sought(&machine.step(Event::Capacity, NOW)), []);
    assert_eq!(sought(&intend(&mut machine, Intent::Stop)), [], "it is not to run");
}

#[test]
fn what_was_stopped_gives_its_place_back_and_new_replicas_seek_places() {
    let mut machine = known(deployment(vec![running(0, "a"), pending(1)]), 1, ReportedStatus::Running);
    intend(&mut machine, Intent::Stop);
    let effects = machine.step(still(2, ReportedStatus::Stopped), NOW);
    assert_eq!(released(&effects), [replica_id(0)]);
    assert!(replica(&machine, 0).placement.is_some(), "its record is there still");
    let effects = intend(&mut machine, Intent::Start);
    assert_eq!(sent(&effects), [("a".to_owned(), replica_id(0), 2, "delete")]);
    let staying: Vec<_> = machine.deployment().replicas.iter().filter(|r| !r.leaving).cloned().collect();
    assert_eq!(staying.len(), 2);
    assert!(staying.iter().all(|r| r.placement.is_none() && ![replica_id(0), replica_id(1)].contains(&r.id)));
    assert_eq!(sought(&effects), [(staying[0].id, 2), (staying[1].id, 2)]);
    let effects = machine.step(nothing_there(3), NOW);
    assert_eq!((released(&effects), machine.deployment().replicas.len()), (vec![replica_id(0)], 2));
}

#[test]
fn what_was_stopped_and_runs_all_the_same_holds_its_place_again() {
    let mut machine = known(one(), 1, ReportedStatus::Running);
    intend(&mut machine, Intent::Stop);
    machine.step(still(2, ReportedStatus::Stopped), NOW);
    let effects = machine.step(still(3, ReportedStatus::Running), NOW);
    assert!(effects.contains(&Effect::Hold), "{effects:?}");
    assert_eq!(told(&effects), ["stop"]);
}

#[test]
fn running_replicas_are_restarted_one_after_the_other_and_the_rest_at_once() {
    let failed = Replica { phase: Phase::Failed, ..running(2, "c") };
    let mut machine = started(deployment(vec![running(0, "a"), running(1, "b"), failed, running(3, "d")]));
    let at = |node: &str, seq, index, generation, status| {
        Event::Node(facts(node, seq, vec![reported(index, generation, status)]))
    };
    let (run, fail) = (ReportedStatus::Running, ReportedStatus::Failed);
    for (node, index, status) in [("a", 0, run), ("b", 1, run), ("c", 2, fail), ("d", 3, run)] {
        machine.step(at(node, 1, index, 1, status), NOW);
    }
    let effects = intend(&mut machine, Intent::Restart);
    let start = |node: &str, index| (node.to_owned(), replica_id(index), 2, "start");
    assert_eq!(sent(&effects), [start("c", 2)], "it does not run anyway, and comes first");
    assert_eq!(told(&machine.step(at("c", 2, 2, 2, ReportedStatus::Starting), NOW)), NOTHING);
    assert_eq!(sent(&machine.step(at("c", 3, 2, 2, run), NOW)), [start("a", 0)]);
    assert_eq!(machine.published().expect("a route").endpoints.len(), 3, "b, c and d");
    assert_eq!(
        told(&machine.step(at("a", 2, 0, 2, fail), NOW)),
        NOTHING,
        "what breaks it leaves the rest alone"
    );
    assert_eq!(sent(&machine.step(at("a", 3, 0, 2, run), NOW)), [start("b", 1)]);
    assert_eq!(sent(&machine.step(at("b", 2, 1, 2, run), NOW)), [start("d", 3)]);
    assert_eq!(told(&machine.step(at("d", 2, 3, 2, run), NOW)), NOTHING);
    assert_eq!(machine.published().expect("a route").endpoints.len(), 4);
}

#[test]
fn a_stop_is_told_until_the_node_says_that_it_is_done() {
    let mut machine = known(one(), 1, ReportedStatus::Running);
    assert_eq!(told(&intend(&mut machine, Intent::Stop)), ["stop"]);
    assert_eq!(replica(&machine, 0).phase, Phase::Stopping);
    assert_eq!(told(&machine.step(still(1, ReportedStatus::Running), NOW)), NOTHING, "too old to know");
    assert_eq!(told(&machine.step(still(2, ReportedStatus::Running), NOW)), ["stop"], "it was lost");
    assert_eq!(told(&machine.step(still(3, ReportedStatus::Stopping), NOW)), NOTHING, "it is under way");
    assert_eq!(told(&machine.step(still(4, ReportedStatus::Starting), NOW)), ["stop"]);
    assert_eq!(told(&machine.step(still(5, ReportedStatus::Stopped), NOW)), NOTHING);
    assert_eq!(replica(&machine, 0).phase, Phase::Stopped);
}

#[test]
fn a_stop_that_carries_a_changed_spec_s_generation_is_believed_when_it_is_done() {
    let mut machine = known(one(), 1, ReportedStatus::Running);
    intend(&mut machine, Intent::Stop);
    let spec = DeploymentSpec { args: vec!["--fast".to_owned()], ..machine.deployment().spec.clone() };
    intend(&mut machine, Intent::Change(Box::new(spec)));
    let effects = machine.step(still(2, ReportedStatus::Running), NOW);
    assert_eq!(sent(&effects), [("a".to_owned(), replica_id(0), 2, "stop")], "the first one was lost");
    for (seq, status, phase) in
        [(3, ReportedStatus::Stopping, Phase::Stopping), (4, ReportedStatus::Stopped, Phase::Stopped)]
    {
        let effects = machine.step(Event::Node(facts("a", seq, vec![reported(0, 2, status)])), NOW);
        assert_eq!(told(&effects), NOTHING, "{status:?}");
        assert_eq!(replica(&machine, 0).phase, phase, "{status:?}");
    }
    let effects = intend(&mut machine, Intent::Start);
    assert_eq!(sent(&effects), [("a".to_owned(), replica_id(0), 3, "delete")]);
    assert_eq!(sought(&effects), [(replica(&machine, 0).id, 3)]);
}

#[test]
fn a_stop_is_told_again_after_a_restart_of_nebulad() {
    for (phase, again) in [
        (Phase::Stopping, true),
        (Phase::Running, true),
        (Phase::Unreachable, true),
        (Phase::Stopped, false),
        (Phase::Failed, false),
    ] {
        let mut machine = Machine::load(stopped(phase));
        let effects = machine.step(Event::Started, NOW);
        assert_eq!(told(&effects), if again { vec!["stop"] } else { vec![] }, "{phase:?}");
        let now = if again { Phase::Stopping } else { Phase::Stopped };
        assert_eq!(replica(&machine, 0).phase, now, "{phase:?}");
        let words = if phase == now { "why" } else { "" };
        assert_eq!(replica(&machine, 0).message, words, "{phase:?}");
    }
}

#[test]
fn a_replica_is_stopped_when_its_node_has_none() {
    let mut machine = known(one(), 1, ReportedStatus::Running);
    intend(&mut machine, Intent::Stop);
    assert_eq!(told(&machine.step(nothing_there(1), NOW)), NOTHING);
    assert_eq!(replica(&machine, 0).phase, Phase::Stopping, "too old to know");
    assert_eq!(told(&machine.step(nothing_there(2), NOW)), NOTHING);
    assert_eq!(replica(&machine, 0).phase, Phase::Stopped);
}

#[test]
fn a_stop_concerns_the_replicas_that_stay() {
    let leaving = Replica { leaving: true, index: 0, ..running(1, "a") };
    let mut machine = started(deployment(vec![running(0, "a"), leaving]));
    let both = vec![reported(0, 1, ReportedStatus::Running), reported(1, 1, ReportedStatus::Running)];
    machine.step(Event::Node(facts("a", 0, both)), NOW);
    let effects = intend(&mut machine, Intent::Stop);
    assert_eq!(sent(&effects), [("a".to_owned(), replica_id(0), 1, "stop")]);
}

#[test]
fn a_delete_is_told_until_the_node_has_it_no_more() {
    let mut machine = known(one(), 1, ReportedStatus::Running);
    assert_eq!(told(&intend(&mut machine, Intent::Delete)), ["delete"]);
    assert_eq!(told(&machine.step(still(1, ReportedStatus::Running), NOW)), NOTHING, "too old to know");
    assert_eq!(told(&machine.step(still(2, ReportedStatus::Stopping), NOW)), ["delete"]);
    assert_eq!(
        told(&machine.step(still(3, ReportedStatus::Stopped), NOW)),
        ["delete"],
        "stopped is not gone"
    );
    let effects = machine.step(nothing_there(4), NOW);
    assert_eq!(released(&effects), [replica_id(0)]);
    assert_eq!(effects.last(), Some(&Effect::Finished));
}

#[test]
fn a_delete_waits_for_a_node_that_has_not_spoken_since() {
    let mut machine = started(one());
    assert_eq!(told(&intend(&mut machine, Intent::Delete)), ["delete"]);
    assert_eq!(machine.deployment().state(), Phase::Deleting);
    assert_eq!(replica(&machine, 0).phase, Phase::Stopping);
    assert_eq!(told(&machine.step(nothing_there(0), NOW)), NOTHING);
    assert_eq!(machine.deployment().replicas.len(), 1, "it has not reported yet");
    let effects = machine.step(nothing_there(1), NOW);
    assert_eq!(effects.last(), Some(&Effect::Finished));
}

#[test]
fn what_is_to_go_is_there_as_long_as_its_node_reports_it_of_whatever_generation() {
    for (intent, command) in
        [(Intent::Stop, "stop"), (Intent::Scale(0), "delete"), (Intent::Delete, "delete")]
    {
        let mut machine = known(one(), 1, ReportedStatus::Running);
        intend(&mut machine, Intent::Restart);
        assert_eq!(told(&intend(&mut machine, intent)), [command]);
        let effects = machine.step(still(2, ReportedStatus::Running), NOW);
        assert_eq!((told(&effects), released(&effects)), (vec![command], vec![]));
        assert_eq!(replica(&machine, 0).phase, Phase::Stopping, "{command}");
    }
}

#[test]
fn a_stop_after_a_start_and_a_delete_after_a_stop_are_news() {
    let mut machine = known(one(), 1, ReportedStatus::Running);
    assert_eq!(told(&intend(&mut machine, Intent::Restart)), ["start"]);
    assert_eq!(told(&intend(&mut machine, Intent::Stop)), ["stop"]);
    assert_eq!(told(&intend(&mut machine, Intent::Delete)), ["delete"]);
    assert_eq!(told(&intend(&mut machine, Intent::Delete)), NOTHING);
}

#[test]
fn one_replica_that_goes_leaves_the_others_as_they_are() {
    let mut machine = started(deployment(vec![running(0, "a"), running(1, "b"), running(2, "b")]));
    machine.step(Event::Node(offline("a")), NOW);
    let two = vec![reported(1, 1, ReportedStatus::Running), reported(2, 1, ReportedStatus::Running)];
    machine.step(Event::Node(facts("b", 1, two)), NOW);
    let effects = intend(&mut machine, Intent::Delete);
    assert_eq!(told(&effects), ["delete", "delete", "delete"]);
    assert_eq!(released(&effects), [replica_id(0)], "its node is silent");
    let left: Vec<_> = machine.deployment().replicas.iter().map(|replica| replica.id).collect();
    assert_eq!(left, [replica_id(1), replica_id(2)]);
}

#[test]
fn a_node_is_followed_as_long_as_it_holds_a_replica() {
    let mut machine = started(deployment(vec![running(0, "a"), running(1, "b")]));
    machine.step(still(1, ReportedStatus::Running), NOW);
    machine.step(Event::Node(facts("b", 1, vec![reported(1, 1, ReportedStatus::Running)])), NOW);
    intend(&mut machine, Intent::Scale(1));
    let effects = machine.step(Event::Node(facts("b", 2, Vec::new())), NOW);
    let unwatched: Vec<_> = effects.iter().filter(|effect| matches!(effect, Effect::Unwatch(_))).collect();
    assert_eq!(unwatched, [&Effect::Unwatch(node_id("b"))]);
    let effects = machine.step(still(2, ReportedStatus::Running), NOW);
    assert_eq!(effects, [], "the other one is followed still");
}

#[test]
fn what_a_node_runs_without_being_asked_is_deleted_there() {
    let mut machine = started(deployment(vec![running(0, "a"), running(1, "b")]));
    let at_a = vec![reported(0, 1, ReportedStatus::Running), reported(1, 1, ReportedStatus::Running)];
    let effects = machine.step(Event::Node(facts("a", 1, at_a)), NOW);
    assert_eq!(sent(&effects), [("a".to_owned(), replica_id(1), 1, "delete")], "it belongs on b");
    for (reports, generation) in [(7, 7), (0, 1)] {
        let mut machine = started(one());
        let stranger =
            vec![reported(0, 1, ReportedStatus::Running), reported(9, reports, ReportedStatus::Running)];
        let effects = machine.step(Event::Node(facts("a", 1, stranger)), NOW);
        assert_eq!(sent(&effects), [("a".to_owned(), replica_id(9), generation, "delete")]);
    }
}

#[test]
fn the_last_words_of_an_offline_node_delete_nothing() {
    let mut machine = started(one());
    let stranger = NodeFacts { replicas: vec![reported(9, 1, ReportedStatus::Running)], ..offline("a") };
    assert_eq!(told(&machine.step(Event::Node(stranger), NOW)), NOTHING);
}
