//! What the outbox promises: which commands are one, which overtake which, what is handed over when, and what a
//! node's answers do to it.

use nebula_core::runtime::RuntimeKind;
use nebula_core::token::{Secret, TokenHash};

use super::*;
use crate::domain::command::StartSpec;
use crate::domain::report::{ReportedStatus, Seen};

const DEPLOYMENT: [u8; 16] = [1; 16];

fn node() -> NodeId {
    "node-1".parse().expect("an id")
}

fn replica(n: u8) -> ReplicaId {
    ReplicaId::from_bytes([n; 16])
}

fn id(n: u16) -> CommandId {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&n.to_be_bytes());
    CommandId::from_bytes(bytes)
}

fn command(n: u16, replica: ReplicaId, generation: u64, action: Action) -> Command {
    Command {
        drain: Duration::ZERO,
        id: id(n),
        node_id: node(),
        deployment_id: DeploymentId::from_bytes(DEPLOYMENT),
        replica_id: replica,
        generation: Generation(generation),
        action,
        created_at: WallTime(0),
    }
}

/// So many commands for so many replicas, numbered from 0.
fn commands(count: u16) -> Vec<Command> {
    (0..count).map(|n| command(n, ReplicaId::from_bytes(*id(n).as_bytes()), 1, Action::Stop)).collect()
}

fn start(model: &str) -> Action {
    Action::Start(Box::new(StartSpec {
        runtime: RuntimeKind::Sim,
        driver: None,
        image: String::new(),
        model: model.to_owned(),
        source: None,
        command: Vec::new(),
        args: Vec::new(),
        env: std::collections::BTreeMap::new(),
        gpu_devices: Vec::new(),
        served_name: model.to_owned(),
        public: false,
        token: None,
        gateway_token: Secret::from_text("nbgw_x"),
    }))
}

fn access(token: &str) -> Action {
    Action::Access { tokens: vec![TokenHash::of(token)], public: false }
}

fn empty() -> Machine {
    Machine::load(node(), Vec::new())
}

fn enqueue(machine: &mut Machine, command: Command) -> Vec<Effect> {
    machine.step(Event::Enqueue(ReplyTo(7), Box::new(command)))
}

fn unreachable(machine: &mut Machine, n: u16) -> Vec<Effect> {
    machine.step(Event::Called(id(n), Err(AgentError::Unreachable("refused".to_owned()))))
}

fn reject(machine: &mut Machine, n: u16) -> Vec<Effect> {
    machine.step(Event::Called(id(n), Err(AgentError::Rejected("no such runtime".to_owned()))))
}

fn heartbeat(machine: &mut Machine) -> Vec<CommandId> {
    machine.report(NodeReport::default()).0.iter().map(|command| command.id).collect()
}

fn called(effects: &[Effect]) -> Vec<CommandId> {
    let call = |effect: &Effect| match effect {
        Effect::Call(command) => Some(command.id),
        _ => None,
    };
    effects.iter().filter_map(call).collect()
}

fn gone(n: u16) -> Effect {
    Effect::Persist(Write::DeleteCommand(node(), id(n)))
}

fn kept(command: &Command) -> Effect {
    Effect::Persist(Write::PutCommand(Box::new(command.clone())))
}

#[test]
fn only_the_very_same_intent_is_one_command() {
    let first = || command(1, replica(1), 2, start("a"));
    for (what, second, same) in [
        ("the same", command(2, replica(1), 2, start("a")), true),
        ("another replica", command(2, replica(2), 2, start("a")), false),
        ("a newer generation", command(2, replica(1), 3, start("a")), false),
        ("an older generation", command(2, replica(1), 1, start("a")), false),
        ("another spec", command(2, replica(1), 2, start("b")), false),
        ("another action", command(2, replica(1), 2, Action::Stop), false),
    ] {
        let mut machine = empty();
        enqueue(&mut machine, first());
        let effects = enqueue(&mut machine, second.clone());
        let mut expected = vec![Effect::Reply(ReplyTo(7), Ok(()))];
        if !same {
            expected.insert(0, kept(&second));
        }
        // What is about the replica of the call under way waits for its end.
        if second.replica_id != replica(1) {
            expected.push(Effect::Call(Box::new(second)));
        }
        assert_eq!(effects, expected, "{what}");
        assert_eq!(machine.waiting(), if same { 1 } else { 2 }, "{what}");
    }
}

#[test]
fn an_intent_is_repeated_only_if_nothing_newer_was_said_to_the_replica() {
    let mut machine = empty();
    enqueue(&mut machine, command(1, replica(1), 1, Action::Stop));
    enqueue(&mut machine, command(2, replica(1), 1, Action::Delete));
    enqueue(&mut machine, command(3, replica(1), 1, Action::Stop));
    let waiting = machine.waiting();
    assert_eq!(
        enqueue(&mut machine, command(4, replica(1), 1, Action::Stop)),
        [Effect::Reply(ReplyTo(7), Ok(()))]
    );
    assert_eq!(machine.waiting(), waiting);
    assert_eq!(called(&machine.step(Event::Called(id(1), Ok(())))), [id(3)], "the last intent is said next");
}

#[test]
fn what_was_not_said_yet_is_overtaken_by_what_is_not_older() {
    for (what, waits, comes, overtaken) in [
        ("newer", command(1, replica(1), 1, Action::Stop), command(2, replica(1), 2, Action::Delete), true),
        ("as new", command(1, replica(1), 2, start("a")), command(2, replica(1), 2, Action::Stop), true),
        ("older", command(1, replica(1), 3, start("a")), command(2, replica(1), 2, Action::Stop), false),
        (
            "another's",
            command(1, replica(1), 1, Action::Stop),
            command(2, replica(2), 2, Action::Stop),
            false,
        ),
        ("credentials", command(1, replica(1), 1, start("a")), command(2, replica(1), 1, access("x")), false),
        ("the end", command(1, replica(1), 1, access("x")), command(2, replica(1), 1, Action::Delete), true),
        (
            "newer credentials",
            command(1, replica(1), 1, access("x")),
            command(2, replica(1), 1, access("y")),
            true,
        ),
        ("a new start", command(1, replica(1), 1, access("x")), command(2, replica(1), 2, start("a")), true),
        ("a start", command(1, replica(1), 1, access("x")), command(2, replica(1), 1, start("a")), false),
        ("up again", command(1, replica(1), 1, Action::Stop), command(2, replica(1), 1, start("a")), true),
    ] {
        let mut machine = empty();
        enqueue(&mut machine, waits);
        unreachable(&mut machine, 1);
        let effects = enqueue(&mut machine, comes.clone());
        let mut expected = vec![kept(&comes), Effect::Reply(ReplyTo(7), Ok(()))];
        if overtaken {
            expected.insert(0, gone(1));
        }
        if overtaken || comes.replica_id != replica(1) {
            expected.push(Effect::Call(Box::new(comes.clone())));
        }
        assert_eq!(effects, expected, "{what}");
        assert_eq!(machine.waiting(), if overtaken { 1 } else { 2 }, "{what}");
    }
}

#[test]
fn a_command_on_its_way_is_not_overtaken() {
    let mut machine = empty();
    enqueue(&mut machine, command(1, replica(1), 1, start("a")));
    enqueue(&mut machine, command(2, replica(1), 2, Action::Delete));
    assert_eq!(machine.waiting(), 2);
    assert_eq!(
        heartbeat(&mut machine),
        [],
        "nothing is said about a replica while a call about it is under way"
    );
    assert_eq!(unreachable(&mut machine, 1), [gone(1)], "nobody took it, and something later overtakes it");
    assert_eq!(heartbeat(&mut machine), [id(2)]);
}

#[test]
fn what_concerns_a_replica_is_called_in_its_order() {
    let mut machine = empty();
    enqueue(&mut machine, command(1, replica(1), 1, start("a")));
    assert_eq!(called(&enqueue(&mut machine, command(2, replica(1), 1, access("x")))), []);
    assert_eq!(called(&machine.step(Event::Called(id(1), Ok(())))), [id(2)]);
    let acked = NodeReport { acked: vec![id(2)], ..NodeReport::default() };
    assert_eq!(machine.report(acked), (Vec::new(), Vec::new()), "its call is still to end");
    assert_eq!(machine.step(Event::Called(id(2), Ok(()))), [gone(2)]);
    let mut machine = empty();
    enqueue(&mut machine, command(1, replica(1), 1, start("a")));
    enqueue(&mut machine, command(2, replica(1), 1, access("x")));
    unreachable(&mut machine, 1);
    assert_eq!(heartbeat(&mut machine), [id(1), id(2)]);
    assert_eq!(called(&machine.call_all()), [id(1)]);
    assert_eq!(called(&reject(&mut machine, 1)), [], "what was said already is not called beside it");
    assert_eq!(heartbeat(&mut machine), [id(2)]);
    enqueue(&mut machine, command(3, replica(1), 1, access("y")));
    assert_eq!(heartbeat(&mut machine), [id(2), id(3)], "nor forgotten for what would come before it");
}

#[test]
fn a_command_whose_call_failed_goes_with_the_next_heartbeat_and_the_others_do_not() {
    let mut machine = empty();
    for command in commands(3) {
        enqueue(&mut machine, command);
    }
    assert_eq!(unreachable(&mut machine, 1), []);
    assert_eq!(heartbeat(&mut machine), [id(1)]);
}

#[test]
fn an_accepted_command_is_forgotten_once_and_the_others_stay() {
    let mut machine = Machine::load(node(), commands(3));
    assert_eq!(machine.step(Event::Called(id(1), Ok(()))), [gone(1)]);
    assert_eq!(machine.step(Event::Called(id(1), Ok(()))), []);
    assert_eq!(heartbeat(&mut machine), [id(0), id(2)]);
}

#[test]
fn a_refused_start_is_told_to_its_deployment_and_other_refusals_are_only_forgotten() {
    let mut machine = empty();
    enqueue(&mut machine, command(1, replica(1), 3, start("a")));
    enqueue(&mut machine, command(2, replica(2), 4, start("a")));
    enqueue(&mut machine, command(3, replica(3), 5, Action::Stop));
    assert_eq!(reject(&mut machine, 3), [gone(3)]);
    let told = Effect::Rejected(
        DeploymentId::from_bytes(DEPLOYMENT),
        replica(2),
        Generation(4),
        "no such runtime".to_owned(),
    );
    assert_eq!(reject(&mut machine, 2), [gone(2), told]);
    assert_eq!(reject(&mut machine, 2), [], "it is known already");
    assert_eq!(machine.waiting(), 1);
}

#[test]
fn credentials_that_a_restart_left_behind_may_have_been_said_and_are_neither_called_nor_forgotten() {
    let mut machine = Machine::load(node(), vec![command(1, replica(1), 1, access("x"))]);
    assert_eq!(called(&machine.call_all()), []);
    let newer = command(2, replica(1), 1, access("y"));
    assert_eq!(enqueue(&mut machine, newer.clone()), [kept(&newer), Effect::Reply(ReplyTo(7), Ok(()))]);
    assert_eq!(heartbeat(&mut machine), [id(1), id(2)]);
}

#[test]
fn what_a_restart_left_behind_is_handed_over_by_calls_once() {
    let mut machine = Machine::load(node(), commands(2));
    assert_eq!(called(&machine.call_all()), [id(0), id(1)]);
    assert_eq!(machine.call_all(), [], "the calls are under way");
    assert_eq!(heartbeat(&mut machine), []);
    unreachable(&mut machine, 1);
    assert_eq!(called(&machine.call_all()), [id(1)]);
}

#[test]
fn no_more_than_a_hundred_commands_are_handed_over_at_once_the_oldest_first() {
    let first: Vec<CommandId> = (0..100).map(id).collect();
    let mut machine = Machine::load(node(), commands(101));
    assert_eq!(heartbeat(&mut machine), first);
    assert_eq!(called(&machine.call_all()), first);
    assert_eq!(called(&machine.call_all()), [], "as many calls as may be are under way");
    let late = command(101, replica(101), 1, Action::Stop);
    assert_eq!(called(&enqueue(&mut machine, late)), [], "another one waits too");
    unreachable(&mut machine, 0);
    assert_eq!(called(&machine.step(Event::Called(id(1), Ok(())))), [id(100)], "one is over");
    assert_eq!(called(&machine.step(Event::Called(id(2), Ok(())))), [id(101)]);
    assert_eq!(called(&machine.step(Event::Called(id(3), Ok(())))), [], "none is left");
}

#[test]
fn acknowledgements_take_what_they_name_and_nothing_else() {
    let mut machine = Machine::load(node(), commands(3));
    let report = NodeReport { acked: vec![id(2), id(9), id(0)], ..NodeReport::default() };
    let (waiting, effects) = machine.report(report);
    assert_eq!(waiting.iter().map(|command| command.id).collect::<Vec<_>>(), [id(1)]);
    assert_eq!(effects, [gone(2), gone(0)]);
}

#[test]
fn reports_are_counted_and_the_newest_is_kept() {
    let mut machine = empty();
    assert_eq!(machine.newest_report(), (0, None));
    for n in 1..=3 {
        let report = NodeReport { acked: vec![id(n)], ..NodeReport::default() };
        machine.report(report.clone());
        assert_eq!(machine.newest_report(), (u64::from(n), Some(&report)));
    }
}

#[test]
fn a_closed_session_forgets_every_command() {
    let mut machine = Machine::load(node(), commands(2));
    assert_eq!(machine.waiting(), 2);
    assert_eq!(machine.step(Event::Close), [gone(0), gone(1), Effect::Finished]);
    assert_eq!(machine.waiting(), 0);
}

#[test]
fn a_full_outbox_still_answers_for_what_it_holds_and_takes_more_when_there_is_room() {
    let full = u16::try_from(OUTBOX_MAX).expect("small");
    let mut machine = Machine::load(node(), commands(full - 1));
    let last = command(full, replica(1), 1, Action::Stop);
    assert_eq!(called(&enqueue(&mut machine, last.clone())), [id(full)], "the last one that fits");
    assert_eq!(enqueue(&mut machine, last), [Effect::Reply(ReplyTo(7), Ok(()))]);
    let more = command(full + 1, replica(2), 1, Action::Stop);
    let error = Error::new(ErrorClass::Overloaded, "too many commands wait for this node");
    assert_eq!(enqueue(&mut machine, more.clone()), [Effect::Reply(ReplyTo(7), Err(error))]);
    machine.step(Event::Called(id(0), Ok(())));
    assert_eq!(called(&enqueue(&mut machine, more)), [id(full + 1)]);
}

#[test]
fn a_stranger_is_deleted_as_it_was_reported() {
    let report = ReplicaReport {
        deployment_id: DeploymentId::from_bytes([9; 16]),
        replica_id: replica(4),
        generation: Generation(3),
        status: ReportedStatus::Running,
        container_id: String::new(),
        port: 30_000,
        message: String::new(),
        restarts: 0,
        exit_code: None,
        seen: Seen::default(),
    };
    let effects = empty().step(Event::Orphans(vec![report], WallTime(5)));
    let [Effect::Persist(Write::PutCommand(stored)), Effect::Call(sent)] = effects.as_slice() else {
        panic!("stored, then sent, with nobody to answer: {effects:?}");
    };
    assert_eq!(stored, sent);
    let expected = Command {
        drain: Duration::ZERO,
        id: sent.id,
        node_id: node(),
        deployment_id: DeploymentId::from_bytes([9; 16]),
        replica_id: replica(4),
        generation: Generation(3),
        action: Action::Delete,
        created_at: WallTime(5),
    };
    assert_eq!(**sent, expected);
}
