//! Who is there: registration, heartbeats, and what operators want of nodes. What time does to nodes is in
//! [`presence`].
//!
//! A heartbeat costs O(log n) and is not written down. Liveness goes by the monotonic clock only.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nebula_core::address::HostPort;
use nebula_core::clock::{Tick, WallTime};
use nebula_core::ids::NodeId;
use nebula_core::timing::suspect_after;

use crate::actors::drains::machine::Wish;
use crate::actors::reply::ReplyTo;
use crate::domain::error::{Error, ErrorClass};
use crate::domain::node::{Availability, Capabilities, Node, Presence, Scheduling, subdomain_label};
use crate::ports::Write;

pub mod brake;
mod presence;
mod standing;

use self::brake::{Brake, Share};
pub use self::presence::OFFLINE_PER_STEP;
use self::standing::{Standing, Tally};

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
    /// A drain begins (draining) or ends (anything else, for a node that is still being drained).
    Drain(ReplyTo, NodeId, Scheduling),
    /// The operator forgets a node.
    Forget(ReplyTo, NodeId),
    /// The operator says that the nodes are really gone that the brake holds.
    ReleaseBrake(ReplyTo),
    /// `Machine::next_timer` has come.
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
    /// Tell the operator.
    Notice(Notice),
    /// Answer.
    Reply(ReplyTo, Result<Reply, Error>),
}

/// What the operator should know of the fleet as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// So many nodes are missing that nobody is declared offline any more.
    BrakeClosed(Share),
    /// Enough nodes are back.
    BrakeOpened(Share),
    /// The operator opened the brake.
    BrakeReleased(Share),
    /// This process did not run for so long; all deadlines were moved by it.
    StoodStill(Duration),
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
    standing: Standing,
    heard: Option<Tick>,
    deadline: Option<Tick>,
}

/// The registry's state.
pub struct Machine {
    timing: Timing,
    domain: String,
    nodes: BTreeMap<NodeId, Entry>,
    subdomains: BTreeSet<String>,
    deadlines: BTreeSet<(Tick, NodeId)>,
    /// Those who are to be declared offline as soon as the brake lets them.
    overdue: BTreeSet<NodeId>,
    tally: Tally,
    brake: Brake,
    /// When it last looked at the time.
    seen: Tick,
    pauses: u64,
}

impl Machine {
    /// The registry as it starts, with the nodes that the store remembers: each is waited for, for the grace.
    #[must_use]
    pub fn load(timing: Timing, domain: String, nodes: Vec<Node>, now: Tick) -> Self {
        let mut machine = Self {
            timing,
            domain,
            nodes: BTreeMap::new(),
            subdomains: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            overdue: BTreeSet::new(),
            tally: Tally::default(),
            brake: Brake::Open,
            seen: now,
            pauses: 0,
        };
        // Whoever has a name below this domain keeps it; names below another one, which it was before, make way.
        let (settled, movers): (Vec<_>, Vec<_>) =
            nodes.into_iter().partition(|node| machine.label(&node.subdomain).is_some());
        for mut node in settled.into_iter().chain(movers) {
            node.subdomain = machine.settled_subdomain(&node);
            let id = node.id.clone();
            let awaited = node.presence == Presence::Expected;
            machine.insert(node, None);
            if awaited {
                machine.stand(&id, Standing::Awaited, Some(now.plus(timing.restart_grace)));
            }
        }
        machine
    }

    /// A heartbeat. Its answer waits for nothing: it changes no durable state that its sender relies on.
    pub fn heartbeat(&mut self, id: &NodeId, boot_id: &str, now: Tick) -> (Verdict, Vec<Effect>) {
        let mut effects: Vec<Effect> = self.notice(now).into_iter().collect();
        let known = self.nodes.get(id).filter(|entry| entry.node.presence != Presence::Deregistered);
        let Some(entry) = known else { return (Verdict::Unknown, effects) };
        let verdict = if boot_id == entry.node.boot_id || boot_id.is_empty() {
            Verdict::Known
        } else {
            Verdict::Reregister
        };
        effects.extend(self.heard(id, now));
        (verdict, effects)
    }

    /// Everything else.
    pub fn step(&mut self, event: Event, now: Tick) -> Vec<Effect> {
        let mut effects: Vec<Effect> = self.notice(now).into_iter().collect();
        effects.extend(match event {
            Event::Register(reply, registration, wall) => self.register(reply, *registration, wall, now),
            Event::Deregister(reply, id) => self.deregister(reply, &id),
            Event::Schedule(reply, id, scheduling) => self.schedule(reply, &id, scheduling),
            Event::Drain(reply, id, scheduling) => self.drain(reply, &id, scheduling),
            Event::Forget(reply, id) => self.forget(reply, &id),
            Event::ReleaseBrake(reply) => self.release_brake(reply),
            Event::Timer => self.expire(now),
        });
        effects.extend(self.weigh(now));
        effects
    }

    /// All nodes as they stand.
    pub fn nodes(&self) -> impl Iterator<Item = NodeUpdate> + '_ {
        self.nodes.values().map(Entry::update)
    }

    /// What the operator wants of each node, and since when it is known.
    pub fn wishes(&self) -> impl Iterator<Item = (NodeId, Wish)> + '_ {
        self.nodes.values().map(|Entry { node, .. }| {
            let Node { scheduling, created_at, .. } = *node;
            (node.id.clone(), Wish { scheduling, created_at })
        })
    }

    /// How many nodes stand so.
    #[must_use]
    pub fn count(&self, availability: Availability) -> usize {
        self.tally.count(availability)
    }

    /// Whether the brake holds.
    #[must_use]
    pub fn brake(&self) -> Brake {
        self.brake
    }

    /// How many of the nodes that should be heard are missing.
    #[must_use]
    pub fn share(&self) -> Share {
        self.tally.share()
    }

    /// How often this process stood still.
    #[must_use]
    pub fn pauses(&self) -> u64 {
        self.pauses
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
        self.insert(node, Some(now));
        let suspect_at = now.plus(suspect_after(self.timing.heartbeat_timeout));
        self.stand(&id, Standing::Online, Some(suspect_at));
        effects.push(Effect::OpenSession(id.clone()));
        effects.extend(self.announce(&id));
        effects.push(Effect::Reply(reply, Ok(Reply::Registered(Registered { node_id: id, subdomain }))));
        effects
    }

    fn deregister(&mut self, reply: ReplyTo, id: &NodeId) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Some(entry) = self.nodes.get_mut(id) {
            entry.node.presence = Presence::Deregistered;
            effects.push(entry.persist());
            self.stand(id, Standing::Gone, None);
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

    /// What a drain makes of a node may be said again, and late: it takes nothing back that the operator wanted since.
    fn drain(&mut self, reply: ReplyTo, id: &NodeId, scheduling: Scheduling) -> Vec<Effect> {
        let Some(entry) = self.nodes.get(id) else { return vec![no_such_node(reply, id)] };
        let is_draining = entry.node.scheduling == Scheduling::Draining;
        if is_draining == (scheduling == Scheduling::Draining) {
            return vec![Effect::Reply(reply, Ok(Reply::Done(self.node(id).map(Box::new))))];
        }
        self.schedule(reply, id, scheduling)
    }

    fn forget(&mut self, reply: ReplyTo, id: &NodeId) -> Vec<Effect> {
        match self.nodes.get(id) {
            None => vec![no_such_node(reply, id)],
            Some(entry) if entry.standing == Standing::Online => vec![Effect::Reply(
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
                self.remove(id);
                vec![
                    Effect::Persist(Write::DeleteNode(id.clone())),
                    Effect::CloseSession(id.clone()),
                    Effect::Reply(reply, Ok(Reply::Done(None))),
                ]
            }
        }
    }

    fn release_brake(&mut self, reply: ReplyTo) -> Vec<Effect> {
        let share = self.tally.share();
        if !self.brake.overrule() {
            let error = Error::new(ErrorClass::Conflict, "the brake is open; nothing is held");
            return vec![Effect::Reply(reply, Err(error))];
        }
        vec![Effect::Notice(Notice::BrakeReleased(share)), Effect::Reply(reply, Ok(Reply::Done(None)))]
    }

    /// Takes a node in, or replaces what is known of it. A new one is gone until `stand` says otherwise.
    fn insert(&mut self, node: Node, heard: Option<Tick>) {
        if let Some(entry) = self.nodes.get_mut(&node.id) {
            entry.node = node;
            entry.heard = heard;
            return;
        }
        self.subdomains.insert(node.subdomain.clone());
        self.tally.add(Standing::Gone);
        let id = node.id.clone();
        self.nodes.insert(id, Entry { node, standing: Standing::Gone, heard, deadline: None });
    }

    fn remove(&mut self, id: &NodeId) {
        self.stand(id, Standing::Gone, None);
        if let Some(entry) = self.nodes.remove(id) {
            self.subdomains.remove(&entry.node.subdomain);
            self.tally.remove(Standing::Gone);
        }
    }

    fn announce(&self, id: &NodeId) -> Option<Effect> {
        self.node(id).map(|update| Effect::Announce(Box::new(update)))
    }

    fn free_subdomain(&self, id: &NodeId) -> String {
        self.full(&subdomain_label(id, |label| self.subdomains.contains(&self.full(label))))
    }

    /// A remembered node's name below the domain as it is now: with the first label that it had, if that is free.
    fn settled_subdomain(&self, node: &Node) -> String {
        if self.label(&node.subdomain).is_some() {
            return node.subdomain.clone();
        }
        let same = self.full(node.subdomain.split('.').next().unwrap_or_default());
        let is_free = self.label(&same).is_some() && !self.subdomains.contains(&same);
        if is_free { same } else { self.free_subdomain(&node.id) }
    }

    fn full(&self, label: &str) -> String {
        format!("{label}.{}", self.domain)
    }

    /// The one label of a name directly below the domain.
    fn label<'a>(&self, name: &'a str) -> Option<&'a str> {
        let label = name.strip_suffix(&self.domain)?.strip_suffix('.')?;
        (!label.is_empty() && !label.contains('.')).then_some(label)
    }
}

impl Entry {
    fn update(&self) -> NodeUpdate {
        NodeUpdate { node: self.node.clone(), availability: self.standing.availability() }
    }

    fn persist(&self) -> Effect {
        Effect::Persist(Write::PutNode(Box::new(self.node.clone())))
    }
}

fn no_such_node(reply: ReplyTo, id: &NodeId) -> Effect {
    Effect::Reply(reply, Err(Error::new(ErrorClass::NotFound, format!("there is no node \"{id}\""))))
}

#[cfg(test)]
mod membership_tests;
#[cfg(test)]
mod presence_tests;
#[cfg(test)]
mod tests;
