//! The registry: which nodes there are and whether they are heard from.
//!
//! * Owns: the nodes and the one ordered set of heartbeat deadlines.
//! * Persists: node records at registration, at offline edges and at the operator's changes; never heartbeats.
//! * Talks to: sessions (opens, closes, tells them how their node stands) and the scheduler; writes the book of sites.
//! * Timers: one, for the earliest deadline, and at least once a second to notice that this process stood still.
//! * On crash: loads the nodes from the store; each is suspect until heard, as after a restart of nebulad.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, MessageResult, ResponseFuture, SpawnHandle};
use nebula_core::clock::{Clock, Tick};
use nebula_core::ids::NodeId;
use nebula_core::timing::LOOK_EVERY;
use serde::Serialize;

use self::chronicle::Chronicle;
use self::machine::brake::Brake;
use self::machine::{
    Effect, Event, Machine, NodeUpdate, Notice, Registered, Registration, Reply, Timing, Verdict,
};
use super::effects::{Effects, Performer, Replies, Split, perform_all};
use super::letter::{Member, opens_letters};
use super::reply::ReplyTo;
use super::supervisor::{Birth, ChildSpec, DeathWatch, Restart};
use super::system::{System, patiently, store_error};
use super::tree::Cell;
use crate::domain::error::Error;
use crate::domain::event::{Line, Origin};
use crate::domain::node::{Availability, Scheduling};
use crate::metrics;
use crate::ports::Write;

mod chronicle;
pub(super) mod drained;
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
    /// The brake against mass failure.
    pub brake: BrakeStatus,
    /// How often this process stood still, so that all deadlines were moved.
    pub pauses: u64,
}

/// How the brake against mass failure stands.
#[derive(Debug, Default, Serialize)]
pub struct BrakeStatus {
    /// `open`, `closed` (nobody is declared offline) or `overruled` (by an operator).
    pub state: &'static str,
    /// Nodes that fell silent lately.
    pub missing: usize,
    /// These and the nodes that are heard.
    pub expected: usize,
}

/// The brake's state as operators see it when it holds.
const CLOSED: &str = "closed";

impl RegistryStatus {
    /// So many nodes are missing at once that nothing is made of it.
    #[must_use]
    pub fn brake_holds(&self) -> bool {
        self.brake.state == CLOSED
    }

    /// What operators should know although nebulad serves.
    #[must_use]
    pub fn concern(&self) -> Option<String> {
        let BrakeStatus { state, missing, expected } = self.brake;
        (state == CLOSED).then(|| {
            format!(
                "{missing} of {expected} nodes are missing at once: nobody is declared offline and routes are kept \
                 until most are back; POST /admin/brake/release if they are really gone"
            )
        })
    }
}

/// The registry's actor.
pub struct Registry {
    machine: Machine,
    system: System,
    clock: Clock,
    cell: Arc<Cell>,
    chronicle: Chronicle,
    effects: Effects<Effect>,
    replies: Replies<Result<Reply, Error>>,
    timer: Option<(Tick, SpawnHandle)>,
    /// A `Look` waits in the mailbox, behind all heartbeats that came before it.
    looking: bool,
    /// What the scheduler is told when this batch is done.
    news: Vec<NodeUpdate>,
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
            chronicle: Chronicle::load(&nodes),
            machine: Machine::load(timing, domain, nodes, clock.now()),
            clock,
            cell: birth.cell.clone(),
            effects: Effects::new(system.journal.clone()),
            replies: Replies::new(),
            timer: None,
            looking: false,
            news: Vec::new(),
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

    /// What the audit says of a change; nothing of what a node wants itself.
    fn audit(&self, change: &Change) -> Option<Line> {
        let of = |origin: &Origin, verb: &str, id: Option<&NodeId>| {
            let node = id.and_then(|id| self.machine.node(id)).map(|update| update.node);
            let message = node.as_ref().map_or_else(
                || "the missing nodes are really gone".to_owned(),
                |node| format!("node \"{}\": {}", node.name, verb.trim_start_matches("node.")),
            );
            let line = Line::of_audit(origin.clone(), verb, message, self.clock.wall());
            match node {
                Some(node) => line.to_node(node.id),
                None => line,
            }
        };
        match change {
            Change::Deregister(_) => None,
            Change::Schedule(id, scheduling, origin) => Some(of(origin, scheduling.verb(), Some(id))),
            Change::Forget(id, origin) => Some(of(origin, "node.delete", Some(id))),
            Change::ReleaseBrake(origin) => Some(of(origin, "brake.release", None)),
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>, ctx: &mut Context<Self>) {
        let happenings = self.chronicle.tell(&effects);
        let lines = happenings.into_iter().map(|what| Line::of_node(what, self.clock.wall()));
        // What changes a record is told in the same commit. What does not waits for no disk and stops nobody.
        if effects.iter().any(|effect| matches!(effect, Effect::Persist(_))) {
            self.effects.note(lines);
        } else {
            self.system.journal.note(lines.collect());
        }
        if !effects.is_empty() {
            perform_all(self, effects, ctx);
        }
        self.arm(ctx);
    }

    /// Keeps one timer for what is due next. One that is early does no harm, so heartbeats, which only move deadlines
    /// back, leave it alone.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        let next = self.machine.next_timer();
        if self.looking || self.timer.as_ref().is_some_and(|(at, _)| *at <= next) {
            return;
        }
        self.wake_at(next, ctx);
    }

    fn wake_at(&mut self, at: Tick, ctx: &mut Context<Self>) {
        if let Some((_, old)) = self.timer.take() {
            ctx.cancel_future(old);
        }
        let wait = at.since(self.clock.now()) + TIMER_SLACK;
        let handle = ctx.run_later(wait, Self::woken);
        self.timer = Some((at, handle));
    }

    /// Nobody is judged before every heartbeat that waits in the mailbox is heard: the look goes behind them. If it
    /// cannot be delivered, so many are waiting, it is sent again.
    fn woken(&mut self, ctx: &mut Context<Self>) {
        let _turn = self.cell.timer_turn("timer: a deadline");
        self.timer = None;
        self.looking = true;
        self.system.registry.tell(PATH, Look);
        self.wake_at(self.clock.now().plus(LOOK_EVERY), ctx);
    }

    fn ask(
        &mut self,
        ctx: &mut Context<Self>,
        audit: Option<Line>,
        event: impl FnOnce(ReplyTo) -> Event,
    ) -> ResponseFuture<Result<Reply, Error>> {
        let (reply, answer) = match self.replies.open() {
            Ok(open) => open,
            Err(error) => return Box::pin(async move { Err(error) }),
        };
        let effects = self.machine.step(event(reply), self.clock.now());
        let done = |effect: &Effect| matches!(effect, Effect::Reply(to, Ok(_)) if *to == reply);
        if effects.iter().any(done) {
            self.effects.note(audit);
        }
        self.carry_out(effects, ctx);
        Box::pin(async move { answer.await.unwrap_or_else(|_| Err(Error::restarting())) })
    }
}

impl Actor for Registry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let nodes: Vec<NodeUpdate> = self.machine.nodes().collect();
        self.system.sites.fill(&nodes);
        for update in &nodes {
            self.system.open_session(update.node.id.clone());
        }
        self.system.tell_scheduler(nodes);
        self.settled();
        self.arm(ctx);
    }
}

impl Member for Registry {
    fn cell(&self) -> &Arc<Cell> {
        &self.cell
    }

    fn watch(&mut self) -> &mut DeathWatch {
        &mut self.watch
    }

    fn busy(&self) -> bool {
        self.effects.busy()
    }
}

opens_letters!(Registry);

impl Performer for Registry {
    type Effect = Effect;

    fn effects(&mut self) -> &mut Effects<Effect> {
        &mut self.effects
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
                self.system.sites.forget(&id);
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
                self.system.sites.note(&update);
                self.system.tell_session(&update);
                self.news.push(*update);
            }
            Effect::Notice(notice) => tell_operator(notice),
            Effect::Reply(to, reply) => self.replies.answer(to, reply),
        }
    }

    fn settled(&mut self) {
        // Told together: ten thousand nodes that change at once are no ten thousand messages.
        if !self.news.is_empty() {
            self.system.tell_scheduler(std::mem::take(&mut self.news));
        }
        let share = self.machine.share();
        let state = match self.machine.brake() {
            Brake::Open => "open",
            Brake::Closed(_) => CLOSED,
            Brake::Overruled => "overruled",
        };
        self.cell.publish(Arc::new(RegistryStatus {
            online: self.machine.count(Availability::Online),
            suspect: self.machine.count(Availability::Suspect),
            offline: self.machine.count(Availability::Offline),
            brake: BrakeStatus { state, missing: share.missing, expected: share.expected },
            pauses: self.machine.pauses(),
        }));
    }
}

fn tell_operator(notice: Notice) {
    match notice {
        Notice::BrakeClosed(share) => tracing::error!(
            missing = share.missing,
            expected = share.expected,
            "most nodes are missing at once: nobody is declared offline and routes are kept"
        ),
        Notice::BrakeOpened(share) => tracing::warn!(
            missing = share.missing,
            expected = share.expected,
            "enough nodes are back: silent ones are declared offline again"
        ),
        Notice::BrakeReleased(share) => tracing::warn!(
            missing = share.missing,
            expected = share.expected,
            "an operator says that the missing nodes are gone"
        ),
        Notice::StoodStill(gap) => tracing::warn!(
            gap_ms = u64::try_from(gap.as_millis()).unwrap_or(u64::MAX),
            "this process stood still: no node is blamed for it, every deadline moves by as much"
        ),
    }
}

/// From the registry to itself: see what is due.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Look;

impl Handler<Look> for Registry {
    type Result = ();

    fn handle(&mut self, _: Look, ctx: &mut Context<Self>) {
        self.looking = false;
        self.drive(Event::Timer, ctx);
    }
}

/// From the gRPC service: an agent registers. Idempotent. A timeout means: unknown, register again.
#[derive(Debug, Message)]
#[rtype(result = "Result<Registered, Error>")]
pub struct Register(pub Registration);

impl Handler<Register> for Registry {
    type Result = ResponseFuture<Result<Registered, Error>>;

    fn handle(&mut self, Register(registration): Register, ctx: &mut Context<Self>) -> Self::Result {
        let wall = self.clock.wall();
        let id = registration.node_id.clone();
        let answer = self.ask(ctx, None, |reply| Event::Register(reply, Box::new(registration), wall));
        Box::pin(async move {
            match answer.await? {
                Reply::Registered(registered) => Ok(registered),
                Reply::Done(_) => Ok(Registered { node_id: id, subdomain: String::new() }),
            }
        })
    }
}

/// From the gRPC service: a node lives. Waits for no disk.
#[derive(Debug, Message)]
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
        metrics::heartbeat();
        let (verdict, effects) = self.machine.heartbeat(&beat.node_id, &beat.boot_id, self.clock.now());
        self.carry_out(effects, ctx);
        MessageResult(verdict)
    }
}

/// What the operator or the node itself wants of a node. Idempotent.
#[derive(Debug, Message)]
#[rtype(result = "Result<Option<Box<NodeUpdate>>, Error>")]
pub enum Change {
    /// The agent takes its leave.
    Deregister(NodeId),
    /// Where replicas may go.
    Schedule(NodeId, Scheduling, Origin),
    /// Forget it.
    Forget(NodeId, Origin),
    /// The nodes that the brake holds are really gone.
    ReleaseBrake(Origin),
}

impl Handler<Change> for Registry {
    type Result = ResponseFuture<Result<Option<Box<NodeUpdate>>, Error>>;

    fn handle(&mut self, change: Change, ctx: &mut Context<Self>) -> Self::Result {
        let audit = self.audit(&change);
        let answer = self.ask(ctx, audit, |reply| match change {
            Change::Deregister(id) => Event::Deregister(reply, id),
            Change::Schedule(id, scheduling, _) => Event::Schedule(reply, id, scheduling),
            Change::Forget(id, _) => Event::Forget(reply, id),
            Change::ReleaseBrake(_) => Event::ReleaseBrake(reply),
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
#[derive(Debug, Message)]
#[rtype(result = "Option<(NodeUpdate, Option<Duration>)>")]
pub struct GetNode(pub NodeId);

impl Handler<GetNode> for Registry {
    type Result = MessageResult<GetNode>;

    fn handle(&mut self, GetNode(id): GetNode, _: &mut Context<Self>) -> Self::Result {
        let age = self.machine.heard_at(&id).map(|heard| self.clock.now().since(heard));
        MessageResult(self.machine.node(&id).map(|update| (update, age)))
    }
}

/// A read: all nodes as they stand.
#[derive(Debug, Message)]
#[rtype(result = "Vec<(NodeUpdate, Option<Duration>)>")]
pub struct GetNodes;

impl Handler<GetNodes> for Registry {
    type Result = MessageResult<GetNodes>;

    fn handle(&mut self, _: GetNodes, _: &mut Context<Self>) -> Self::Result {
        let now = self.clock.now();
        let age = |update: &NodeUpdate| self.machine.heard_at(&update.node.id).map(|heard| now.since(heard));
        MessageResult(
            self.machine.nodes().map(|update| (age(&update), update)).map(|(a, u)| (u, a)).collect(),
        )
    }
}

/// From a session or the scheduler that has just started: tell me how things stand.
#[derive(Debug, Message)]
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
