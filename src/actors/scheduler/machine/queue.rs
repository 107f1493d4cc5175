//! The replicas that wait for a place, oldest first.
//!
//! When something may fit on a node, the oldest that do are told to ask again, few at a time: until they have asked,
//! what is there counts as theirs. When one of them has, in whichever way that ended, the next are told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nebula_core::ids::{DeploymentId, ReplicaId};

use super::choice::Reason;
use super::request::{Need, Request, Shape};

/// How many may have been told of one node that have not asked since.
const TOLD_MAX: usize = 8;

/// Who waits.
#[derive(Default)]
pub(super) struct Queue {
    /// The next one's turn.
    next: u64,
    waiting: BTreeMap<ReplicaId, Waiting>,
    by_deployment: BTreeMap<DeploymentId, BTreeSet<ReplicaId>>,
    /// Those that were not told, by what they need of a node, then by turn.
    untold: BTreeMap<Arc<Shape>, BTreeMap<u64, ReplicaId>>,
    /// Those that were, by the node's slot.
    told: BTreeMap<u32, BTreeSet<ReplicaId>>,
}

struct Waiting {
    turn: u64,
    request: Request,
    shape: Arc<Shape>,
    told: Option<u32>,
}

impl Queue {
    /// How many deployments have replicas here.
    pub(super) fn deployments(&self) -> usize {
        self.by_deployment.len()
    }

    /// The replicas of a deployment that wait.
    pub(super) fn of(&self, deployment: DeploymentId) -> Vec<ReplicaId> {
        self.by_deployment.get(&deployment).into_iter().flatten().copied().collect()
    }

    /// A replica waits; if it did already, its turn stays. Answers the slot of the node of which it had been told.
    pub(super) fn wait(&mut self, request: &Request) -> Option<u32> {
        let before = self.remove(request.replica);
        let turn = before.as_ref().map_or(self.next, |before| before.turn);
        self.next = self.next.max(turn + 1);
        let shape = match self.untold.get_key_value(&request.need.shape) {
            Some((shape, _)) => Arc::clone(shape),
            None => Arc::new(request.need.shape.clone()),
        };
        self.untold.entry(Arc::clone(&shape)).or_default().insert(turn, request.replica);
        self.by_deployment.entry(request.deployment).or_default().insert(request.replica);
        let waiting = Waiting { turn, request: request.clone(), shape, told: None };
        self.waiting.insert(request.replica, waiting);
        before.and_then(|before| before.told)
    }

    /// A replica waits no longer. Answers the slot of the node of which it had been told.
    pub(super) fn leave(&mut self, replica: ReplicaId) -> Option<u32> {
        self.remove(replica).and_then(|waited| waited.told)
    }

    fn remove(&mut self, replica: ReplicaId) -> Option<Waiting> {
        let waited = self.waiting.remove(&replica)?;
        match waited.told {
            Some(slot) => drop_from(&mut self.told, &slot, &replica),
            None => lose_turn(&mut self.untold, &waited),
        }
        drop_from(&mut self.by_deployment, &waited.request.deployment, &replica);
        Some(waited)
    }

    /// Something may fit on the node in this slot. Answers the deployments of those whose turn it is.
    pub(super) fn tell(
        &mut self,
        slot: u32,
        fits: impl Fn(&Need) -> Result<(), Reason>,
    ) -> BTreeSet<DeploymentId> {
        let mut told = BTreeSet::new();
        let room = TOLD_MAX.saturating_sub(self.told.get(&slot).map_or(0, BTreeSet::len));
        for replica in self.oldest(room, fits) {
            let Some(waiting) = self.waiting.get_mut(&replica) else { continue };
            waiting.told = Some(slot);
            told.insert(waiting.request.deployment);
            lose_turn(&mut self.untold, waiting);
            self.told.entry(slot).or_default().insert(replica);
        }
        told
    }

    /// The oldest that were not told and fit. Of one shape all are refused for the same reason, but for the disk: that
    /// depends on what each must fetch.
    fn oldest(&self, count: usize, fits: impl Fn(&Need) -> Result<(), Reason>) -> Vec<ReplicaId> {
        let mut found: Vec<(u64, ReplicaId)> = Vec::new();
        for turns in self.untold.values().filter(|_| count > 0) {
            let mut left = count;
            for (turn, replica) in turns {
                let Some(waiting) = self.waiting.get(replica) else { continue };
                match fits(&waiting.request.need) {
                    Ok(()) => {
                        found.push((*turn, *replica));
                        left -= 1;
                    }
                    Err(Reason::Disk) => {}
                    Err(_) => break,
                }
                if left == 0 {
                    break;
                }
            }
        }
        found.sort_unstable();
        found.truncate(count);
        found.into_iter().map(|(_, replica)| replica).collect()
    }
}

fn lose_turn(untold: &mut BTreeMap<Arc<Shape>, BTreeMap<u64, ReplicaId>>, waiting: &Waiting) {
    if let Some(turns) = untold.get_mut(&waiting.shape) {
        turns.remove(&waiting.turn);
        if turns.is_empty() {
            untold.remove(&waiting.shape);
        }
    }
}

/// Takes one out of a set of many, and the set too if nothing is left of it.
fn drop_from<K: Ord, V: Ord>(sets: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(set) = sets.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}
