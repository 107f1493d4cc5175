//! Places: asked for once, and again when the scheduler says that something has changed.

use std::time::Duration;

use nebula_core::ids::{Generation, ReplicaId};

use super::observe::clip;
use super::{Effect, Machine, Now};
use crate::domain::deployment::{Desired, Phase, Placement, Replica};
use crate::domain::event::Happening;

/// How long a replica that found no place waits before it asks again by itself; the scheduler says when something
/// has changed for it.
const PLACE_RETRY: Duration = Duration::from_secs(60);

impl Machine {
    /// Asks for a place for each replica that needs one and has not been refused.
    pub(super) fn seek_places(&mut self, effects: &mut Vec<Effect>) {
        if std::mem::take(&mut self.freed) {
            self.ask_again();
        }
        let generation = self.dep.generation;
        for replica in &mut self.dep.replicas {
            if replica.leaving || replica.placement.is_some() {
                continue;
            }
            replica.phase = Phase::Pending;
            if !self.refused.contains(&replica.id) && !self.placing.contains_key(&replica.id) {
                self.placing.insert(replica.id, false);
                effects.push(Effect::Place(replica.id, generation));
            }
        }
    }

    /// Whether it would be good to know how much memory the model is thought to need.
    #[must_use]
    pub fn wants_hint(&self) -> bool {
        let spec = &self.dep.spec;
        let unsaid = spec.gpu.count > 0 && spec.gpu.memory_bytes == 0 && spec.source.is_some();
        unsaid && self.dep.hint.is_none() && self.dep.desired == Desired::Running
    }

    /// Whoever was refused may ask again, also whose refusal is still on its way: it may be older than this news.
    pub(super) fn ask_again(&mut self) {
        self.placing.values_mut().for_each(|again| *again = true);
        self.refused.clear();
        self.retry_at = None;
    }

    pub(super) fn retry_places(&mut self, now: Now) {
        if self.retry_at.is_some_and(|at| at <= now.tick) {
            self.ask_again();
        }
    }

    pub(super) fn placed(
        &mut self,
        id: ReplicaId,
        generation: Generation,
        placement: Placement,
        effects: &mut Vec<Effect>,
    ) {
        self.placing.remove(&id);
        // A place that was sought for an older spec may not fit this one.
        let wanted = self.dep.desired == Desired::Running && self.dep.generation <= generation;
        let waiting = self
            .dep
            .replicas
            .iter_mut()
            .find(|replica| wanted && replica.id == id && replica.placement.is_none());
        let Some(replica) = waiting.filter(|replica| !replica.leaving) else {
            effects.push(Effect::Release(id));
            return;
        };
        let node = placement.node_id.clone();
        self.refused.remove(&id);
        replica.phase = Phase::Preparing;
        replica.message = String::new();
        // The start itself is told by `reconcile`, as for every replica that its node does not run yet.
        replica.generation = Generation(0);
        self.happenings.push(Happening {
            kind: "placed",
            message: format!("placed on node {}", placement.node_name),
            replica: Some(id),
            node: Some(node.clone()),
        });
        replica.placement = Some(placement);
        effects.push(Effect::Watch(node));
    }

    pub(super) fn unplaceable(
        &mut self,
        id: ReplicaId,
        generation: Generation,
        why: String,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let again = self.placing.remove(&id).unwrap_or(false);
        let known = self.dep.replicas.iter().find(|replica| replica.id == id);
        let seeks = |replica: &Replica| self.dep.desired == Desired::Running && !replica.leaving;
        if !known.is_some_and(|replica| replica.placement.is_some() || seeks(replica)) {
            // The scheduler has it among those who wait, and may have heard before that it waits no longer.
            effects.push(Effect::Release(id));
            return;
        }
        // What was sought for an older spec says nothing about this one: it is sought anew.
        if generation < self.dep.generation {
            return;
        }
        let waiting = self.dep.replicas.iter_mut().find(|r| r.id == id && r.placement.is_none());
        let Some(replica) = waiting else { return };
        replica.message = clip(why);
        self.placeless_since.get_or_insert(now.tick);
        if again {
            return;
        }
        self.refused.insert(id);
        self.retry_at.get_or_insert(now.tick.plus(PLACE_RETRY));
    }
}
