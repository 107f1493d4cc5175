//! What lost nodes had is moved node by node, and what was moved does not live on where it was.

use std::collections::{BTreeMap, BTreeSet};

use nebula_core::clock::Tick;
use nebula_core::ids::{NodeId, ReplicaId};
use nebulad::actors::registry::machine::brake::Brake;
use nebulad::domain::node::Availability;

use super::agent::{node_index, policy, short};
use super::control::{Machine, Mail, Who, deployment_number};
use super::sim::{NODES, Sim};
use super::talk::millis;

/// From one node whose replicas may move to the next.
const MOVE_EVERY_MS: u64 = 10_000;
/// From a node's first heartbeat after its return until nothing of it runs that has its place elsewhere: the promise,
/// and the time that a runtime has that does not listen.
const STOPPED_MS: u64 = 35_000;

/// What is known of moves.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    /// Of which life of nebulad and which incarnation of its scheduler this is.
    of: (u32, u32),
    granted: BTreeSet<u16>,
    last: Option<u64>,
    /// Nodes about which everything is well.
    well: BTreeMap<u16, Well>,
    /// Since when a process is nobody's.
    strays: BTreeMap<(u16, ReplicaId), u64>,
}

#[derive(Debug)]
struct Well {
    /// Of the node's agent.
    life: u32,
    since: u64,
    /// When it was first heard since.
    heard: Option<u64>,
}

impl Sim {
    /// The scheduler is asked whether what a lost node had may move.
    pub(crate) fn may_move(&mut self, d: u32, incarnation: u32, node: NodeId) {
        let (now, life) = (self.now, self.control.life);
        let brake = self.registry().is_some_and(|machine| matches!(machine.brake(), Brake::Closed(_)));
        let still = brake || self.control.caution.holds();
        let Some(machine) = self.scheduler() else { return };
        let may = machine.may_move(&node, still, Tick(now));
        let scheduler = self.cell(Who::Scheduler).map_or(0, |cell| cell.incarnation);
        if may {
            self.check_move((life, scheduler), &node, still);
        }
        self.mail(Who::Deployment(d), Mail::MayMove(incarnation, node, may));
    }

    fn check_move(&mut self, of: (u32, u32), node: &NodeId, still: bool) {
        let (now, n) = (self.now, node_index(node));
        if self.moves.of != of {
            (self.moves.of, self.moves.last) = (of, None);
            self.moves.granted.clear();
        }
        if !self.moves.granted.insert(n) {
            return;
        }
        self.count("nodes whose replicas may move", 1);
        if still {
            self.violated("moves", format!("n{n:02} may be left although nothing is to move"));
        }
        let last = self.moves.last.replace(now);
        if let Some(last) = last.filter(|last| now - last < MOVE_EVERY_MS) {
            self.violated("moves", format!("n{n:02} may be left {} ms after another one", now - last));
        }
    }

    /// A node is heard again: what it has may move no longer.
    pub(crate) fn node_announced(&mut self, node: &NodeId, availability: Availability) {
        if availability != Availability::Offline {
            self.moves.granted.remove(&node_index(node));
        }
    }

    /// What has its place elsewhere, or nowhere any more, does not run for long on a node that is well.
    pub(crate) fn check_strays(&mut self) {
        // After a restore, nobody knows at first what has its place where.
        if self.restored {
            return;
        }
        for n in 0..NODES {
            let well_since = self.well_since(n);
            let found = self.strays_on(n);
            self.moves.strays.retain(|(at, id), _| *at != n || found.iter().any(|(stray, _)| stray == id));
            for (id, deaf) in found {
                let Some(well) = well_since else {
                    self.moves.strays.remove(&(n, id));
                    continue;
                };
                let now = self.now;
                let since = *self.moves.strays.entry((n, id)).or_insert(now);
                let grace = if deaf { millis(policy().grace) } else { 3_000 };
                let most = STOPPED_MS + grace;
                if now.saturating_sub(since.max(well)) > most {
                    let told = format!("{} still runs on n{n:02}, {most} ms after its return", short(id));
                    self.violated("I2", told);
                }
            }
        }
    }

    /// Since when a node is heard and everything between it and nebulad works.
    fn well_since(&mut self, n: u16) -> Option<u64> {
        let now = self.now;
        let good = self.control.up
            && self.control.paused_until <= now
            && !self.control.caution.holds()
            && self.control.cells.values().all(|cell| cell.machine.is_some())
            && self.links[usize::from(n)].is_good(now);
        let agent = self.agent(n);
        let life = agent.life;
        if !(good && agent.up && agent.registered) {
            self.moves.well.remove(&n);
            return None;
        }
        let well = self.moves.well.entry(n).or_insert(Well { life, since: now, heard: None });
        if well.life != life {
            *well = Well { life, since: now, heard: None };
        }
        well.heard = well.heard.or_else(|| self.oracle.heard_since(n, well.since));
        well.heard
    }

    /// Processes that their deployment does not know there, and whether each listens to signals.
    fn strays_on(&self, n: u16) -> Vec<(ReplicaId, bool)> {
        let agent = &self.agents[usize::from(n)];
        let mut found = Vec::new();
        for process in &agent.processes {
            let live = agent.live.iter().find(|live| live.id == process.replica);
            let Some(deployment) = live.map(|live| live.machine.state().deployment) else { continue };
            let cell = self.control.cells.get(&Who::Deployment(deployment_number(deployment)));
            let expected = match cell.and_then(|cell| cell.machine.as_ref()) {
                Some(Machine::Deployment(actor)) => {
                    actor.machine.deployment().expects(process.replica, &agent.node)
                }
                _ => false,
            };
            if !expected {
                found.push((process.replica, process.deaf));
            }
        }
        found
    }
}
