//! What happens next by itself, and when: for people who wonder why something does not run.

use nebula_core::clock::{Tick, WallTime};
use nebula_core::ids::ReplicaId;

use super::succession::Reason;
use super::{Machine, Now};
use crate::domain::deployment::{Desired, LostAfter, Phase, Replica};

/// Something that is to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Next {
    /// One line.
    pub what: String,
    /// When, if that is known.
    pub at: Option<WallTime>,
    /// The replica concerned, if it is one.
    pub replica: Option<ReplicaId>,
}

/// So many steps are told at most.
const NEXT_MAX: usize = 20;

impl Machine {
    /// What happens next, as far as that is known.
    #[must_use]
    pub fn next(&self, now: Now) -> Vec<Next> {
        let wall = |at: Tick| {
            let wait = u64::try_from(at.since(now.tick).as_millis()).unwrap_or(u64::MAX);
            WallTime(now.wall.0.saturating_add(wait))
        };
        let mut steps = Vec::new();
        let whole = |what: String, at| Next { what, at, replica: None };
        if self.dep.desired == Desired::Running {
            if let Some(at) = self.gives_up_at() {
                let what = "the change is taken back unless a place is found".to_owned();
                steps.push(whole(what, Some(wall(at))));
            }
            if self.dep.sleeps() {
                steps.push(whole("a replica is started when somebody asks".to_owned(), None));
            }
            let scale = self.dep.spec.autoscale.as_ref();
            let awake = scale.filter(|_| self.dep.spec.replicas == 1);
            if let Some(at) = awake.and_then(|scale| self.autoscaler.sleeps_at(scale)) {
                let what = "the last replica is stopped unless somebody asks".to_owned();
                steps.push(whole(what, Some(wall(at))));
            }
        }
        if let Some(at) = self.token_ends {
            steps.push(whole("the old deployment token ends".to_owned(), Some(wall(at))));
        }
        let told = self.dep.replicas.iter().filter_map(|replica| {
            let (what, at) = self.next_of(replica)?;
            Some(Next { what, at: at.map(wall), replica: Some(replica.id) })
        });
        steps.extend(told);
        steps.truncate(NEXT_MAX);
        steps
    }

    fn next_of(&self, replica: &Replica) -> Option<(String, Option<Tick>)> {
        let index = replica.index;
        let node = replica.placement.as_ref().map_or("", |place| place.node_name.as_str());
        if replica.leaving {
            return Some((format!("replica {index} leaves node {node} when its requests are over"), None));
        }
        if self.dep.desired != Desired::Running {
            let stops = replica.phase == Phase::Stopping;
            return stops.then(|| (format!("replica {index} is stopped when its requests are over"), None));
        }
        if replica.placement.is_none() {
            let what = format!("replica {index} asks for a place again, at once when a node has room for it");
            return Some((what, self.retry_at.filter(|_| self.refused.contains(&replica.id))));
        }
        match self.reason(replica) {
            Some(Reason::Outdated) => {
                return Some((
                    format!("replica {index} on node {node} leaves when its successor answers"),
                    None,
                ));
            }
            Some(Reason::Draining) => {
                let what = format!(
                    "replica {index} leaves node {node}, which is being drained, when its successor answers"
                );
                return Some((what, None));
            }
            Some(Reason::Lost) if self.is_pinned(replica) => {
                return Some((waits_where_it_is(replica, node), None));
            }
            Some(Reason::Lost) => {
                return Some((format!("replica {index} is replaced elsewhere: node {node} is lost"), None));
            }
            None => {}
        }
        match replica.phase {
            Phase::Unreachable => Some(self.next_of_unreachable(replica, node)),
            Phase::Failed => {
                Some((format!("replica {index} stays failed until it is started or changed"), None))
            }
            Phase::Running if self.is_to_restart(replica) => {
                Some((format!("replica {index} is restarted when those before it answer"), None))
            }
            _ => None,
        }
    }

    /// Whether the deployment names the node on which the replica is.
    fn is_pinned(&self, replica: &Replica) -> bool {
        replica.placement.as_ref().is_some_and(|place| self.dep.spec.names(place))
    }

    fn next_of_unreachable(&self, replica: &Replica, node: &str) -> (String, Option<Tick>) {
        let index = replica.index;
        let place = replica.placement.as_ref();
        if self.is_pinned(replica) {
            return (waits_where_it_is(replica, node), None);
        }
        let lost = place.and_then(|place| self.lost.get(&place.node_id));
        match (self.dep.spec.lost_after, lost) {
            (LostAfter::Never, _) => (format!("replica {index} waits for node {node}, however long"), None),
            (LostAfter::After(_), None) => (format!("replica {index} waits for news of node {node}"), None),
            (LostAfter::After(_), Some(lost)) => {
                let what = format!("replica {index} is replaced elsewhere if node {node} stays offline");
                (what, lost.ask_at(self.dep.spec.lost_after))
            }
        }
    }
}

fn waits_where_it_is(replica: &Replica, node: &str) -> String {
    format!("replica {} waits for node {node}, which its deployment names", replica.index)
}
