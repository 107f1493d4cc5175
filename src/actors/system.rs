//! What every actor is given: the tree, handles on the others, and the ports. It also starts the whole system,
//! in order.

use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use arc_swap::ArcSwap;
use nebula_core::ids::{DeploymentId, NodeId, ReplicaId};

use super::catalog::Catalog;
use super::deployment::DeploymentActor;
use super::deployment::route::RouteSpec;
use super::handle::Handle;
use super::journal::Journal;
use super::registry::Registry;
use super::registry::machine::{NodeUpdate, Timing};
use super::route::RouteActor;
use super::router::Router;
use super::scheduler::{Capacity, Scheduler};
use super::session::Session;
use super::supervisor::{ChildSpec, StartChild, Supervisor};
use super::tree::{Life, Status, Tree};
use crate::domain::error::{Error, ErrorClass};
use crate::domain::route::RouteTable;
use crate::ports::{AgentApi, Store, StoreError};

/// How often, and after which pause, an overloaded store is asked again.
const PATIENCE_TRIES: u32 = 100;
const PATIENCE_PAUSE: Duration = Duration::from_millis(50);

/// Everything an actor may need. Cheap to clone.
#[derive(Clone)]
pub struct System {
    /// All actors.
    pub tree: Tree,
    /// Durable state.
    pub store: Arc<dyn Store>,
    /// The agents.
    pub agents: Arc<dyn AgentApi>,
    /// Numbers of the journal's lines.
    pub journal: Journal,
    /// What the gateway routes by.
    pub routes: Arc<ArcSwap<RouteTable>>,
    /// The registry.
    pub registry: Handle<Registry>,
    /// Sessions, by node.
    pub sessions: Handle<Session>,
    /// The catalog.
    pub catalog: Handle<Catalog>,
    /// Deployments, by id.
    pub deployments: Handle<DeploymentActor>,
    /// The scheduler.
    pub scheduler: Handle<Scheduler>,
    /// The router.
    pub router: Handle<Router>,
    /// Routes, by deployment.
    pub route: Handle<RouteActor>,
    /// Who supervises.
    pub supervisors: Supervisors,
}

/// The supervisors, one for each family of actors.
#[derive(Clone)]
pub struct Supervisors {
    /// Of the registry, the catalog, the scheduler and the router.
    pub core: Addr<Supervisor>,
    /// Of the sessions.
    pub sessions: Addr<Supervisor>,
    /// Of the deployments.
    pub deployments: Addr<Supervisor>,
    /// Of the routes.
    pub routes: Addr<Supervisor>,
}

/// What the system is started with.
pub struct Parts {
    /// All actors will be here.
    pub tree: Tree,
    /// Durable state.
    pub store: Arc<dyn Store>,
    /// The agents.
    pub agents: Arc<dyn AgentApi>,
    /// What the gateway routes by.
    pub routes: Arc<ArcSwap<RouteTable>>,
    /// The times that decide about presence.
    pub timing: Timing,
    /// Nodes get their host names below it.
    pub gateway_domain: String,
}

impl System {
    /// Starts the core actors, then everything that the store remembers. When this resolves, the routes that
    /// were there before are there again.
    ///
    /// # Errors
    /// When a core actor cannot be built from the store.
    pub async fn start(parts: Parts) -> Result<Self, Error> {
        let Parts { tree, store, agents, routes, timing, gateway_domain } = parts;
        let journal = Journal::after(store.last_event_seq().await.map_err(store_error)?);
        let supervisors = Supervisors {
            core: Supervisor::start_at("", tree.clone()),
            sessions: Supervisor::start_at(super::session::PARENT, tree.clone()),
            deployments: Supervisor::start_at(super::deployment::PARENT, tree.clone()),
            routes: Supervisor::start_at(super::route::PARENT, tree.clone()),
        };
        let system = Self {
            registry: Handle::new(tree.clone()),
            sessions: Handle::new(tree.clone()),
            catalog: Handle::new(tree.clone()),
            deployments: Handle::new(tree.clone()),
            scheduler: Handle::new(tree.clone()),
            router: Handle::new(tree.clone()),
            route: Handle::new(tree.clone()),
            tree,
            store,
            agents,
            journal,
            routes,
            supervisors,
        };
        let store_cell = system.tree.plant("/store", "store");
        store_cell.publish(Arc::new(StoreStatus(system.store.clone())));
        store_cell.set_life(Life::Running);
        let core: [ChildSpec; 4] = [
            super::router::spec(system.clone()),
            super::scheduler::spec(system.clone()),
            super::registry::spec(system.clone(), timing, gateway_domain),
            super::catalog::spec(system.clone()),
        ];
        for child in core {
            start_child(&system.supervisors.core, child).await?;
        }
        Ok(system)
    }

    pub(crate) fn open_session(&self, node: NodeId) {
        if let Some(status) = self.tree.cell(&super::session::path(&node)) {
            tracing::debug!(path = status.path(), "session is open");
            return;
        }
        // The cell is there at once, so that whoever hears of the node can follow it.
        self.tree.plant(&super::session::path(&node), "session");
        let child = super::session::spec(self.clone(), node);
        start_child_later(self.supervisors.sessions.clone(), child);
    }

    pub(crate) fn close_session(&self, node: &NodeId) {
        self.sessions.tell(&super::session::path(node), super::session::Close);
    }

    pub(crate) fn tell_session(&self, update: &NodeUpdate) {
        self.sessions.tell(&super::session::path(&update.node.id), super::session::Update(update.clone()));
    }

    pub(crate) fn registry_tell(&self, message: super::registry::Tell) {
        self.registry.tell(super::registry::PATH, message);
    }

    pub(crate) fn tell_scheduler(&self, updates: Vec<NodeUpdate>) {
        self.scheduler.tell(super::scheduler::PATH, Capacity::Nodes(updates));
    }

    pub(crate) fn release(&self, replica: ReplicaId) {
        self.scheduler.tell(super::scheduler::PATH, Capacity::Release(replica));
    }

    /// A node was forgotten: whoever had something there looks elsewhere.
    pub(crate) fn node_gone(&self, node: &NodeId) {
        self.scheduler.tell(super::scheduler::PATH, Capacity::NodeGone(node.clone()));
        for cell in self.tree.children(super::deployment::PARENT, None, usize::MAX) {
            self.deployments.tell(cell.path(), super::deployment::News::NodeGone(node.clone()));
        }
    }

    pub(crate) fn tell_deployment<M>(&self, id: DeploymentId, message: M)
    where
        M: actix::Message + Send + 'static,
        M::Result: Send,
        DeploymentActor: actix::Handler<M>,
    {
        self.deployments.tell(&super::deployment::path(id), message);
    }

    pub(crate) fn deployment_exists(&self, id: DeploymentId) -> bool {
        self.tree.cell(&super::deployment::path(id)).is_some()
    }

    /// Whether a deployment has this replica, as far as it has said.
    pub(crate) fn knows_replica(&self, id: DeploymentId, replica: ReplicaId) -> bool {
        let Some(cell) = self.tree.cell(&super::deployment::path(id)) else { return false };
        let status = cell.status::<super::deployment::DeploymentStatus>();
        status.is_none_or(|status| status.deployment.replicas.iter().any(|known| known.id == replica))
    }

    pub(crate) fn deployment_gone(&self, id: DeploymentId) {
        self.catalog.tell(super::catalog::PATH, super::catalog::Gone(id));
    }

    pub(crate) fn publish_route(&self, spec: RouteSpec) {
        self.router.tell(super::router::PATH, super::router::Publish(spec));
    }

    pub(crate) fn withdraw_route(&self, id: DeploymentId) {
        self.router.tell(super::router::PATH, super::router::Withdraw(id));
    }
}

/// The store's thread as operators see it among the actors: asked anew whenever somebody looks.
struct StoreStatus(Arc<dyn Store>);

impl Status for StoreStatus {
    fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self.0.report()).unwrap_or_default()
    }
}

/// Starts a child and waits until it runs.
pub(crate) async fn start_child(supervisor: &Addr<Supervisor>, child: ChildSpec) -> Result<(), Error> {
    supervisor.send(StartChild(child)).await.unwrap_or_else(|_| Err(Error::restarting()))
}

/// Starts a child; what goes wrong is the supervisor's to handle and to show.
pub(crate) fn start_child_later(supervisor: Addr<Supervisor>, child: ChildSpec) {
    actix_rt::spawn(async move {
        if let Err(error) = start_child(&supervisor, child).await {
            tracing::warn!(%error, "actor not started yet");
        }
    });
}

/// Asks the store again for a while when it has too much to do: nothing was changed then.
pub(crate) async fn patiently<T>(
    ask: impl Fn() -> crate::ports::BoxFuture<Result<T, StoreError>>,
) -> Result<T, StoreError> {
    for _ in 0..PATIENCE_TRIES {
        match ask().await {
            Err(StoreError::Overloaded) => tokio::time::sleep(PATIENCE_PAUSE).await,
            answer => return answer,
        }
    }
    ask().await
}

/// A failure of the store as callers hear of it.
pub(crate) fn store_error(error: StoreError) -> Error {
    let class = match error {
        StoreError::Overloaded => ErrorClass::Overloaded,
        StoreError::TooLarge(_) => ErrorClass::Unprocessable,
        StoreError::Failed(_) => ErrorClass::Restarting,
    };
    Error::new(class, error.to_string())
}
