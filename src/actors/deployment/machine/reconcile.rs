//! Desired against observed: what is missing, said without regard to what has just happened.

use nebula_core::ids::{Generation, NodeId, ReplicaId};

use super::loss::unreachable;
use super::{Effect, Machine, Now, Told};
use crate::domain::command::Action;
use crate::domain::deployment::{Deployment, Desired, Phase, Replica};
use crate::domain::node::Availability;
use crate::domain::report::{ReportedStatus, Seen};

/// How a replica stands on its node, by what is known of the node.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Observed {
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
    pub(super) fn reconcile(&mut self, before: &Deployment, now: Now, effects: &mut Vec<Effect>) {
        match self.dep.desired {
            Desired::Running => {
                self.judge_change(now, effects);
                self.succeed();
                self.start_replicas(effects);
            }
            Desired::Stopped => self.reconcile_stopped(effects),
            Desired::Deleted => {
                self.dep.replicas.iter_mut().for_each(|replica| replica.leaving = true);
            }
        }
        self.dismiss_strangers(effects);
        let mut gone = self.see_off_leaving(effects);
        if self.dep.desired == Desired::Running {
            // Who goes makes room for who waited for it, and may have been the last of an older version.
            while gone {
                self.succeed();
                gone = self.see_off_leaving(effects);
            }
            self.finish_change();
        }
        self.give_back(before, effects);
        if self.dep.desired == Desired::Running {
            self.seek_places(effects);
        }
        self.leave_idle_nodes(effects);
        self.finished = self.dep.desired == Desired::Deleted && self.dep.replicas.is_empty();
    }

    /// Starts what its node does not run, and anew what is to be restarted.
    fn start_replicas(&mut self, effects: &mut Vec<Effect>) {
        let generation = self.dep.generation;
        let mut under_way = self.dep.replicas.iter().filter(|replica| self.is_coming(replica)).count();
        for at in 0..self.dep.replicas.len() {
            let Some(replica) = self.dep.replicas.get(at).filter(|replica| !replica.leaving) else {
                continue;
            };
            let Some(node) = replica.placement.as_ref().map(|place| place.node_id.clone()) else { continue };
            // Nobody starts what must go.
            if self.reason(replica).is_some() {
                continue;
            }
            // What is there may be lost: it is started when its node is back, or elsewhere.
            if self.observe_replica(replica) == Observed::Silent {
                let replica = self.dep.replicas.get_mut(at).into_iter();
                let waits = |replica: &&mut Replica| !matches!(replica.phase, Phase::Failed | Phase::Stopped);
                replica.filter(waits).for_each(unreachable);
                continue;
            }
            let is_new = replica.generation == Generation(0);
            let lacking = replica.phase != Phase::Failed && self.observe_replica(replica) == Observed::Absent;
            let serves = replica.phase == Phase::Running && !self.is_missing(replica);
            let restarts = self.is_to_restart(replica) && (!serves || under_way < self.surge());
            if !is_new && !lacking && !restarts {
                continue;
            }
            under_way += usize::from(serves && restarts);
            // One report may be old and late. What is there takes a second start for what it is.
            let stands = serves && !restarts;
            self.start(at, node, generation, stands, effects);
        }
    }

    /// Whether a replica's node has said more than once that it has no such replica.
    pub(super) fn is_missing(&self, replica: &Replica) -> bool {
        let facts = replica.placement.as_ref().and_then(|place| self.nodes.get(&place.node_id));
        let since = self.lacking.get(&replica.id);
        let again = facts.zip(since).is_some_and(|(facts, since)| facts.report_seq > *since);
        again && self.observe_replica(replica) == Observed::Absent
    }

    /// Whether a replica runs on from before the last restart.
    pub(super) fn is_to_restart(&self, replica: &Replica) -> bool {
        self.dep.revision < self.dep.generation && replica.generation < self.dep.generation
    }

    /// Whether a replica has been started as it is to run now, or is about to be, and does not answer yet. One that fails
    /// counts too, so that a restart which breaks the first one leaves the others alone.
    fn is_coming(&self, replica: &Replica) -> bool {
        let comes =
            matches!(replica.phase, Phase::Preparing | Phase::Starting | Phase::Stopping | Phase::Failed);
        let as_wanted = replica.generation == self.dep.generation || self.is_to_restart(replica);
        comes && as_wanted && !replica.leaving
    }

    /// Tells a node to run a replica; one that `stands` is not taken for anything else until its node says so.
    fn start(
        &mut self,
        at: usize,
        node: NodeId,
        generation: Generation,
        stands: bool,
        effects: &mut Vec<Effect>,
    ) {
        let report_seq = self.nodes.get(&node).map_or(0, |facts| facts.report_seq);
        let Some(replica) = self.dep.replicas.get_mut(at) else { return };
        let generation = if stands { replica.generation } else { generation };
        if !stands {
            replica.generation = generation;
            replica.phase = Phase::Preparing;
            replica.message = String::new();
            replica.seen = Seen::default();
        }
        let replica = replica.clone();
        self.told.insert(replica.id, (Told::Start, report_seq));
        self.unheard.insert(replica.id);
        let start = Action::Start(Box::new(self.start_spec(&replica)));
        effects.push(Effect::Send(node.clone(), replica.id, generation, start));
        if self.dep.old_token.is_some() {
            // A start carries one token.
            effects.push(Effect::Send(node, replica.id, generation, self.access()));
        }
    }

    fn reconcile_stopped(&mut self, effects: &mut Vec<Effect>) {
        self.placeless_since = None;
        let generation = self.dep.generation;
        for at in 0..self.dep.replicas.len() {
            let Some(replica) = self.dep.replicas.get(at).filter(|replica| !replica.leaving) else {
                continue;
            };
            let next = match (&replica.placement, replica.phase) {
                (None, _) => Phase::Stopped,
                (_, Phase::Stopped | Phase::Failed) if !self.lives(replica) => Phase::Stopped,
                (Some(_), _) if self.is_gone(replica) => Phase::Stopped,
                (Some(_), _) => Phase::Stopping,
            };
            let (id, node) = (replica.id, replica.placement.as_ref().map(|place| place.node_id.clone()));
            let release = Effect::Release(id);
            if node.is_none() && replica.phase != Phase::Stopped && !effects.contains(&release) {
                // It seeks a place no longer.
                effects.push(release);
            }
            if let Some(node) = node.filter(|_| next == Phase::Stopping && self.must_tell(id, Told::Stop)) {
                effects.push(Effect::Send(node, id, generation, Action::Stop));
            }
            let drained = self.dep.replicas.get(at).is_some_and(|replica| self.is_draining(replica));
            let Some(replica) = self.dep.replicas.get_mut(at) else { continue };
            if replica.phase != next {
                replica.phase = next;
                replica.message = String::new();
            }
            // Its node is to be emptied, and nothing of it is left there but its record.
            replica.leaving = drained && next == Phase::Stopped;
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

    /// Tells nodes to delete what leaves, and forgets what is gone. Answers whether anything was.
    fn see_off_leaving(&mut self, effects: &mut Vec<Effect>) -> bool {
        let generation = self.dep.generation;
        let mut gone = Vec::new();
        for at in 0..self.dep.replicas.len() {
            let Some(replica) = self.dep.replicas.get(at).filter(|replica| replica.leaving) else { continue };
            let Some(place) = replica.placement.clone() else {
                gone.push(replica.id);
                continue;
            };
            let (id, silent) = (replica.id, self.observe_replica(replica) == Observed::Silent);
            let gone_there = self.is_gone(replica);
            if self.must_tell(id, Told::Delete) {
                effects.push(Effect::Send(place.node_id.clone(), id, generation, Action::Delete));
            }
            // The command is durable and outlives the replica's record: a silent node hears it when it is back.
            if gone_there || silent {
                gone.push(id);
            } else if let Some(replica) = self.dep.replicas.get_mut(at)
                && replica.phase != Phase::Stopped
            {
                replica.phase = Phase::Stopping;
            }
        }
        let any = !gone.is_empty();
        gone.into_iter().for_each(|id| self.forget(id, effects));
        any
    }

    fn leave_idle_nodes(&mut self, effects: &mut Vec<Effect>) {
        let in_use = self.nodes_in_use();
        let idle: Vec<_> = self.nodes.keys().filter(|node| !in_use.contains(*node)).cloned().collect();
        for node in idle {
            self.nodes.remove(&node);
            self.lost.remove(&node);
            self.silent_at.remove(&node);
            effects.push(Effect::Unwatch(node));
        }
    }

    pub(super) fn observe_replica(&self, replica: &Replica) -> Observed {
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

    /// Whether surely nothing of a replica is on its node: after a start that no report has shown yet the first report
    /// without it says nothing, it may have been on its way when the start was.
    fn is_gone(&self, replica: &Replica) -> bool {
        let facts = replica.placement.as_ref().and_then(|place| self.nodes.get(&place.node_id));
        let told_at = self.told.get(&replica.id).map_or(0, |(_, report_seq)| *report_seq);
        let again = facts.is_some_and(|facts| facts.report_seq > told_at.saturating_add(1));
        self.observe_replica(replica) == Observed::Absent && (again || !self.unheard.contains(&replica.id))
    }

    /// Whether its node says that a replica lives, of whichever generation.
    fn lives(&self, replica: &Replica) -> bool {
        let facts = replica.placement.as_ref().and_then(|place| self.nodes.get(&place.node_id));
        let mut reports = facts.iter().flat_map(|facts| &facts.replicas);
        reports.any(|report| {
            report.replica_id == replica.id
                && !matches!(report.status, ReportedStatus::Stopped | ReportedStatus::Failed)
        })
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
