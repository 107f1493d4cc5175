//! Where replicas go: a pure choice among nodes, and the reservations that keep two replicas off one GPU.
//!
//! The default policy: replicas with GPUs go to the node with the most free GPUs that fit, all of one type;
//! replicas without go to the node with the most free cores. Nodes with fewer copies of the same deployment come
//! first, ties go by id, so the same picture gives the same answer.

use std::collections::{BTreeMap, BTreeSet};

use nebula_core::ids::{DeploymentId, NodeId, ReplicaId};

use crate::actors::registry::machine::NodeUpdate;
use crate::domain::deployment::{DeploymentSpec, Placement};
use crate::domain::node::{Availability, Gpu, Scheduling, may_schedule};

/// How many nodes a refusal names.
const REASONS_MAX: usize = 5;

/// What a replica needs.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its deployment.
    pub deployment: DeploymentId,
    /// The replica.
    pub replica: ReplicaId,
    /// What the deployment asks for.
    pub spec: DeploymentSpec,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Reservation {
    deployment: DeploymentId,
    node: NodeId,
    gpus: Vec<u32>,
    cores: u32,
}

/// The scheduler's state.
#[derive(Default)]
pub struct Machine {
    nodes: BTreeMap<NodeId, NodeUpdate>,
    reservations: BTreeMap<ReplicaId, Reservation>,
    waiting: BTreeSet<DeploymentId>,
}

impl Machine {
    /// A node registered or changed. Answers who may find a place now.
    pub fn node_changed(&mut self, update: NodeUpdate) -> BTreeSet<DeploymentId> {
        let old = self.nodes.insert(update.node.id.clone(), update.clone());
        if old.as_ref() == Some(&update) { BTreeSet::new() } else { std::mem::take(&mut self.waiting) }
    }

    /// A node was forgotten.
    pub fn node_gone(&mut self, node: &NodeId) {
        self.nodes.remove(node);
    }

    /// A replica needs its place no longer. Answers who may find a place now.
    pub fn release(&mut self, replica: ReplicaId) -> BTreeSet<DeploymentId> {
        match self.reservations.remove(&replica) {
            Some(_) => std::mem::take(&mut self.waiting),
            None => BTreeSet::new(),
        }
    }

    /// A deployment says which of its replicas keep what is reserved for them, and where those are that have a place:
    /// it or the scheduler has just started, and what one told the other before may be lost. Nothing else of it stays
    /// reserved. Answers who may find a place now.
    pub fn holds(
        &mut self,
        deployment: DeploymentId,
        replicas: &[(ReplicaId, Option<Placement>)],
        cores: u32,
    ) -> BTreeSet<DeploymentId> {
        let before = self.reservations.len();
        let stays = |id: &ReplicaId| replicas.iter().any(|(known, _)| known == id);
        self.reservations.retain(|id, reserved| reserved.deployment != deployment || stays(id));
        let freed = self.reservations.len() < before;
        for (id, placement) in replicas {
            if let Some(placement) = placement {
                self.restore(*id, deployment, placement, cores);
            }
        }
        if freed { std::mem::take(&mut self.waiting) } else { BTreeSet::new() }
    }

    /// A replica has a place already, from before the scheduler started.
    pub fn restore(
        &mut self,
        replica: ReplicaId,
        deployment: DeploymentId,
        placement: &Placement,
        cores: u32,
    ) {
        let gpus = placement.gpu_devices.clone();
        let reservation = Reservation { deployment, node: placement.node_id.clone(), gpus, cores };
        self.reservations.insert(replica, reservation);
    }

    /// Finds a place and reserves it, or says why there is none. Asking again for the same replica gives its
    /// former place back first.
    ///
    /// # Errors
    /// One line for people that says what does not fit.
    pub fn place(&mut self, request: &Request) -> Result<Placement, String> {
        self.reservations.remove(&request.replica);
        let mut reasons = Vec::new();
        let mut best: Option<(Score, Placement)> = None;
        for update in self.nodes.values() {
            match self.fit(request, update) {
                Err(reason) => reasons.push(format!("{}: {reason}", update.node.name)),
                Ok((score, placement)) => {
                    if best.as_ref().is_none_or(|(other, _)| score > *other) {
                        best = Some((score, placement));
                    }
                }
            }
        }
        match best {
            Some((_, placement)) => {
                self.restore(request.replica, request.deployment, &placement, request.spec.cpu.cores);
                Ok(placement)
            }
            None => {
                self.waiting.insert(request.deployment);
                Err(refusal(reasons))
            }
        }
    }

    /// How many replicas have a place.
    #[must_use]
    pub fn reserved(&self) -> usize {
        self.reservations.len()
    }

    /// How many deployments wait for one.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn fit(&self, request: &Request, update: &NodeUpdate) -> Result<(Score, Placement), String> {
        let spec = &request.spec;
        let node = &update.node;
        if spec.node.as_ref().is_some_and(|wanted| wanted != node.id.as_str() && *wanted != node.name) {
            return Err("another node is asked for".to_owned());
        }
        if !may_schedule(update.availability, node.scheduling) {
            return Err(unschedulable(update));
        }
        if let Some((key, value)) =
            spec.labels.iter().find(|(key, value)| node.labels.get(*key) != Some(value))
        {
            return Err(format!("lacks the label {key}={value}"));
        }
        let runtimes = &node.capabilities.supported_runtimes;
        let brings_its_program = !spec.command.is_empty();
        if !runtimes.is_empty() && !brings_its_program && !runtimes.iter().any(|r| r == spec.runtime.as_str())
        {
            return Err(format!("does not run {}", spec.runtime));
        }
        let here = || self.reservations.values().filter(|reservation| reservation.node == node.id);
        let used_cores: u32 = here().map(|reservation| reservation.cores).sum();
        let free_cores = node.capabilities.cpu_cores.saturating_sub(used_cores);
        if spec.cpu.cores > free_cores {
            return Err(format!(
                "{} of {} cores free, {} wanted",
                free_cores, node.capabilities.cpu_cores, spec.cpu.cores
            ));
        }
        let taken: BTreeSet<u32> = here().flat_map(|reservation| reservation.gpus.iter().copied()).collect();
        let free: Vec<&Gpu> =
            node.capabilities.gpus.iter().filter(|gpu| !taken.contains(&gpu.index)).collect();
        let gpu_devices = choose_gpus(spec, &free, node.capabilities.gpus.len())?;
        let copies = here().filter(|reservation| reservation.deployment == request.deployment).count();
        let room = if spec.gpu.count > 0 { free.len() } else { free_cores as usize };
        let score = Score { fewer_copies: std::cmp::Reverse(copies), room };
        let placement = Placement {
            node_id: node.id.clone(),
            node_name: node.name.clone(),
            proxy: node.proxy_address(),
            gpu_devices,
        };
        Ok((score, placement))
    }
}

/// Better is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    fewer_copies: std::cmp::Reverse<usize>,
    room: usize,
}

/// Enough free GPUs of one type that match, the type with the fewest free ones that suffice.
fn choose_gpus(spec: &DeploymentSpec, free: &[&Gpu], total: usize) -> Result<Vec<u32>, String> {
    let count = spec.gpu.count as usize;
    if count == 0 {
        return Ok(Vec::new());
    }
    let wanted_type = spec.gpu.kind.as_ref().map(|kind| kind.to_ascii_lowercase());
    let mut by_type: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for gpu in free {
        let type_fits = wanted_type.as_ref().is_none_or(|kind| gpu.name.to_ascii_lowercase().contains(kind));
        if type_fits && gpu.memory_bytes >= spec.gpu.memory_bytes {
            by_type.entry(gpu.name.as_str()).or_default().push(gpu.index);
        }
    }
    let most = by_type.values().map(Vec::len).max().unwrap_or(0);
    let enough = by_type.into_values().filter(|indices| indices.len() >= count).min_by_key(Vec::len);
    match enough {
        Some(mut indices) => {
            indices.sort_unstable();
            indices.truncate(count);
            Ok(indices)
        }
        None if total == 0 => Err("has no GPU".to_owned()),
        None => Err(format!("{most} of {total} GPUs are free and fit, {count} of one type wanted")),
    }
}

fn unschedulable(update: &NodeUpdate) -> String {
    match (update.availability, update.node.scheduling) {
        (Availability::Offline, _) => "is offline".to_owned(),
        (Availability::Suspect, _) => "is suspect: not heard from lately".to_owned(),
        (Availability::Online, Scheduling::Cordoned) => "is cordoned".to_owned(),
        (Availability::Online, Scheduling::Draining | Scheduling::Drained) => "is being drained".to_owned(),
        (Availability::Online, Scheduling::Schedulable) => "takes no replicas".to_owned(),
    }
}

fn refusal(reasons: Vec<String>) -> String {
    if reasons.is_empty() {
        return "no node has joined yet; start nebula-agent on one".to_owned();
    }
    let more = reasons.len().saturating_sub(REASONS_MAX);
    let mut text =
        format!("no node fits: {}", reasons.into_iter().take(REASONS_MAX).collect::<Vec<_>>().join("; "));
    if more > 0 {
        text.push_str(&format!("; and {more} more"));
    }
    text
}

#[cfg(test)]
mod fit_tests;
#[cfg(test)]
mod tests;
