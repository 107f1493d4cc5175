//! The scheduler: gives replicas their places.
//!
//! * Owns: the reservations, and the picture of the nodes.
//! * Persists: nothing; a place is part of its replica's record.
//! * Talks to: deployments (answers, and wakes those that wait when something changes).
//! * Timers: none.
//! * On crash: asks the registry for the nodes and reads the places from the deployments' records.

use std::collections::BTreeSet;
use std::sync::Arc;

use actix::{Actor, Context, Handler, Message, MessageResult};
use nebula_core::ids::{DeploymentId, NodeId, ReplicaId};
use serde::Serialize;

use self::machine::{Machine, Request};
use super::deployment::News;
use super::letter::{Member, opens_letters};
use super::registry::Tell;
use super::registry::machine::NodeUpdate;
use super::supervisor::{Birth, ChildSpec, DeathWatch, Restart};
use super::system::{System, patiently, store_error};
use super::tree::Cell;
use crate::domain::deployment::{Deployment, Placement};
use crate::domain::error::Error;

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
    Request { deployment: dep.id, replica, spec: dep.spec.clone() }
}

impl Scheduler {
    async fn load(birth: Birth, system: System) -> Result<(), Error> {
        let mut machine = Machine::default();
        for (id, _) in patiently(|| system.store.deployment_names()).await.map_err(store_error)? {
            match patiently(|| system.store.deployment(id)).await {
                Ok(stored) => stored.iter().for_each(|dep| restore(&mut machine, dep)),
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

    fn publish(&self) {
        let status = SchedulerStatus { reserved: self.machine.reserved(), waiting: self.machine.waiting() };
        self.cell.publish(Arc::new(status));
    }
}

fn restore(machine: &mut Machine, dep: &Deployment) {
    for replica in &dep.replicas {
        if let Some(placement) = &replica.placement {
            machine.restore(replica.id, dep.id, placement, dep.spec.cpu.cores);
        }
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
        self.publish();
        MessageResult(placed)
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
    /// From a deployment: a replica needs its place no longer.
    Release(ReplicaId),
    /// From a deployment, when it or the scheduler has just started: these of its replicas keep what is reserved for
    /// them, and this is where those are that have a place, with so many cores each.
    Holds(DeploymentId, Vec<(ReplicaId, Option<Placement>)>, u32),
}

impl Handler<Capacity> for Scheduler {
    type Result = ();

    fn handle(&mut self, capacity: Capacity, _: &mut Context<Self>) {
        let waiting = match capacity {
            Capacity::Nodes(updates) => {
                updates.into_iter().flat_map(|update| self.machine.node_changed(update)).collect()
            }
            Capacity::Release(replica) => self.machine.release(replica),
            Capacity::Holds(deployment, replicas, cores) => self.machine.holds(deployment, &replicas, cores),
            Capacity::NodeGone(node) => {
                self.machine.node_gone(&node);
                BTreeSet::new()
            }
        };
        self.wake(waiting);
    }
}
