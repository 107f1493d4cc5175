//! The scheduler: gives replicas their places.
//!
//! * Owns: the reservations, the picture of the nodes, and the pace at which what lost nodes had moves.
//! * Persists: nothing; a place is part of its replica's record.
//! * Talks to: deployments (answers, and wakes those that wait when something fits); reads sessions' published status.
//! * Timers: none.
//! * On crash: asks the registry for the nodes, reads what they use from their sessions' status and the places from the
//!   deployments' records. Moves that were granted are asked for again.

use std::collections::BTreeSet;
use std::sync::Arc;

use actix::{Actor, Context, Handler, Message, MessageResult};
use nebula_core::ids::{DeploymentId, NodeId, ReplicaId};
use serde::Serialize;

use self::machine::{Explanation, Hold, Machine, Request};
use super::deployment::News;
use super::letter::{Member, opens_letters};
use super::registry::machine::NodeUpdate;
use super::registry::{RegistryStatus, Tell};
use super::session::SessionStatus;
use super::supervisor::{Birth, ChildSpec, DeathWatch, Restart};
use super::system::{System, patiently, store_error};
use super::tree::Cell;
use crate::domain::deployment::{Deployment, Placement};
use crate::domain::error::Error;
use crate::domain::node::Usage;

pub mod machine;

/// Where the scheduler is in the tree.
pub const PATH: &str = "/scheduler";

/// What the scheduler publishes.
#[derive(Debug, Serialize)]
struct SchedulerStatus {
    reserved: usize,
    waiting: usize,
}

/// The scheduler's actor.
pub struct Scheduler {
    machine: Machine,
    system: System,
    cell: Arc<Cell>,
    watch: DeathWatch,
}

/// How the scheduler is built.
pub(crate) fn spec(system: System) -> ChildSpec {
    ChildSpec::new("scheduler", "scheduler", Restart::Permanent, move |birth| {
        let system = system.clone();
        async move { Scheduler::load(birth, system).await }
    })
}

/// What one replica of a deployment needs.
pub(crate) fn request(dep: &Deployment, replica: ReplicaId) -> Request {
    Request::of(dep, replica)
}

impl Scheduler {
    async fn load(birth: Birth, system: System) -> Result<(), Error> {
        let mut machine = Machine::default();
        for (id, _) in patiently(|| system.store.deployment_names()).await.map_err(store_error)? {
            match patiently(|| system.store.deployment(id)).await {
                Ok(stored) => stored.iter().for_each(|dep| machine.restore(dep)),
                Err(error) => tracing::error!(deployment_id = %id, %error, "deployment left out"),
            }
        }
        let scheduler = Self { machine, system, cell: birth.cell.clone(), watch: birth.watch };
        birth.cell.running(scheduler.start());
        Ok(())
    }

    fn wake(&mut self, waiting: BTreeSet<DeploymentId>) {
        for id in waiting {
            self.system.tell_deployment(id, News::Capacity);
        }
        self.publish();
    }

    /// What a node uses, as its session last said: a scheduler that has just started has not heard it.
    fn look_up_usage(&mut self, node: &NodeId) -> BTreeSet<DeploymentId> {
        let cell =
            self.system.tree.cell(&super::session::path(node)).filter(|_| self.machine.lacks_usage(node));
        let status = cell.and_then(|cell| cell.status::<SessionStatus>());
        match status.and_then(|status| status.usage()) {
            Some(usage) => self.machine.usage_changed(node, usage),
            None => BTreeSet::new(),
        }
    }

    /// Nothing moves while most nodes are missing, while it is not known whether they are, and while the store may lack
    /// what was acknowledged.
    fn stands_still(&self) -> bool {
        let registry = self.system.tree.cell(super::registry::PATH);
        let status = registry.and_then(|cell| cell.status::<RegistryStatus>());
        self.system.caution.holds() || status.is_none_or(|status| status.brake_holds())
    }

    fn publish(&self) {
        let status = SchedulerStatus { reserved: self.machine.reserved(), waiting: self.machine.waiting() };
        self.cell.publish(Arc::new(status));
    }
}

impl Actor for Scheduler {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Context<Self>) {
        self.system.registry_tell(Tell::Scheduler);
        // A place may have been given away that was not in its replica's record yet.
        for cell in self.system.tree.children(super::deployment::PARENT, None, usize::MAX) {
            self.system.deployments.tell(cell.path(), News::PlacesAgain);
        }
        self.publish();
    }
}

impl Member for Scheduler {
    fn cell(&self) -> &Arc<Cell> {
        &self.cell
    }

    fn watch(&mut self) -> &mut DeathWatch {
        &mut self.watch
    }
}

opens_letters!(Scheduler);

/// Why nothing is placed while the store's gap is not accepted.
const FROZEN: &str = "nothing is placed: the store was rebuilt and may lack what was acknowledged; see GET /admin/store, then POST /admin/store/accept";

/// From a deployment: find a place. Asking again for the same replica replaces its reservation.
#[derive(Debug, Message)]
#[rtype(result = "Placed")]
pub struct Place(pub Request);

/// A place, or why there is none.
#[derive(Debug)]
pub enum Placed {
    /// Reserved here.
    On(Placement),
    /// In words.
    Nowhere(String),
}

impl Handler<Place> for Scheduler {
    type Result = MessageResult<Place>;

    fn handle(&mut self, Place(request): Place, _: &mut Context<Self>) -> Self::Result {
        if self.system.caution.holds() {
            return MessageResult(Placed::Nowhere(FROZEN.to_owned()));
        }
        let placed = match self.machine.place(&request) {
            Ok(placement) => Placed::On(placement),
            Err(why) => Placed::Nowhere(why),
        };
        let woken = self.machine.woken();
        self.wake(woken);
        MessageResult(placed)
    }
}

/// What every node says to a request, which gets no place by it.
#[derive(Debug, Message)]
#[rtype(result = "Explanation")]
pub struct Explain(pub Request);

impl Handler<Explain> for Scheduler {
    type Result = MessageResult<Explain>;

    fn handle(&mut self, Explain(request): Explain, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.machine.explain(&request))
    }
}

/// From a deployment: may what this offline node has be placed elsewhere now? Once it may, it may until the node
/// returns; the answer no is to be asked again.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub struct MayMove(pub NodeId);

impl Handler<MayMove> for Scheduler {
    type Result = bool;

    fn handle(&mut self, MayMove(node): MayMove, _: &mut Context<Self>) -> bool {
        let now = self.system.tree.clock().now();
        self.machine.may_move(&node, self.stands_still(), now)
    }
}

/// From others, as things change.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum Capacity {
    /// From the registry: how nodes stand.
    Nodes(Vec<NodeUpdate>),
    /// From the registry: a node was forgotten.
    NodeGone(NodeId),
    /// From a session: what its node uses has changed.
    Usage(NodeId, Usage),
    /// From a deployment: a replica needs its place no longer.
    Release(ReplicaId),
    /// From a deployment, when it or the scheduler has just started: these of its replicas keep what is reserved for
    /// them, and nothing else of it stays reserved.
    Holds(DeploymentId, Vec<Hold>),
}

impl Handler<Capacity> for Scheduler {
    type Result = ();

    fn handle(&mut self, capacity: Capacity, _: &mut Context<Self>) {
        let waiting = match capacity {
            Capacity::Nodes(updates) => {
                let mut waiting = BTreeSet::new();
                for update in updates {
                    let node = update.node.id.clone();
                    waiting.append(&mut self.machine.node_changed(update));
                    waiting.append(&mut self.look_up_usage(&node));
                }
                waiting
            }
            Capacity::Usage(node, usage) => self.machine.usage_changed(&node, usage),
            Capacity::Release(replica) => self.machine.release(replica),
            Capacity::Holds(deployment, holds) => self.machine.holds(deployment, &holds),
            Capacity::NodeGone(node) => {
                self.machine.node_gone(&node);
                BTreeSet::new()
            }
        };
        self.wake(waiting);
    }
}
