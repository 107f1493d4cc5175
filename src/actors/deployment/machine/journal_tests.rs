//! What is written down, and which lines of the journal go with it: what has changed and nothing else.

use super::fixtures::*;
use super::*;
use crate::domain::report::{Progress, ReplicaReport, ReportedStatus, Seen};

fn persisted(effects: &[Effect]) -> (Vec<Write>, Vec<Happening>) {
    effects
        .iter()
        .find_map(|effect| match effect {
            Effect::Persist(writes, happenings) => Some((writes.clone(), happenings.clone())),
            _ => None,
        })
        .unwrap_or_default()
}

/// The lines as kind and text.
fn lines(effects: &[Effect]) -> Vec<(&'static str, String)> {
    persisted(effects).1.into_iter().map(|line| (line.kind, line.message)).collect()
}

fn line(kind: &'static str, message: &str) -> (&'static str, String) {
    (kind, message.to_owned())
}

fn report(machine: &mut Machine, status: ReportedStatus, message: &str) -> Vec<Effect> {
    let report = ReplicaReport { message: message.to_owned(), ..reported(0, 1, status) };
    machine.step(Event::Node(facts("a", 1, vec![report])), NOW)
}

#[test]
fn each_wish_leaves_its_line() {
    let stopped = || Deployment { desired: Desired::Stopped, ..deployment(Vec::new()) };
    let running = || deployment(Vec::new());
    let spec = Box::new(DeploymentSpec { public: true, ..running().spec });
    let other = Box::new(DeploymentSpec { args: vec!["--fast".to_owned()], ..running().spec });
    for (dep, intent, expected) in [
        (stopped(), Intent::Start, vec![line("start_requested", "generation 2")]),
        (running(), Intent::Start, vec![]),
        (running(), Intent::Restart, vec![line("changed", "restart: generation 2")]),
        (running(), Intent::Change(spec), vec![line("changed", "nothing is restarted for it")]),
        (
            running(),
            Intent::Change(other),
            vec![line("change_started", "generation 2: nothing of the version before answers")],
        ),
        (running(), Intent::Stop, vec![line("stop_requested", "generation 1")]),
        (stopped(), Intent::Stop, vec![]),
        (stopped(), Intent::Scale(2), vec![line("scaled", "from 0 to 2 replicas")]),
        (stopped(), Intent::Scale(0), vec![]),
        (
            running(),
            Intent::Rotate { token: TokenHash::of("new"), overlap: Duration::ZERO },
            vec![line("token_rotated", "the old deployment token is no longer valid")],
        ),
    ] {
        let case = format!("{intent:?}");
        let effects = intend(&mut started(dep), intent);
        assert_eq!(lines(&effects), expected, "{case}");
    }
}

#[test]
fn the_end_is_asked_for_in_a_line_too() {
    let mut machine = started(deployment(vec![running(0, "a")]));
    machine.step(Event::Node(facts("a", 1, vec![reported(0, 1, ReportedStatus::Running)])), NOW);
    let effects = intend(&mut machine, Intent::Delete);
    assert!(lines(&effects).contains(&line("delete_requested", "generation 1")));
}

#[test]
fn a_replica_leaves_a_line_when_it_stands_otherwise_with_its_node_and_the_reason() {
    let mut machine = started(deployment(vec![running(0, "a")]));
    let effects = report(&mut machine, ReportedStatus::Failed, "exit code 1");
    let expected = Happening {
        kind: "failed",
        message: "replica 0 on node a has failed: exit code 1".to_owned(),
        replica: Some(replica_id(0)),
        node: Some(node_id("a")),
    };
    assert_eq!(persisted(&effects).1, [expected]);
    assert_eq!(report(&mut machine, ReportedStatus::Failed, "exit code 1"), [], "nothing new");
    let effects = report(&mut machine, ReportedStatus::Failed, "exit code 2");
    assert_eq!(lines(&effects), [], "it stands as before");
    let effects = report(&mut machine, ReportedStatus::Running, "");
    assert_eq!(lines(&effects), [line("running", "replica 0 on node a is running")]);
}

#[test]
fn what_happens_all_the_time_leaves_no_line() {
    let mut machine = started(deployment(vec![running(0, "a")]));
    assert_eq!(lines(&report(&mut machine, ReportedStatus::Preparing, "pulling")), []);
    let effects = report(&mut machine, ReportedStatus::Starting, "loading");
    assert_eq!(lines(&effects), [line("starting", "replica 0 on node a is starting: loading")]);
    assert_eq!(lines(&intend(&mut machine, Intent::Scale(2))), [line("scaled", "from 1 to 2 replicas")]);
}

#[test]
fn a_place_is_a_line() {
    let mut machine = started(deployment(vec![pending(0)]));
    let effects = machine.step(Event::Placed(replica_id(0), Generation(1), placement("a")), NOW);
    let expected = Happening {
        kind: "placed",
        message: "placed on node a".to_owned(),
        replica: Some(replica_id(0)),
        node: Some(node_id("a")),
    };
    assert_eq!(persisted(&effects).1, [expected]);
    assert_eq!(lines(&machine.step(Event::Capacity, NOW)), [], "and only once");
}

#[test]
fn a_replica_without_a_place_is_named_without_one() {
    let mut machine = started(deployment(vec![pending(0)]));
    let effects = intend(&mut machine, Intent::Stop);
    assert_eq!(
        lines(&effects),
        [line("stop_requested", "generation 1"), line("stopped", "replica 0 is stopped")]
    );
}

#[test]
fn only_what_has_changed_is_written() {
    let mut machine = started(deployment(vec![running(0, "a"), running(1, "b")]));
    assert_eq!(machine.step(Event::Capacity, NOW), [], "nothing has");

    let (writes, _) = persisted(&report(&mut machine, ReportedStatus::Starting, ""));
    let replica = Replica { phase: Phase::Starting, ..running(0, "a") };
    assert_eq!(writes, [Write::PutReplica(deployment_id(), Box::new(replica))], "one replica");

    let (writes, _) = persisted(&intend(
        &mut machine,
        Intent::Rotate { token: TokenHash::of("new"), overlap: Duration::ZERO },
    ));
    let head = Deployment { replicas: Vec::new(), ..machine.deployment().clone() };
    assert_eq!(writes, [Write::PutDeployment(Box::new(head))], "the head, without its replicas");
}

#[test]
fn replicas_that_are_gone_are_forgotten() {
    let mut machine = started(deployment(vec![running(0, "a"), running(1, "b")]));
    machine.step(Event::Node(offline("b")), NOW);
    let (writes, _) = persisted(&intend(&mut machine, Intent::Scale(1)));
    assert_eq!(writes.len(), 2, "{writes:?}");
    assert!(matches!(writes[0], Write::PutDeployment(_)));
    assert_eq!(writes[1], Write::DeleteReplica(deployment_id(), replica_id(1)));
}

#[test]
fn a_wish_that_changes_nothing_writes_nothing() {
    let mut machine = started(deployment(vec![running(0, "a")]));
    let spec = Box::new(machine.deployment().spec.clone());
    assert_eq!(intend(&mut machine, Intent::Change(spec)), [Effect::Reply(ReplyTo(1), Ok(()))]);
}

#[test]
fn progress_is_shown_and_never_written() {
    let mut machine = started(deployment(vec![running(0, "a")]));
    report(&mut machine, ReportedStatus::Preparing, "");
    for percent in 1..=100 {
        let progress = Progress { percent: Some(percent), message: "pulling image x".to_owned() };
        let seen = Seen { progress: Some(progress), out_of_memory: false };
        let report = ReplicaReport { seen, ..reported(0, 1, ReportedStatus::Preparing) };
        let effects = machine.step(Event::Node(facts("a", u64::from(percent), vec![report])), NOW);
        assert_eq!(effects, [], "at {percent} %");
        assert_eq!(machine.deployment().message(), format!("pulling image x, {percent} %"));
    }
    let (writes, _) = persisted(&report(&mut machine, ReportedStatus::Starting, "exit code 1"));
    let stored = Replica { phase: Phase::Starting, message: "exit code 1".to_owned(), ..running(0, "a") };
    assert_eq!(writes, [Write::PutReplica(deployment_id(), Box::new(stored))]);
    assert_eq!(machine.deployment().message(), "exit code 1", "it is over");
}
