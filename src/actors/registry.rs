//! The registry: which nodes there are and whether they are heard from.
//!
//! * Owns: the nodes and the one ordered set of heartbeat deadlines.
//! * Persists: node records at registration, at offline edges and at the operator's changes; never heartbeats.
//! * Talks to: sessions (opens, closes, tells them how their node stands) and the scheduler.
//! * Timers: one, for the earliest deadline.
//! * On crash: loads the nodes from the store; each is suspect until heard, as after a restart of nebulad.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, MessageResult, ResponseFuture, SpawnHandle};
use nebula_core::clock::{Clock, Tick};
use nebula_core::ids::NodeId;
use serde::Serialize;

use self::machine::{Effect, Event, Machine, NodeUpdate, Registered, Registration, Reply, Timing, Verdict};
use super::effects::{Effects, Performer, Replies, ReplyTo, Split, perform_all};
use super::supervisor::{Birth, ChildSpec, DeathWatch, Restart};
use super::system::{System, patiently, store_error};
use super::tree::Cell;
use crate::domain::error::Error;
use crate::domain::node::{Availability, Scheduling};
use crate::ports::Write;

pub mod machine;

/// Where the registry is in the tree.
pub const PATH: &str = "/registry";

/// Timers fire this much late at least, so that a deadline has surely passed when its timer fires.
const TIMER_SLACK: Duration = Duration::from_millis(1);

/// What the registry publishes.
#[derive(Debug, Default, Serialize)]
pub struct RegistryStatus {
    /// Nodes heard from.
    pub online: usize,
    /// Nodes that are late.
    pub suspect: usize,
    /// Nodes that are silent.
    pub offline: usize,
}

/// The registry's actor.
pub struct Registry {
    machine: Machine,
    system: System,
    clock: Clock,
    cell: Arc<Cell>,
    effects: Effects<Effect>,
    replies: Replies<Result<Reply, Error>>,
    timer: Option<(Tick, SpawnHandle)>,
    watch: DeathWatch,
}

/// How the registry is built.
pub(crate) fn spec(system: System, timing: Timing, domain: String) -> ChildSpec {
    ChildSpec::new("registry", "registry", Restart::Permanent, move |birth| {
        let (system, domain) = (system.clone(), domain.clone());
        async move { Registry::load(birth, system, timing, domain).await }
    })
}

impl Registry {
    async fn load(birth: Birth, system: System, timing: Timing, domain: String) -> Result<(), Error> {
        let nodes = patiently(|| system.store.nodes()).await.map_err(store_error)?;
        let clock = system.tree.clock();
        let registry = Self {
            machine: Machine::load(timing, domain, nodes, clock.now()),
            clock,
            cell: birth.cell.clone(),
            effects: Effects::new(system.store.clone()),
            replies: Replies::new(),
            timer: None,
            watch: birth.watch,
            system,
        };
        birth.cell.running(registry.start());
        Ok(())
    }

    fn drive(&mut self, event: Event, ctx: &mut Context<Self>) {
        let effects = self.machine.step(event, self.clock.now());
        self.carry_out(effects, ctx);
    }

    fn carry_out(&mut self, effects: Vec<Effect>, ctx: &mut Context<Self>) {
        if !effects.is_empty() {
            perform_all(self, effects, ctx);
        }
        self.arm(ctx);
    }

    /// Keeps one timer for the earliest deadline. One that is early does no harm, so heartbeats, which only move
    /// deadlines back, leave it alone.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        let Some(next) = self.machine.next_deadline() else { return };
        if self.timer.as_ref().is_some_and(|(at, _)| *at <= next) {
            return;
        }
        if let Some((_, old)) = self.timer.take() {
            ctx.cancel_future(old);
        }
        let wait = next.since(self.clock.now()) + TIMER_SLACK;
        let handle = ctx.run_later(wait, |registry, ctx| {
            registry.timer = None;
            registry.drive(Event::Timer, ctx);
        });
        self.timer = Some((next, handle));
    }

    fn ask(
        &mut self,
        ctx: &mut Context<Self>,
        event: impl FnOnce(ReplyTo) -> Event,
    ) -> ResponseFuture<Result<Reply, Error>> {
        self.cell.received();
        let (reply, answer) = self.replies.open();
        self.drive(event(reply), ctx);
        Box::pin(async move { answer.await.unwrap_or_else(|_| Err(Error::restarting())) })
    }
}

impl Actor for Registry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let nodes: Vec<NodeUpdate> = self.machine.nodes().collect();
        for update in &nodes {
            self.system.open_session(update.node.id.clone());
        }
        self.system.tell_scheduler(nodes);
        self.settled();
        self.arm(ctx);
    }
}

impl Performer for Registry {
    type Effect = Effect;

    fn effects(&mut self) -> &mut Effects<Effect> {
        &mut self.effects
    }

    fn watch(&mut self) -> &mut DeathWatch {
        &mut self.watch
    }

    fn writes(&mut self, effect: Effect) -> Split<Effect> {
        match effect {
            Effect::Persist(write) => Split::Writes(vec![write]),
            other => Split::Other(other),
        }
    }

    fn perform(&mut self, effect: Effect, _: &mut Context<Self>) {
        match effect {
            Effect::Persist(write) => {
                debug_assert!(matches!(write, Write::PutNode(_)), "writes are committed")
            }
            Effect::OpenSession(id) => self.system.open_session(id),
            Effect::CloseSession(id) => {
                self.system.close_session(&id);
                self.system.node_gone(&id);
            }
            Effect::Announce(update) => {
                tracing::info!(
                    node_id = %update.node.id,
                    name = update.node.name,
                    to = ?update.availability,
                    "node availability"
                );
                self.system.tell_session(&update);
                self.system.tell_scheduler(vec![*update]);
            }
            Effect::Reply(to, reply) => self.replies.answer(to, reply),
        }
    }

    fn settled(&mut self) {
        let count =
            |wanted| self.machine.availabilities().filter(|availability| *availability == wanted).count();
        self.cell.publish(Arc::new(RegistryStatus {
            online: count(Availability::Online),
            suspect: count(Availability::Suspect),
            offline: count(Availability::Offline),
        }));
    }
}

/// From the gRPC service: an agent registers. Idempotent. A timeout means: unknown, register again.
#[derive(Message)]
#[rtype(result = "Result<Registered, Error>")]
pub struct Register(pub Registration);

impl Handler<Register> for Registry {
    type Result = ResponseFuture<Result<Registered, Error>>;

    fn handle(&mut self, Register(registration): Register, ctx: &mut Context<Self>) -> Self::Result {
        let wall = self.clock.wall();
        let id = registration.node_id.clone();
        let answer = self.ask(ctx, |reply| Event::Register(reply, Box::new(registration), wall));
        Box::pin(async move {
            match answer.await? {
                Reply::Registered(registered) => Ok(registered),
                Reply::Done(_) => Ok(Registered { node_id: id, subdomain: String::new() }),
            }
        })
    }
}

/// From the gRPC service: a node lives. Waits for no disk.
#[derive(Message)]
#[rtype(result = "Verdict")]
pub struct Heartbeat {
    /// Who.
    pub node_id: NodeId,
    /// Which start of its agent; may be empty.
    pub boot_id: String,
}

impl Handler<Heartbeat> for Registry {
    type Result = MessageResult<Heartbeat>;

    fn handle(&mut self, beat: Heartbeat, ctx: &mut Context<Self>) -> Self::Result {
        self.cell.received();
        let (verdict, effects) = self.machine.heartbeat(&beat.node_id, &beat.boot_id, self.clock.now());
        self.carry_out(effects, ctx);
        MessageResult(verdict)
    }
}

/// What the operator or the node itself wants of a node. Idempotent.
#[derive(Message)]
#[rtype(result = "Result<Option<Box<NodeUpdate>>, Error>")]
pub enum Change {
    /// The agent takes its leave.
    Deregister(NodeId),
    /// Where replicas may go.
    Schedule(NodeId, Scheduling),
    /// Forget it.
    Forget(NodeId),
}

impl Handler<Change> for Registry {
    type Result = ResponseFuture<Result<Option<Box<NodeUpdate>>, Error>>;

    fn handle(&mut self, change: Change, ctx: &mut Context<Self>) -> Self::Result {
        let answer = self.ask(ctx, |reply| match change {
            Change::Deregister(id) => Event::Deregister(reply, id),
            Change::Schedule(id, scheduling) => Event::Schedule(reply, id, scheduling),
            Change::Forget(id) => Event::Forget(reply, id),
        });
        Box::pin(async move {
            match answer.await? {
                Reply::Done(update) => Ok(update),
                Reply::Registered(_) => Ok(None),
            }
        })
    }
}

/// A read: one node as it stands, with the time since it was last heard.
#[derive(Message)]
#[rtype(result = "Option<(NodeUpdate, Option<Duration>)>")]
pub struct GetNode(pub NodeId);

impl Handler<GetNode> for Registry {
    type Result = MessageResult<GetNode>;

    fn handle(&mut self, GetNode(id): GetNode, _: &mut Context<Self>) -> Self::Result {
        self.cell.received();
        let age = self.machine.heard_at(&id).map(|heard| self.clock.now().since(heard));
        MessageResult(self.machine.node(&id).map(|update| (update, age)))
    }
}

/// A read: all nodes as they stand.
#[derive(Message)]
#[rtype(result = "Vec<(NodeUpdate, Option<Duration>)>")]
pub struct GetNodes;

impl Handler<GetNodes> for Registry {
    type Result = MessageResult<GetNodes>;

    fn handle(&mut self, _: GetNodes, _: &mut Context<Self>) -> Self::Result {
        self.cell.received();
        let now = self.clock.now();
        let age = |update: &NodeUpdate| self.machine.heard_at(&update.node.id).map(|heard| now.since(heard));
        MessageResult(
            self.machine.nodes().map(|update| (age(&update), update)).map(|(a, u)| (u, a)).collect(),
        )
    }
}

/// From a session or the scheduler that has just started: tell me how things stand.
#[derive(Message)]
#[rtype(result = "()")]
pub enum Tell {
    /// A session wants its node.
    Session(NodeId),
    /// The scheduler wants all nodes.
    Scheduler,
}

impl Handler<Tell> for Registry {
    type Result = ();

    fn handle(&mut self, tell: Tell, _: &mut Context<Self>) {
        self.cell.received();
        match tell {
            Tell::Session(id) => {
                if let Some(update) = self.machine.node(&id) {
                    self.system.tell_session(&update);
                }
            }
            Tell::Scheduler => self.system.tell_scheduler(self.machine.nodes().collect()),
        }
    }
}
