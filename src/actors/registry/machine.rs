//! Who is there: registration, heartbeats, and the deadlines after which a silent node is suspect, then offline.
//!
//! One ordered set of deadlines serves all nodes; a heartbeat costs O(log n) and is not written down. Liveness
//! goes by the monotonic clock only.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nebula_core::address::HostPort;
use nebula_core::clock::{Tick, WallTime};
use nebula_core::ids::NodeId;

use crate::actors::effects::ReplyTo;
use crate::domain::error::{Error, ErrorClass};
use crate::domain::node::{Availability, Capabilities, Node, Presence, Scheduling, subdomain_label};
use crate::ports::Write;

/// The fewest nodes at which the brake against mass failure works.
const BRAKE_NODES_MIN: usize = 3;
/// How soon a node that the brake holds is looked at again.
const BRAKE_RECHECK: Duration = Duration::from_secs(1);

/// The times that decide about presence.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How often agents are asked to report.
    pub heartbeat_interval: Duration,
    /// Silent for this long: offline. For half of it: suspect.
    pub heartbeat_timeout: Duration,
    /// How long known nodes are waited for after nebulad starts.
    pub restart_grace: Duration,
}

/// What an agent says when it registers.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Its id, or a fresh one for an agent that has none yet.
    pub node_id: NodeId,
    /// For people; may be empty.
    pub name: String,
    /// The agent's version.
    pub version: String,
    /// Where to call it back.
    pub address: HostPort,
    /// Its auth proxy's port.
    pub proxy_port: u16,
    /// Hardware and runtimes.
    pub capabilities: Capabilities,
    /// The operator's labels.
    pub labels: BTreeMap<String, String>,
    /// New at each start of the agent; may be empty.
    pub boot_id: String,
}

/// What an agent hears when it has registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Its id.
    pub node_id: NodeId,
    /// Its host name below the gateway's domain.
    pub subdomain: String,
}

/// What an agent hears on a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Heard.
    Known,
    /// Heard, but its registration is missing: it must register again.
    Reregister,
    /// No such node: it must register.
    Unknown,
}

/// A node and how it stands: what sessions, the scheduler and the API are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeUpdate {
    /// The node.
    pub node: Node,
    /// Whether it is heard from.
    pub availability: Availability,
}

/// What happens to the registry.
#[derive(Debug)]
pub enum Event {
    /// An agent registers.
    Register(ReplyTo, Box<Registration>, WallTime),
    /// An agent takes its leave.
    Deregister(ReplyTo, NodeId),
    /// The operator changes where replicas may go.
    Schedule(ReplyTo, NodeId, Scheduling),
    /// The operator forgets a node.
    Forget(ReplyTo, NodeId),
    /// The earliest deadline has come.
    Timer,
}

/// What the registry decides.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// Make durable.
    Persist(Write),
    /// The node needs a session actor.
    OpenSession(NodeId),
    /// The node's session is over.
    CloseSession(NodeId),
    /// Tell everyone concerned how the node stands.
    Announce(Box<NodeUpdate>),
    /// Answer.
    Reply(ReplyTo, Result<Reply, Error>),
}

/// The answers.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// To `Register`.
    Registered(Registered),
    /// To the rest: the node as it stands now, unless it is gone.
    Done(Option<Box<NodeUpdate>>),
}

struct Entry {
    node: Node,
    availability: Availability,
    heard: Option<Tick>,
    deadline: Option<Tick>,
}

/// The registry's state.
pub struct Machine {
    timing: Timing,
    domain: String,
    nodes: BTreeMap<NodeId, Entry>,
    deadlines: BTreeSet<(Tick, NodeId)>,
}

impl Machine {
    /// The registry as it starts, with the nodes that the store remembers: each is waited for, for the grace.
    #[must_use]
    pub fn load(timing: Timing, domain: String, nodes: Vec<Node>, now: Tick) -> Self {
        let mut machine = Self { timing, domain, nodes: BTreeMap::new(), deadlines: BTreeSet::new() };
        for node in nodes {
            let availability = match node.presence {
                Presence::Expected => Availability::Suspect,
                Presence::Offline | Presence::Deregistered => Availability::Offline,
            };
            let id = node.id.clone();
            machine.nodes.insert(id.clone(), Entry { node, availability, heard: None, deadline: None });
            if availability == Availability::Suspect {
                machine.arm(&id, Some(now.plus(timing.restart_grace)));
            }
        }
        machine
    }

    /// A heartbeat. Its answer waits for nothing: it changes no durable state that its sender relies on.
    pub fn heartbeat(&mut self, id: &NodeId, boot_id: &str, now: Tick) -> (Verdict, Vec<Effect>) {
        let Some(entry) = self.nodes.get_mut(id) else { return (Verdict::Unknown, Vec::new()) };
        if entry.node.presence == Presence::Deregistered {
            return (Verdict::Unknown, Vec::new());
        }
        let verdict = if boot_id == entry.node.boot_id || boot_id.is_empty() {
            Verdict::Known
        } else {
            Verdict::Reregister
        };
        (verdict, self.heard(id, now))
    }

    /// Everything else.
    pub fn step(&mut self, event: Event, now: Tick) -> Vec<Effect> {
        match event {
            Event::Register(reply, registration, wall) => self.register(reply, *registration, wall, now),
            Event::Deregister(reply, id) => self.deregister(reply, &id),
            Event::Schedule(reply, id, scheduling) => self.schedule(reply, &id, scheduling),
            Event::Forget(reply, id) => self.forget(reply, &id),
            Event::Timer => self.expire(now),
        }
    }

    /// When `Event::Timer` is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Tick> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// All nodes as they stand.
    pub fn nodes(&self) -> impl Iterator<Item = NodeUpdate> + '_ {
        self.nodes.values().map(Entry::update)
    }

    /// How all nodes stand.
    pub fn availabilities(&self) -> impl Iterator<Item = Availability> + '_ {
        self.nodes.values().map(|entry| entry.availability)
    }

    /// One node as it stands.
    #[must_use]
    pub fn node(&self, id: &NodeId) -> Option<NodeUpdate> {
        self.nodes.get(id).map(Entry::update)
    }

    /// When a node was last heard in this run.
    #[must_use]
    pub fn heard_at(&self, id: &NodeId) -> Option<Tick> {
        self.nodes.get(id).and_then(|entry| entry.heard)
    }

    fn register(
        &mut self,
        reply: ReplyTo,
        registration: Registration,
        wall: WallTime,
        now: Tick,
    ) -> Vec<Effect> {
        let id = registration.node_id.clone();
        let known = self.nodes.get(&id).map(|entry| &entry.node);
        let subdomain = known.map_or_else(|| self.free_subdomain(&id), |node| node.subdomain.clone());
        let name = if registration.name.is_empty() {
            subdomain.split('.').next().unwrap_or_default().to_owned()
        } else {
            registration.name
        };
        let node = Node {
            id: id.clone(),
            name,
            version: registration.version,
            address: registration.address,
            proxy_port: registration.proxy_port,
            subdomain: subdomain.clone(),
            labels: registration.labels,
            capabilities: registration.capabilities,
            boot_id: registration.boot_id,
            scheduling: known.map_or(Scheduling::Schedulable, |node| node.scheduling),
            presence: Presence::Expected,
            created_at: known.map_or(wall, |node| node.created_at),
        };
        let mut effects = vec![Effect::Persist(Write::PutNode(Box::new(node.clone())))];
        let entry = Entry { node, availability: Availability::Online, heard: Some(now), deadline: None };
        if let Some(old) = self.nodes.insert(id.clone(), entry).and_then(|old| old.deadline) {
            self.deadlines.remove(&(old, id.clone()));
        }
        self.arm(&id, Some(now.plus(self.suspect_after())));
        effects.push(Effect::OpenSession(id.clone()));
        effects.extend(self.announce(&id));
        effects.push(Effect::Reply(reply, Ok(Reply::Registered(Registered { node_id: id, subdomain }))));
        effects
    }

    fn deregister(&mut self, reply: ReplyTo, id: &NodeId) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Some(entry) = self.nodes.get_mut(id) {
            entry.availability = Availability::Offline;
            entry.node.presence = Presence::Deregistered;
            effects.push(entry.persist());
            self.arm(id, None);
            effects.extend(self.announce(id));
        }
        effects.push(Effect::Reply(reply, Ok(Reply::Done(self.node(id).map(Box::new)))));
        effects
    }

    fn schedule(&mut self, reply: ReplyTo, id: &NodeId, scheduling: Scheduling) -> Vec<Effect> {
        let Some(entry) = self.nodes.get_mut(id) else { return vec![no_such_node(reply, id)] };
        entry.node.scheduling = scheduling;
        let mut effects = vec![entry.persist()];
        effects.extend(self.announce(id));
        effects.push(Effect::Reply(reply, Ok(Reply::Done(self.node(id).map(Box::new)))));
        effects
    }

    fn forget(&mut self, reply: ReplyTo, id: &NodeId) -> Vec<Effect> {
        match self.nodes.get(id) {
            None => vec![no_such_node(reply, id)],
            Some(entry) if entry.availability == Availability::Online => vec![Effect::Reply(
                reply,
                Err(Error::new(
                    ErrorClass::Conflict,
                    format!(
                        "node \"{}\" is online; stop its agent first, or it would register again",
                        entry.node.name
                    ),
                )),
            )],
            Some(_) => {
                self.arm(id, None);
                self.nodes.remove(id);
                vec![
                    Effect::Persist(Write::DeleteNode(id.clone())),
                    Effect::CloseSession(id.clone()),
                    Effect::Reply(reply, Ok(Reply::Done(None))),
                ]
            }
        }
    }

    fn heard(&mut self, id: &NodeId, now: Tick) -> Vec<Effect> {
        let suspect_at = now.plus(self.suspect_after());
        let Some(entry) = self.nodes.get_mut(id) else { return Vec::new() };
        entry.heard = Some(now);
        let was = std::mem::replace(&mut entry.availability, Availability::Online);
        let mut effects = Vec::new();
        if was == Availability::Offline {
            entry.node.presence = Presence::Expected;
            effects.push(entry.persist());
        }
        self.arm(id, Some(suspect_at));
        if was != Availability::Online {
            effects.extend(self.announce(id));
        }
        effects
    }

    fn expire(&mut self, now: Tick) -> Vec<Effect> {
        let mut effects = Vec::new();
        while let Some((at, id)) = self.deadlines.first().filter(|(at, _)| *at <= now).cloned() {
            self.deadlines.remove(&(at, id.clone()));
            effects.extend(self.overdue(&id, now));
        }
        effects
    }

    fn overdue(&mut self, id: &NodeId, now: Tick) -> Vec<Effect> {
        let braked = self.brake(now);
        let timeout = self.timing.heartbeat_timeout;
        let Some(entry) = self.nodes.get_mut(id) else { return Vec::new() };
        entry.deadline = None;
        match entry.availability {
            Availability::Online => {
                entry.availability = Availability::Suspect;
                let offline_at = entry.heard.unwrap_or(now).plus(timeout);
                self.arm(id, Some(offline_at));
                self.announce(id).into_iter().collect()
            }
            Availability::Suspect if braked => {
                self.arm(id, Some(now.plus(BRAKE_RECHECK)));
                Vec::new()
            }
            Availability::Suspect => {
                entry.availability = Availability::Offline;
                entry.node.presence = Presence::Offline;
                let mut effects = vec![entry.persist()];
                effects.extend(self.announce(id));
                effects
            }
            Availability::Offline => Vec::new(),
        }
    }

    /// Whether so many nodes vanished within one timeout that the fault is likely ours: then nobody is declared
    /// offline, nothing is moved, and routes are kept.
    fn brake(&self, now: Tick) -> bool {
        let window = self.timing.heartbeat_timeout.saturating_mul(2);
        let (mut expected, mut lost) = (0_usize, 0_usize);
        for entry in self.nodes.values() {
            let just_lost = entry.node.presence == Presence::Offline
                && entry.heard.is_some_and(|heard| now.since(heard) < window);
            match entry.availability {
                Availability::Online => expected += 1,
                Availability::Suspect => (expected, lost) = (expected + 1, lost + 1),
                Availability::Offline if just_lost => (expected, lost) = (expected + 1, lost + 1),
                Availability::Offline => {}
            }
        }
        expected >= BRAKE_NODES_MIN && lost * 2 > expected
    }

    fn arm(&mut self, id: &NodeId, deadline: Option<Tick>) {
        let Some(entry) = self.nodes.get_mut(id) else { return };
        if let Some(old) = std::mem::replace(&mut entry.deadline, deadline) {
            self.deadlines.remove(&(old, id.clone()));
        }
        if let Some(at) = deadline {
            self.deadlines.insert((at, id.clone()));
        }
    }

    fn announce(&self, id: &NodeId) -> Option<Effect> {
        self.node(id).map(|update| Effect::Announce(Box::new(update)))
    }

    fn suspect_after(&self) -> Duration {
        self.timing.heartbeat_timeout / 2
    }

    fn free_subdomain(&self, id: &NodeId) -> String {
        let full = |label: &str| format!("{label}.{}", self.domain);
        let taken = |label: &str| {
            let name = full(label);
            self.nodes.values().any(|entry| entry.node.id != *id && entry.node.subdomain == name)
        };
        full(&subdomain_label(id, taken))
    }
}

impl Entry {
    fn update(&self) -> NodeUpdate {
        NodeUpdate { node: self.node.clone(), availability: self.availability }
    }

    fn persist(&self) -> Effect {
        Effect::Persist(Write::PutNode(Box::new(self.node.clone())))
    }
}

fn no_such_node(reply: ReplyTo, id: &NodeId) -> Effect {
    Effect::Reply(reply, Err(Error::new(ErrorClass::NotFound, format!("there is no node \"{id}\""))))
}

#[cfg(test)]
mod tests;
