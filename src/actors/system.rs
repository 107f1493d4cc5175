//! What every actor is given: the tree, handles on the others, and the ports. It also starts the whole system,
//! in order.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use nebula_core::ids::{DeploymentId, NodeId, ReplicaId};
use tokio::sync::watch;

use super::catalog::Catalog;
use super::caution::Caution;
use super::deployment::DeploymentActor;
use super::deployment::route::RouteSpec;
use super::dispatch::Dispatch;
use super::drains::Drains;
use super::edge::{EdgeActor, SiteBook};
use super::handle::Handle;
use super::journal::Journal;
use super::keys::Keys;
use super::registry::Registry;
use super::registry::machine::{NodeUpdate, Timing};
use super::route::RouteActor;
use super::router::Router;
use super::scheduler::machine::Hold;
use super::scheduler::{Capacity, Scheduler};
use super::session::Session;
use super::supervisor::{ChildSpec, Family, Strategy, Supervisor};
use super::traced::Traced;
use super::tree::{Life, Status, Tree};
use super::usage::Usage;
use crate::domain::alias::Alias;
use crate::domain::error::{Error, ErrorClass};
use crate::domain::key::KeyTable;
use crate::domain::route::{Load, RouteTable};
use crate::domain::usage::Tallies;
use crate::ports::{AgentApi, Edge, Store, StoreError};

/// How often, and after which pause, an overloaded store is asked again.
const PATIENCE_TRIES: u32 = 100;
pub(crate) const OVERLOADED_PAUSE: Duration = Duration::from_millis(50);
/// The pause before a store is asked again that cannot take anything now.
pub(crate) const UNAVAILABLE_PAUSE: Duration = Duration::from_secs(1);

/// Where the supervisor of all supervisors is in the tree.
const ROOT: &str = "/";
/// Where the supervisor of the core is.
const CORE: &str = "/core";

/// Everything an actor may need. Cheap to clone.
#[derive(Clone)]
pub struct System {
    /// All actors.
    pub tree: Tree,
    /// Durable state.
    pub store: Arc<dyn Store>,
    /// The agents.
    pub agents: Arc<dyn AgentApi>,
    /// What happened: every commit that has lines to tell goes through it.
    pub journal: Journal,
    /// What the gateway routes by.
    pub routes: Arc<ArcSwap<RouteTable>>,
    /// Counts the router's publications; for those who wait for a route to change.
    pub routes_changed: watch::Receiver<u64>,
    pub(crate) routes_published: watch::Sender<u64>,
    /// The API keys as the gateway knows them. Their limits go by the tree's clock.
    pub keys: Arc<ArcSwap<KeyTable>>,
    /// What was used, for the gateway to add to.
    pub usage: Arc<Tallies>,
    /// What is left alone after the store was rebuilt with a gap.
    pub caution: Arc<Caution>,
    /// Which host names should be reachable.
    pub sites: Arc<SiteBook>,
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
    /// The API keys' actor.
    pub keys_actor: Handle<Keys>,
    /// The usage actor.
    pub usage_actor: Handle<Usage>,
    /// The drains' actor.
    pub drains: Handle<Drains>,
    /// The edges, by name.
    pub edges: Handle<EdgeActor>,
    /// Commands on their way to sessions.
    pub(crate) dispatch: Arc<Dispatch>,
    /// Who supervises.
    pub supervisors: Supervisors,
}

/// Who supervises whom.
#[derive(Clone)]
pub struct Supervisors {
    /// The supervisors below, the keys, the usage and the drains, each on its own.
    pub root: Family,
    /// The registry, the scheduler, the router and the catalog: each derives from those before it.
    pub core: Family,
    /// The sessions, each on its own.
    pub sessions: Family,
    /// The deployments, each on its own.
    pub deployments: Family,
    /// The routes, each on its own.
    pub routes: Family,
    /// The edges, each on its own. One that is down for good changes nothing for anybody else.
    pub edges: Family,
}

impl Supervisors {
    fn over(tree: &Tree) -> Self {
        let each = |path| Family::new(path, path, Strategy::OneForOne, tree.clone());
        Self {
            root: Family::vital(ROOT, "", Strategy::OneForOne, tree.clone()),
            core: Family::vital(CORE, "", Strategy::RestForOne, tree.clone()),
            sessions: each(super::session::PARENT),
            deployments: each(super::deployment::PARENT),
            routes: each(super::route::PARENT),
            edges: each(super::edge::PARENT),
        }
    }

    async fn start(&self) -> Result<(), Error> {
        Supervisor::start_root(&self.root);
        for (path, family) in [
            (CORE, &self.core),
            (super::session::PARENT, &self.sessions),
            (super::deployment::PARENT, &self.deployments),
            (super::route::PARENT, &self.routes),
            (super::edge::PARENT, &self.edges),
        ] {
            self.root.start(family.spec(path.trim_start_matches('/'))).await?;
        }
        Ok(())
    }

    /// Whether there is a reason to build the actor at `path` anew: it is down, or messages are set aside for it. None
    /// when nobody could build it.
    #[must_use]
    pub fn may_renew(&self, path: &str) -> Option<bool> {
        self.of_child(path, Family::may_renew)
    }

    /// Builds the actor at `path` anew that is down, or for which messages are set aside; these are delivered again.
    /// Answers whether it does: none when nobody could build it, false when there is no reason to.
    pub fn renew(&self, path: &str) -> Option<bool> {
        self.of_child(path, Family::renew)
    }

    fn of_child(&self, path: &str, what: impl Fn(&Family, &str) -> Option<bool>) -> Option<bool> {
        let families = [
            (super::session::PARENT, &self.sessions),
            (super::deployment::PARENT, &self.deployments),
            (super::route::PARENT, &self.routes),
            (super::edge::PARENT, &self.edges),
            ("", &self.core),
            ("", &self.root),
        ];
        families.into_iter().find_map(|(below, family)| {
            let id = path.strip_prefix(below)?.strip_prefix('/')?;
            what(family, id)
        })
    }
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
    /// What is in front of the nodes.
    pub edges: Edges,
}

/// What is in front of the nodes, where it is used.
#[derive(Clone, Default)]
pub struct Edges {
    /// The reverse proxy.
    pub caddy: Option<Arc<dyn Edge>>,
    /// The DNS zone.
    pub route53: Option<Arc<dyn Edge>>,
}

impl System {
    /// Starts the core actors, then everything that the store remembers. When this resolves, the routes that
    /// were there before are there again.
    ///
    /// # Errors
    /// When a core actor cannot be built from the store.
    pub async fn start(parts: Parts) -> Result<Self, Error> {
        let Parts { tree, store, agents, routes, timing, gateway_domain, edges } = parts;
        let journal = Journal::load(store.clone()).await.map_err(store_error)?;
        tree.poison().load(patiently(|| store.poison()).await.map_err(store_error)?);
        actix_rt::spawn(tree.poison().clone().keep(store.clone()));
        let supervisors = Supervisors::over(&tree);
        supervisors.start().await?;
        let caution = caution(&*store, &tree, timing.heartbeat_interval).await?;
        let (routes_published, routes_changed) = watch::channel(0);
        let system = Self {
            registry: Handle::new(tree.clone()),
            sessions: Handle::new(tree.clone()),
            catalog: Handle::new(tree.clone()),
            deployments: Handle::new(tree.clone()),
            scheduler: Handle::new(tree.clone()),
            router: Handle::new(tree.clone()),
            route: Handle::new(tree.clone()),
            keys_actor: Handle::new(tree.clone()),
            usage_actor: Handle::new(tree.clone()),
            drains: Handle::new(tree.clone()),
            edges: Handle::new(tree.clone()),
            sites: Arc::new(SiteBook::new(tree.clock(), tree.clock().now().plus(timing.restart_grace))),
            keys: Arc::default(),
            usage: Arc::default(),
            dispatch: Arc::default(),
            tree,
            caution: Arc::new(caution),
            store,
            agents,
            journal,
            routes,
            routes_changed,
            routes_published,
            supervisors,
        };
        let store_cell = system.tree.plant("/store", "store");
        store_cell.publish(Arc::new(StoreStatus(system.store.clone())));
        store_cell.set_life(Life::Running);
        let core: [ChildSpec; 4] = [
            super::registry::spec(system.clone(), timing, gateway_domain),
            super::scheduler::spec(system.clone()),
            super::router::spec(system.clone()),
            super::catalog::spec(system.clone()),
        ];
        for child in core {
            system.supervisors.core.start(child).await?;
        }
        // The drains read what deployments have published.
        let beside = [
            super::keys::spec(system.clone()),
            super::usage::spec(system.clone()),
            super::drains::spec(system.clone()),
        ];
        for child in beside {
            system.supervisors.root.start(child).await?;
        }
        for child in super::edge::specs(&system, &edges) {
            system.supervisors.edges.start(child).await?;
        }
        // With its status the router has published its table.
        let mut published = system.tree.plant(super::router::PATH, "router").watch();
        let _ = published.wait_for(Option::is_some).await;
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
        self.supervisors.sessions.start_later(child);
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

    /// Nothing of a deployment stays reserved but for these replicas.
    pub(crate) fn hold_places(&self, id: DeploymentId, holds: Vec<Hold>) {
        self.scheduler.tell(super::scheduler::PATH, Capacity::Holds(id, holds));
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
        M: actix::Message + Traced + Send + 'static,
        M::Result: Send,
        DeploymentActor: actix::Handler<M>,
    {
        self.deployments.tell(&super::deployment::path(id), message);
    }

    pub(crate) fn deployment_exists(&self, id: DeploymentId) -> bool {
        self.tree.cell(&super::deployment::path(id)).is_some()
    }

    /// Whether a node may have this replica of a deployment, as far as that has said.
    pub(crate) fn expects_replica(&self, id: DeploymentId, replica: ReplicaId, node: &NodeId) -> bool {
        let Some(cell) = self.tree.cell(&super::deployment::path(id)) else { return false };
        let status = cell.status::<super::deployment::DeploymentStatus>();
        status.is_none_or(|status| status.deployment.expects(replica, node))
    }

    pub(crate) fn deployment_gone(&self, id: DeploymentId) {
        self.catalog.tell(super::catalog::PATH, super::catalog::Gone(id));
    }

    pub(crate) fn publish_route(&self, spec: RouteSpec) {
        self.router.tell(super::router::PATH, super::router::Publish(spec));
    }

    pub(crate) fn publish_aliases(&self, all: Vec<Arc<Alias>>) {
        self.router.tell(super::router::PATH, super::router::Aliases(all));
    }

    pub(crate) fn withdraw_route(&self, id: DeploymentId) {
        self.router.tell(super::router::PATH, super::router::Withdraw(id));
    }
}

impl System {
    /// What the gateway has for a deployment right now.
    #[must_use]
    pub fn load_of(&self, id: DeploymentId) -> Load {
        self.routes.load().by_id(id).map(|route| Load::of(route)).unwrap_or_default()
    }

    /// Somebody asks for a deployment that sleeps. A word that is lost is said again as long as somebody waits.
    pub fn wake(&self, id: DeploymentId) {
        self.tell_deployment(id, super::deployment::News::Demand);
    }

    /// How far a deployment has got that starts, if that is known.
    #[must_use]
    pub fn progress_of(&self, id: DeploymentId) -> Option<String> {
        let cell = self.tree.cell(&super::deployment::path(id))?;
        let status = cell.status::<super::deployment::DeploymentStatus>()?;
        let told =
            status.deployment.replicas.iter().find_map(|replica| replica.progress().map(ToString::to_string));
        told.filter(|text| !text.is_empty())
    }
}

/// The store's thread as operators see it among the actors: asked anew whenever somebody looks.
struct StoreStatus(Arc<dyn Store>);

impl Status for StoreStatus {
    fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self.0.report()).unwrap_or_default()
    }
}

/// In caution, nodes that the store has forgotten get the time of two heartbeats to register again.
async fn caution(store: &dyn Store, tree: &Tree, interval: Duration) -> Result<Caution, Error> {
    if store.report().restored.is_none() {
        return Ok(Caution::new(false, None));
    }
    let nodes = patiently(|| store.nodes()).await.map_err(store_error)?;
    let not_before = tree.clock().now().plus(interval.saturating_mul(2));
    Ok(Caution::new(true, (!nodes.is_empty()).then_some(not_before)))
}

/// Asks the store again for a while when it has too much to do, and for as long as it can take nothing: nothing was
/// changed then.
pub(crate) async fn patiently<T>(
    ask: impl Fn() -> crate::ports::BoxFuture<Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let mut tries = 0;
    loop {
        match ask().await {
            Err(StoreError::Overloaded) if tries < PATIENCE_TRIES => {
                tries += 1;
                tokio::time::sleep(OVERLOADED_PAUSE).await;
            }
            Err(StoreError::Unavailable(_)) => tokio::time::sleep(UNAVAILABLE_PAUSE).await,
            answer => return answer,
        }
    }
}

/// A failure of the store as callers hear of it.
pub(crate) fn store_error(error: StoreError) -> Error {
    let class = match error {
        StoreError::Overloaded | StoreError::Unavailable(_) => ErrorClass::Overloaded,
        StoreError::TooLarge(_) => ErrorClass::Unprocessable,
        StoreError::Failed(_) => ErrorClass::Restarting,
    };
    Error::new(class, error.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;

    /// What `patiently` comes to when the store refuses `times` times with `error`, and how long it takes.
    async fn refused(times: u32, error: StoreError) -> (Result<u32, StoreError>, Duration) {
        let (asked, clock) = (AtomicU32::new(0), nebula_core::clock::Clock::start());
        let answer = patiently(|| {
            let count = asked.fetch_add(1, Relaxed);
            let answer = if count < times { Err(error.clone()) } else { Ok(count) };
            Box::pin(async move { answer })
        });
        (answer.await, clock.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_can_take_nothing_is_waited_for_and_a_busy_one_for_a_while() {
        let hour = 3_600;
        let unavailable = StoreError::Unavailable("the disk is full".to_owned());
        assert_eq!(refused(hour, unavailable).await, (Ok(hour), UNAVAILABLE_PAUSE * hour));
        let patience = OVERLOADED_PAUSE * PATIENCE_TRIES;
        assert_eq!(refused(PATIENCE_TRIES, StoreError::Overloaded).await, (Ok(PATIENCE_TRIES), patience));
        let busy = refused(PATIENCE_TRIES + 1, StoreError::Overloaded).await;
        assert_eq!(busy, (Err(StoreError::Overloaded), patience));
        let failed = StoreError::Failed("input/output error".to_owned());
        assert_eq!(refused(1, failed.clone()).await, (Err(failed), Duration::ZERO));
    }
}
