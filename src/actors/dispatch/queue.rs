//! The commands that wait for one node's session. Pure.
//!
//! What concerns one replica is given in its order, one at a time; those of different replicas go side by side.

use std::collections::{HashMap, VecDeque};

use nebula_core::ids::ReplicaId;

use crate::domain::command::{Action, Command};

/// How many commands may wait for one node's session.
const WAITING_MAX: usize = 32_768;
/// How many of them are given to it at a time.
const GIVING_MAX: usize = 32;

/// The queue. Each command that [`Queue::next`] gives out is followed by one [`Queue::done`] or [`Queue::again`].
#[derive(Debug, Default)]
pub(super) struct Queue {
    replicas: HashMap<ReplicaId, Line>,
    /// Replicas for which something waits and nothing is being given.
    turn: VecDeque<ReplicaId>,
    waiting: usize,
    giving: usize,
}

/// What waits for one replica.
#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Command>,
    giving: bool,
}

/// Whether nothing is lost when the node hears `new` and never hears `old`.
fn overtakes(new: &Command, old: &Command) -> bool {
    matches!(new.action, Action::Stop | Action::Delete) && old.generation <= new.generation
}

impl Queue {
    /// Whether nothing waits and nothing is being given.
    pub(super) fn is_empty(&self) -> bool {
        self.replicas.is_empty()
    }

    /// One more waits, unless it waits already. Answers whether there was room.
    pub(super) fn push(&mut self, command: Command) -> bool {
        let id = command.replica_id;
        if self.waiting >= WAITING_MAX {
            return false;
        }
        let line = self.replicas.entry(id).or_default();
        let same = |old: &Command| old.generation == command.generation && old.action == command.action;
        if line.waiting.back().is_some_and(same) {
            return true;
        }
        let idle = !line.giving && line.waiting.is_empty();
        let before = line.waiting.len();
        line.waiting.retain(|old| !overtakes(&command, old));
        line.waiting.push_back(command);
        self.waiting = self.waiting + line.waiting.len() - before;
        if idle {
            self.turn.push_back(id);
        }
        true
    }

    /// The next one, if one may be given now.
    pub(super) fn next(&mut self) -> Option<Command> {
        if self.giving >= GIVING_MAX {
            return None;
        }
        let line = self.replicas.get_mut(&self.turn.pop_front()?)?;
        let command = line.waiting.pop_front()?;
        line.giving = true;
        self.giving += 1;
        self.waiting -= 1;
        Some(command)
    }

    /// What was given about this replica was taken, or never will be.
    pub(super) fn done(&mut self, replica: ReplicaId) {
        let Some(line) = self.replicas.get_mut(&replica) else { return };
        self.giving = self.giving.saturating_sub(1);
        line.giving = false;
        if line.waiting.is_empty() {
            self.replicas.remove(&replica);
        } else {
            self.turn.push_back(replica);
        }
    }

    /// What was given could not be taken: it is the next again, unless something later overtakes it.
    pub(super) fn again(&mut self, command: Command) {
        let replica = command.replica_id;
        let Some(line) = self.replicas.get_mut(&replica) else { return };
        self.giving = self.giving.saturating_sub(1);
        line.giving = false;
        if !line.waiting.iter().any(|new| overtakes(new, &command)) {
            line.waiting.push_front(command);
            self.waiting += 1;
        }
        self.turn.push_front(replica);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nebula_core::clock::WallTime;
    use nebula_core::ids::{CommandId, DeploymentId, Generation};
    use nebula_core::token::TokenHash;
    use proptest::prelude::*;

    use super::*;

    fn command(replica: u8, generation: u64, action: Action) -> Command {
        Command {
            id: CommandId::random(),
            node_id: "n1".parse().expect("an id"),
            deployment_id: DeploymentId::from_bytes([1; 16]),
            replica_id: ReplicaId::from_bytes([replica; 16]),
            generation: Generation(generation),
            action,
            drain: Duration::ZERO,
            created_at: WallTime(0),
        }
    }

    fn access(token: &str) -> Action {
        Action::Access { tokens: vec![TokenHash::of(token)], public: false }
    }

    fn all(queue: &mut Queue) -> Vec<Command> {
        std::iter::from_fn(|| queue.next()).collect()
    }

    /// Whether this is the one command that is given now.
    fn gives(queue: &mut Queue, command: &Command) -> bool {
        all(queue) == std::slice::from_ref(command)
    }

    #[test]
    fn what_concerns_one_replica_goes_in_order_and_others_pass_by() {
        let mut queue = Queue::default();
        let (first, second, other) =
            (command(1, 1, access("a")), command(1, 1, access("b")), command(2, 1, Action::Stop));
        for each in [&first, &second, &second, &other] {
            assert!(queue.push(each.clone()));
        }
        assert_eq!(all(&mut queue), [first.clone(), other.clone()]);
        queue.done(other.replica_id);
        queue.again(first.clone());
        assert!(gives(&mut queue, &first), "it is first again");
        queue.done(first.replica_id);
        assert!(gives(&mut queue, &second), "and was there once");
        queue.done(second.replica_id);
        assert!(queue.is_empty());
    }

    #[test]
    fn what_stops_a_replica_overtakes_what_waits_for_it() {
        let mut queue = Queue::default();
        let (old, delete) = (command(1, 1, access("a")), command(1, 2, Action::Delete));
        queue.push(old.clone());
        queue.push(command(1, 2, Action::Stop));
        queue.push(delete.clone());
        assert!(gives(&mut queue, &delete));
        queue.done(delete.replica_id);
        queue.push(old.clone());
        assert!(gives(&mut queue, &old));
        queue.push(delete.clone());
        queue.again(old);
        assert_eq!(all(&mut queue), [delete], "what could not be taken is overtaken too");
    }

    #[test]
    fn few_are_given_at_a_time_and_not_too_many_wait() {
        let mut queue = Queue::default();
        let of = |n: usize| Command {
            replica_id: ReplicaId::from_bytes((n as u128).to_be_bytes()),
            ..command(0, 1, Action::Stop)
        };
        for n in 0..WAITING_MAX {
            assert!(queue.push(of(n)));
        }
        assert!(!queue.push(of(WAITING_MAX)));
        assert_eq!(all(&mut queue).len(), GIVING_MAX);
        assert!(queue.push(of(WAITING_MAX)), "there is room again");
        queue.done(of(0).replica_id);
        let next: Vec<ReplicaId> = all(&mut queue).iter().map(|command| command.replica_id).collect();
        assert_eq!(next, [of(GIVING_MAX).replica_id]);
    }

    proptest! {
        #[test]
        fn whatever_fails_each_replica_hears_its_last_command(
            pushes in proptest::collection::vec((0_u8..4, 0_u8..3), 1..40),
            fails in proptest::collection::vec(any::<bool>(), 200),
        ) {
            let (mut queue, mut last) = (Queue::default(), HashMap::new());
            let mut heard: HashMap<ReplicaId, Command> = HashMap::new();
            let mut fails = fails.into_iter();
            let mut give = |queue: &mut Queue, heard: &mut HashMap<ReplicaId, Command>| {
                for command in all(queue) {
                    if fails.next().unwrap_or(false) {
                        queue.again(command);
                    } else {
                        queue.done(command.replica_id);
                        heard.insert(command.replica_id, command);
                    }
                }
            };
            for (generation, (replica, action)) in pushes.into_iter().enumerate() {
                let action = match action {
                    0 => Action::Stop,
                    1 => Action::Delete,
                    _ => access("a"),
                };
                let command = command(replica, generation as u64, action);
                last.insert(command.replica_id, command.clone());
                prop_assert!(queue.push(command));
                give(&mut queue, &mut heard);
            }
            for _ in 0..200 {
                give(&mut queue, &mut heard);
            }
            prop_assert!(queue.is_empty());
            prop_assert_eq!(heard, last);
        }
    }
}
