//! Drains by example.

use nebula_core::ids::DeploymentId;

use super::*;
use crate::domain::event::Subject;
use crate::domain::operation::Blocked;

pub(super) const N1: &str = "n1";

pub(super) fn id(node: &str) -> NodeId {
    node.parse().expect("an id")
}

pub(super) fn at(secs: u64) -> WallTime {
    WallTime(1_000_000 + secs * 1_000)
}

/// So many replicas are left on the node.
pub(super) fn with_left(node: &str, count: u8) -> Survey {
    let mut survey = Survey::of([&id(node)]);
    for number in 0..count {
        survey.add(&super::survey::fixtures::running_on(node, number));
    }
    survey
}

pub(super) fn wanted(node: &str, scheduling: Scheduling) -> Wanted {
    let timeout = Duration::from_secs(600);
    Wanted { node: id(node), name: format!("gpu-{node}"), scheduling, timeout }
}

pub(super) fn drain(machine: &mut Machine, node: &str, now: WallTime) -> Vec<Effect> {
    let wanted = wanted(node, Scheduling::Schedulable);
    machine.step(Event::Drain(ReplyTo(1), wanted, with_left(node, 2), Origin::nebulad()), now)
}

pub(super) fn nodes(node: &str, scheduling: Scheduling) -> BTreeMap<NodeId, Wish> {
    BTreeMap::from([(id(node), Wish { scheduling, created_at: at(0) })])
}

pub(super) fn look(machine: &mut Machine, scheduling: Scheduling, left: u8, now: WallTime) -> Vec<Effect> {
    machine.step(Event::Look(nodes(N1, scheduling), with_left(N1, left)), now)
}

/// The operation that the caller hears of.
fn answered(effects: &[Effect]) -> Operation {
    let answer = effects.iter().find_map(|effect| match effect {
        Effect::Reply(_, Ok(Some(operation))) => Some((**operation).clone()),
        _ => None,
    });
    answer.expect("an operation")
}

fn refused(effects: &[Effect]) -> ErrorClass {
    match effects {
        [Effect::Reply(_, Err(error))] => error.class,
        other => panic!("not refused: {other:?}"),
    }
}

/// What is written, said and made of nodes, in words.
fn told(effects: &[Effect]) -> Vec<String> {
    let mut told = Vec::new();
    for effect in effects {
        match effect {
            Effect::Persist(writes, lines) => {
                told.extend(writes.iter().map(|write| match write {
                    Write::PutOperation(operation) => format!("put {:?}", operation.state),
                    Write::DeleteOperation(_) => "delete".to_owned(),
                    other => panic!("not about operations: {other:?}"),
                }));
                told.extend(lines.iter().map(|line| line.kind.clone()));
            }
            Effect::Set(node, scheduling) => told.push(format!("{node} {scheduling:?}")),
            Effect::Reply(_, answer) => {
                let state =
                    answer.as_ref().map(|operation| operation.as_ref().map(|operation| operation.state));
                told.push(format!("reply {:?}", state.expect("no error")));
            }
        }
    }
    told
}

/// A machine with a drain of the node since second 1.
fn draining() -> (Machine, Operation) {
    let mut machine = Machine::load(Vec::new(), at(0));
    let operation = answered(&drain(&mut machine, N1, at(1)));
    (machine, operation)
}

fn only(machine: &Machine) -> Operation {
    let all: Vec<Operation> = machine.operations().map(|operation| (**operation).clone()).collect();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].clone()
}

#[test]
fn a_drain_is_stored_before_its_node_hears_of_it_and_before_it_is_answered() {
    let mut machine = Machine::load(Vec::new(), at(0));
    let effects = drain(&mut machine, N1, at(1));
    assert_eq!(
        told(&effects),
        ["put Running", "audit.node.drain", "drain_started", "n1 Draining", "reply Some(Running)"]
    );
    let operation = answered(&effects);
    assert_eq!((operation.total, operation.left, operation.blocked.len()), (2, 2, 2));
    assert_eq!((operation.started_at, operation.until), (at(1), at(601)));
    assert_eq!(operation.message, "2 of 2 replicas are left");
    let Effect::Persist(_, lines) = &effects[0] else { panic!("{effects:?}") };
    assert_eq!(lines[1].subject, Subject::Node(id(N1)));
    assert_eq!(lines[0].node, Some(id(N1)));
}

#[test]
fn a_node_that_is_being_drained_has_one_drain() {
    let (mut machine, first) = draining();
    let again = drain(&mut machine, N1, at(2));
    assert_eq!(again, [Effect::Reply(ReplyTo(1), Ok(Some(Arc::new(first))))]);
}

#[test]
fn it_is_done_when_two_looks_find_nothing() {
    let (mut machine, _) = draining();
    assert!(look(&mut machine, Scheduling::Draining, 1, at(2)).is_empty());
    assert_eq!((only(&machine).left, only(&machine).total), (1, 2));
    assert!(look(&mut machine, Scheduling::Draining, 0, at(3)).is_empty());
    assert!(look(&mut machine, Scheduling::Draining, 1, at(4)).is_empty(), "a late one");
    assert!(look(&mut machine, Scheduling::Draining, 0, at(5)).is_empty());
    let effects = look(&mut machine, Scheduling::Draining, 0, at(6));
    assert_eq!(told(&effects), ["put Done", "drained", "n1 Drained"]);
    let done = only(&machine);
    assert_eq!((done.state, done.ended_at, done.left), (OperationState::Done, Some(at(6)), 0));
    assert_eq!(told(&look(&mut machine, Scheduling::Draining, 0, at(7))), ["n1 Drained"], "not heard yet");
    assert!(machine.needs_look());
    assert!(look(&mut machine, Scheduling::Drained, 0, at(8)).is_empty());
    assert!(!machine.needs_look());
}

#[test]
fn a_node_that_forgot_that_it_is_being_drained_is_told_again_and_is_not_empty_before() {
    let (mut machine, _) = draining();
    for second in 2..5 {
        assert_eq!(told(&look(&mut machine, Scheduling::Cordoned, 0, at(second))), ["n1 Draining"]);
    }
    assert!(look(&mut machine, Scheduling::Draining, 0, at(5)).is_empty());
    assert_eq!(only(&machine).state, OperationState::Running);
}

#[test]
fn a_deployment_that_says_nothing_keeps_the_node_from_being_empty() {
    let (mut machine, _) = draining();
    for second in 2..6 {
        let mut survey = with_left(N1, 0);
        survey.add_unseen(DeploymentId::from_bytes([9; 16]));
        assert!(machine.step(Event::Look(nodes(N1, Scheduling::Draining), survey), at(second)).is_empty());
    }
    let operation = only(&machine);
    assert_eq!((operation.left, operation.blocked.len()), (0, 1));
    assert!(operation.message.starts_with("not all deployments say"), "{}", operation.message);
}

#[test]
fn what_takes_too_long_fails_with_what_is_left_and_leaves_the_node_cordoned() {
    let (mut machine, _) = draining();
    assert!(look(&mut machine, Scheduling::Draining, 1, WallTime(at(601).0 - 1)).is_empty());
    let effects = look(&mut machine, Scheduling::Draining, 1, at(601));
    assert_eq!(told(&effects), ["put Failed", "drain_failed", "n1 Cordoned"]);
    let failed = only(&machine);
    assert_eq!((failed.left, failed.blocked.len(), failed.makes), (1, 1, Scheduling::Cordoned));
    let expected = "not empty after 10m 00s: 1 replica is left (demo-0: it has no successor yet)";
    assert_eq!(failed.message, expected);
}

#[test]
fn an_empty_node_is_done_and_not_late() {
    let (mut machine, _) = draining();
    assert!(look(&mut machine, Scheduling::Draining, 0, at(700)).is_empty());
    look(&mut machine, Scheduling::Draining, 0, at(701));
    assert_eq!(only(&machine).state, OperationState::Done);
}

#[test]
fn a_change_of_mind_ends_it_and_says_what_the_node_is_then() {
    for scheduling in [Scheduling::Schedulable, Scheduling::Cordoned] {
        let (mut machine, _) = draining();
        let effects = machine.step(Event::Schedule(ReplyTo(2), id(N1), scheduling), at(2));
        let set = format!("n1 {scheduling:?}");
        assert_eq!(
            told(&effects),
            ["put Cancelled", "drain_cancelled", set.as_str(), "reply Some(Cancelled)"]
        );
        assert_eq!(
            told(&look(&mut machine, Scheduling::Draining, 2, at(3))),
            [set],
            "said again until it is"
        );
    }
    let mut idle = Machine::load(Vec::new(), at(0));
    let event = Event::Schedule(ReplyTo(2), id(N1), Scheduling::Cordoned);
    assert_eq!(idle.step(event, at(1)), [Effect::Reply(ReplyTo(2), Ok(None))], "that is the registry's");
}

#[test]
fn an_operation_is_cancelled_once() {
    let (mut machine, operation) = draining();
    let mut cancel = |which| machine.step(Event::Cancel(ReplyTo(2), which, Origin::nebulad()), at(2));
    let effects = cancel(operation.id);
    assert_eq!(
        told(&effects),
        [
            "put Cancelled",
            "audit.operation.cancel",
            "drain_cancelled",
            "n1 Cordoned",
            "reply Some(Cancelled)"
        ]
    );
    assert_eq!(refused(&cancel(operation.id)), ErrorClass::Conflict);
    assert_eq!(refused(&cancel(OperationId::from_bytes([5; 16]))), ErrorClass::NotFound);
}

#[test]
fn a_drained_node_is_drained_at_once_and_by_the_same_operation() {
    let mut machine = Machine::load(Vec::new(), at(0));
    let again = |machine: &mut Machine, left, now| {
        let wanted = wanted(N1, Scheduling::Drained);
        machine.step(Event::Drain(ReplyTo(1), wanted, with_left(N1, left), Origin::nebulad()), now)
    };
    let first = again(&mut machine, 0, at(1));
    assert_eq!(told(&first), ["put Done", "audit.node.drain", "drained", "n1 Drained", "reply Some(Done)"]);
    assert_eq!(told(&again(&mut machine, 0, at(2))), ["reply Some(Done)"]);
    assert_eq!(answered(&again(&mut machine, 0, at(3))).id, answered(&first).id);
    assert_eq!(
        answered(&again(&mut machine, 1, at(4))).state,
        OperationState::Running,
        "something came late"
    );
}

#[test]
fn a_node_that_is_deleted_ends_its_drain_also_when_it_comes_back_at_once() {
    let (mut machine, _) = draining();
    let effects = machine.step(Event::Look(BTreeMap::new(), with_left(N1, 0)), at(2));
    assert_eq!(told(&effects), ["put Cancelled", "drain_cancelled", "n1 Cordoned"]);
    assert_eq!(only(&machine).message, "the node was deleted");
    let (mut machine, _) = draining();
    let another = Wish { scheduling: Scheduling::Schedulable, created_at: at(2) };
    let effects = machine.step(Event::Look(BTreeMap::from([(id(N1), another)]), with_left(N1, 0)), at(3));
    assert_eq!(told(&effects), ["put Cancelled", "drain_cancelled", "n1 Cordoned"]);
}

#[test]
fn after_a_start_it_goes_on_and_is_not_late_before_the_nodes_were_heard() {
    let (machine, operation) = draining();
    let stored: Vec<Operation> = machine.operations().map(|operation| (**operation).clone()).collect();
    let late = at(10_000);
    let mut machine = Machine::load(stored, late);
    assert_eq!(machine.draining().collect::<Vec<_>>(), [&id(N1)]);
    assert!(look(&mut machine, Scheduling::Draining, 2, after(late, GRACE / 2)).is_empty());
    let same = answered(&drain(&mut machine, N1, after(late, GRACE / 2)));
    assert_eq!(same.id, operation.id);
    look(&mut machine, Scheduling::Draining, 2, after(late, GRACE));
    assert_eq!(only(&machine).state, OperationState::Failed);
}

#[test]
fn a_node_that_nobody_drains_any_more_is_cordoned_after_a_start() {
    let mut machine = Machine::load(Vec::new(), at(0));
    assert!(machine.needs_look());
    assert_eq!(told(&look(&mut machine, Scheduling::Draining, 0, at(1))), ["n1 Cordoned"]);
    assert!(look(&mut machine, Scheduling::Cordoned, 0, at(2)).is_empty());
    assert!(!machine.needs_look());
}

#[test]
fn the_newest_that_ended_are_kept_over_a_start_too() {
    let mut machine = Machine::load(Vec::new(), at(0));
    let mut deleted = 0;
    for round in 0..u64::try_from(OPERATIONS_ENDED_MAX + 20).expect("a number") {
        let operation = answered(&drain(&mut machine, N1, at(2 * round + 1)));
        let cancel = Event::Cancel(ReplyTo(2), operation.id, Origin::nebulad());
        let effects = machine.step(cancel, at(2 * round + 2));
        deleted += told(&effects).iter().filter(|what| *what == "delete").count();
    }
    assert_eq!((machine.operations().count(), deleted), (OPERATIONS_ENDED_MAX, 20));
    let mut stored: Vec<Operation> = machine.operations().map(|operation| (**operation).clone()).collect();
    stored.reverse();
    let mut machine = Machine::load(stored, at(10_000));
    let oldest = machine.operations().map(|operation| operation.ended_at).min().expect("some");
    let operation = answered(&drain(&mut machine, N1, at(10_001)));
    machine.step(Event::Cancel(ReplyTo(2), operation.id, Origin::nebulad()), at(10_002));
    assert!(machine.operations().all(|operation| operation.ended_at > oldest), "the oldest went");
}

#[test]
fn so_many_nodes_are_drained_at_once_and_no_more() {
    let mut machine = Machine::load(Vec::new(), at(0));
    for n in 0..RUNNING_MAX {
        answered(&drain(&mut machine, &format!("node-{n}"), at(1)));
    }
    assert_eq!(refused(&drain(&mut machine, "one-more", at(1))), ErrorClass::Conflict);
}

#[test]
fn the_record_of_a_drain_is_small_enough_for_the_store() {
    let name = "n".repeat(5_000);
    let mut survey = Survey::of([&id(N1)]);
    (0..30).for_each(|_| survey.add(&super::survey::fixtures::waiting_on(N1, &"é".repeat(3_000))));
    let wanted = Wanted { name, ..wanted(N1, Scheduling::Schedulable) };
    let mut machine = Machine::load(Vec::new(), at(0));
    let operation =
        answered(&machine.step(Event::Drain(ReplyTo(1), wanted, survey, Origin::nebulad()), at(1)));
    let texts = |blocked: &Blocked| blocked.deployment.len() + blocked.why.len() + 40;
    let bytes = operation.node_name.len() + operation.blocked.iter().map(texts).sum::<usize>();
    assert!(bytes < 5_000, "{bytes}");
}
