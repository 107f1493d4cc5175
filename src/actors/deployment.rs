//! A deployment: drives its replicas to what the user wants.
//!
//! * Owns: the deployment's record, its replicas and their phases.
//! * Persists: every change of them, with the journal's lines about it, in one commit.
//! * Talks to: the scheduler (places, moves), the gateway (its load), sessions (commands; follows their published status), the router (its route).
//! * Timers: one for what the machine says is due next, and one for looking at the load while that decides the number.
//! * On crash: loads itself from the store and compares again what is wanted with what nodes report.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext, AsyncContext, Context, Handler, Message, ResponseFuture, SpawnHandle, WrapFuture,
};
use nebula_core::clock::{Clock, Tick};
use nebula_core::ids::{CommandId, DeploymentId, Generation, NodeId, ReplicaId};
use nebula_core::source::ModelSource;

use self::machine::{Effect, Event, Intent, Machine, Now};
use super::effects::{Effects, Performer, Replies, Split, perform_all};
use super::letter::{self, Member, opens_letters};
use super::reply::ReplyTo;
use super::scheduler::machine::Hold;
use super::session::SessionStatus;
use super::supervisor::{Birth, ChildSpec, DeathWatch, Restart};
use super::system::{System, patiently, store_error};
use super::tree::Cell;
use crate::domain::command::Command;
use crate::domain::deployment::{Deployment, Phase, Replica};
use crate::domain::error::{Error, ErrorClass};
use crate::domain::event::{DEPLOYMENT_DELETED, Happening, Line, Origin, Subject};
use crate::domain::report::NodeFacts;
use crate::ports::Write;

mod asks;
pub mod autoscale;
pub mod change;
pub(crate) mod hint;
pub mod machine;
pub mod route;
mod status;

pub use self::machine::Next;
pub use self::status::DeploymentStatus;

/// The supervisor of all deployments.
pub const PARENT: &str = "/deployments";

/// How long to wait before a session that is not open yet is looked for again.
const SESSION_LOOK: Duration = Duration::from_millis(100);

/// Ticks are whole milliseconds: a timer this late is never early.
const TIMER_SLACK: Duration = Duration::from_millis(1);

/// A deployment's path.
#[must_use]
pub fn path(id: DeploymentId) -> String {
    format!("{PARENT}/{id}")
}

/// A deployment's actor.
pub struct DeploymentActor {
    id: DeploymentId,
    machine: Machine,
    system: System,
    clock: Clock,
    cell: Arc<Cell>,
    effects: Effects<Effect>,
    replies: Replies<Result<Deployment, Error>>,
    followed: BTreeMap<NodeId, SpawnHandle>,
    timer: Option<(Tick, SpawnHandle)>,
    /// The load is to be looked at.
    looking: bool,
    /// The model for which a hint was asked.
    hinted: Option<(String, Option<ModelSource>)>,
    watch: DeathWatch,
}

/// How a deployment is built.
pub(crate) fn spec(system: System, id: DeploymentId) -> ChildSpec {
    ChildSpec::new(id.to_string(), "deployment", Restart::Transient, move |birth| {
        let system = system.clone();
        async move { DeploymentActor::load(birth, system, id).await }
    })
}

impl DeploymentActor {
    async fn load(birth: Birth, system: System, id: DeploymentId) -> Result<(), Error> {
        let stored = patiently(|| system.store.deployment(id)).await.map_err(store_error)?;
        let Some(dep) = stored else {
            // It was deleted, and the actor before fell between that and its last words.
            let Birth { mut watch, .. } = birth;
            system.hold_places(id, Vec::new());
            system.withdraw_route(id);
            system.deployment_gone(id);
            watch.finishes();
            return Ok(());
        };
        let actor = Self {
            id,
            machine: Machine::load(dep),
            clock: system.tree.clock(),
            cell: birth.cell.clone(),
            effects: Effects::new(system.journal.clone()),
            replies: Replies::new(),
            followed: BTreeMap::new(),
            timer: None,
            looking: false,
            hinted: None,
            watch: birth.watch,
            system,
        };
        birth.cell.running(actor.start());
        Ok(())
    }

    /// Says which replicas keep what the scheduler has reserved for them.
    fn hold_places(&self, keeps: impl Fn(&Replica) -> bool) {
        let dep = self.machine.deployment();
        let kept = dep.replicas.iter().filter(|replica| keeps(replica));
        let kept = kept.filter(|replica| replica.placement.is_none() || dep.holds_place(replica));
        let holds = kept.map(|replica| Hold::of(dep, replica)).collect();
        self.system.hold_places(self.id, holds);
    }

    fn drive(&mut self, event: Event, ctx: &mut Context<Self>) {
        let effects = self.machine.step(event, self.now());
        self.carry_out(effects, ctx);
    }

    fn carry_out(&mut self, effects: Vec<Effect>, ctx: &mut Context<Self>) {
        perform_all(self, effects, ctx);
        self.arm(ctx);
        self.look_at_load(ctx);
        self.ask_hint(ctx);
    }

    fn now(&self) -> Now {
        Now { tick: self.clock.now(), wall: self.clock.wall() }
    }

    /// Keeps one timer for what is due next. One that is early does no harm.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        let Some(next) = self.machine.next_timer() else { return };
        if self.timer.as_ref().is_some_and(|(at, _)| *at <= next) {
            return;
        }
        if let Some((_, old)) = self.timer.take() {
            ctx.cancel_future(old);
        }
        let handle = ctx.run_later(next.since(self.clock.now()) + TIMER_SLACK, |actor, ctx| {
            let _turn = actor.cell.timer_turn("timer: a deadline");
            actor.timer = None;
            actor.drive(Event::Timer, ctx);
        });
        self.timer = Some((next, handle));
    }

    /// Adds lines of the journal to the next commit. The last one belongs to the audit: it stays.
    fn tell(&mut self, happenings: Vec<Happening>, ends: bool) {
        let now = self.clock.wall();
        let lines = happenings.into_iter().map(|what| Line::of_deployment(self.id, what, now));
        let name = &self.machine.deployment().name;
        let last = ends.then(|| Line {
            time: now,
            subject: Subject::Audit { origin: Origin::nebulad(), deployment: Some(self.id) },
            kind: DEPLOYMENT_DELETED.to_owned(),
            message: format!("deployment \"{name}\" is gone"),
            replica: None,
            node: None,
        });
        self.effects.note(lines.chain(last));
    }

    /// Adds what an operator did to the next commit, if it was done.
    fn audit(&mut self, effects: &[Effect], reply: ReplyTo, intent: &Intent, origin: Origin) {
        let done = |effect: &Effect| matches!(effect, Effect::Reply(to, Ok(())) if *to == reply);
        if effects.iter().any(done) {
            let (kind, what) = intent.told();
            let message = format!("deployment \"{}\": {what}", self.machine.deployment().name);
            let line = Line::of_audit(origin, kind, message, self.clock.wall());
            self.effects.note([line.to_deployment(self.id)]);
        }
    }

    /// Follows what a node's session publishes, over the session's restarts.
    fn follow(&mut self, node: NodeId, ctx: &mut Context<Self>) {
        if self.followed.contains_key(&node) {
            return;
        }
        let (system, address, followed) = (self.system.clone(), ctx.address(), node.clone());
        let (id, own) = (self.id, self.cell.clone());
        let following = async move {
            let Some(cell) = find_session(&system, &followed).await else {
                // Nobody is left who could hear it if this fails.
                let _ = letter::tell(&address, &own, None, News::NodeGone(followed));
                return;
            };
            let mut news = cell.watch();
            loop {
                let facts = cell.status::<SessionStatus>().and_then(|status| status.facts_for(id));
                let look = facts.map(|facts| letter::ask(&address, &own, None, Look(facts))).transpose();
                // The next look waits for this one: they never pile up.
                let seen = look.inspect_err(|error| {
                    tracing::error!(deployment_id = %id, node_id = %followed, %error, "news of a node not taken");
                });
                if let Ok(Some(seen)) = seen
                    && seen.await.is_err()
                {
                    return;
                }
                if news.changed().await.is_err() {
                    return;
                }
            }
        };
        let handle = ctx.spawn(following.into_actor(self));
        self.followed.insert(node, handle);
    }
}

/// The session of a node; none when the registry knows no such node. One that is not open yet is waited for.
async fn find_session(system: &System, node: &NodeId) -> Option<Arc<Cell>> {
    loop {
        if let Some(cell) = system.tree.cell(&super::session::path(node)) {
            return Some(cell);
        }
        let known = system.registry.ask(super::registry::PATH, super::registry::GetNode(node.clone())).await;
        if matches!(known, Ok(None)) {
            return None;
        }
        tokio::time::sleep(SESSION_LOOK).await;
    }
}

impl Actor for DeploymentActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.hold_places(|replica| replica.placement.is_some());
        self.drive(Event::Started, ctx);
    }
}

impl Member for DeploymentActor {
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

opens_letters!(DeploymentActor);

impl Performer for DeploymentActor {
    type Effect = Effect;

    fn effects(&mut self) -> &mut Effects<Effect> {
        &mut self.effects
    }

    fn writes(&mut self, effect: Effect) -> Split<Effect> {
        match effect {
            Effect::Persist(writes, happenings) => {
                let ends = writes.iter().any(|write| matches!(write, Write::DeleteDeployment(_)));
                self.tell(happenings, ends);
                Split::Writes(writes)
            }
            other => Split::Other(other),
        }
    }

    fn perform(&mut self, effect: Effect, ctx: &mut Context<Self>) {
        match effect {
            Effect::Persist(..) => debug_assert!(false, "writes are committed"),
            Effect::Reply(to, result) => {
                let answer = result.map(|()| self.machine.deployment().clone());
                self.replies.answer(to, answer);
            }
            Effect::Place(replica, generation) => self.seek_place(replica, generation, ctx),
            Effect::Release(replica) => self.system.release(replica),
            Effect::Send(node_id, replica_id, generation, action) => {
                let drain = self.machine.deployment().drain(&action);
                let command = Command {
                    id: CommandId::random(),
                    node_id,
                    deployment_id: self.id,
                    replica_id,
                    generation,
                    action,
                    drain,
                    created_at: self.clock.wall(),
                };
                self.system.send(command);
            }
            Effect::Watch(node) => self.follow(node, ctx),
            Effect::Unwatch(node) => {
                if let Some(handle) = self.followed.remove(&node) {
                    ctx.cancel_future(handle);
                }
            }
            Effect::Publish(spec) => self.system.publish_route(*spec),
            Effect::Withdraw => self.system.withdraw_route(self.id),
            Effect::Hold => self.hold_places(|_| true),
            Effect::AskMove(node) => self.ask_move(node, ctx),
            Effect::Finished => {
                self.system.deployment_gone(self.id);
                self.watch.finishes();
                ctx.stop();
            }
        }
    }

    fn settled(&mut self) {
        let next = self.machine.next(self.now());
        self.cell.publish(Arc::new(DeploymentStatus::of(self.machine.deployment(), next)));
    }
}

/// From the API: what the user wants. Answers with the deployment when it is durable. Idempotent, except that
/// each `Restart` restarts.
#[derive(Debug, Message)]
#[rtype(result = "Result<Deployment, Error>")]
pub struct Want {
    /// What.
    pub intent: Intent,
    /// Who.
    pub origin: Origin,
}

impl Handler<Want> for DeploymentActor {
    type Result = ResponseFuture<Result<Deployment, Error>>;

    fn handle(&mut self, Want { intent, origin }: Want, ctx: &mut Context<Self>) -> Self::Result {
        let (reply, answer): (ReplyTo, _) = match self.replies.open() {
            Ok(open) => open,
            Err(error) => return Box::pin(async move { Err(error) }),
        };
        let now = self.now();
        let effects = self.machine.step(Event::Intent(reply, intent.clone()), now);
        self.audit(&effects, reply, &intent, origin);
        self.carry_out(effects, ctx);
        Box::pin(async move { answer.await.unwrap_or_else(|_| Err(Error::restarting())) })
    }
}

/// From a session: its agent refuses to start a replica.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Rejected {
    /// The replica.
    pub replica: ReplicaId,
    /// As it was told.
    pub generation: Generation,
    /// In the agent's words.
    pub why: String,
}

impl Handler<Rejected> for DeploymentActor {
    type Result = ();

    fn handle(&mut self, rejected: Rejected, ctx: &mut Context<Self>) {
        self.drive(Event::Rejected(rejected.replica, rejected.generation, rejected.why), ctx);
    }
}

/// From others, when what they know may matter here.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum News {
    /// From the scheduler: there may be a place now.
    Capacity,
    /// From the gateway: somebody asks, and there is no replica.
    Demand,
    /// From the registry: a node was forgotten.
    NodeGone(NodeId),
    /// From the router, which has just started: publish your route.
    PublishAgain,
    /// From the scheduler, which has just started: say which places you hold.
    PlacesAgain,
}

impl Handler<News> for DeploymentActor {
    type Result = ();

    fn handle(&mut self, news: News, ctx: &mut Context<Self>) {
        match news {
            News::Capacity => self.drive(Event::Capacity, ctx),
            News::Demand => self.drive(Event::Demand, ctx),
            News::NodeGone(node) => self.drive(Event::NodeGone(node), ctx),
            News::PublishAgain => {
                if let Some(spec) = self.machine.published().cloned() {
                    self.system.publish_route(spec);
                }
            }
            News::PlacesAgain => self.hold_places(|_| true),
        }
    }
}

/// A followed node has news: how it stands now.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Look(pub(super) NodeFacts);

impl Handler<Look> for DeploymentActor {
    type Result = ();

    fn handle(&mut self, Look(facts): Look, ctx: &mut Context<Self>) {
        self.drive(Event::Node(facts), ctx);
    }
}

/// Which replica of a deployment an operation is for.
pub(crate) fn choose_replica(dep: &Deployment, wanted: Option<&str>) -> Result<(ReplicaId, NodeId), Error> {
    let placed = dep.replicas.iter().filter_map(|r| Some((r, r.placement.as_ref()?)));
    let meant = placed
        .filter(|(r, _)| wanted.is_none_or(|text| r.id.to_string() == text || r.index.to_string() == text));
    // Where one takes over from another there are two of one index: the one that answers is meant.
    let found = meant.min_by_key(|(r, _)| (r.leaving, r.phase != Phase::Running));
    found.map(|(replica, place)| (replica.id, place.node_id.clone())).ok_or_else(|| match wanted {
        Some(text) => Error::new(ErrorClass::NotFound, format!("\"{}\" has no replica \"{text}\"", dep.name)),
        None => Error::new(ErrorClass::Conflict, format!("no replica of \"{}\" has a place yet", dep.name)),
    })
}
