//! A deployment: drives its replicas to what the user wants.
//!
//! * Owns: the deployment's record, its replicas and their phases.
//! * Persists: every change of them, with the journal's lines about it, in one commit.
//! * Talks to: the scheduler (places), sessions (commands; follows their published status), the router (its route).
//! * Timers: one, after which waiting replicas ask for a place again.
//! * On crash: loads itself from the store and compares again what is wanted with what nodes report.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseFuture,
    SpawnHandle, WrapFuture,
};
use nebula_core::clock::Clock;
use nebula_core::ids::{CommandId, DeploymentId, Generation, NodeId, ReplicaId};

use self::machine::{Effect, Event, Intent, Machine};
use super::effects::{Effects, Performer, Replies, ReplyTo, Split, perform_all};
use super::scheduler::{Place, Placed};
use super::session::SessionStatus;
use super::supervisor::{Birth, ChildSpec, DeathWatch, Restart};
use super::system::{System, patiently, store_error};
use super::tree::Cell;
use crate::domain::command::Command;
use crate::domain::deployment::Deployment;
use crate::domain::error::{Error, ErrorClass};
use crate::domain::event::{EVENTS_PER_DEPLOYMENT_MAX, Happening, JournalEvent};
use crate::ports::Write;

pub mod machine;
pub mod route;
mod status;

pub use self::status::DeploymentStatus;

/// The supervisor of all deployments.
pub const PARENT: &str = "/deployments";

/// How long to wait before a command that a session could not take is given to it again.
const SEND_RETRY: Duration = Duration::from_secs(1);

/// How often it is given.
const SEND_TRIES: u32 = 60;

/// How long to wait before a session that is not open yet is looked for again.
const SESSION_LOOK: Duration = Duration::from_millis(100);

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
    journal: VecDeque<u64>,
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
        let dep = stored
            .ok_or_else(|| Error::new(ErrorClass::NotFound, format!("deployment {id} is not stored")))?;
        let events = patiently(|| system.store.events(id)).await.map_err(store_error)?;
        let actor = Self {
            id,
            machine: Machine::load(dep),
            clock: system.tree.clock(),
            cell: birth.cell.clone(),
            effects: Effects::new(system.store.clone()),
            replies: Replies::new(),
            followed: BTreeMap::new(),
            journal: events.iter().map(|event| event.seq).collect(),
            watch: birth.watch,
            system,
        };
        birth.cell.running(actor.start());
        Ok(())
    }

    fn drive(&mut self, event: Event, ctx: &mut Context<Self>) {
        let effects = self.machine.step(event);
        perform_all(self, effects, ctx);
    }

    /// Numbers the journal's lines and makes room for them.
    fn journal(&mut self, happenings: Vec<Happening>) -> Vec<Write> {
        let mut writes = Vec::new();
        for happening in happenings {
            let seq = self.system.journal.next();
            tracing::info!(
                deployment_id = %self.id,
                model = self.machine.deployment().name,
                event = happening.kind,
                detail = happening.message,
                "deployment event"
            );
            writes.push(Write::PutEvent(Box::new(JournalEvent {
                seq,
                time: self.clock.wall(),
                deployment: self.id,
                kind: happening.kind.to_owned(),
                message: happening.message,
                replica: happening.replica,
                node: happening.node,
            })));
            self.journal.push_back(seq);
        }
        while self.journal.len() > EVENTS_PER_DEPLOYMENT_MAX {
            writes.extend(self.journal.pop_front().map(|seq| Write::DeleteEvent(self.id, seq)));
        }
        writes
    }

    fn seek_place(&mut self, id: ReplicaId, generation: Generation, ctx: &mut Context<Self>) {
        let request = super::scheduler::request(self.machine.deployment(), id);
        let scheduler = self.system.scheduler.clone();
        let answer = async move { scheduler.ask(super::scheduler::PATH, Place(request)).await };
        ctx.spawn(answer.into_actor(self).map(move |answer, actor, ctx| {
            let event = match answer {
                Ok(Placed::On(placement)) => Event::Placed(id, generation, placement),
                Ok(Placed::Nowhere(why)) => Event::Unplaceable(id, generation, why),
                Err(error) => Event::Unplaceable(id, generation, error.message),
            };
            actor.drive(event, ctx);
        }));
    }

    /// Gives a command to a node's session until it is durable there or the node is forgotten, for a minute at most:
    /// after that the next report shows what is still missing. It goes on when the actor ends: the last thing that a deployment says must be heard.
    fn send(&mut self, command: Command) {
        let sessions = self.system.sessions.clone();
        let path = super::session::path(&command.node_id);
        let sent = async move {
            for _ in 0..SEND_TRIES {
                match sessions.ask(&path, super::session::Enqueue(command.clone())).await {
                    Ok(Ok(())) => return,
                    Err(error) if error.class == ErrorClass::NotFound => return,
                    Ok(Err(error)) | Err(error) => {
                        tracing::warn!(path, command_id = %command.id, %error, "command waits for its session");
                        tokio::time::sleep(SEND_RETRY).await;
                    }
                }
            }
        };
        actix_rt::spawn(sent);
    }

    /// Follows what a node's session publishes, over the session's restarts.
    fn follow(&mut self, node: NodeId, ctx: &mut Context<Self>) {
        if self.followed.contains_key(&node) {
            return;
        }
        let (system, address, followed) = (self.system.clone(), ctx.address(), node.clone());
        let following = async move {
            let Some(cell) = find_session(&system, &followed).await else {
                // Nobody is left who could hear it if this fails.
                let _ = address.send(News::NodeGone(followed)).await;
                return;
            };
            let mut news = cell.watch();
            while address.send(Look(followed.clone())).await.is_ok() && news.changed().await.is_ok() {}
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
        self.drive(Event::Started(self.clock.wall()), ctx);
    }
}

impl Performer for DeploymentActor {
    type Effect = Effect;

    fn effects(&mut self) -> &mut Effects<Effect> {
        &mut self.effects
    }

    fn watch(&mut self) -> &mut DeathWatch {
        &mut self.watch
    }

    fn writes(&mut self, effect: Effect) -> Split<Effect> {
        match effect {
            Effect::Persist(mut writes, happenings) => {
                let ends = writes.iter().any(|write| matches!(write, Write::DeleteDeployment(_)));
                writes.extend(self.journal(happenings));
                if ends {
                    writes.extend(self.journal.drain(..).map(|seq| Write::DeleteEvent(self.id, seq)));
                }
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
                let command = Command {
                    id: CommandId::random(),
                    node_id,
                    deployment_id: self.id,
                    replica_id,
                    generation,
                    action,
                    created_at: self.clock.wall(),
                };
                self.send(command);
            }
            Effect::Watch(node) => self.follow(node, ctx),
            Effect::Unwatch(node) => {
                if let Some(handle) = self.followed.remove(&node) {
                    ctx.cancel_future(handle);
                }
            }
            Effect::Publish(spec) => self.system.publish_route(*spec),
            Effect::Withdraw => self.system.withdraw_route(self.id),
            Effect::RetryAfter(wait) => {
                ctx.run_later(wait, |actor, ctx| actor.drive(Event::RetryPlacement, ctx));
            }
            Effect::Finished => {
                self.system.deployment_gone(self.id);
                self.watch.finishes();
                ctx.stop();
            }
        }
    }

    fn settled(&mut self) {
        self.cell.publish(Arc::new(DeploymentStatus::of(self.machine.deployment())));
    }
}

/// From the API: what the user wants. Answers with the deployment when it is durable. Idempotent, except that
/// each `Restart` restarts.
#[derive(Message)]
#[rtype(result = "Result<Deployment, Error>")]
pub struct Want(pub Intent);

impl Handler<Want> for DeploymentActor {
    type Result = ResponseFuture<Result<Deployment, Error>>;

    fn handle(&mut self, Want(intent): Want, ctx: &mut Context<Self>) -> Self::Result {
        self.cell.received();
        let (reply, answer): (ReplyTo, _) = self.replies.open();
        let now = self.clock.wall();
        self.drive(Event::Intent(reply, intent, now), ctx);
        Box::pin(async move { answer.await.unwrap_or_else(|_| Err(Error::restarting())) })
    }
}

/// From a session: its agent refuses to start a replica.
#[derive(Message)]
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
        self.cell.received();
        self.drive(Event::Rejected(rejected.replica, rejected.generation, rejected.why), ctx);
    }
}

/// From others, when what they know may matter here.
#[derive(Message)]
#[rtype(result = "()")]
pub enum News {
    /// From the scheduler: there may be a place now.
    Capacity,
    /// From the registry: a node was forgotten.
    NodeGone(NodeId),
    /// From the router, which has just started: publish your route.
    PublishAgain,
}

impl Handler<News> for DeploymentActor {
    type Result = ();

    fn handle(&mut self, news: News, ctx: &mut Context<Self>) {
        self.cell.received();
        match news {
            News::Capacity => self.drive(Event::RetryPlacement, ctx),
            News::NodeGone(node) => self.drive(Event::NodeGone(node), ctx),
            News::PublishAgain => {
                if let Some(spec) = self.machine.published().cloned() {
                    self.system.publish_route(spec);
                }
            }
        }
    }
}

/// A followed node has news.
#[derive(Message)]
#[rtype(result = "()")]
struct Look(NodeId);

impl Handler<Look> for DeploymentActor {
    type Result = ();

    fn handle(&mut self, Look(node): Look, ctx: &mut Context<Self>) {
        let cell = self.system.tree.cell(&super::session::path(&node));
        let facts =
            cell.and_then(|cell| cell.status::<SessionStatus>()).and_then(|status| status.facts_for(self.id));
        if let Some(facts) = facts {
            self.drive(Event::Node(facts), ctx);
        }
    }
}

/// Which replica of a deployment an operation is for.
pub(crate) fn choose_replica(dep: &Deployment, wanted: Option<&str>) -> Result<(ReplicaId, NodeId), Error> {
    let placed = || dep.replicas.iter().filter_map(|r| Some((r, r.placement.as_ref()?)));
    let found = match wanted {
        None => placed().next(),
        Some(text) => placed().find(|(r, _)| r.id.to_string() == text || r.index.to_string() == text),
    };
    found.map(|(replica, place)| (replica.id, place.node_id.clone())).ok_or_else(|| match wanted {
        Some(text) => Error::new(ErrorClass::NotFound, format!("\"{}\" has no replica \"{text}\"", dep.name)),
        None => Error::new(ErrorClass::Conflict, format!("no replica of \"{}\" has a place yet", dep.name)),
    })
}
