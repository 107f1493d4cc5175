//! What others may ask of the actor system as a whole. Reads come from what actors publish; nothing here decides.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nebula_core::ids::{DeploymentId, NodeId};

use super::catalog::{CatalogStatus, Create, Created};
use super::deployment::machine::Intent;
use super::deployment::{DeploymentStatus, Want, choose_replica};
use super::registry::machine::NodeUpdate;
use super::registry::{Change, GetNode, GetNodes};
use super::session::SessionStatus;
use super::supervisor::RestartChild;
use super::system::{System, store_error};
use super::tree::{Cell, Life};
use crate::domain::deployment::Deployment;
use crate::domain::error::{Error, ErrorClass};
use crate::domain::event::JournalEvent;
use crate::domain::node::{Availability, NodeHealth, NodeStats, Scheduling};
use crate::ports::{AgentError, ByteStream, LogQuery, StoreReport};

/// How long a read waits for an actor that is just being built.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(2);

/// A node as the API shows it.
#[derive(Clone, Debug)]
pub struct NodePicture {
    /// The node and its availability.
    pub update: NodeUpdate,
    /// Time since it was heard in this run; none when it was not.
    pub heard_ago: Option<Duration>,
    /// What it uses.
    pub stats: Option<NodeStats>,
    /// How it feels.
    pub health: Option<NodeHealth>,
}

/// Which log lines of which replica.
#[derive(Clone, Debug, Default)]
pub struct LogRequest {
    /// A replica's id or index; none: the first that has a place.
    pub replica: Option<String>,
    /// Only so many of the last lines; 0: all.
    pub tail: u32,
    /// Go on with new ones.
    pub follow: bool,
    /// Those of the attempt before.
    pub previous: bool,
}

fn no_such_deployment(name: &str) -> Error {
    Error::new(ErrorClass::NotFound, format!("there is no deployment \"{name}\""))
}

impl System {
    /// The id of a deployment, by its id or name.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn find_deployment(&self, name: &str) -> Result<DeploymentId, Error> {
        if let Ok(id) = name.parse::<DeploymentId>() {
            return if self.deployment_exists(id) { Ok(id) } else { Err(no_such_deployment(name)) };
        }
        let catalog = self.tree.cell(super::catalog::PATH).and_then(|cell| cell.status::<CatalogStatus>());
        catalog.ok_or_else(Error::restarting)?.find(name).ok_or_else(|| no_such_deployment(name))
    }

    /// A deployment as it is now, by its id or name.
    ///
    /// # Errors
    /// `NotFound`, or `Restarting` while it is being built.
    pub async fn deployment(&self, name: &str) -> Result<Arc<Deployment>, Error> {
        let id = self.find_deployment(name)?;
        let path = super::deployment::path(id);
        self.built(&path).await;
        let cell = self.tree.cell(&path).ok_or_else(|| no_such_deployment(name))?;
        let status = cell.status::<DeploymentStatus>().ok_or_else(Error::restarting)?;
        Ok(status.deployment.clone())
    }

    /// Waits a moment for an actor that is just being built for the first time.
    async fn built(&self, path: &str) {
        if let Some(cell) = self.tree.cell(path) {
            let mut news = cell.watch();
            let _ = tokio::time::timeout(PUBLISH_TIMEOUT, news.wait_for(Option::is_some)).await;
        }
    }

    /// Up to `limit` deployments after the one with the id `after`, in the order of their ids.
    #[must_use]
    pub fn deployments(&self, after: Option<&str>, limit: usize) -> Vec<Arc<Deployment>> {
        self.deployment_page(after, limit).into_iter().filter_map(|(_, _, deployment)| deployment).collect()
    }

    /// The same with those that have no picture of themselves: just created, or unable to start.
    #[must_use]
    pub fn deployment_page(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Vec<(String, Life, Option<Arc<Deployment>>)> {
        let cells = self.tree.children(super::deployment::PARENT, after, limit);
        let row = |cell: Arc<Cell>| {
            let id = cell.path().rsplit('/').next().unwrap_or_default().to_owned();
            let deployment = cell.status::<DeploymentStatus>().map(|status| status.deployment.clone());
            (id, cell.life(), deployment)
        };
        cells.into_iter().map(row).collect()
    }

    /// Creates a deployment, once for each key.
    ///
    /// # Errors
    /// `Conflict` when the name is taken, `Unprocessable` when it is too large to be stored or its key was used
    /// for another request.
    pub async fn create(&self, create: Create) -> Result<Created, Error> {
        self.catalog.ask(super::catalog::PATH, create).await?
    }

    /// Tells a deployment what is wanted of it.
    ///
    /// # Errors
    /// `NotFound`, or `Conflict` when it is being deleted.
    pub async fn want(&self, name: &str, intent: Intent) -> Result<Deployment, Error> {
        let path = super::deployment::path(self.find_deployment(name)?);
        self.built(&path).await;
        let answer = self.deployments.ask(&path, Want(intent)).await;
        answer.map_err(|error| match error.class {
            ErrorClass::NotFound => no_such_deployment(name),
            _ => error,
        })?
    }

    /// A deployment's journal, oldest first.
    ///
    /// # Errors
    /// `NotFound`, or what the store says.
    pub async fn events(&self, name: &str) -> Result<Vec<JournalEvent>, Error> {
        let id = self.find_deployment(name)?;
        self.store.events(id).await.map_err(store_error)
    }

    /// A replica's log, from its agent.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when nothing has a place yet, `Unreachable` when the agent does not answer.
    pub async fn logs(&self, name: &str, request: LogRequest) -> Result<ByteStream, Error> {
        let dep = self.deployment(name).await?;
        let (replica, node) = choose_replica(&dep, request.replica.as_deref())?;
        let (update, _) = self.node_by_id(&node).await?;
        let query = LogQuery {
            deployment: dep.id,
            replica,
            tail: request.tail,
            follow: request.follow,
            previous: request.previous,
        };
        self.agents.logs(&update.node.address, query).await.map_err(|error| match error {
            AgentError::Unreachable(_) => Error::new(
                ErrorClass::Unreachable,
                format!("the agent on node \"{}\" cannot be reached", update.node.name),
            ),
            AgentError::Rejected(why) => Error::new(ErrorClass::NotFound, why),
        })
    }

    /// All nodes, in the order of their ids.
    ///
    /// # Errors
    /// When the registry does not answer.
    pub async fn nodes(&self) -> Result<Vec<NodePicture>, Error> {
        let nodes = self.read_registry(|| GetNodes).await?;
        Ok(nodes.into_iter().map(|(update, heard_ago)| self.picture(update, heard_ago)).collect())
    }

    /// A node by its id or name.
    ///
    /// # Errors
    /// `NotFound`, or `Conflict` when several share the name.
    pub async fn node(&self, name: &str) -> Result<NodePicture, Error> {
        let nodes = self.nodes().await?;
        if let Some(node) = nodes.iter().find(|picture| picture.update.node.id.as_str() == name) {
            return Ok(node.clone());
        }
        let mut named: Vec<NodePicture> = nodes.into_iter().filter(|p| p.update.node.name == name).collect();
        match (named.pop(), named.as_slice()) {
            (None, _) => Err(Error::new(ErrorClass::NotFound, format!("there is no node \"{name}\""))),
            (Some(node), []) => Ok(node),
            (Some(last), others) => {
                let all = others.iter().chain([&last]).map(|picture| picture.update.node.id.to_string());
                let ids = all.collect::<Vec<_>>().join(", ");
                Err(Error::new(ErrorClass::Conflict, format!("several nodes are named \"{name}\": {ids}")))
            }
        }
    }

    /// Changes where replicas may go.
    ///
    /// # Errors
    /// `NotFound`, or `Conflict` when several nodes share the name.
    pub async fn schedule_node(&self, name: &str, scheduling: Scheduling) -> Result<NodePicture, Error> {
        let id = self.node(name).await?.update.node.id;
        self.registry.ask(super::registry::PATH, Change::Schedule(id.clone(), scheduling)).await??;
        self.node(id.as_str()).await
    }

    /// Forgets a node.
    ///
    /// # Errors
    /// `NotFound`, or `Conflict` when it is online.
    pub async fn forget_node(&self, name: &str) -> Result<(), Error> {
        let id = self.node(name).await?.update.node.id;
        self.registry.ask(super::registry::PATH, Change::Forget(id)).await?.map(drop)
    }

    /// What runs on each node: deployment and replica.
    #[must_use]
    pub fn replicas_by_node(&self) -> BTreeMap<NodeId, Vec<(Arc<Deployment>, usize)>> {
        let mut by_node: BTreeMap<NodeId, Vec<(Arc<Deployment>, usize)>> = BTreeMap::new();
        for dep in self.deployments(None, usize::MAX) {
            for (at, replica) in dep.replicas.iter().enumerate() {
                if let Some(place) = &replica.placement {
                    by_node.entry(place.node_id.clone()).or_default().push((dep.clone(), at));
                }
            }
        }
        by_node
    }

    /// How the store does, with the number of records of each kind.
    ///
    /// # Errors
    /// What the store says.
    pub async fn store_status(&self) -> Result<(StoreReport, BTreeMap<&'static str, usize>), Error> {
        let census = self.store.census().await.map_err(store_error)?;
        Ok((self.store.report(), census))
    }

    /// Why nebulad is not ready, in words; nothing when it is.
    #[must_use]
    pub fn not_ready(&self) -> Vec<String> {
        let core = [super::registry::PATH, super::router::PATH, super::scheduler::PATH, super::catalog::PATH];
        let down = core
            .into_iter()
            .filter(|path| self.tree.cell(path).is_none_or(|cell| cell.life() != Life::Running));
        let store = self.store.report().failed.map(|why| format!("the store has failed: {why}"));
        down.map(|path| format!("actor {path} is not running")).chain(store).collect()
    }

    /// Brings back an actor that has crashed.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn restart_actor(&self, path: &str) -> Result<(), Error> {
        let nobody = || Error::new(ErrorClass::NotFound, format!("there is no actor {path}"));
        self.tree.cell(path).ok_or_else(nobody)?;
        let families = [
            (super::session::PARENT, &self.supervisors.sessions),
            (super::deployment::PARENT, &self.supervisors.deployments),
            (super::route::PARENT, &self.supervisors.routes),
            ("", &self.supervisors.core),
        ];
        for (parent, supervisor) in families {
            let Some(id) = path.strip_prefix(parent).and_then(|rest| rest.strip_prefix('/')) else {
                continue;
            };
            return match supervisor.send(RestartChild(id.to_owned())).await {
                Err(_) => Err(Error::restarting()),
                Ok(None) => Err(nobody()),
                Ok(Some(true)) => Ok(()),
                Ok(Some(false)) => {
                    let what = format!("actor {path} is running; only one that is down can be restarted");
                    Err(Error::new(ErrorClass::Conflict, what))
                }
            };
        }
        Err(nobody())
    }

    async fn node_by_id(&self, id: &NodeId) -> Result<(NodeUpdate, Option<Duration>), Error> {
        self.read_registry(|| GetNode(id.clone()))
            .await?
            .ok_or_else(|| Error::new(ErrorClass::NotFound, format!("there is no node \"{id}\"")))
    }

    /// A read of the registry, tried once more when the registry was just restarting.
    async fn read_registry<M>(&self, message: impl Fn() -> M) -> Result<M::Result, Error>
    where
        M: actix::Message + Send + 'static,
        M::Result: Send,
        super::registry::Registry: actix::Handler<M>,
    {
        match self.registry.ask(super::registry::PATH, message()).await {
            Err(error) if error.class == ErrorClass::Restarting => {
                let cell = self.tree.cell(super::registry::PATH).ok_or_else(Error::restarting)?;
                let mut news = cell.watch();
                let _ = tokio::time::timeout(PUBLISH_TIMEOUT, news.changed()).await;
                self.registry.ask(super::registry::PATH, message()).await
            }
            other => other,
        }
    }

    fn picture(&self, update: NodeUpdate, heard_ago: Option<Duration>) -> NodePicture {
        let cell = self.tree.cell(&super::session::path(&update.node.id));
        let status = cell.and_then(|cell| cell.status::<SessionStatus>());
        let alive = update.availability != Availability::Offline;
        let status = status.filter(|_| alive);
        NodePicture {
            stats: status.as_ref().and_then(|status| status.stats.clone()),
            health: status.as_ref().and_then(|status| status.health.clone()),
            update,
            heard_ago,
        }
    }
}
