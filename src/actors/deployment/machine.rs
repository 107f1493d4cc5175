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

use nebula_core::clock::{Tick, WallTime};
use nebula_core::ids::{Generation, NodeId, ReplicaId};

use self::loss::{Lost, unreachable};
pub use self::next::Next;
use self::observe::{clip, observe};
use super::autoscale::Autoscaler;
use super::route::RouteSpec;
use crate::actors::reply::ReplyTo;
use crate::domain::command::{Action, StartSpec};
use crate::domain::deployment::{Deployment, DeploymentSpec, Desired, MemoryHint, Phase, Placement, Replica};
use crate::domain::error::{Error, ErrorClass};
use crate::domain::event::Happening;
use crate::domain::node::Availability;
use crate::domain::report::NodeFacts;
use crate::domain::route::Load;
use crate::ports::Write;
use nebula_core::token::TokenHash;

mod access;
#[cfg(test)]
mod access_tests;
mod catch_up;
#[cfg(test)]
mod catch_up_tests;
#[cfg(test)]
mod change_tests;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod intent_tests;
mod intents;
#[cfg(test)]
mod journal_tests;
mod loss;
#[cfg(test)]
mod move_tests;
mod next;
#[cfg(test)]
mod node_tests;
mod observe;
mod places;
#[cfg(test)]
mod props;
mod reconcile;
#[cfg(test)]
mod reconcile_tests;
mod records;
mod rollout;
#[cfg(test)]
mod route_tests;
mod scale;
#[cfg(test)]
mod scale_tests;
mod succession;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

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
    Rotate {
        /// What it hashes to.
        token: TokenHash,
        /// How long the old one is valid beside it.
        overlap: Duration,
    },
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
            Self::Rotate { .. } => ("deployment.rotate-token", "another deployment token".to_owned()),
            Self::Delete => ("deployment.delete", "delete".to_owned()),
        }
    }
}

/// What happens to a deployment.
#[derive(Clone, Debug)]
pub enum Event {
    /// The actor has started, or started again.
    Started,
    /// The user wants something.
    Intent(ReplyTo, Intent),
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
    /// What [`Machine::next_timer`] said is due.
    Timer,
    /// From the scheduler: there may be a place now.
    Capacity,
    /// From the scheduler: whether what is on a lost node may be replaced now.
    MayMove(NodeId, bool),
    /// What the gateway has for this deployment right now.
    Load(Load),
    /// Somebody asks, and there is no replica.
    Demand,
    /// How much memory the model is thought to need.
    Hint(MemoryHint),
}

/// What time it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For deadlines.
    pub tick: Tick,
    /// For records and people.
    pub wall: WallTime,
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
    /// Say again which places its replicas hold.
    Hold,
    /// Ask the scheduler whether what is on a lost node may be replaced.
    AskMove(NodeId),
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
    /// Replicas for which a place is being sought, and whether something has changed since that was asked.
    placing: BTreeMap<ReplicaId, bool>,
    /// What this incarnation last told a replica's node, and after which of its reports: older reports cannot
    /// know of it yet.
    told: BTreeMap<ReplicaId, (Told, u64)>,
    /// Replicas that their node does not report, and the first report that lacked them.
    lacking: BTreeMap<ReplicaId, u64>,
    /// Replicas that were told to start and that no report has had since: the start may be on its way.
    unheard: BTreeSet<ReplicaId>,
    /// Strangers that their node was told to delete, and the report that had them.
    dismissed: BTreeMap<(NodeId, ReplicaId), u64>,
    published: Option<RouteSpec>,
    /// Replicas for which there is no place. They ask again when there may be one.
    refused: BTreeSet<ReplicaId>,
    /// When those ask again by themselves.
    retry_at: Option<Tick>,
    /// Since when a new replica of a change has had no place.
    placeless_since: Option<Tick>,
    /// A place was given back in this step.
    freed: bool,
    /// Which report of a node was its last one before it was offline.
    silent_at: BTreeMap<NodeId, u64>,
    /// Nodes that are offline.
    lost: BTreeMap<NodeId, Lost>,
    /// When the old token ends.
    token_ends: Option<Tick>,
    autoscaler: Autoscaler,
    /// Why the number of replicas was changed in this step, if the user did not say it.
    scaled_because: Option<String>,
    finished: bool,
    happenings: Vec<Happening>,
}

impl Machine {
    /// A deployment as it was stored.
    #[must_use]
    pub fn load(dep: Deployment) -> Self {
        let preparing = dep.replicas.iter().filter(|replica| replica.phase == Phase::Preparing);
        Self {
            unheard: preparing.map(|replica| replica.id).collect(),
            dep,
            nodes: BTreeMap::new(),
            placing: BTreeMap::new(),
            told: BTreeMap::new(),
            lacking: BTreeMap::new(),
            dismissed: BTreeMap::new(),
            published: None,
            refused: BTreeSet::new(),
            retry_at: None,
            placeless_since: None,
            freed: false,
            silent_at: BTreeMap::new(),
            lost: BTreeMap::new(),
            token_ends: None,
            autoscaler: Autoscaler::default(),
            scaled_because: None,
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

    /// When [`Event::Timer`] is due next.
    #[must_use]
    pub fn next_timer(&self) -> Option<Tick> {
        let moves = self.moves_due().map(|(_, at)| at);
        moves.chain(self.retry_at).chain(self.gives_up_at()).chain(self.token_ends).min()
    }

    /// Takes an event and decides. What must be durable comes first.
    pub fn step(&mut self, event: Event, now: Now) -> Vec<Effect> {
        if self.finished {
            return Self::after_the_end(event);
        }
        let before = self.dep.clone();
        let mut effects = Vec::new();
        let reply = self.take(event, now, &mut effects);
        // What is wanted comes first in the journal, then what comes of it.
        self.tell_wishes(&before);
        self.retry_places(now);
        self.end_old_token(now, &mut effects);
        self.ask_moves(now, &mut effects);
        self.reconcile(&before, now, &mut effects);
        self.tell_phases(&before);
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

    /// What an event changes of the wish or of the picture. Answers what the caller is told, if there is one.
    fn take(
        &mut self,
        event: Event,
        now: Now,
        effects: &mut Vec<Effect>,
    ) -> Option<(ReplyTo, Result<(), Error>)> {
        match event {
            Event::Started => {
                effects.extend(self.nodes_in_use().into_iter().map(Effect::Watch));
                self.recall_access(now, effects);
            }
            Event::Intent(to, intent) => return Some((to, self.intend(intent, now, effects))),
            Event::Placed(replica, generation, placement) => {
                self.placed(replica, generation, placement, effects);
            }
            Event::Unplaceable(replica, generation, why) => {
                self.unplaceable(replica, generation, why, now, effects);
            }
            Event::Node(facts) => {
                self.catch_up(&facts);
                self.presence(&facts, now);
                self.node(facts);
            }
            Event::NodeGone(node) => self.node_gone(&node, effects),
            Event::Rejected(replica, generation, why) => {
                // The start has come, so the next report that lacks the replica is believed.
                self.unheard.remove(&replica);
                self.update(replica, generation, |replica| {
                    replica.phase = Phase::Failed;
                    replica.message = clip(format!("the agent refused: {why}"));
                });
            }
            Event::Timer => {}
            Event::Capacity => self.ask_again(),
            Event::MayMove(node, granted) => self.may_move(&node, granted, now),
            Event::Load(load) => self.look_at_load(&load, now),
            Event::Demand => self.demand(now),
            Event::Hint(hint) => self.dep.hint = Some(hint),
        }
        None
    }

    fn after_the_end(event: Event) -> Vec<Effect> {
        match event {
            Event::Intent(to, Intent::Delete) => vec![Effect::Reply(to, Ok(()))],
            Event::Intent(to, ..) => vec![Effect::Reply(to, Err(being_deleted()))],
            Event::Started
            | Event::Placed(..)
            | Event::Unplaceable(..)
            | Event::Node(_)
            | Event::NodeGone(_)
            | Event::Rejected(..)
            | Event::Timer
            | Event::Capacity
            | Event::MayMove(..)
            | Event::Load(_)
            | Event::Demand
            | Event::Hint(_) => Vec::new(),
        }
    }

    fn node(&mut self, facts: NodeFacts) {
        let id = facts.node_id.clone();
        // A node that is back has not reported yet: what it said last was before it was lost.
        let old_news = |seq: &u64| *seq == facts.report_seq && facts.report_seq > 0;
        let is_old = self.silent_at.get(&id).is_some_and(old_news);
        if facts.availability == Availability::Offline {
            self.silent_at.insert(id.clone(), facts.report_seq);
        } else if !is_old {
            self.silent_at.remove(&id);
        }
        for replica in &mut self.dep.replicas {
            let Some(place) = replica.placement.as_mut().filter(|place| place.node_id == id) else {
                continue;
            };
            place.proxy = facts.proxy.clone();
            place.node_name.clone_from(&facts.node_name);
            if facts.availability == Availability::Offline {
                let said_more = matches!(replica.phase, Phase::Failed | Phase::Stopped);
                if self.dep.desired == Desired::Running && !replica.leaving && !said_more {
                    unreachable(replica);
                }
                continue;
            }
            match facts.replicas.iter().find(|report| report.replica_id == replica.id) {
                Some(_) if is_old => {}
                Some(report) => {
                    self.lacking.remove(&replica.id);
                    self.unheard.remove(&replica.id);
                    observe(replica, report, self.dep.desired);
                }
                None if facts.report_seq == 0 => {}
                None => drop(self.lacking.entry(replica.id).or_insert(facts.report_seq)),
            }
        }
        let newer = facts.report_seq;
        let has = |replica: &Replica| facts.replicas.iter().any(|report| report.replica_id == replica.id);
        let lacks = |replica: &&Replica| replica.is_on(&id) && !has(replica);
        let lacks: Vec<ReplicaId> =
            self.dep.replicas.iter().filter(lacks).map(|replica| replica.id).collect();
        match self.nodes.insert(id, facts) {
            // The session counts its reports anew.
            Some(old) if old.report_seq > newer => {
                self.told.clear();
                self.dismissed.clear();
                self.lacking.clear();
            }
            Some(_) => {}
            // What this node was told before may have been told after this report of it.
            None => lacks.into_iter().for_each(|replica| {
                self.told.entry(replica).and_modify(|(_, told_at)| *told_at = newer);
            }),
        }
    }

    fn node_gone(&mut self, node: &NodeId, effects: &mut Vec<Effect>) {
        self.nodes.remove(node);
        self.lost.remove(node);
        self.silent_at.remove(node);
        let gone: Vec<ReplicaId> = self
            .dep
            .replicas
            .iter()
            .filter(|replica| replica.is_on(node))
            .map(|replica| replica.id)
            .collect();
        // New replicas with new ids take their places: if the node comes back, what it still runs is a stranger.
        gone.into_iter().for_each(|id| self.forget(id, effects));
        effects.push(Effect::Unwatch(node.clone()));
    }

    /// Nothing is left of a replica.
    fn forget(&mut self, id: ReplicaId, effects: &mut Vec<Effect>) {
        self.dep.replicas.retain(|replica| replica.id != id);
        self.told.remove(&id);
        self.placing.remove(&id);
        self.refused.remove(&id);
        self.lacking.remove(&id);
        self.unheard.remove(&id);
        self.freed = true;
        effects.push(Effect::Release(id));
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
