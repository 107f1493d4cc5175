//! What the gateway would say of its requests: many, few, none, and somebody who asks where nothing runs.

use std::collections::BTreeMap;

use nebula_core::ids::ReplicaId;
use nebulad::actors::deployment::machine::Event as Happens;
use nebulad::domain::route::Load;

use super::control::Who;
use super::sim::Sim;

/// Most requests of one replica.
const INFLIGHT_MAX: u64 = 12;

impl Sim {
    /// Some deployment hears of its load.
    pub(crate) fn load(&mut self) {
        let scaled = |sim: &mut Self, d: &u32| {
            sim.deployment(*d).is_some_and(|actor| actor.machine.deployment().spec.autoscale.is_some())
        };
        let all: Vec<u32> = self.deployments().into_iter().filter(|d| scaled(self, d)).collect();
        let Some(d) = self.rng.pick(&all).filter(|d| self.is_up(Who::Deployment(*d))) else { return };
        if self.rng.chance(150) {
            self.count("requests where nothing runs", 1);
            return self.drive_deployment(d, Happens::Demand);
        }
        let busy = self.rng.chance(600);
        let replicas = |sim: &mut Self| -> Vec<(ReplicaId, bool)> {
            let Some(actor) = sim.deployment(d) else { return Vec::new() };
            actor.machine.deployment().replicas.iter().map(|one| (one.id, one.leaving)).collect()
        };
        let before = replicas(self);
        let mut inflight = BTreeMap::new();
        for (id, leaving) in &before {
            let count = if busy { self.rng.below(INFLIGHT_MAX) } else { self.rng.below(2) };
            if !leaving {
                inflight.insert(*id, u32::try_from(count).unwrap_or(0));
            }
        }
        let wanted = self.wanted_of(d);
        let asked = self.rng.next();
        self.count("looks at the load", 1);
        let load = Load { inflight: inflight.clone(), waiting: 0, asked };
        self.drive_deployment(d, Happens::Load(load));
        // It may have fallen over it.
        if !self.is_up(Who::Deployment(d)) || self.wanted_of(d) >= wanted {
            return;
        }
        self.count("replicas given up for want of requests", 1);
        let after = replicas(self);
        for (id, count) in inflight.into_iter().filter(|(_, count)| *count > 0) {
            let stays = after.iter().any(|(known, leaving)| *known == id && !leaving);
            if !stays {
                let replica = super::agent::short(id);
                self.violated("load", format!("d{d} gives up {replica}, which has {count} requests"));
            }
        }
    }

    fn wanted_of(&mut self, d: u32) -> u32 {
        self.deployment(d).map_or(0, |actor| actor.machine.deployment().spec.replicas)
    }
}
