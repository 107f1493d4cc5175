//! What each wish does in each state, and what is told to whom because of it.

use super::fixtures::*;
use super::*;
use crate::domain::report::ReportedStatus;

fn other_spec() -> Box<DeploymentSpec> {
    let mut spec = deployment(vec![running(0, "a")]).spec;
    spec.args = vec!["--fast".to_owned()];
    Box::new(spec)
}

fn access(machine: &Machine) -> Action {
    Action::Access { tokens: vec![machine.deployment().token], public: machine.deployment().spec.public }
}

#[test]
fn a_wish_changes_what_is_wanted_and_a_new_generation_starts_all_anew() {
    let same_spec = Box::new(deployment(vec![running(0, "a")]).spec);
    for (desired, intent, wanted, generation, touched) in [
        (Desired::Running, Intent::Start, Desired::Running, 1, true),
        (Desired::Stopped, Intent::Start, Desired::Running, 2, true),
        (Desired::Running, Intent::Restart, Desired::Running, 2, true),
        (Desired::Stopped, Intent::Restart, Desired::Running, 2, true),
        (Desired::Running, Intent::Stop, Desired::Stopped, 1, true),
        (Desired::Stopped, Intent::Stop, Desired::Stopped, 1, true),
        (Desired::Running, Intent::Scale(3), Desired::Running, 1, true),
        (Desired::Running, Intent::Change(other_spec()), Desired::Running, 2, true),
        (Desired::Running, Intent::Change(same_spec), Desired::Running, 1, false),
        (
            Desired::Running,
            Intent::Rotate { token: TokenHash::of("new"), overlap: Duration::ZERO },
            Desired::Running,
            1,
            true,
        ),
        (Desired::Running, Intent::Delete, Desired::Deleted, 1, true),
        (Desired::Stopped, Intent::Delete, Desired::Deleted, 1, true),
    ] {
        let case = format!("{intent:?} when {desired:?}");
        let mut machine = started(Deployment { desired, ..deployment(vec![running(0, "a")]) });
        let effects = intend(&mut machine, intent);
        assert!(effects.contains(&Effect::Reply(ReplyTo(1), Ok(()))), "{case}");
        let dep = machine.deployment();
        assert_eq!((dep.desired, dep.generation), (wanted, Generation(generation)), "{case}");
        let updated = if touched { WallTime(UPDATED.0 + 1) } else { UPDATED };
        assert_eq!(dep.updated_at, updated, "{case}");
    }
}

#[test]
fn what_was_changed_is_what_was_asked_for() {
    let mut machine = started(deployment(vec![running(0, "a")]));
    intend(&mut machine, Intent::Scale(2));
    assert_eq!(machine.deployment().spec.replicas, 2);
    intend(&mut machine, Intent::Change(other_spec()));
    assert_eq!(machine.deployment().spec, *other_spec());
    intend(&mut machine, Intent::Rotate { token: TokenHash::of("new"), overlap: Duration::ZERO });
    assert_eq!(machine.deployment().token, TokenHash::of("new"));
}

#[test]
fn while_it_is_deleted_every_other_wish_is_a_conflict() {
    for (intent, refused) in [
        (Intent::Start, true),
        (Intent::Stop, true),
        (Intent::Restart, true),
        (Intent::Scale(3), true),
        (Intent::Change(other_spec()), true),
        (Intent::Rotate { token: TokenHash::of("new"), overlap: Duration::ZERO }, true),
        (Intent::Delete, false),
    ] {
        let case = format!("{intent:?}");
        let mut machine = started(deployment(vec![running(0, "a")]));
        machine.step(Event::Node(facts("a", 1, vec![reported(0, 1, ReportedStatus::Running)])), NOW);
        intend(&mut machine, Intent::Delete);
        let before = machine.deployment().clone();
        let effects = intend(&mut machine, intent);
        let error = Error::new(ErrorClass::Conflict, "the deployment is being deleted");
        let result = if refused { Err(error) } else { Ok(()) };
        assert_eq!(effects, [Effect::Reply(ReplyTo(1), result)], "{case}");
        assert_eq!(*machine.deployment(), before, "{case}");
    }
}

#[test]
fn starting_what_is_to_run_replaces_only_what_has_failed() {
    let failed = Replica { phase: Phase::Failed, message: "exit code 1".to_owned(), ..running(1, "b") };
    let mut machine = started(deployment(vec![running(0, "a"), failed]));
    let effects = intend(&mut machine, Intent::Start);
    assert_eq!(sent(&effects), [("b".to_owned(), replica_id(1), 1, "delete")]);
    let dep = machine.deployment();
    let ids: Vec<_> = dep.replicas.iter().map(|r| (r.index, r.leaving, r.id == replica_id(1))).collect();
    assert_eq!(ids, [(0, false, false), (1, false, false), (1, true, true)]);
    assert_eq!(sought(&effects), [(replica(&machine, 1).id, 1)]);
}

#[test]
fn after_the_end_nothing_but_an_answer_comes() {
    let mut machine = started(deployment(Vec::new()));
    let end = intend(&mut machine, Intent::Delete);
    assert_eq!(
        end,
        [
            Effect::Persist(vec![Write::DeleteDeployment(deployment_id())], Vec::new()),
            Effect::Reply(ReplyTo(1), Ok(())),
            Effect::Withdraw,
            Effect::Finished
        ]
    );
    for event in [
        Event::Started,
        Event::Placed(replica_id(1), Generation(1), placement("a")),
        Event::Unplaceable(replica_id(1), Generation(1), "full".to_owned()),
        Event::Node(facts("a", 1, vec![reported(0, 1, ReportedStatus::Running)])),
        Event::NodeGone(node_id("a")),
        Event::Rejected(replica_id(1), Generation(1), "no".to_owned()),
        Event::Capacity,
        Event::Timer,
        Event::MayMove(node_id("a"), true),
        Event::Load(Load::default()),
        Event::Demand,
        Event::Hint(MemoryHint { bytes: 1, weights_bytes: 1, how: String::new() }),
    ] {
        let case = format!("{event:?}");
        assert_eq!(machine.step(event, NOW), [], "{case}");
    }
}

#[test]
fn the_end_removes_every_record_at_once_and_leaves_no_line() {
    let mut machine = started(deployment(vec![running(0, "a"), running(1, "b")]));
    machine.step(Event::Node(offline("a")), NOW);
    machine.step(Event::Node(offline("b")), NOW);
    let effects = intend(&mut machine, Intent::Delete);
    let writes = vec![
        Write::DeleteReplica(deployment_id(), replica_id(0)),
        Write::DeleteReplica(deployment_id(), replica_id(1)),
        Write::DeleteDeployment(deployment_id()),
    ];
    assert_eq!(effects.first(), Some(&Effect::Persist(writes, Vec::new())));
    assert_eq!(told(&effects), ["delete", "delete"], "their nodes hear it when they are back");
    assert_eq!(released(&effects), [replica_id(0), replica_id(1)]);
    assert_eq!(effects.last(), Some(&Effect::Finished));
}

#[test]
fn new_credentials_are_told_to_every_replica_that_has_a_place_and_stays() {
    let leaving = Replica { leaving: true, index: 1, ..running(2, "c") };
    let mut dep = deployment(vec![running(0, "a"), running(1, "b"), leaving, pending(3)]);
    dep.spec.public = true;
    let mut machine = started(dep);
    machine.step(Event::Node(facts("c", 1, vec![reported(2, 1, ReportedStatus::Running)])), NOW);
    let effects =
        intend(&mut machine, Intent::Rotate { token: TokenHash::of("new"), overlap: Duration::ZERO });
    let access = Action::Access { tokens: vec![TokenHash::of("new")], public: true };
    let sends: Vec<_> = effects.iter().filter(|effect| matches!(effect, Effect::Send(..))).cloned().collect();
    let send = |node, index| Effect::Send(node_id(node), replica_id(index), Generation(1), access.clone());
    assert_eq!(sends, [send("a", 0), send("b", 1)]);
}

#[test]
fn credentials_that_may_not_have_arrived_before_a_restart_are_told_again() {
    const TEN_MINUTES: u64 = 10 * 60 * 1_000;
    for (now, again) in [
        (UPDATED.0, true),
        (UPDATED.0 + TEN_MINUTES - 1, true),
        (UPDATED.0 + TEN_MINUTES, false),
        (UPDATED.0 + TEN_MINUTES + 1, false),
        (UPDATED.0 - 1, true),
    ] {
        let mut machine = Machine::load(deployment(vec![running(0, "a")]));
        let now = Now { wall: WallTime(now), ..NOW };
        let effects = machine.step(Event::Started, now);
        let mut expected = vec![Effect::Watch(node_id("a"))];
        if again {
            expected.push(Effect::Send(node_id("a"), replica_id(0), Generation(1), access(&machine)));
        }
        assert_eq!(effects.get(1..), Some(expected.as_slice()), "{now:?}");
    }
}

#[test]
fn after_a_restart_each_node_with_replicas_is_followed_once() {
    let mut machine =
        Machine::load(deployment(vec![running(0, "b"), running(1, "a"), running(2, "b"), pending(3)]));
    let effects = machine.step(Event::Started, NOW);
    let watched: Vec<_> = effects.iter().filter(|effect| matches!(effect, Effect::Watch(_))).collect();
    assert_eq!(watched, [&Effect::Watch(node_id("a")), &Effect::Watch(node_id("b"))]);
}

#[test]
fn every_wish_has_a_name_for_the_audit() {
    for (intent, name, words) in [
        (Intent::Start, "deployment.start", "start"),
        (Intent::Stop, "deployment.stop", "stop"),
        (Intent::Restart, "deployment.restart", "restart"),
        (Intent::Scale(3), "deployment.scale", "scale to 3 replicas"),
        (Intent::Change(other_spec()), "deployment.change", "change of its spec"),
        (
            Intent::Rotate { token: TokenHash::of("x"), overlap: Duration::ZERO },
            "deployment.rotate-token",
            "another deployment token",
        ),
        (Intent::Delete, "deployment.delete", "delete"),
    ] {
        assert_eq!(intent.told(), (name, words.to_owned()));
    }
}

#[test]
fn a_start_carries_the_whole_spec_and_the_place() {
    let mut dep = deployment(vec![pending(0)]);
    dep.spec.image = Some("vllm/vllm-openai:v0".to_owned());
    dep.spec.args = vec!["--fast".to_owned()];
    dep.spec.public = true;
    let mut machine = started(dep.clone());
    let place = Placement { gpu_devices: vec![1, 3], ..placement("a") };
    let effects = machine.step(Event::Placed(replica_id(0), Generation(1), place), NOW);
    let start = effects.iter().find_map(|effect| match effect {
        Effect::Send(_, _, _, Action::Start(start)) => Some((**start).clone()),
        _ => None,
    });
    let expected = StartSpec {
        runtime: dep.spec.runtime,
        driver: dep.spec.driver,
        image: "vllm/vllm-openai:v0".to_owned(),
        model: "demo".to_owned(),
        source: None,
        command: Vec::new(),
        args: vec!["--fast".to_owned()],
        env: BTreeMap::new(),
        gpu_devices: vec![1, 3],
        served_name: "demo".to_owned(),
        public: true,
        token: Some(dep.token),
        gateway_token: dep.gateway_token,
    };
    assert_eq!(start, Some(expected));
}
