//! Starts that this node can never carry out, so that nebulad hears of each as of a replica that failed: a command
//! that came with a heartbeat has no other answer.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use nebula_core::ids::{DeploymentId, Generation, ReplicaId};

use super::manager::Selector;

/// Declined starts that are remembered; the oldest leaves for a new one.
const KEPT_MAX: usize = 64;

/// A start that was declined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Declined {
    pub(crate) deployment: DeploymentId,
    pub(crate) replica: ReplicaId,
    pub(crate) generation: Generation,
    pub(crate) model: String,
    pub(crate) runtime: String,
    /// For people.
    pub(crate) reason: String,
}

/// The declined starts that nothing has replaced yet.
#[derive(Debug, Default)]
pub(crate) struct DeclinedStarts(Mutex<VecDeque<Declined>>);

impl DeclinedStarts {
    /// Remembers one, instead of an earlier one of that replica. One that is older than what is known is left out.
    pub(crate) fn add(&self, declined: Declined) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same =
            |other: &Declined| (other.deployment, other.replica) == (declined.deployment, declined.replica);
        if all.iter().any(|other| same(other) && other.generation > declined.generation) {
            return;
        }
        all.retain(|other| !same(other));
        if all.len() >= KEPT_MAX {
            all.pop_front();
        }
        all.push_back(declined);
    }

    /// A newer command for these replicas has come: what was declined before counts no more. Without a generation
    /// every command is newer.
    pub(crate) fn replace(&self, meant: Selector, generation: Option<Generation>) {
        let is_replaced = |one: &Declined| {
            one.deployment == meant.deployment
                && meant.replica.is_none_or(|replica| replica == one.replica)
                && generation.is_none_or(|newer| newer > one.generation)
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|one| !is_replaced(one));
    }

    /// These replicas are deleted, by a command that is not older than what was declined.
    pub(crate) fn delete(&self, meant: Selector, generation: Option<Generation>) {
        self.replace(meant, generation.map(|generation| Generation(generation.0.saturating_add(1))));
    }

    /// All of them, oldest first.
    pub(crate) fn list(&self) -> Vec<Declined> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declined(replica: ReplicaId, generation: u64) -> Declined {
        Declined {
            deployment: DeploymentId::from_bytes([1; 16]),
            replica,
            generation: Generation(generation),
            model: "m".to_owned(),
            runtime: "sim".to_owned(),
            reason: "no".to_owned(),
        }
    }

    fn generations(starts: &DeclinedStarts) -> Vec<u64> {
        starts.list().iter().map(|one| one.generation.0).collect()
    }

    #[test]
    fn one_stays_until_something_newer_or_a_deletion_comes() {
        let (starts, replica) = (DeclinedStarts::default(), ReplicaId::random());
        let all = Selector { deployment: DeploymentId::from_bytes([1; 16]), replica: None };
        let other = Selector { replica: Some(ReplicaId::random()), ..all };
        starts.add(declined(replica, 5));
        starts.add(declined(replica, 4));
        assert_eq!(generations(&starts), [5]);
        starts.replace(all, Some(Generation(5)));
        starts.replace(other, None);
        starts.delete(all, Some(Generation(4)));
        assert_eq!(generations(&starts), [5]);
        starts.add(declined(replica, 6));
        assert_eq!(generations(&starts), [6]);
        starts.delete(all, Some(Generation(6)));
        assert_eq!(starts.list(), []);
        starts.add(declined(replica, 6));
        starts.replace(all, Some(Generation(7)));
        assert_eq!(starts.list(), []);
    }

    #[test]
    fn no_more_than_some_are_kept() {
        let starts = DeclinedStarts::default();
        for generation in 0..100 {
            starts.add(declined(ReplicaId::random(), generation));
        }
        assert_eq!(generations(&starts), (36..100).collect::<Vec<_>>());
    }
}
