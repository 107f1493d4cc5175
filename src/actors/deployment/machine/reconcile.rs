//! Desired against observed: what is missing, said without regard to what has just happened.

use nebula_core::ids::{Generation, ReplicaId};

use super::{Effect, Machine, Told};
use crate::domain::command::Action;
use crate::domain::deployment::{Desired, Phase, Replica};
use crate::domain::node::Availability;
use crate::domain::report::{ReportedStatus, Seen};

/// How a replica stands on its node, by what is known of the node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Observed {
    /// The node says that it has no such replica, and would know.
    Absent,
    /// The node is silent, or has not reported since it was told.
    Unknown,
    /// The node is offline: nothing will come of it for now.
    Silent,
    /// The node reports the replica.
    Present,
}

impl Machine {
    pub(super) fn reconcile(&mut self, effects: &mut Vec<Effect>) {
        match self.dep.desired {
            Desired::Running => self.reconcile_running(effects),
            Desired::Stopped => self.reconcile_stopped(effects),
            Desired::Deleted => {
                self.dep.replicas.iter_mut().for_each(|replica| replica.leaving = true);
            }
        }
        self.dismiss_strangers(effects);
        self.see_off_leaving(effects);
        self.finished = self.dep.desired == Desired::Deleted && self.dep.replicas.is_empty();
    }

    fn reconcile_running(&mut self, effects: &mut Vec<Effect>) {
        self.match_count();
        let generation = self.dep.generation;
        for at in 0..self.dep.replicas.len() {
            let Some(replica) = self.dep.replicas.get(at).filter(|replica| !replica.leaving) else {
                continue;
            };
            let id = replica.id;
            let Some(node) = replica.placement.as_ref().map(|place| place.node_id.clone()) else {
                self.seek_place(id, generation, effects);
                continue;
            };
            let outdated = replica.generation < generation;
            let lost = replica.phase != Phase::Failed && self.observe_replica(replica) == Observed::Absent;
            if !outdated && !lost {
                continue;
            }
            let report_seq = self.nodes.get(&node).map_or(0, |facts| facts.report_seq);
            self.told.insert(id, (Told::Start, report_seq));
            let Some(replica) = self.dep.replicas.get_mut(at) else { continue };
            replica.generation = generation;
            replica.phase = Phase::Preparing;
            replica.message = String::new();
            replica.seen = Seen::default();
            let replica = replica.clone();
            let start = Action::Start(Box::new(self.start_spec(&replica)));
            effects.push(Effect::Send(node, id, generation, start));
        }
    }

    /// Creates replicas that are missing and marks those that are too many, the highest index first.
    fn match_count(&mut self) {
        let wanted = self.dep.spec.replicas;
        for replica in &mut self.dep.replicas {
            if replica.index >= wanted {
                replica.leaving = true;
            }
        }
        for index in 0..wanted {
            if self.dep.replicas.iter().any(|replica| !replica.leaving && replica.index == index) {
                continue;
            }
            self.dep.replicas.push(Replica {
                id: ReplicaId::random(),
                index,
                generation: Generation(0),
                revision: self.dep.revision,
                placement: None,
                phase: Phase::Pending,
                leaving: false,
                container_id: String::new(),
                port: 0,
                message: String::new(),
                restarts: 0,
                seen: Seen::default(),
            });
        }
        self.dep.replicas.sort_by_key(|replica| (replica.index, replica.leaving));
    }

    fn seek_place(&mut self, id: ReplicaId, generation: Generation, effects: &mut Vec<Effect>) {
        if let Some(replica) = self.dep.replicas.iter_mut().find(|replica| replica.id == id) {
            replica.phase = Phase::Pending;
        }
        if !self.retrying && self.placing.insert(id) {
            effects.push(Effect::Place(id, generation));
        }
    }

    fn reconcile_stopped(&mut self, effects: &mut Vec<Effect>) {
        let generation = self.dep.generation;
        for at in 0..self.dep.replicas.len() {
            let Some(replica) = self.dep.replicas.get(at).filter(|replica| !replica.leaving) else {
                continue;
            };
            let observed = self.observe_replica(replica);
            let next = match (&replica.placement, replica.phase) {
                (None, _) | (_, Phase::Stopped | Phase::Failed) => Phase::Stopped,
                (Some(_), _) if observed == Observed::Absent => Phase::Stopped,
                (Some(_), _) => Phase::Stopping,
            };
            let (id, node) = (replica.id, replica.placement.as_ref().map(|place| place.node_id.clone()));
            if let Some(node) = node.filter(|_| next == Phase::Stopping && self.must_tell(id, Told::Stop)) {
                effects.push(Effect::Send(node, id, generation, Action::Stop));
            }
            if let Some(replica) = self.dep.replicas.get_mut(at).filter(|replica| replica.phase != next) {
                replica.phase = next;
                replica.message = String::new();
            }
        }
    }

    /// Replicas that their nodes report and that this deployment does not have there: each is deleted once for each
    /// report that has it. The same report may be looked at many times.
    fn dismiss_strangers(&mut self, effects: &mut Vec<Effect>) {
        let mut strangers = Vec::new();
        for facts in self.nodes.values().filter(|facts| facts.availability != Availability::Offline) {
            for report in &facts.replicas {
                let ours = self.dep.replicas.iter().any(|replica| {
                    replica.id == report.replica_id
                        && replica.placement.as_ref().is_some_and(|place| place.node_id == facts.node_id)
                });
                if !ours {
                    let generation = report.generation.max(self.dep.generation);
                    strangers.push((facts.node_id.clone(), report.replica_id, generation, facts.report_seq));
                }
            }
        }
        self.dismissed.retain(|(node, id), _| strangers.iter().any(|(n, i, ..)| (n, i) == (node, id)));
        for (node, id, generation, report_seq) in strangers {
            if self.dismissed.insert((node.clone(), id), report_seq) != Some(report_seq) {
                effects.push(Effect::Send(node, id, generation, Action::Delete));
            }
        }
    }

    /// Tells nodes to delete what leaves, and forgets what is gone.
    fn see_off_leaving(&mut self, effects: &mut Vec<Effect>) {
        let generation = self.dep.generation;
        let mut gone = Vec::new();
        for at in 0..self.dep.replicas.len() {
            let Some(replica) = self.dep.replicas.get(at).filter(|replica| replica.leaving) else { continue };
            let Some(place) = replica.placement.clone() else {
                gone.push(replica.id);
                continue;
            };
            let (id, observed) = (replica.id, self.observe_replica(replica));
            if self.must_tell(id, Told::Delete) {
                effects.push(Effect::Send(place.node_id.clone(), id, generation, Action::Delete));
            }
            // The command is durable and outlives the replica's record: a silent node hears it when it is back.
            if matches!(observed, Observed::Absent | Observed::Silent) {
                gone.push(id);
            } else if let Some(replica) = self.dep.replicas.get_mut(at) {
                replica.phase = Phase::Stopping;
            }
        }
        for id in gone {
            self.dep.replicas.retain(|replica| replica.id != id);
            self.told.remove(&id);
            self.placing.remove(&id);
            effects.push(Effect::Release(id));
        }
        let in_use = self.nodes_in_use();
        let idle: Vec<_> = self.nodes.keys().filter(|node| !in_use.contains(*node)).cloned().collect();
        for node in idle {
            self.nodes.remove(&node);
            effects.push(Effect::Unwatch(node));
        }
    }

    fn observe_replica(&self, replica: &Replica) -> Observed {
        let Some(facts) = replica.placement.as_ref().and_then(|place| self.nodes.get(&place.node_id)) else {
            return Observed::Unknown;
        };
        if facts.availability == Availability::Offline {
            return Observed::Silent;
        }
        // A report of an older generation says that the start of the newer one never came.
        let report = facts.replicas.iter().find(|report| report.replica_id == replica.id);
        let going = replica.leaving || self.dep.desired != Desired::Running;
        if report.is_some_and(|report| report.generation >= replica.generation || going) {
            return Observed::Present;
        }
        let told_at = self.told.get(&replica.id).map_or(0, |(_, report_seq)| *report_seq);
        if facts.report_seq > told_at { Observed::Absent } else { Observed::Unknown }
    }

    /// Whether a replica's node must be told to stop or delete it: it was not told by this incarnation, or a
    /// newer report than the one it was told after says that it runs still.
    fn must_tell(&mut self, id: ReplicaId, what: Told) -> bool {
        let place = self.dep.replicas.iter().find(|r| r.id == id).and_then(|r| r.placement.as_ref());
        let facts = place.and_then(|place| self.nodes.get(&place.node_id));
        let runs_still = facts
            .and_then(|facts| facts.replicas.iter().find(|r| r.replica_id == id))
            .is_some_and(|report| {
                what == Told::Delete
                    || !matches!(report.status, ReportedStatus::Stopping | ReportedStatus::Stopped)
            });
        let report_seq = facts.map_or(0, |facts| facts.report_seq);
        match self.told.get(&id) {
            Some((told, told_at)) if *told == what && !(runs_still && report_seq > *told_at) => false,
            _ => {
                self.told.insert(id, (what, report_seq));
                true
            }
        }
    }
}
