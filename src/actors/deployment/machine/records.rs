//! What is written down of a step, and which lines of the journal go with it.

use super::observe::phase_line;
use super::{Effect, Machine};
use crate::domain::deployment::{Deployment, Desired, Phase, Replica};
use crate::domain::event::Happening;
use crate::ports::Write;

impl Machine {
    /// A line of the journal about the deployment as a whole.
    pub(super) fn note(&mut self, kind: &'static str, message: String) {
        self.happenings.push(Happening { kind, message, replica: None, node: None });
    }

    /// A line of the journal about one replica.
    pub(super) fn note_replica(&mut self, kind: &'static str, message: String, replica: &Replica) {
        let node = replica.placement.as_ref().map(|place| place.node_id.clone());
        self.happenings.push(Happening { kind, message, replica: Some(replica.id), node });
    }

    /// The journal's lines about what is wanted otherwise than `before`.
    pub(super) fn tell_wishes(&mut self, before: &Deployment) {
        if before.desired != self.dep.desired {
            let kind = match self.dep.desired {
                Desired::Running => "start_requested",
                Desired::Stopped => "stop_requested",
                Desired::Deleted => "delete_requested",
            };
            self.note(kind, format!("generation {}", self.dep.generation));
        }
        let why = self.scaled_because.take().map(|why| format!(": {why}")).unwrap_or_default();
        if before.spec.replicas != self.dep.spec.replicas {
            let (old, new) = (before.spec.replicas, self.dep.spec.replicas);
            let s = if new == 1 { "" } else { "s" };
            self.note("scaled", format!("from {old} to {new} replica{s}{why}"));
        }
    }

    /// The journal's lines about replicas that stand otherwise than `before`.
    pub(super) fn tell_phases(&mut self, before: &Deployment) {
        let old_phase =
            |id| before.replicas.iter().find(|replica| replica.id == id).map(|replica| replica.phase);
        let silent = |phase| matches!(phase, Phase::Pending | Phase::Preparing | Phase::Deleting);
        let is_new =
            |replica: &&Replica| old_phase(replica.id) != Some(replica.phase) && !silent(replica.phase);
        let news: Vec<Replica> = self.dep.replicas.iter().filter(is_new).cloned().collect();
        for replica in news {
            self.note_replica(replica.phase.as_str(), phase_line(&replica), &replica);
        }
    }

    /// Whatever differs from `before`, as one atomic change.
    pub(super) fn persist(&mut self, before: &Deployment) -> Vec<Effect> {
        let mut writes = Vec::new();
        if self.finished {
            writes.extend(before.replicas.iter().map(|r| Write::DeleteReplica(self.dep.id, r.id)));
            writes.push(Write::DeleteDeployment(self.dep.id));
            self.happenings.clear();
            return vec![Effect::Persist(writes, Vec::new())];
        }
        let head = |dep: &Deployment| Deployment { replicas: Vec::new(), ..dep.clone() };
        if head(before) != head(&self.dep) {
            writes.push(Write::PutDeployment(Box::new(head(&self.dep))));
        }
        for replica in &self.dep.replicas {
            let old = before.replicas.iter().find(|old| old.id == replica.id);
            if old.is_none_or(|old| old.stored() != replica.stored()) {
                writes.push(Write::PutReplica(self.dep.id, Box::new(replica.stored())));
            }
        }
        for old in &before.replicas {
            if self.dep.replicas.iter().all(|replica| replica.id != old.id) {
                writes.push(Write::DeleteReplica(self.dep.id, old.id));
            }
        }
        let happenings = std::mem::take(&mut self.happenings);
        if writes.is_empty() && happenings.is_empty() {
            return Vec::new();
        }
        vec![Effect::Persist(writes, happenings)]
    }
}
