//! Nodes that know more than the store: it was put back from an older copy, and what was asked for after that copy was
//! made is known to agents only.
//!
//! An agent refuses whatever is older than what it has seen, so the deployment takes up the generation that its nodes
//! report. What runs at that generation goes on untouched: its user asked for it last.

use nebula_core::ids::Generation;

use super::{Machine, Told};
use crate::domain::deployment::Desired;
use crate::domain::event::Happening;
use crate::domain::node::Availability;
use crate::domain::report::{NodeFacts, ReplicaReport, ReportedStatus};

impl Machine {
    /// Takes up a generation that a node reports of a replica here and that is newer than the deployment's own.
    pub(super) fn catch_up(&mut self, facts: &NodeFacts) {
        if facts.availability == Availability::Offline {
            return;
        }
        self.take_up(facts);
        let of_ours = |report: &&ReplicaReport| {
            let is_it = |place: &crate::domain::deployment::Placement| place.node_id == facts.node_id;
            let mut ours = self.dep.replicas.iter().filter(|replica| replica.id == report.replica_id);
            ours.any(|replica| replica.placement.as_ref().is_some_and(is_it))
        };
        let newer: Vec<&ReplicaReport> = facts
            .replicas
            .iter()
            .filter(of_ours)
            .filter(|report| report.generation > self.dep.generation)
            .collect();
        let Some(newest) = newer.iter().map(|report| report.generation).max() else { return };
        let was = self.dep.generation;
        // What was told since is a newer wish than what the node knows, and would be refused for its number.
        let told_since =
            newer.iter().any(|report| matches!(self.told.get(&report.replica_id), Some((Told::Start, _))));
        self.dep.generation = if told_since { newest.next() } else { newest };
        if !told_since {
            self.take_over(&newer, newest);
        }
        self.happenings.push(Happening {
            kind: "caught_up",
            message: format!("node {} reports generation {newest}, the store had {was}", facts.node_name),
            replica: None,
            node: Some(facts.node_id.clone()),
        });
    }

    /// What runs at `newest` is what was asked for last.
    fn take_over(&mut self, reports: &[&ReplicaReport], newest: Generation) {
        for report in reports.iter().filter(|report| report.generation == newest) {
            let runs = matches!(
                report.status,
                ReportedStatus::Preparing | ReportedStatus::Starting | ReportedStatus::Running
            );
            // Only a start raises the generation of a deployment that is stopped.
            if runs && self.dep.desired == Desired::Stopped {
                self.dep.desired = Desired::Running;
            }
            for replica in self.dep.replicas.iter_mut().filter(|replica| replica.id == report.replica_id) {
                replica.generation = newest;
            }
        }
    }

    /// What runs at the deployment's generation already, unknown to the store, is not started again; and what was
    /// restarted, unknown to the store, is what its node says that it is, whatever was wanted since.
    fn take_up(&mut self, facts: &NodeFacts) {
        let generation = self.dep.generation;
        for replica in self.dep.replicas.iter_mut().filter(|replica| replica.generation < generation) {
            let here = replica.placement.as_ref().is_some_and(|place| place.node_id == facts.node_id);
            let known = replica.generation.next()..=generation;
            let runs = facts
                .replicas
                .iter()
                .filter(|_| here && !replica.leaving)
                .find(|report| report.replica_id == replica.id && known.contains(&report.generation));
            if let Some(report) = runs {
                replica.generation = report.generation;
            }
        }
    }
}
