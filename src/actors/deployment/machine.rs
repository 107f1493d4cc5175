//! The life of one deployment: what the user wants against what its nodes report.
//!
//! Every event changes either the wish or the picture; `reconcile` then compares the two and says what is
//! missing. It takes no hint about what has happened, so the same code serves a new deployment, a restart of
//! nebulad, a node that comes back and a change of mind at any moment.
//!
//! Reports, placements and refusals carry the replica's generation; what is older than what was last asked for
//! says nothing about it and is dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nebula_core::clock::WallTime;
use nebula_core::ids::{Generation, NodeId, ReplicaId};

use self::observe::{clip, observe, phase_line};
use super::route::RouteSpec;
use crate::actors::reply::ReplyTo;
use crate::domain::command::{Action, StartSpec};
use crate::domain::deployment::{Deployment, DeploymentSpec, Desired, Phase, Placement, Replica};
use crate::domain::error::{Error, ErrorClass};
use crate::domain::event::Happening;
use crate::domain::node::Availability;
use crate::domain::report::NodeFacts;
use crate::ports::Write;
use nebula_core::token::TokenHash;

mod catch_up;
#[cfg(test)]
mod catch_up_tests;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod intent_tests;
#[cfg(test)]
mod journal_tests;
#[cfg(test)]
mod node_tests;
mod observe;
mod reconcile;
#[cfg(test)]
mod reconcile_tests;
#[cfg(test)]
mod route_tests;
#[cfg(test)]
mod tests;

/// How long a replica that found no place waits before it asks again; it is also asked when something changes.
const PLACE_RETRY: Duration = Duration::from_secs(10);

/// A token that was rotated this short before the actor started may not have reached the agents, in milliseconds.
const ACCESS_DOUBT_MS: u64 = 10 * 60 * 1_000;

/// What the user wants changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Run.
    Start,
    /// Stop and stay.
    Stop,
    /// Run anew.
    Restart,
    /// So many copies.
    Scale(u32),
    /// Another spec.
    Change(Box<DeploymentSpec>),
    /// Another deployment token.
    Rotate(TokenHash),
    /// Remove everything.
    Delete,
}

impl Intent {
    /// Its name in the audit, and what it does in words.
    #[must_use]
    pub fn told(&self) -> (&'static str, String) {
        match self {
            Self::Start => ("deployment.start", "start".to_owned()),
            Self::Stop => ("deployment.stop", "stop".to_owned()),
            Self::Restart => ("deployment.restart", "restart".to_owned()),
            Self::Scale(replicas) => ("deployment.scale", format!("scale to {replicas} replicas")),
            Self::Change(_) => ("deployment.change", "change of its spec".to_owned()),
            Self::Rotate(_) => ("deployment.rotate-token", "another deployment token".to_owned()),
            Self::Delete => ("deployment.delete", "delete".to_owned()),
        }
    }
}

/// What happens to a deployment.
#[derive(Clone, Debug)]
pub enum Event {
    /// The actor has started, or started again.
    Started(WallTime),
    /// The user wants something.
    Intent(ReplyTo, Intent, WallTime),
    /// The scheduler found a place.
    Placed(ReplicaId, Generation, Placement),
    /// The scheduler found none, and says why.
    Unplaceable(ReplicaId, Generation, String),
    /// How a node stands that holds replicas of this deployment.
    Node(NodeFacts),
    /// A node that held replicas of this deployment was forgotten.
    NodeGone(NodeId),
    /// An agent refuses to start a replica.
    Rejected(ReplicaId, Generation, String),
    /// A waiting replica may ask for a place again.
    RetryPlacement,
}

/// What a deployment decides.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Make durable, with these lines of the journal.
    Persist(Vec<Write>, Vec<Happening>),
    /// Answer with the deployment as it is now.
    Reply(ReplyTo, Result<(), Error>),
    /// Ask the scheduler for a place.
    Place(ReplicaId, Generation),
    /// Give a place back.
    Release(ReplicaId),
    /// Tell a node's agent.
    Send(NodeId, ReplicaId, Generation, Action),
    /// Follow a node.
    Watch(NodeId),
    /// Follow it no longer.
    Unwatch(NodeId),
    /// What the gateway may route here.
    Publish(Box<RouteSpec>),
    /// The gateway knows nothing of it any more.
    Withdraw,
    /// Ask for places again after this long.
    RetryAfter(Duration),
    /// Nothing is left of it.
    Finished,
}

/// What a node was told about a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Start,
    Stop,
    Delete,
}

/// A deployment's state.
pub struct Machine {
    dep: Deployment,
    /// What is known of the nodes that hold its replicas. Not durable.
    nodes: BTreeMap<NodeId, NodeFacts>,
    /// Replicas for which a place is being sought.
    placing: BTreeSet<ReplicaId>,
    /// What this incarnation last told a replica's node, and after which of its reports: older reports cannot
    /// know of it yet.
    told: BTreeMap<ReplicaId, (Told, u64)>,
    /// Strangers that their node was told to delete, and the report that had them.
    dismissed: BTreeMap<(NodeId, ReplicaId), u64>,
    published: Option<RouteSpec>,
    retrying: bool,
    finished: bool,
    happenings: Vec<Happening>,
}

impl Machine {
    /// A deployment as it was stored.
    #[must_use]
    pub fn load(dep: Deployment) -> Self {
        Self {
            dep,
            nodes: BTreeMap::new(),
            placing: BTreeSet::new(),
            told: BTreeMap::new(),
            dismissed: BTreeMap::new(),
            published: None,
            retrying: false,
            finished: false,
            happenings: Vec::new(),
        }
    }

    /// The deployment as it is now.
    #[must_use]
    pub fn deployment(&self) -> &Deployment {
        &self.dep
    }

    /// What the gateway was last told.
    #[must_use]
    pub fn published(&self) -> Option<&RouteSpec> {
        self.published.as_ref()
    }

    /// Takes an event and decides. What must be durable comes first.
    pub fn step(&mut self, event: Event) -> Vec<Effect> {
        if self.finished {
            return Self::after_the_end(event);
        }
        let before = self.dep.clone();
        let mut effects = Vec::new();
        let mut reply = None;
        match event {
            Event::Started(now) => {
                effects.extend(self.nodes_in_use().into_iter().map(Effect::Watch));
                if now.0.saturating_sub(self.dep.updated_at.0) < ACCESS_DOUBT_MS {
                    effects.extend(self.tell_access());
                }
            }
            Event::Intent(to, intent, now) => reply = Some((to, self.intend(intent, now, &mut effects))),
            Event::Placed(replica, generation, placement) => {
                self.placed(replica, generation, placement, &mut effects);
            }
            Event::Unplaceable(replica, generation, why) => {
                self.placing.remove(&replica);
                self.update(replica, generation, |replica| replica.message = clip(why));
                if !std::mem::replace(&mut self.retrying, true) {
                    effects.push(Effect::RetryAfter(PLACE_RETRY));
                }
            }
            Event::Node(facts) => {
                self.catch_up(&facts);
                self.node(facts);
            }
            Event::NodeGone(node) => self.node_gone(&node, &mut effects),
            Event::Rejected(replica, generation, why) => {
                self.update(replica, generation, |replica| {
                    replica.phase = Phase::Failed;
                    replica.message = clip(format!("the agent refused: {why}"));
                });
            }
            Event::RetryPlacement => self.retrying = false,
        }
        self.reconcile(&mut effects);
        self.tell(&before);
        let mut decided = self.persist(&before);
        decided.extend(reply.map(|(to, result)| Effect::Reply(to, result)));
        // Routes first, runtimes after: the gateway stops sending before anything is stopped.
        decided.extend(self.route());
        decided.extend(effects);
        if self.finished {
            decided.extend([Effect::Withdraw, Effect::Finished]);
        }
        decided
    }

    fn after_the_end(event: Event) -> Vec<Effect> {
        match event {
            Event::Intent(to, Intent::Delete, _) => vec![Effect::Reply(to, Ok(()))],
            Event::Intent(to, ..) => vec![Effect::Reply(to, Err(being_deleted()))],
            Event::Started(_)
            | Event::Placed(..)
            | Event::Unplaceable(..)
            | Event::Node(_)
            | Event::NodeGone(_)
            | Event::Rejected(..)
            | Event::RetryPlacement => Vec::new(),
        }
    }

    fn intend(&mut self, intent: Intent, now: WallTime, effects: &mut Vec<Effect>) -> Result<(), Error> {
        if self.dep.desired == Desired::Deleted {
            return if intent == Intent::Delete { Ok(()) } else { Err(being_deleted()) };
        }
        let dep = &mut self.dep;
        match intent {
            Intent::Start if dep.desired == Desired::Running => {
                // What runs goes on; what has failed makes room for a new replica.
                let failed = dep.replicas.iter_mut().filter(|replica| replica.phase == Phase::Failed);
                failed.for_each(|replica| replica.leaving = true);
            }
            Intent::Start | Intent::Restart => {
                dep.desired = Desired::Running;
                dep.generation = dep.generation.next();
            }
            Intent::Stop => dep.desired = Desired::Stopped,
            Intent::Scale(replicas) => dep.spec.replicas = replicas,
            Intent::Change(spec) => {
                if dep.spec == *spec {
                    return Ok(());
                }
                dep.spec = *spec;
                dep.generation = dep.generation.next();
            }
            Intent::Rotate(token) => {
                dep.token = token;
                dep.updated_at = now;
                effects.extend(self.tell_access());
                return Ok(());
            }
            Intent::Delete => dep.desired = Desired::Deleted,
        }
        dep.updated_at = now;
        Ok(())
    }

    /// Tells every agent that runs a replica which credentials are valid.
    fn tell_access(&self) -> Vec<Effect> {
        let access = Action::Access { tokens: vec![self.dep.token], public: self.dep.spec.public };
        let told = self.dep.replicas.iter().filter(|replica| !replica.leaving);
        told.filter_map(|replica| {
            let place = replica.placement.as_ref()?;
            Some(Effect::Send(place.node_id.clone(), replica.id, replica.generation, access.clone()))
        })
        .collect()
    }

    fn placed(
        &mut self,
        id: ReplicaId,
        generation: Generation,
        placement: Placement,
        effects: &mut Vec<Effect>,
    ) {
        self.placing.remove(&id);
        // A place that was sought for an older spec may not fit this one.
        let wanted = self.dep.desired == Desired::Running && self.dep.generation <= generation;
        let waiting = self
            .dep
            .replicas
            .iter_mut()
            .find(|replica| wanted && replica.id == id && replica.placement.is_none());
        let Some(replica) = waiting.filter(|replica| !replica.leaving) else {
            effects.push(Effect::Release(id));
            return;
        };
        let node = placement.node_id.clone();
        replica.phase = Phase::Preparing;
        replica.message = String::new();
        // The start itself is told by `reconcile`, as for every replica that its node does not run yet.
        replica.generation = Generation(0);
        self.happenings.push(Happening {
            kind: "placed",
            message: format!("placed on node {}", placement.node_name),
            replica: Some(id),
            node: Some(node.clone()),
        });
        replica.placement = Some(placement);
        effects.push(Effect::Watch(node));
    }

    fn node(&mut self, facts: NodeFacts) {
        let id = facts.node_id.clone();
        for replica in &mut self.dep.replicas {
            let Some(place) = replica.placement.as_mut().filter(|place| place.node_id == id) else {
                continue;
            };
            place.proxy = facts.proxy.clone();
            place.node_name.clone_from(&facts.node_name);
            if facts.availability == Availability::Offline {
                let said_more = matches!(replica.phase, Phase::Failed | Phase::Stopped);
                if self.dep.desired == Desired::Running && !replica.leaving && !said_more {
                    replica.phase = Phase::Unreachable;
                    replica.message = format!("node {} is offline", facts.node_name);
                }
                continue;
            }
            if let Some(report) = facts.replicas.iter().find(|report| report.replica_id == replica.id) {
                observe(replica, report, self.dep.desired);
            }
        }
        let newer = facts.report_seq;
        if self.nodes.insert(id, facts).is_some_and(|old| old.report_seq > newer) {
            // The session counts its reports anew.
            self.told.clear();
            self.dismissed.clear();
        }
    }

    fn node_gone(&mut self, node: &NodeId, effects: &mut Vec<Effect>) {
        self.nodes.remove(node);
        let there =
            |replica: &Replica| replica.placement.as_ref().is_some_and(|place| place.node_id == *node);
        effects.extend(self.dep.replicas.iter().filter(|r| there(r)).map(|r| Effect::Release(r.id)));
        // New replicas with new ids take their places: if the node comes back, what it still runs is a stranger.
        self.dep.replicas.retain(|replica| !there(replica));
        self.told.retain(|id, _| self.dep.replicas.iter().any(|replica| replica.id == *id));
        effects.push(Effect::Unwatch(node.clone()));
    }

    /// Changes a replica unless the news is about an older generation of it.
    fn update(&mut self, id: ReplicaId, generation: Generation, change: impl FnOnce(&mut Replica)) {
        if let Some(replica) = self.dep.replicas.iter_mut().find(|r| r.id == id && r.generation <= generation)
        {
            change(replica);
        }
    }

    fn nodes_in_use(&self) -> BTreeSet<NodeId> {
        let places = self.dep.replicas.iter().filter_map(|replica| replica.placement.as_ref());
        places.map(|place| place.node_id.clone()).collect()
    }

    /// The journal's lines about what changed from `before`.
    fn tell(&mut self, before: &Deployment) {
        let old_phase =
            |id| before.replicas.iter().find(|replica| replica.id == id).map(|replica| replica.phase);
        let mut lines = Vec::new();
        for replica in &self.dep.replicas {
            let was = old_phase(replica.id);
            let silent = matches!(replica.phase, Phase::Pending | Phase::Preparing | Phase::Deleting);
            if was != Some(replica.phase) && !silent {
                lines.push(Happening {
                    kind: replica.phase.as_str(),
                    message: phase_line(replica),
                    replica: Some(replica.id),
                    node: replica.placement.as_ref().map(|place| place.node_id.clone()),
                });
            }
        }
        let whole = |kind, message: String| Happening { kind, message, replica: None, node: None };
        if before.desired != self.dep.desired {
            let kind = match self.dep.desired {
                Desired::Running => "start_requested",
                Desired::Stopped => "stop_requested",
                Desired::Deleted => "delete_requested",
            };
            lines.push(whole(kind, format!("generation {}", self.dep.generation)));
        } else if before.generation != self.dep.generation {
            lines.push(whole("changed", format!("generation {}", self.dep.generation)));
        }
        if before.spec.replicas != self.dep.spec.replicas {
            let (old, new) = (before.spec.replicas, self.dep.spec.replicas);
            lines.push(whole("scaled", format!("from {old} to {new} replicas")));
        }
        if before.token != self.dep.token {
            lines.push(whole("token_rotated", "the old deployment token is no longer valid".to_owned()));
        }
        self.happenings.extend(lines);
    }

    /// Whatever differs from `before`, as one atomic change.
    fn persist(&mut self, before: &Deployment) -> Vec<Effect> {
        let mut writes = Vec::new();
        if self.finished {
            writes.extend(before.replicas.iter().map(|r| Write::DeleteReplica(self.dep.id, r.id)));
            writes.push(Write::DeleteDeployment(self.dep.id));
            self.happenings.clear();
            return vec![Effect::Persist(writes, Vec::new())];
        }
        let head = |dep: &Deployment| Deployment { replicas: Vec::new(), ..dep.clone() };
        if head(before) != head(&self.dep) {
            writes.push(Write::PutDeployment(Box::new(head(&self.dep))));
        }
        for replica in &self.dep.replicas {
            let old = before.replicas.iter().find(|old| old.id == replica.id);
            if old.is_none_or(|old| old.stored() != replica.stored()) {
                writes.push(Write::PutReplica(self.dep.id, Box::new(replica.stored())));
            }
        }
        for old in &before.replicas {
            if self.dep.replicas.iter().all(|replica| replica.id != old.id) {
                writes.push(Write::DeleteReplica(self.dep.id, old.id));
            }
        }
        let happenings = std::mem::take(&mut self.happenings);
        if writes.is_empty() && happenings.is_empty() {
            return Vec::new();
        }
        vec![Effect::Persist(writes, happenings)]
    }

    /// What the gateway must hear, if it differs from what it heard last.
    fn route(&mut self) -> Option<Effect> {
        if self.finished {
            return None;
        }
        let spec = RouteSpec::of(&self.dep);
        if self.published.as_ref() == Some(&spec) {
            return None;
        }
        self.published = Some(spec.clone());
        Some(Effect::Publish(Box::new(spec)))
    }

    fn start_spec(&self, replica: &Replica) -> StartSpec {
        let spec = &self.dep.spec;
        StartSpec {
            runtime: spec.runtime,
            driver: spec.driver,
            image: spec.image.clone().unwrap_or_default(),
            model: spec.model.clone(),
            source: spec.source.clone(),
            command: spec.command.clone(),
            args: spec.args.clone(),
            env: spec.env.clone(),
            gpu_devices: replica
                .placement
                .as_ref()
                .map(|place| place.gpu_devices.clone())
                .unwrap_or_default(),
            served_name: self.dep.name.clone(),
            public: spec.public,
            token: Some(self.dep.token),
            gateway_token: self.dep.gateway_token.clone(),
        }
    }
}

fn being_deleted() -> Error {
    Error::new(ErrorClass::Conflict, "the deployment is being deleted")
}
