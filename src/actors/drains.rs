//! The drains: which nodes are being emptied, and how that ended.
//!
//! * Owns: the operations, running and ended.
//! * Persists: every operation when it begins and when it ends, with its lines; how far it is in between is counted
//!   anew.
//! * Talks to: the registry, of which it asks what the operator wants of each node and which it tells that a node is
//!   being drained, or no longer. Reads what the deployments publish: they move their replicas by themselves.
//! * Timers: one, once a second while a node is being drained or may not be yet what it is to be.
//! * On crash: loads the operations from the store and looks again; nodes that nobody drains any more are told so.

use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseFuture, SpawnHandle, WrapFuture,
};
use nebula_core::clock::Clock;
use nebula_core::ids::{NodeId, OperationId};
use serde_json::{Value, json};

use self::machine::{Answer, Effect, Event, Machine, Survey, Wanted, no_such_operation};
use super::deployment::DeploymentStatus;
use super::effects::{Effects, Performer, Replies, Split, perform_all};
use super::letter::{Member, opens_letters};
use super::queries::NodePicture;
use super::registry::drained::{Become, GetWishes};
use super::reply::ReplyTo;
use super::supervisor::{Birth, ChildSpec, DeathWatch, Restart};
use super::system::{System, patiently, store_error};
use super::tree::{Cell, Status};
use super::upkeep::Need;
use crate::domain::error::Error;
use crate::domain::event::Origin;
use crate::domain::node::Scheduling;
use crate::domain::operation::{Operation, OperationState};

pub mod machine;

/// Where the drains' actor is in the tree.
pub const PATH: &str = "/drains";

/// How often it is seen how far drains are.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the actor publishes of itself.
#[derive(Debug)]
pub struct DrainsStatus {
    /// All operations that are kept, in no order.
    pub operations: Vec<Arc<Operation>>,
}

impl DrainsStatus {
    /// The drain of a node that runs.
    fn running(&self, node: &NodeId) -> Option<&Arc<Operation>> {
        let runs = |one: &&Arc<Operation>| one.state == OperationState::Running && one.node == *node;
        self.operations.iter().find(runs)
    }
}

impl Status for DrainsStatus {
    fn to_json(&self) -> Value {
        let running = self.operations.iter().filter(|one| one.state == OperationState::Running);
        json!({"running": running.count()})
    }
}

/// The drains' actor.
pub struct Drains {
    machine: Machine,
    system: System,
    clock: Clock,
    cell: Arc<Cell>,
    effects: Effects<Effect>,
    replies: Replies<Answer>,
    timer: Option<SpawnHandle>,
    /// The registry is being asked how things stand.
    looking: bool,
    watch: DeathWatch,
}

/// How the drains' actor is built.
pub(crate) fn spec(system: System) -> ChildSpec {
    ChildSpec::new("drains", "drains", Restart::Permanent, move |birth| {
        let system = system.clone();
        async move { Drains::load(birth, system).await }
    })
}

impl Drains {
    async fn load(birth: Birth, system: System) -> Result<(), Error> {
        let stored = patiently(|| system.store.operations()).await.map_err(store_error)?;
        let clock = system.tree.clock();
        let drains = Self {
            machine: Machine::load(stored, clock.wall()),
            clock,
            cell: birth.cell.clone(),
            effects: Effects::new(system.journal.clone()),
            replies: Replies::new(),
            timer: None,
            looking: false,
            watch: birth.watch,
            system,
        };
        birth.cell.running(drains.start());
        Ok(())
    }

    fn drive(&mut self, event: Event, ctx: &mut Context<Self>) {
        let effects = self.machine.step(event, self.clock.wall());
        perform_all(self, effects, ctx);
        self.arm(ctx);
    }

    fn arm(&mut self, ctx: &mut Context<Self>) {
        if self.machine.needs_look() && self.timer.is_none() && !self.looking {
            self.timer = Some(ctx.run_later(LOOK_EVERY, Self::look));
        }
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        let _turn = self.cell.timer_turn("timer: a look");
        self.timer = None;
        self.looking = true;
        let system = self.system.clone();
        let asked = async move { system.registry.read(super::registry::PATH, || GetWishes).await };
        ctx.spawn(asked.into_actor(self).map(|nodes, drains: &mut Self, ctx: &mut Context<Self>| {
            let _turn = drains.cell.future_turn("future: the registry has answered");
            drains.looking = false;
            match nodes {
                Ok(nodes) => {
                    let survey = drains.system.survey(drains.machine.draining());
                    drains.drive(Event::Look(nodes, survey), ctx);
                }
                Err(error) => {
                    tracing::debug!(%error, "how far drains are cannot be seen now");
                    drains.arm(ctx);
                }
            }
        }));
    }

    fn ask(
        &mut self,
        ctx: &mut Context<Self>,
        event: impl FnOnce(ReplyTo) -> Event,
    ) -> ResponseFuture<Answer> {
        let (reply, answer) = match self.replies.open() {
            Ok(open) => open,
            Err(error) => return Box::pin(async move { Err(error) }),
        };
        self.drive(event(reply), ctx);
        Box::pin(async move { answer.await.unwrap_or_else(|_| Err(Error::restarting())) })
    }
}

impl Actor for Drains {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.settled();
        self.arm(ctx);
    }
}

impl Member for Drains {
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

opens_letters!(Drains);

impl Performer for Drains {
    type Effect = Effect;

    fn effects(&mut self) -> &mut Effects<Effect> {
        &mut self.effects
    }

    fn writes(&mut self, effect: Effect) -> Split<Effect> {
        match effect {
            Effect::Persist(writes, lines) => {
                self.effects.note(lines);
                Split::Writes(writes)
            }
            other @ (Effect::Set(..) | Effect::Reply(..)) => Split::Other(other),
        }
    }

    fn perform(&mut self, effect: Effect, _: &mut Context<Self>) {
        match effect {
            Effect::Persist(..) => debug_assert!(false, "writes are committed"),
            Effect::Set(node, scheduling) => {
                tracing::info!(node_id = %node, to = ?scheduling, "node drain");
                self.system.registry.tell(super::registry::PATH, Become(node, scheduling));
            }
            Effect::Reply(to, answer) => {
                // Whoever was answered finds the operation.
                self.settled();
                self.replies.answer(to, answer);
            }
        }
    }

    fn settled(&mut self) {
        let operations = self.machine.operations().cloned().collect();
        self.cell.publish(Arc::new(DrainsStatus { operations }));
    }
}

/// From the API: what the operator wants of a node that is, or is to be, drained. Idempotent.
#[derive(Debug, Message)]
#[rtype(result = "Answer")]
pub enum Change {
    /// Empty it.
    Drain(Wanted, Origin),
    /// If it is being drained: that ends, and it is this from then on.
    Schedule(NodeId, Scheduling),
    /// End this operation.
    Cancel(OperationId, Origin),
}

impl Handler<Change> for Drains {
    type Result = ResponseFuture<Answer>;

    fn handle(&mut self, change: Change, ctx: &mut Context<Self>) -> Self::Result {
        match change {
            Change::Drain(wanted, origin) => {
                let survey = self.system.survey([&wanted.node]);
                self.ask(ctx, |reply| Event::Drain(reply, wanted, survey, origin))
            }
            Change::Schedule(node, scheduling) => {
                self.ask(ctx, |reply| Event::Schedule(reply, node, scheduling))
            }
            Change::Cancel(id, origin) => self.ask(ctx, |reply| Event::Cancel(reply, id, origin)),
        }
    }
}

impl System {
    /// What deployments have on these nodes, by what they publish.
    fn survey<'a>(&self, nodes: impl IntoIterator<Item = &'a NodeId>) -> Survey {
        let mut survey = Survey::of(nodes);
        for cell in self.tree.children(super::deployment::PARENT, None, usize::MAX) {
            match cell.status::<DeploymentStatus>() {
                Some(status) => survey.add(&status.deployment),
                None => {
                    let id = cell.path().rsplit('/').next().and_then(|id| id.parse().ok());
                    id.into_iter().for_each(|id| survey.add_unseen(id));
                }
            }
        }
        survey
    }

    /// Begins to empty a node, or answers the drain that runs already. `timeout`: after that it fails.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when several nodes share the name or too many are being drained; what the store says.
    pub async fn drain_node(
        &self,
        name: &str,
        timeout: Duration,
        origin: Origin,
    ) -> Result<(NodePicture, Arc<Operation>), Error> {
        let node = self.node(name).await?.update.node;
        self.admit(Need::Keeping)?;
        let wanted = Wanted { node: node.id.clone(), name: node.name, scheduling: node.scheduling, timeout };
        let operation = self.drains.ask(PATH, Change::Drain(wanted, origin)).await??;
        let operation = operation.ok_or_else(Error::restarting)?;
        Ok((self.node(node.id.as_str()).await?, operation))
    }

    /// Ends the drain of a node, if one runs, because the operator wants this of it. The registry has still to be told.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn end_drain(&self, node: &NodeId, scheduling: Scheduling) -> Result<(), Error> {
        self.drains.ask(PATH, Change::Schedule(node.clone(), scheduling)).await?.map(drop)
    }

    /// All operations that are kept, the newest first.
    ///
    /// # Errors
    /// `Restarting` while nobody can tell.
    pub fn operations(&self) -> Result<Vec<Arc<Operation>>, Error> {
        let mut operations = self.drains_status().ok_or_else(Error::restarting)?.operations.clone();
        operations.sort_by_key(|one| std::cmp::Reverse((one.started_at, one.id)));
        Ok(operations)
    }

    /// One operation by its id.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn operation(&self, id: &str) -> Result<Arc<Operation>, Error> {
        let all = self.operations()?;
        let wanted = id.parse::<OperationId>().ok();
        let found = all.into_iter().find(|one| Some(one.id) == wanted);
        found.ok_or_else(|| no_such_operation(id))
    }

    /// The drain of a node that runs.
    #[must_use]
    pub fn operation_of(&self, node: &NodeId) -> Option<OperationId> {
        self.drains_status()?.running(node).map(|operation| operation.id)
    }

    /// Ends an operation; its node stays cordoned.
    ///
    /// # Errors
    /// `NotFound`, or `Conflict` when it has ended; what the store says.
    pub async fn cancel_operation(&self, id: &str, origin: Origin) -> Result<(), Error> {
        let parsed = id.parse().map_err(|_| no_such_operation(id))?;
        self.drains.ask(PATH, Change::Cancel(parsed, origin)).await?.map(drop)
    }

    fn drains_status(&self) -> Option<Arc<DrainsStatus>> {
        self.tree.cell(PATH)?.status()
    }
}
