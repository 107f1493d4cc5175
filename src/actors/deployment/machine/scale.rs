//! The number of replicas, where the load decides about it.

use std::cmp::Reverse;

use nebula_core::ids::ReplicaId;

use super::{Machine, Now};
use crate::domain::deployment::{Desired, Phase};
use crate::domain::route::Load;

impl Machine {
    /// Whether the shell is to say again and again what the gateway has for this deployment.
    #[must_use]
    pub fn wants_load(&self) -> bool {
        self.dep.desired == Desired::Running && self.dep.spec.autoscale.is_some()
    }

    /// Looks at the load, and wants more or fewer replicas for it.
    pub(super) fn look_at_load(&mut self, load: &Load, now: Now) {
        let Some(scale) = self.dep.spec.autoscale.filter(|_| self.wants_load()) else { return };
        let wanted = self.dep.spec.replicas;
        let running = self.by_index().values().filter(|here| here.iter().any(|one| one.serves)).count();
        let running = u32::try_from(running).unwrap_or(u32::MAX);
        let Some(decision) = self.autoscaler.decide(&scale, wanted, running, load, now.tick) else { return };
        let to = match decision.to {
            fewer if fewer < wanted => self.idle_last(fewer, load),
            more => more,
        };
        if to != wanted {
            self.scale(to, Some(decision.why), now);
        }
    }

    /// Somebody asks: where there is no replica, one is wanted.
    pub(super) fn demand(&mut self, now: Now) {
        if self.dep.sleeps() {
            self.scale(1, Some("somebody asks".to_owned()), now);
        }
    }

    pub(super) fn scale(&mut self, to: u32, why: Option<String>, now: Now) {
        self.dep.spec.replicas = to;
        self.dep.updated_at = now.wall;
        self.scaled_because = why;
    }

    /// Gives the highest indices to replicas that have nothing to do, so that these are the ones that go. Answers how
    /// few replicas there may be without ending a request.
    fn idle_last(&mut self, fewer: u32, load: &Load) -> u32 {
        let wanted = self.dep.spec.replicas;
        // While one replica takes over from another, who has what to do is about to change.
        if self.dep.previous.is_some() || self.by_index().values().any(|here| here.len() > 1) {
            return wanted;
        }
        for last in (fewer..wanted).rev() {
            let idle = self.dep.replicas.iter().filter(|replica| !replica.leaving && replica.index <= last);
            let idle = idle.filter(|replica| load.inflight.get(&replica.id).is_none_or(|count| *count == 0));
            let least = idle.min_by_key(|replica| (replica.phase == Phase::Running, Reverse(replica.index)));
            let Some((id, index)) = least.map(|replica| (replica.id, replica.index)) else { return last + 1 };
            self.swap(id, index, last);
        }
        fewer
    }

    fn swap(&mut self, id: ReplicaId, index: u32, last: u32) {
        for replica in self.dep.replicas.iter_mut().filter(|replica| !replica.leaving) {
            if replica.id == id {
                replica.index = last;
            } else if replica.index == last {
                replica.index = index;
            }
        }
    }
}
