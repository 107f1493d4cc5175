//! Everything works again: what is wanted must come true, all of it and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use nebula_agent::replica::machine as replica;
use nebula_core::ids::ReplicaId;
use nebulad::actors::deployment::machine::Intent;
use nebulad::domain::deployment::{Deployment, Desired, Phase, Replica};
use nebulad::domain::node::{Availability, Scheduling};

use super::agent::{DECLINED, node_id, node_index, short};
use super::chaos::Act;
use super::control::registry_op::Op;
use super::control::{deployment_id, deployment_number};
use super::net::Link;
use super::sim::{Event, NODES, Sim};

/// I3: 60 s, and the time until every agent has surely called once more: the longest wait after failures (30 s, its
/// scatter and two calls at their deadline).
pub(crate) const HEALED_MS: u64 = 60_000 + 40_000;
const LOOK_MS: u64 = 1_000;
/// How often the operator starts again what has failed.
const START_AGAIN_MS: u64 = 15_000;
const HOUR_MS: u64 = 3_600_000;

impl Sim {
    /// One hour: some minutes in which the world hurts, then healing, then quiet.
    pub(crate) fn hour(&mut self, hurting_ms: u64) {
        let began = self.now;
        self.hurting = true;
        self.at(self.now, Event::Act(Act::Next));
        while self.now < began + hurting_ms && self.violation.is_none() {
            self.run_until((self.now + 5_000).min(began + hurting_ms));
            self.check_table();
            self.check_strays();
            self.check_bounds();
        }
        self.hurting = false;
        let mix = self.mix;
        (self.mix.prepare_fails, self.mix.exits) = (0, 0);
        self.heal();
        self.drill();
        self.settle();
        self.mix = mix;
        self.run_until(began + HOUR_MS);
        self.check_bounds();
        self.check_records();
        self.oracle.rests();
    }

    fn heal(&mut self) {
        self.trace(|| "everything works again".to_owned());
        self.links = vec![Link::default(); usize::from(NODES)];
        (self.control.plan, self.control.paused_until) = (None, 0);
        self.control_continues();
        if !self.control.up {
            self.control_starts();
        }
        if self.control.caution.holds() {
            self.count("gaps accepted by the operator", 1);
            self.control.caution.end();
        }
        self.restart_crashed();
        for n in 0..NODES {
            self.agent(n).die_in = None;
            if !self.agent(n).up {
                self.after(500, Event::AgentStarts(n));
            }
        }
        let began = self.now;
        self.run_until(began + LOOK_MS);
        for n in 0..NODES {
            self.operator(Op::Schedule(node_id(n), Scheduling::Schedulable));
        }
        self.settle();
    }

    /// Waits until all is as it should be: what waits because it crashed does so in its own time.
    fn settle(&mut self) {
        let began = self.now;
        let (mut since, mut start_again) = (began, began);
        while self.violation.is_none() {
            self.run_until(self.now + LOOK_MS);
            self.check_strays();
            if self.backs_off() {
                since = self.now;
            }
            let Some(problem) = self.problem() else { break };
            if self.now - since > HEALED_MS {
                self.violated("I3", problem);
            }
            if self.now >= start_again {
                start_again = self.now + START_AGAIN_MS;
                self.start_what_failed();
            }
        }
        let took = self.now - began;
        let bucket = match took {
            0..10_000 => "healed within 10 s",
            10_000..30_000 => "healed within 30 s",
            30_000..60_000 => "healed within 60 s",
            60_000..100_000 => "healed within 100 s",
            _ => "healed later, after back-off",
        };
        self.count(bucket, 1);
        self.check_bounds();
    }

    /// Whether some runtime waits because it crashed, which heals in its own time.
    fn backs_off(&self) -> bool {
        let waits = |live: &super::agent::Live| live.machine.state().phase == replica::Phase::BackingOff;
        self.agents.iter().any(|agent| agent.live.iter().any(waits))
    }

    fn start_what_failed(&mut self) {
        for d in self.deployments() {
            let failed = self.deployment(d).is_some_and(|actor| {
                let dep = actor.machine.deployment();
                let failed = |replica: &Replica| replica.phase == Phase::Failed && !replica.leaving;
                dep.desired == Desired::Running && !is_declined(dep) && dep.replicas.iter().any(failed)
            });
            if failed {
                self.want(d, Intent::Start);
            }
        }
    }

    /// What is not yet as it should be.
    fn problem(&mut self) -> Option<String> {
        if self.control.cells.values().any(|cell| cell.machine.is_none()) {
            return Some("an actor is down".to_owned());
        }
        let online =
            self.registry()?.nodes().filter(|node| node.availability == Availability::Online).count();
        if online != usize::from(NODES) {
            return Some(format!("{online} of {NODES} nodes are online"));
        }
        let mut wanted = BTreeSet::new();
        let (mut held, mut reserve) = (BTreeMap::new(), 0);
        for d in self.deployments() {
            let dep = self.deployment(d)?.machine.deployment().clone();
            if let Some(problem) = self.deployment_problem(d, &dep, &mut wanted) {
                return Some(problem);
            }
            let place =
                |replica: &Replica| Some((replica.id, node_index(&replica.placement.as_ref()?.node_id)));
            held.extend(dep.replicas.iter().filter_map(place));
            reserve += dep.replicas.iter().filter(|replica| dep.holds_place(replica)).count();
        }
        for n in 0..NODES {
            let waiting = self.session(n).map_or(0, |actor| actor.machine.waiting());
            if waiting > 0 {
                return Some(format!("{waiting} commands wait for n{n:02}"));
            }
            let strangers =
                self.agent(n).live.iter().find(|live| held.get(&live.id) != Some(&n)).map(|live| live.id);
            if let Some(stranger) = strangers {
                return Some(format!("n{n:02} has a replica {} that nobody wants", short(stranger)));
            }
            let extra =
                self.agent(n).processes.iter().find(|process| !wanted.contains(&process.replica)).cloned();
            if let Some(extra) = extra {
                return Some(format!("n{n:02} runs {} that is not to run", short(extra.replica)));
            }
        }
        let reserved = self.scheduler()?.reserved();
        (reserved != reserve).then(|| format!("{reserved} places are reserved for {reserve} replicas"))
    }

    fn deployment_problem(
        &mut self,
        d: u32,
        dep: &Deployment,
        wanted: &mut BTreeSet<ReplicaId>,
    ) -> Option<String> {
        let stored = self.control.store.image.deployments.get(&deployment_id(d))?;
        let same = stored.replicas.len() == dep.replicas.len()
            && dep.replicas.iter().all(|replica| stored.replicas.contains(replica));
        if !same {
            return Some(format!("d{d} is stored otherwise"));
        }
        let endpoints = self.control.table.by_id(dep.id).map_or(0, |route| route.endpoints.len());
        match dep.desired {
            Desired::Deleted => return Some(format!("d{d} is still being deleted")),
            Desired::Stopped => {
                let moving = dep.replicas.iter().find(|replica| replica.phase != Phase::Stopped);
                return moving.map(|r| format!("d{d} is to stop, {} is {:?}", short(r.id), r.phase));
            }
            Desired::Running => {}
        }
        if dep.replicas.len() != dep.spec.replicas as usize {
            return Some(format!("d{d} has {} of {} replicas", dep.replicas.len(), dep.spec.replicas));
        }
        let declined = is_declined(dep);
        for replica in &dep.replicas {
            match replica.phase {
                Phase::Running if !declined => {
                    wanted.insert(replica.id);
                    if let Some(problem) = self.replica_problem(d, dep, replica) {
                        return Some(problem);
                    }
                }
                Phase::Failed if declined => {}
                phase => {
                    return Some(format!("d{d} {} is {phase:?}: {}", short(replica.id), replica.message));
                }
            }
        }
        let serving = if declined { 0 } else { dep.replicas.len() };
        (endpoints != serving).then(|| format!("d{d} has {endpoints} endpoints for {serving} replicas"))
    }

    /// What is told of a replica against what its node really does.
    fn replica_problem(&mut self, d: u32, dep: &Deployment, told: &Replica) -> Option<String> {
        let n = node_index(&told.placement.as_ref()?.node_id);
        let id = told.id;
        let what = |what: String| Some(format!("d{d} {} on n{n:02}: {what}", short(id)));
        let running = self.agent(n).processes.iter().filter(|process| process.replica == id).count();
        if running != 1 {
            return what(format!("{running} processes"));
        }
        let Some(live) = self.agent(n).live(id) else { return what("the agent does not know it".to_owned()) };
        let state = live.machine.state();
        if !matches!(state.phase, replica::Phase::Running { .. }) {
            return what(format!("it is {}", state.phase.as_str()));
        }
        // A restart reaches all of them; of a change that was taken back only the old ones are left.
        let restarted = dep.revision == dep.generation || told.generation == dep.generation;
        if state.generation != told.generation || told.revision != dep.revision || !restarted {
            let (generations, revisions) =
                ((state.generation, told.generation), (told.revision, dep.revision));
            return what(format!(
                "generations {generations:?} of {}, revisions {revisions:?}",
                dep.generation
            ));
        }
        // What a restored store does not know of, nobody can tell the proxies.
        if state.access.tokens != [dep.token] && !self.restored {
            return what("its proxy lets in who holds another token than the newest".to_owned());
        }
        None
    }

    /// No record is left of what is gone.
    fn check_records(&mut self) {
        let image = &self.control.store.image;
        let nobodys: Vec<String> = image
            .commands
            .iter()
            .filter(|(node, _)| !image.nodes.contains_key(*node))
            .map(|(node, all)| format!("{} commands for {node}, which is no node", all.len()))
            .chain(
                image
                    .deployments
                    .keys()
                    .filter(|id| !self.control.names.contains(&deployment_number(**id)))
                    .map(|id| format!("a record of {id}, which nobody runs")),
            )
            .collect();
        if let Some(what) = nobodys.first() {
            self.violated("I8", what.clone());
        }
    }
}

fn is_declined(dep: &Deployment) -> bool {
    dep.spec.args.iter().any(|arg| arg == DECLINED)
}
