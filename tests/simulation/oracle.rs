//! What was promised to whom, and whether it is kept.

use std::collections::{BTreeMap, HashMap};

use nebula_core::ids::{CommandId, Generation, NodeId, ReplicaId};
use nebula_core::timing::HEARTBEAT_TIMEOUT;
use nebula_core::token::TokenHash;
use nebulad::actors::registry::machine as registry;
use nebulad::domain::command::Command;
use nebulad::domain::deployment::{Deployment, Desired};
use nebulad::domain::node::{Availability, Node, Presence, Scheduling};
use nebulad::domain::route::Endpoint;

use super::agent::{Answer, node_index, short};
use super::control::registry_op::Op;
use super::control::{Machine, Who, deployment_id, deployment_number};
use super::sim::{NODES, Sim};
use super::store::Image;
use super::talk::millis;

/// How long a change may take on its way from a deployment to the published table.
const PUBLISHED_MS: u64 = 1_000;
/// How long what is on its way out may hold a place that was given to another one.
const LATE_PLACE_MS: u64 = 90_000;
/// As in the session: commands that may wait for one node.
const OUTBOX_MAX: usize = 2_000;

/// The part of a deployment that its user decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    desired: Desired,
    generation: Generation,
    replicas: u32,
    token: TokenHash,
}

impl Wish {
    pub(crate) fn of(dep: &Deployment) -> Self {
        Self {
            desired: dep.desired,
            generation: dep.generation,
            // Where the load decides, the user does not.
            replicas: if dep.spec.autoscale.is_some() { 0 } else { dep.spec.replicas },
            token: dep.token,
        }
    }
}

/// What is known of the promises to one deployment's user.
#[derive(Debug, Default)]
pub(crate) struct Promised {
    /// What was wanted after each change, the oldest first; what is older than the newest that was acknowledged is gone.
    wishes: Vec<(u64, Wish)>,
    acked: u64,
    acked_at: u64,
    acked_wish: Option<Wish>,
}

/// Commands and their effects.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    effects: HashMap<(u16, CommandId), u32>,
    pub(crate) carried_out: u64,
}

impl Commands {
    pub(crate) fn effect_done(&mut self) {
        self.carried_out += 1;
    }
}

#[derive(Debug, Default)]
pub(crate) struct Oracle {
    /// When a heartbeat of each node was last accepted.
    heard: BTreeMap<u16, u64>,
    /// Registrations that wait for their answer: node, life of its agent, call.
    pub(crate) registering: HashMap<u64, (u16, u32, u64)>,
    pub(crate) promised: BTreeMap<u32, Promised>,
    replies: HashMap<u64, (u32, u64)>,
    node_ops: HashMap<u64, (u64, Op)>,
    /// What operators wanted of each node's scheduling, in order, none when it was to be forgotten; what is older than
    /// the newest that was acknowledged is gone.
    scheduling: BTreeMap<NodeId, Vec<(u64, Option<Scheduling>)>>,
    routed: HashMap<ReplicaId, Generation>,
    pub(crate) commands: Commands,
    /// Since when two runtimes have shared a GPU: node and device.
    shared_gpus: BTreeMap<(u16, u32), u64>,
    pub(crate) gpus_shared_longest: u64,
    /// Since when a place has been held twice because one of the two is on its way out.
    late_places: BTreeMap<(NodeId, u32), u64>,
}

impl Oracle {
    // Deployments.

    /// A deployment's first record is durable.
    pub(crate) fn created(&mut self, d: u32, number: u64, dep: &Deployment, now: u64) {
        let wish = Wish::of(dep);
        let promised = Promised {
            wishes: vec![(number, wish.clone())],
            acked: number,
            acked_at: now,
            acked_wish: Some(wish),
        };
        self.promised.insert(d, promised);
    }

    /// A machine took in what somebody wants.
    pub(crate) fn intended(&mut self, d: u32, to: u64, number: u64, dep: &Deployment) {
        self.replies.insert(to, (d, number));
        if let Some(promised) = self.promised.get_mut(&d) {
            promised.wishes.push((number, Wish::of(dep)));
        }
    }

    /// A deployment comes back from the store: everything acknowledged is in it.
    pub(crate) fn loaded(&mut self, d: u32, stored: &Deployment) -> Result<(), String> {
        let Some(promised) = self.promised.get_mut(&d) else { return Ok(()) };
        promised
            .keeps(stored)
            .map_err(|what| format!("d{d} comes back without what was acknowledged: {what}"))?;
        let wish = Wish::of(stored);
        let last = promised.wishes.iter().rposition(|(_, known)| known.is_in(&wish)).unwrap_or(0);
        promised.wishes.truncate(last + 1);
        Ok(())
    }

    pub(crate) fn finished(&mut self, d: u32) {
        self.promised.remove(&d);
    }

    /// The store was replaced by an older copy: what it holds is all that counts from now on.
    pub(crate) fn restored(&mut self, image: &Image, now: u64) {
        self.promised.clear();
        self.scheduling.clear();
        self.routed.clear();
        self.commands.effects.clear();
        for (id, dep) in &image.deployments {
            self.created(deployment_number(*id), 0, dep, now);
        }
    }

    // Nodes.

    /// When the node was heard last, if that was since then.
    pub(crate) fn heard_since(&self, n: u16, since: u64) -> Option<u64> {
        self.heard.get(&n).copied().filter(|heard| *heard >= since)
    }

    pub(crate) fn heard(&mut self, n: u16, now: u64) {
        self.heard.insert(n, now);
    }

    pub(crate) fn node_op_begins(&mut self, to: u64, number: u64, op: &Op) {
        self.node_ops.insert(to, (number, op.clone()));
        let (id, wanted) = match op {
            Op::Schedule(id, scheduling) => (id, Some(*scheduling)),
            Op::Forget(id) => (id, None),
        };
        // Before the first is acknowledged it may be anything.
        self.scheduling.entry(id.clone()).or_insert_with(|| vec![(0, None)]).push((number, wanted));
    }

    pub(crate) fn node_op_acked(&mut self, to: u64, ok: bool, image: &Image) -> Result<(), String> {
        let Some((number, op)) = self.node_ops.remove(&to) else { return Ok(()) };
        match op {
            Op::Schedule(id, _) if ok => {
                let wanted = self.scheduling.entry(id.clone()).or_default();
                wanted.retain(|(known, _)| *known >= number);
                self.node_is_kept(&id, image.nodes.get(&id))
            }
            Op::Forget(id) if ok => {
                self.scheduling.remove(&id);
                Ok(())
            }
            Op::Schedule(..) | Op::Forget(_) => Ok(()),
        }
    }

    fn node_is_kept(&self, id: &NodeId, node: Option<&Node>) -> Result<(), String> {
        let Some(wanted) = self.scheduling.get(id).filter(|wanted| !wanted.is_empty()) else { return Ok(()) };
        match node {
            Some(node) if wanted.iter().any(|(_, wanted)| wanted.is_none_or(|w| w == node.scheduling)) => {
                Ok(())
            }
            Some(node) => {
                Err(format!("node {id} is {:?} in the store, wanted was {wanted:?}", node.scheduling))
            }
            // It was forgotten since.
            None => Ok(()),
        }
    }

    pub(crate) fn nodes_loaded(&mut self, nodes: &[Node]) -> Result<(), String> {
        nodes.iter().try_for_each(|node| self.node_is_kept(&node.id, Some(node)))?;
        for node in nodes {
            if let Some(wanted) = self.scheduling.get_mut(&node.id) {
                wanted.retain(|(_, wanted)| wanted.is_none_or(|wanted| wanted == node.scheduling));
            }
        }
        Ok(())
    }

    /// A node's disk was lost, and what it remembered of commands with it.
    pub(crate) fn disk_lost(&mut self, n: u16) {
        self.commands.effects.retain(|(node, _), _| *node != n);
    }

    /// Nothing is under way: what was remembered for that may go.
    pub(crate) fn rests(&mut self) {
        self.commands.effects.clear();
        self.routed.clear();
        self.replies.clear();
        self.node_ops.clear();
        self.registering.clear();
    }
}

impl Wish {
    /// Whether a stored wish is this one; generations only grow.
    fn is_in(&self, stored: &Self) -> bool {
        // A deployment whose nodes know of a later start takes that up by itself.
        let caught_up = self.desired == Desired::Stopped
            && stored.desired == Desired::Running
            && stored.generation > self.generation;
        (self.replicas, self.token) == (stored.replicas, stored.token)
            && (self.desired == stored.desired || caught_up)
            && stored.generation >= self.generation
    }
}

impl Promised {
    /// Whether what was acknowledged, or anything after it, wants it to run.
    fn may_run(&self) -> bool {
        self.wishes.iter().any(|(_, wish)| wish.desired == Desired::Running)
    }

    fn keeps(&self, stored: &Deployment) -> Result<(), String> {
        let wish = Wish::of(stored);
        let kept = self.wishes.iter().any(|(number, known)| *number >= self.acked && known.is_in(&wish));
        if kept { Ok(()) } else { Err(format!("stored {wish:?}, acknowledged {:?}", self.acked_wish)) }
    }
}

impl Sim {
    /// A deployment answers its user.
    pub(crate) fn replied(&mut self, d: u32, to: u64, ok: bool) {
        let now = self.now;
        let Some((_, number)) = self.oracle.replies.remove(&to) else { return };
        if !ok {
            return self.count("wishes refused", 1);
        }
        self.count("wishes acknowledged", 1);
        let Some(promised) = self.oracle.promised.get_mut(&d) else { return };
        promised.acked = promised.acked.max(number);
        promised.acked_at = now;
        let acked = promised.acked;
        promised.wishes.retain(|(known, _)| *known >= acked);
        promised.acked_wish = promised.wishes.first().map(|(_, wish)| wish.clone());
        let deleting = promised.wishes.iter().any(|(_, wish)| wish.desired == Desired::Deleted);
        let kept = match self.control.store.image.deployments.get(&deployment_id(d)) {
            Some(stored) => promised.keeps(stored),
            None if deleting => Ok(()),
            None => Err("it is not stored".to_owned()),
        };
        kept.unwrap_or_else(|what| {
            self.violated("I1", format!("d{d} acknowledged before it was durable: {what}"))
        });
    }

    /// After a start: every deployment that was acknowledged is there, unless its deletion was under way.
    pub(crate) fn check_stored(&mut self) {
        let missing = self.oracle.promised.iter().find(|(d, promised)| {
            let deleting = promised.wishes.iter().any(|(_, wish)| wish.desired == Desired::Deleted);
            !deleting && !self.control.store.image.deployments.contains_key(&deployment_id(**d))
        });
        if let Some(d) = missing.map(|(d, _)| *d) {
            self.violated("I1", format!("d{d} is gone from the store"));
        }
        let image = &self.control.store.image;
        self.oracle.promised.retain(|d, _| image.deployments.contains_key(&deployment_id(*d)));
    }

    /// I10, when the registry decides because time has passed: what it says of a node may wait for a commit.
    pub(crate) fn check_declared(&mut self, effects: &[registry::Effect]) {
        for effect in effects {
            let registry::Effect::Announce(update) = effect else { continue };
            let declared = update.availability == Availability::Offline;
            if !declared || update.node.presence == Presence::Deregistered {
                continue;
            }
            self.count("nodes declared offline", 1);
            let n = node_index(&update.node.id);
            let silent = self.now - self.oracle.heard.get(&n).copied().unwrap_or(0);
            if silent < millis(HEARTBEAT_TIMEOUT) {
                self.violated("I10", format!("n{n:02} is declared offline after {silent} ms of silence"));
            }
        }
    }

    /// I2: the published table against what was acknowledged.
    pub(crate) fn check_table(&mut self) {
        let now = self.now;
        let mut found = None;
        for route in self.control.table.iter() {
            let d = deployment_number(route.deployment_id);
            let promised = self.oracle.promised.get(&d);
            let wish = promised.and_then(|promised| promised.acked_wish.as_ref());
            let since = promised.map_or(now, |promised| promised.acked_at);
            let cell = |who| self.control.cells.get(&who).filter(|cell| cell.machine.is_some());
            let up = [Who::Router, Who::Deployment(d)]
                .into_iter()
                .filter_map(cell)
                .map(|cell| cell.up_since)
                .max();
            let both = self.is_up(Who::Router) && self.is_up(Who::Deployment(d));
            let settled = both && up.is_some_and(|up| now >= up.max(since) + PUBLISHED_MS);
            // Everything that a deployment has decided is durable, and on its way for long enough.
            let quiet = now >= self.control.store.quiet_at() + PUBLISHED_MS;
            for endpoint in &route.endpoints {
                let known = self.oracle.routed.entry(endpoint.replica_id).or_insert(endpoint.generation);
                if endpoint.generation < *known {
                    let replica = short(endpoint.replica_id);
                    found = Some(format!("d{d} {replica} goes back from {known} to {}", endpoint.generation));
                }
                *known = endpoint.generation.max(*known);
                let Some(wish) = wish.filter(|_| settled) else { continue };
                // After a restore its nodes may know of a later start.
                let to_run = self.restored || promised.is_some_and(Promised::may_run);
                let replica = short(endpoint.replica_id);
                if !to_run {
                    found = Some(format!("d{d} {replica} is routed, acknowledged is {wish:?}"));
                } else if quiet && !self.is_to_serve(d, endpoint) {
                    found = Some(format!(
                        "d{d} {replica} is routed at generation {} and is not to serve",
                        endpoint.generation
                    ));
                }
            }
        }
        if let Some(what) = found {
            self.violated("I2", what);
        }
    }

    /// Whether a deployment's record has this replica there, to stay, at this generation.
    fn is_to_serve(&self, d: u32, endpoint: &Endpoint) -> bool {
        let cell = self.control.cells.get(&Who::Deployment(d)).and_then(|cell| cell.machine.as_ref());
        let Some(Machine::Deployment(actor)) = cell else { return true };
        actor.machine.deployment().replicas.iter().any(|replica| {
            let here = replica.placement.as_ref().is_some_and(|place| place.node_id == endpoint.node_id);
            here && replica.id == endpoint.replica_id
                && replica.generation == endpoint.generation
                && !replica.leaving
        })
    }

    /// I4 and I5 on a node, whenever a process was made there.
    pub(crate) fn check_processes(&mut self, n: u16) {
        let now = self.now;
        let here = &self.agents[usize::from(n)].processes;
        let Some(new) = here.last().cloned() else { return };
        let others = || here.iter().take(here.len() - 1);
        if let Some(other) = others().find(|other| other.port == new.port) {
            let (a, b) = (short(other.replica), short(new.replica));
            self.violated("I4", format!("n{n:02}: {a} and {b} have port {}", new.port));
        }
        let here = &self.agents[usize::from(n)].processes;
        let mut shared = Vec::new();
        for other in here.iter().take(here.len() - 1) {
            shared.extend(other.gpus.iter().copied().filter(|gpu| new.gpus.contains(gpu)));
        }
        for gpu in shared {
            self.count("GPUs shared by two runtimes", 1);
            if self.drill.is_on() {
                self.violated(
                    "I4",
                    format!("two runtimes have GPU {gpu} of n{n:02} while nothing goes wrong"),
                );
            }
            self.trace(|| format!("n{n:02} GPU {gpu} is shared"));
            self.oracle.shared_gpus.insert((n, gpu), now);
        }
        let copies: usize = self
            .agents
            .iter()
            .map(|agent| agent.processes.iter().filter(|process| process.replica == new.replica).count())
            .sum();
        if copies > 1 && self.restored {
            // The copy did not know where it had been placed since: the one there is ended when that place is known.
            self.count("replicas placed once more after a restore", 1);
        } else if copies > 1 {
            self.violated("I5", format!("{copies} runtimes of {}", short(new.replica)));
        }
    }

    /// A command is carried out: I5 says that it has an effect at most once.
    pub(crate) fn take_command(&mut self, n: u16, command: &Command) -> Answer {
        let id = command.replica_id;
        let before = self.record(n, id);
        self.trace(|| {
            let action = command.action.as_str();
            format!("n{n:02} {} command {action} g{}", short(id), command.generation)
        });
        let answer = self.command(n, command);
        self.trace(|| format!("n{n:02} {} {answer:?}", short(id)));
        if self.record(n, id) != before {
            let effects = self.oracle.commands.effects.entry((n, command.id)).or_default();
            *effects += 1;
            // An older copy of the outbox says again what was said.
            if *effects > 1 && !self.restored {
                let action = command.action.as_str();
                self.violated("I5", format!("{action} of {} on n{n:02} took effect twice", short(id)));
            }
        }
        answer
    }

    /// What a command may change of a replica on its node.
    fn record(&self, n: u16, id: ReplicaId) -> Option<impl PartialEq + use<>> {
        let disk = &self.agents[usize::from(n)].disk;
        let found = disk.replicas.iter().find(|(state, _)| state.replica == id);
        found.map(|(state, _)| (state.generation, state.desired, state.access.clone(), state.restarted))
    }

    /// I8: whatever grows has a bound. And GPUs that two runtimes share are not shared for long.
    pub(crate) fn check_bounds(&mut self) {
        for n in 0..NODES {
            let waiting = self.session(n).map_or(0, |actor| actor.machine.waiting());
            let agent = self.agent(n);
            let sizes = [
                ("commands that wait for a node", waiting, OUTBOX_MAX),
                ("acknowledgements of an agent", agent.acks.len(), 1_024),
                ("commands that an agent remembers", agent.disk.done.len(), 1_024),
                ("fences of an agent", agent.disk.fences.len(), 1_024),
                ("replicas of an agent", agent.disk.replicas.len(), 200),
                ("ports of an agent", agent.ports.len(), 200),
            ];
            for (what, size, most) in sizes {
                if size > most {
                    self.violated("I8", format!("n{n:02}: {size} {what}, at most {most}"));
                }
            }
        }
        let waiting = self.waiting();
        if waiting > 20_000 {
            self.violated("I8", format!("{waiting} events wait"));
        }
        self.check_shared();
        self.check_places();
    }

    /// I4: no GPU is reserved for two replicas. What is on its way out may have its place once more for a while, when a
    /// late report says that it still runs.
    fn check_places(&mut self) {
        let mut taken: BTreeMap<(NodeId, u32), (u32, bool)> = BTreeMap::new();
        let (mut twice, mut late) = (None, Vec::new());
        for (who, cell) in &self.control.cells {
            let (Who::Deployment(d), Some(Machine::Deployment(actor))) = (who, &cell.machine) else {
                continue;
            };
            let dep = actor.machine.deployment();
            for replica in dep.replicas.iter().filter(|replica| dep.holds_place(replica)) {
                let Some(place) = &replica.placement else { continue };
                let going = replica.leaving || dep.desired != Desired::Running;
                for gpu in &place.gpu_devices {
                    let at = (place.node_id.clone(), *gpu);
                    let Some((other, other_goes)) = taken.insert(at.clone(), (*d, going)) else { continue };
                    let told = format!("GPU {gpu} of {} is given to d{other} and d{d}", place.node_id);
                    if going || other_goes { late.push((at, told)) } else { twice = Some(told) }
                }
            }
        }
        let now = self.now;
        self.oracle.late_places.retain(|at, _| late.iter().any(|(known, _)| known == at));
        for (at, told) in late {
            let since = *self.oracle.late_places.entry(at).or_insert(now);
            twice = twice.or_else(|| (now - since > LATE_PLACE_MS).then_some(told));
        }
        if let Some(what) = twice {
            self.violated("I4", what);
        }
    }

    fn check_shared(&mut self) {
        let shared: Vec<((u16, u32), u64)> =
            self.oracle.shared_gpus.iter().map(|(at, since)| (*at, *since)).collect();
        for ((n, gpu), since) in shared {
            let users = self.agent(n).processes.iter().filter(|process| process.gpus.contains(&gpu)).count();
            let lasted = self.now - since;
            self.oracle.gpus_shared_longest = self.oracle.gpus_shared_longest.max(lasted);
            if users < 2 {
                self.oracle.shared_gpus.remove(&(n, gpu));
            }
        }
    }
}
