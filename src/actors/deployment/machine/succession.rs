//! Succession: a replica that must go gets a successor at its index, and leaves when that answers.
//!
//! Why it must go is not stored: it follows from the record and from what is known of the node. So a crash loses
//! nothing, and when the reason is gone first the incumbent stays and the successor leaves.

use std::collections::BTreeMap;

use nebula_core::ids::{Generation, ReplicaId};

use super::{Effect, Machine};
use crate::domain::deployment::{Deployment, Phase, Replica, Strategy};
use crate::domain::node::Scheduling;
use crate::domain::report::Seen;

/// Why a replica must go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// Another version of the spec is wanted.
    Outdated,
    /// Its node is being drained.
    Draining,
    /// Its node is lost.
    Lost,
}

/// How a replica that is not leaving stands at its index.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) id: ReplicaId,
    pub(super) reason: Option<Reason>,
    /// It answers.
    pub(super) serves: bool,
    pub(super) phase: Phase,
    /// Its node has been heard of since the actor started, or it has none.
    known: bool,
}

impl Standing {
    /// It is to stay.
    pub(super) fn is_current(&self) -> bool {
        self.reason.is_none()
    }
}

impl Machine {
    pub(super) fn reason(&self, replica: &Replica) -> Option<Reason> {
        if replica.revision != self.dep.revision {
            return Some(Reason::Outdated);
        }
        if self.is_draining(replica) {
            return Some(Reason::Draining);
        }
        self.is_given_up(replica).then_some(Reason::Lost)
    }

    pub(super) fn is_draining(&self, replica: &Replica) -> bool {
        let facts = replica.placement.as_ref().and_then(|place| self.nodes.get(&place.node_id));
        facts.is_some_and(|facts| matches!(facts.scheduling, Scheduling::Draining | Scheduling::Drained))
    }

    fn standing(&self, replica: &Replica) -> Standing {
        Standing {
            id: replica.id,
            reason: self.reason(replica),
            serves: replica.phase == Phase::Running && !self.is_missing(replica),
            phase: replica.phase,
            known: replica.placement.as_ref().is_none_or(|place| self.nodes.contains_key(&place.node_id)),
        }
    }

    /// The replicas that are not leaving, by index.
    pub(super) fn by_index(&self) -> BTreeMap<u32, Vec<Standing>> {
        let mut found: BTreeMap<u32, Vec<Standing>> = BTreeMap::new();
        for replica in self.dep.replicas.iter().filter(|replica| !replica.leaving) {
            found.entry(replica.index).or_default().push(self.standing(replica));
        }
        found
    }

    /// How many replicas may be on their way beside those that they replace, or be restarted at the same time.
    pub(super) fn surge(&self) -> usize {
        (self.dep.spec.replicas / 4).max(1) as usize
    }

    /// Lets go who is too many, has been succeeded or stands in the way, and creates who is missing.
    pub(super) fn succeed(&mut self) {
        let wanted = self.dep.spec.replicas;
        let (recreate, revision) = (self.dep.spec.strategy == Strategy::Recreate, self.dep.revision);
        for replica in &mut self.dep.replicas {
            if replica.index >= wanted || (recreate && replica.revision != revision) {
                replica.leaving = true;
            }
        }
        for here in self.by_index().values() {
            self.let_go(here);
        }
        self.make_room();
        self.create_missing();
    }

    fn let_go(&mut self, here: &[Standing]) {
        let gone = outlived(here);
        let heir = here.iter().find(|one| one.is_current() && one.serves).map(|one| one.id);
        for one in here.iter().filter(|one| gone.contains(&one.id)) {
            let old = self.dep.replicas.iter_mut().find(|replica| replica.id == one.id);
            let Some(old) = old else { continue };
            old.leaving = true;
            let old = old.clone();
            let why = match one.reason {
                Some(Reason::Draining) => "its node is drained",
                Some(Reason::Lost) => "its node is lost",
                Some(Reason::Outdated) | None => continue,
            };
            let to = self.dep.replicas.iter().find(|replica| Some(replica.id) == heir);
            let name = |replica: &Replica| replica.placement.as_ref().map(|place| place.node_name.clone());
            if let (Some(from), Some(to)) = (name(&old), to.and_then(name)) {
                let message = format!("replica {} moved from node {from} to node {to}: {why}", old.index);
                self.note_replica("moved", message, &old);
            }
        }
    }

    fn create_missing(&mut self) {
        let wanted = self.dep.spec.replicas;
        // With this strategy both versions never run at the same time.
        let old_first = self.dep.spec.strategy == Strategy::Recreate && self.outdated_hold_places();
        let by_index = self.by_index();
        let beside = |here: &[Standing]| here.iter().any(|one| !one.is_current() && one.serves);
        let comes = |here: &[Standing]| here.iter().any(Standing::is_current);
        let mut under_way = by_index.values().filter(|here| beside(here) && comes(here)).count();
        for index in (0..wanted).filter(|_| !old_first) {
            let here = by_index.get(&index).map_or(&[][..], Vec::as_slice);
            if comes(here) {
                continue;
            }
            if beside(here) {
                if under_way >= self.surge() {
                    continue;
                }
                under_way += 1;
            }
            self.dep.replicas.push(new_replica(index, self.dep.revision));
        }
        self.dep.replicas.sort_by_key(|replica| (replica.index, replica.leaving));
    }

    /// Whether replicas of other versions have places still.
    fn outdated_hold_places(&self) -> bool {
        let outdated = |replica: &&Replica| replica.revision != self.dep.revision;
        self.dep.replicas.iter().filter(outdated).any(|replica| self.dep.holds_place(replica))
    }

    /// Gives back what replicas hold no longer, and says so when one holds its place again.
    pub(super) fn give_back(&mut self, before: &Deployment, effects: &mut Vec<Effect>) {
        let mut regained = false;
        for replica in self.dep.replicas.iter().filter(|replica| replica.placement.is_some()) {
            let old = before.replicas.iter().find(|old| old.id == replica.id && old.placement.is_some());
            match old.map(|old| (before.holds_place(old), self.dep.holds_place(replica))) {
                Some((true, false)) => {
                    self.freed = true;
                    effects.push(Effect::Release(replica.id));
                }
                Some((false, true)) => regained = true,
                _ => {}
            }
        }
        if regained {
            effects.push(Effect::Hold);
        }
    }
}

/// Who of those at one index is not needed any more.
fn outlived(here: &[Standing]) -> Vec<ReplicaId> {
    let current = || here.iter().filter(|one| one.is_current());
    let going = || here.iter().filter(|one| !one.is_current());
    if let Some(heir) = current().find(|one| one.serves) {
        // Of a node that has not been heard of since the actor started nobody knows whether it is to be left.
        let all_known = here.iter().all(|one| one.known);
        let others = current().filter(|one| all_known && one.id != heir.id);
        return going().chain(others).map(|one| one.id).collect();
    }
    // What does not answer is not waited for, unless its node may bring it back.
    let idle = going().filter(|one| !one.serves && one.phase != Phase::Unreachable);
    // Where nobody answers the first who does will stay; who has failed is no use beside another.
    let alive = current().any(|one| one.phase != Phase::Failed);
    let failed = current().filter(|one| one.phase == Phase::Failed).skip(usize::from(!alive));
    idle.chain(failed).map(|one| one.id).collect()
}

fn new_replica(index: u32, revision: Generation) -> Replica {
    Replica {
        id: ReplicaId::random(),
        index,
        generation: Generation(0),
        revision,
        placement: None,
        phase: Phase::Pending,
        leaving: false,
        container_id: String::new(),
        port: 0,
        message: String::new(),
        restarts: 0,
        seen: Seen::default(),
    }
}
