//! What is done on purpose while nothing else happens: changes that run and changes that do not, and nodes that are
//! emptied. Meanwhile every deployment that was well answers with as many replicas as it may.

use std::collections::BTreeMap;

use nebulad::actors::deployment::machine::Intent;
use nebulad::domain::deployment::{DeploymentSpec, Desired, Strategy};
use nebulad::domain::node::Scheduling;

use super::agent::{DECLINED, FLAKY, node_id, node_index};
use super::control::registry_op::Op;
use super::control::{Who, deployment_id};
use super::sim::{NODES, Sim};

/// A change that finds no place is given up after ten minutes; all else is quicker.
const DRILL_MS: u64 = 15 * 60_000;
const LOOK_MS: u64 = 1_000;
/// Until then everything has arrived that was late on its way.
const LATE_MS: u64 = 61_000;
const CHANGES_MAX: usize = 4;
const DRAINS_MAX: usize = 2;
/// How an argument begins that a drill adds.
const DRILLED: &str = "--drilled-at=";

/// What is being done.
#[derive(Debug, Default)]
pub(crate) struct Drill {
    /// The fewest endpoints that each deployment may have now.
    floors: BTreeMap<u32, usize>,
}

impl Drill {
    pub(crate) fn is_on(&self) -> bool {
        !self.floors.is_empty()
    }
}

/// What is to come of a change.
struct Planned {
    d: u32,
    before: DeploymentSpec,
    wanted: DeploymentSpec,
    fails: bool,
}

impl Sim {
    /// Everything is well: changes and drains at once.
    pub(crate) fn drill(&mut self) {
        self.run_until(self.now + LATE_MS);
        let well = self.well();
        if self.violation.is_some() || well.is_empty() {
            return;
        }
        let changes = self.plan_changes(&well);
        let drained: Vec<u16> = (0..DRAINS_MAX).map(|_| self.any_node()).collect();
        self.drill = Drill { floors: well.iter().copied().collect() };
        for n in &drained {
            self.operator(Op::Schedule(node_id(*n), Scheduling::Draining));
        }
        for planned in &changes {
            self.want(planned.d, Intent::Change(Box::new(planned.wanted.clone())));
        }
        let began = self.now;
        self.run_until(began + LOOK_MS);
        loop {
            self.check_floors();
            self.check_strays();
            let open = self.open_change(&changes).or_else(|| self.open_drain(&drained));
            let Some(open) = open else { break };
            if self.now - began > DRILL_MS {
                self.violated("drill", open);
            }
            if self.violation.is_some() {
                return;
            }
            self.run_until(self.now + LOOK_MS);
        }
        self.drill = Drill::default();
        self.count("drills", 1);
        self.count("changes in drills", changes.len() as u64);
        for n in 0..NODES {
            self.operator(Op::Schedule(node_id(n), Scheduling::Schedulable));
        }
    }

    /// Deployments that run as they should and will go on doing so, each with the fewest endpoints that it may have.
    fn well(&mut self) -> Vec<(u32, usize)> {
        let mut found = Vec::new();
        for d in self.deployments() {
            let Some(dep) = self.deployment(d).map(|actor| actor.machine.deployment()) else { continue };
            let fixed = dep.spec.autoscale.is_none() && dep.spec.replicas > 0;
            let works = !dep.spec.args.iter().any(|arg| arg == DECLINED || arg == FLAKY);
            if dep.desired == Desired::Running && fixed && works && dep.previous.is_none() {
                let replicas = dep.spec.replicas as usize;
                let floor = match (dep.spec.strategy, dep.spec.gpu.count) {
                    (Strategy::Recreate, _) => 0,
                    (Strategy::Rolling, 0) => replicas,
                    // There may be no room for one more.
                    (Strategy::Rolling, _) => replicas.saturating_sub(1),
                };
                found.push((d, floor));
            }
        }
        found
    }

    fn plan_changes(&mut self, well: &[(u32, usize)]) -> Vec<Planned> {
        let mut changes: Vec<Planned> = Vec::new();
        for _ in 0..CHANGES_MAX {
            let Some((d, _)) = self.rng.pick(well) else { break };
            if changes.iter().any(|known| known.d == d) {
                continue;
            }
            let fails = self.rng.chance(400);
            let now = self.now;
            let Some(actor) = self.deployment(d) else { continue };
            let before = actor.machine.deployment().spec.clone();
            let mut wanted = before.clone();
            wanted.args.retain(|arg| !arg.starts_with(DRILLED));
            wanted.args.push(if fails { DECLINED.to_owned() } else { format!("{DRILLED}{now}") });
            changes.push(Planned { d, before, wanted, fails });
        }
        changes
    }

    fn open_change(&mut self, changes: &[Planned]) -> Option<String> {
        for Planned { d, before, wanted, fails } in changes {
            let (dep, is_for) =
                (self.deployment(*d)?.machine.deployment(), if *fails { before } else { wanted });
            if dep.previous.is_some() || dep.spec != *is_for {
                return Some(format!("the change of d{d}, which is to fail: {fails}, is not over"));
            }
            let outdated =
                dep.replicas.iter().find(|replica| replica.revision != dep.revision || replica.leaving);
            if let Some(replica) = outdated {
                return Some(format!("d{d} still has a replica of revision {}", replica.revision));
            }
        }
        None
    }

    fn open_drain(&mut self, drained: &[u16]) -> Option<String> {
        for n in drained {
            if let Some(live) = self.agent(*n).live.first() {
                let id = super::agent::short(live.id);
                return Some(format!("n{n:02} is to be empty and has {id}"));
            }
            for d in self.deployments() {
                let dep = self.deployment(d)?.machine.deployment();
                let here = dep.replicas.iter().find(|replica| {
                    replica.placement.as_ref().is_some_and(|place| node_index(&place.node_id) == *n)
                });
                if here.is_some() {
                    return Some(format!("n{n:02} is to be empty and has a replica of d{d}"));
                }
            }
        }
        None
    }

    /// Nobody who was well has fewer endpoints than it may.
    pub(crate) fn check_floors(&mut self) {
        let floors: Vec<(u32, usize)> = self.drill.floors.iter().map(|(d, floor)| (*d, *floor)).collect();
        for (d, floor) in floors {
            let count = self.control.table.by_id(deployment_id(d)).map_or(0, |route| route.endpoints.len());
            if count < floor {
                self.violated("floor", format!("d{d} has {count} endpoints, at least {floor} are promised"));
            }
        }
    }

    pub(crate) fn deployments(&self) -> Vec<u32> {
        let number = |who: &Who| match who {
            Who::Deployment(d) => Some(*d),
            _ => None,
        };
        self.control.cells.keys().filter_map(number).collect()
    }
}
