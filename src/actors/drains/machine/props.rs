//! Whatever happens in whatever order, with messages to the registry lost, stale pictures and starts in between: a node
//! has one drain at most, what has ended stays ended, and when all is quiet the node is what its last operation makes
//! of it.

use proptest::prelude::*;

use super::tests::{N1, at, id, nodes, wanted, with_left};
use super::*;

/// What may happen.
#[derive(Clone, Debug)]
enum Act {
    Drain,
    Schedule(Scheduling),
    Cancel,
    /// Looks, with so many left.
    Look(u8),
    /// Looks at the picture from before the last change.
    LookStale(u8),
    /// nebulad starts again from what is stored.
    Restart,
    /// What the registry is told next is lost.
    Lose,
    Wait(u16),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => Just(Act::Drain),
        1 => prop_oneof![Just(Scheduling::Schedulable), Just(Scheduling::Cordoned)].prop_map(Act::Schedule),
        1 => Just(Act::Cancel),
        6 => (0_u8..3).prop_map(Act::Look),
        2 => (0_u8..3).prop_map(Act::LookStale),
        1 => Just(Act::Restart),
        1 => Just(Act::Lose),
        2 => (1_u16..500).prop_map(Act::Wait),
    ]
}

/// The drains, the registry and the store around them.
struct World {
    machine: Machine,
    stored: BTreeMap<OperationId, Operation>,
    node: Scheduling,
    before: Scheduling,
    lose: bool,
    /// What the operator wanted of the node since it was last to be drained.
    wanted: Option<Scheduling>,
    secs: u64,
}

impl World {
    fn new() -> Self {
        let machine = Machine::load(Vec::new(), at(0));
        let node = Scheduling::Schedulable;
        Self { machine, stored: BTreeMap::new(), node, before: node, lose: false, wanted: None, secs: 1 }
    }

    /// What the registry does with what it is told: it leaves alone what is not being drained.
    fn set(&mut self, makes: Scheduling) {
        if makes == Scheduling::Draining || self.node == Scheduling::Draining {
            self.node = makes;
        }
    }

    fn perform(&mut self, effects: Vec<Effect>) -> Option<Answer> {
        let mut answer = None;
        for effect in effects {
            match effect {
                Effect::Persist(writes, lines) => {
                    assert!(!lines.is_empty(), "every change is told");
                    for write in writes {
                        match write {
                            Write::PutOperation(operation) => self.store(*operation),
                            Write::DeleteOperation(id) => drop(self.stored.remove(&id)),
                            other => panic!("not about operations: {other:?}"),
                        }
                    }
                }
                Effect::Set(_, _) if std::mem::take(&mut self.lose) => {}
                Effect::Set(_, makes) => self.set(makes),
                Effect::Reply(_, said) => answer = Some(said),
            }
        }
        answer
    }

    fn store(&mut self, operation: Operation) {
        let before = self.stored.get(&operation.id).map(|before| before.state);
        assert!(before.is_none_or(|state| state == OperationState::Running), "what has ended stays ended");
        assert_eq!(operation.ended_at.is_some(), operation.state != OperationState::Running);
        self.stored.insert(operation.id, operation);
    }

    fn step(&mut self, event: Event) -> Option<Answer> {
        let effects = self.machine.step(event, at(self.secs));
        self.perform(effects)
    }

    fn look(&mut self, scheduling: Scheduling, left: u8) {
        self.step(Event::Look(nodes(N1, scheduling), with_left(N1, left)));
    }

    fn act(&mut self, act: &Act) {
        self.secs += 1;
        let before = self.node;
        match act {
            Act::Drain => {
                self.wanted = None;
                let wanted = wanted(N1, self.node);
                let answer = self.step(Event::Drain(ReplyTo(1), wanted, with_left(N1, 1), Origin::nebulad()));
                assert!(answer.is_some_and(|answer| answer.is_ok_and(|operation| operation.is_some())));
            }
            Act::Schedule(makes) => {
                self.step(Event::Schedule(ReplyTo(1), id(N1), *makes));
                // The registry is told by the operator then, who hears whether that was lost.
                self.node = *makes;
                self.wanted = Some(*makes);
            }
            Act::Cancel => {
                let newest = self.stored.values().max_by_key(|operation| operation.started_at);
                if let Some(id) = newest.map(|operation| operation.id) {
                    let _ = self.step(Event::Cancel(ReplyTo(1), id, Origin::nebulad()));
                }
            }
            Act::Look(left) => self.look(self.node, *left),
            Act::LookStale(left) => self.look(self.before, *left),
            Act::Restart => {
                self.machine = Machine::load(self.stored.values().cloned().collect(), at(self.secs));
            }
            Act::Lose => self.lose = true,
            Act::Wait(secs) => self.secs += u64::from(*secs),
        }
        self.before = before;
    }
}

proptest! {
    #[test]
    fn the_node_becomes_what_its_last_operation_makes_of_it(acts in prop::collection::vec(act(), 0..60)) {
        let mut world = World::new();
        for act in &acts {
            world.act(act);
            let running = world.stored.values().filter(|one| one.state == OperationState::Running).count();
            prop_assert!(running <= 1, "a node has one drain at most");
            prop_assert_eq!(running, world.machine.draining().count());
        }
        world.lose = false;
        // Nothing more is wanted, and nothing is left on the node.
        let mut looks = 0;
        while world.machine.needs_look() {
            world.act(&Act::Look(0));
            looks += 1;
            prop_assert!(looks < 10, "it comes to rest");
        }
        let newest = world.stored.values().max_by_key(|operation| (operation.ended_at, operation.started_at));
        prop_assert_ne!(world.node, Scheduling::Draining);
        if let Some(newest) = newest {
            prop_assert_ne!(newest.state, OperationState::Running);
        }
        let lost = acts.iter().any(|act| matches!(act, Act::Lose));
        match (newest, world.wanted) {
            (_, Some(wanted)) => prop_assert_eq!(world.node, wanted),
            // One of which the registry never heard leaves the node as it was.
            (Some(newest), None) if !lost || newest.state == OperationState::Done => {
                prop_assert_eq!(world.node, newest.makes);
            }
            (_, None) => {}
        }
    }
}
