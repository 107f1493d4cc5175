//! A store that was put back from an older copy, and nodes that know better.

use super::fixtures::*;
use super::*;
use crate::domain::report::ReportedStatus;

#[test]
fn what_runs_at_a_later_generation_goes_on_and_commands_are_not_fenced_out() {
    let mut machine = started(deployment(vec![running(0, "a"), running(1, "b")]));
    let effects =
        machine.step(Event::Node(facts("a", 1, vec![reported(0, 5, ReportedStatus::Running)])), NOW);
    assert_eq!(machine.deployment().generation, Generation(5));
    assert_eq!(
        (replica(&machine, 0).generation, replica(&machine, 0).phase),
        (Generation(5), Phase::Running)
    );
    assert!(sent(&effects).iter().all(|(node, ..)| node == "b"), "{:?}", sent(&effects));
    // The other node has it too: what it is told is what it runs.
    machine.step(Event::Node(facts("b", 1, vec![reported(1, 5, ReportedStatus::Running)])), NOW);
    assert_eq!(
        (replica(&machine, 1).generation, replica(&machine, 1).phase),
        (Generation(5), Phase::Running)
    );
    let effects = intend(&mut machine, Intent::Restart);
    assert!(sent(&effects).iter().all(|(_, _, generation, what)| (*generation, *what) == (6, "start")));
    assert_eq!(sent(&effects).len(), 1, "one after the other");
}

#[test]
fn what_was_stopped_in_the_copy_and_started_later_is_wanted() {
    for (status, desired) in [
        (ReportedStatus::Running, Desired::Running),
        (ReportedStatus::Preparing, Desired::Running),
        (ReportedStatus::Stopped, Desired::Stopped),
        (ReportedStatus::Failed, Desired::Stopped),
    ] {
        let dep = Deployment { desired: Desired::Stopped, ..deployment(vec![running(0, "a")]) };
        let mut machine = started(dep);
        let effects = machine.step(Event::Node(facts("a", 1, vec![reported(0, 3, status)])), NOW);
        assert_eq!(machine.deployment().desired, desired, "{status:?}");
        assert_eq!(machine.deployment().generation, Generation(3), "{status:?}");
        assert_eq!(sent(&effects).len(), 0, "{status:?}: {effects:?}");
    }
}

#[test]
fn what_one_node_teaches_the_other_nodes_may_have_known_too() {
    for (status, phase, told) in [
        (ReportedStatus::Stopped, Phase::Stopped, &[][..]),
        (ReportedStatus::Failed, Phase::Stopped, &[]),
        (ReportedStatus::Stopping, Phase::Stopping, &[]),
        (ReportedStatus::Running, Phase::Stopping, &["stop"]),
    ] {
        let replicas = vec![running(0, "a"), running(1, "b")];
        let mut machine = started(Deployment { desired: Desired::Stopped, ..deployment(replicas) });
        machine.step(Event::Node(facts("a", 1, vec![reported(0, 5, ReportedStatus::Stopped)])), NOW);
        assert_eq!(
            (replica(&machine, 0).phase, replica(&machine, 1).phase),
            (Phase::Stopped, Phase::Stopping)
        );
        let effects = machine.step(Event::Node(facts("b", 1, vec![reported(1, 5, status)])), NOW);
        let seen = replica(&machine, 1);
        assert_eq!((seen.generation, seen.phase), (Generation(5), phase), "{status:?}");
        let sent = sent(&effects);
        assert!(sent.iter().all(|(node, _, generation, _)| node == "b" && *generation == 5), "{sent:?}");
        assert_eq!(sent.iter().map(|(.., what)| *what).collect::<Vec<_>>(), told, "{status:?}");
    }
}

#[test]
fn a_deletion_is_told_with_a_number_that_counts() {
    let dep = Deployment { desired: Desired::Deleted, ..deployment(vec![running(0, "a")]) };
    let mut machine = started(dep);
    let effects =
        machine.step(Event::Node(facts("a", 1, vec![reported(0, 4, ReportedStatus::Running)])), NOW);
    assert_eq!(machine.deployment().desired, Desired::Deleted);
    assert!(sent(&effects).iter().all(|(_, _, generation, what)| (*generation, *what) == (4, "delete")));
    assert_eq!(sent(&effects).len(), 1);
}

#[test]
fn a_start_that_was_told_since_is_told_again_with_a_higher_number() {
    let mut machine = started(deployment(vec![running(0, "a")]));
    intend(&mut machine, Intent::Restart);
    let effects =
        machine.step(Event::Node(facts("a", 1, vec![reported(0, 7, ReportedStatus::Running)])), NOW);
    let told: Vec<_> =
        sent(&effects).into_iter().map(|(_, _, generation, what)| (generation, what)).collect();
    assert_eq!(told, [(8, "start")]);
}

#[test]
fn a_silent_node_and_an_older_report_teach_nothing() {
    let mut machine = started(deployment(vec![running(0, "a")]));
    let gone = NodeFacts {
        availability: Availability::Offline,
        ..facts("a", 1, vec![reported(0, 5, ReportedStatus::Running)])
    };
    machine.step(Event::Node(gone), NOW);
    machine.step(Event::Node(facts("a", 2, vec![reported(0, 1, ReportedStatus::Running)])), NOW);
    machine.step(Event::Node(facts("b", 2, vec![reported(0, 9, ReportedStatus::Running)])), NOW);
    assert_eq!(machine.deployment().generation, Generation(1));
}

#[test]
fn a_stranger_is_dismissed_once_for_each_report_that_has_it() {
    let mut machine = started(deployment(vec![running(0, "a")]));
    let with_stranger = |seq| {
        let both = vec![reported(0, 1, ReportedStatus::Running), reported(9, 1, ReportedStatus::Running)];
        Event::Node(facts("a", seq, both))
    };
    assert_eq!(sent(&machine.step(with_stranger(1), NOW)).len(), 1);
    assert_eq!(sent(&machine.step(with_stranger(1), NOW)).len(), 0, "the same report, looked at again");
    assert_eq!(sent(&machine.step(with_stranger(2), NOW)).len(), 1, "it is still there");
}

#[test]
fn a_node_may_have_what_has_its_place_there_or_is_to_get_one() {
    for (what, desired, replica, node, expected) in [
        ("it is placed there", Desired::Running, running(0, "a"), "a", true),
        ("it is placed there and to stop", Desired::Stopped, running(0, "a"), "a", true),
        ("it is placed elsewhere", Desired::Running, running(0, "a"), "b", false),
        ("it is to be placed", Desired::Running, pending(0), "a", true),
        ("it is not to be placed", Desired::Stopped, pending(0), "a", false),
        ("it is another one", Desired::Running, running(1, "a"), "a", false),
    ] {
        let dep = Deployment { desired, ..deployment(vec![replica]) };
        assert_eq!(dep.expects(replica_id(0), &node_id(node)), expected, "{what}");
    }
}
