//! What others may ask of the actor system as a whole. Reads come from what actors publish; nothing here decides.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nebula_core::ids::{DeploymentId, NodeId};

use super::catalog::{CatalogStatus, Create, Created};
use super::deployment::change::Changed;
use super::deployment::machine::Intent;
use super::deployment::{DeploymentStatus, Want, choose_replica};
use super::poison::PoisonView;
use super::registry::machine::NodeUpdate;
use super::registry::{Change, GetNode, GetNodes};
use super::session::SessionStatus;
use super::system::{System, store_error};
use super::tree::{Cell, Life};
use super::upkeep::Need;
use crate::domain::deployment::{Deployment, DeploymentSpec};
use crate::domain::error::{Error, ErrorClass};
use crate::domain::event::{Line, Origin};
use crate::domain::node::{Availability, NodeHealth, NodeStats, Scheduling};
use crate::ports::{AgentError, ByteStream, ExecOutcome, ExecQuery, LogQuery};

mod why;

pub use self::why::Why;

/// How often a change is worked out again when somebody else's came first.
const CHANGE_TRIES: u32 = 10;
/// How long the creation of a deployment may take: many at once are made one after the other.
const CREATE_TIMEOUT: Duration = Duration::from_secs(60);
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

/// A command beside the runtime of a replica.
#[derive(Clone, Debug)]
pub struct ExecRequest {
    /// A replica's id or index; none: the first that has a place.
    pub replica: Option<String>,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// After this long it is killed.
    pub timeout: Duration,
}

fn no_such_deployment(name: &str) -> Error {
    Error::new(ErrorClass::NotFound, format!("there is no deployment \"{name}\""))
}

/// A deployment in a list.
pub struct DeploymentRow {
    /// Its id.
    pub id: String,
    /// Its name, or its id where nobody knows that.
    pub name: String,
    /// How its actor is.
    pub life: Life,
    /// Its own picture of itself; none before its actor has said anything.
    pub deployment: Option<Arc<Deployment>>,
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
        let catalog = catalog.ok_or_else(Error::restarting)?;
        let is_missing = || match catalog.alias(name) {
            Some(_) => {
                let message = format!("\"{name}\" is an alias, not a deployment; name one behind it");
                Error::new(ErrorClass::NotFound, message)
            }
            None => no_such_deployment(name),
        };
        catalog.find(name).ok_or_else(is_missing)
    }

    /// A deployment as it is now, by its id or name.
    ///
    /// # Errors
    /// `NotFound`, or `Restarting` while it is being built.
    pub async fn deployment(&self, name: &str) -> Result<Arc<Deployment>, Error> {
        self.deployment_status(name).await.map(|status| status.deployment.clone())
    }

    async fn deployment_status(&self, name: &str) -> Result<Arc<DeploymentStatus>, Error> {
        let id = self.find_deployment(name)?;
        let path = super::deployment::path(id);
        self.built(&path).await;
        let cell = self.tree.cell(&path).ok_or_else(|| no_such_deployment(name))?;
        cell.status::<DeploymentStatus>().ok_or_else(Error::restarting)
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
        self.deployment_page(after, limit).into_iter().filter_map(|row| row.deployment).collect()
    }

    /// The same with those that have no picture of themselves: just created, or unable to start.
    #[must_use]
    pub fn deployment_page(&self, after: Option<&str>, limit: usize) -> Vec<DeploymentRow> {
        let catalog = self.tree.cell(super::catalog::PATH).and_then(|cell| cell.status::<CatalogStatus>());
        let cells = self.tree.children(super::deployment::PARENT, after, limit);
        let row = |cell: Arc<Cell>| {
            let id = cell.path().rsplit('/').next().unwrap_or_default().to_owned();
            let deployment = cell.status::<DeploymentStatus>().map(|status| status.deployment.clone());
            let name = deployment.as_ref().map(|deployment| deployment.name.clone());
            let name = name.or_else(|| catalog.as_ref()?.name_of(id.parse().ok()?));
            DeploymentRow { name: name.unwrap_or_else(|| id.clone()), id, life: cell.life(), deployment }
        };
        cells.into_iter().map(row).collect()
    }

    /// Creates a deployment, once for each key.
    ///
    /// # Errors
    /// `Conflict` when the name is taken, `Unprocessable` when it is too large to be stored or its key was used
    /// for another request.
    pub async fn create(&self, create: Create) -> Result<Created, Error> {
        self.admit(Need::Growing)?;
        self.catalog.ask_in_turn(super::catalog::PATH, create, CREATE_TIMEOUT).await?
    }

    /// Tells a deployment what is wanted of it.
    ///
    /// # Errors
    /// `NotFound`, or `Conflict` when it is being deleted.
    pub async fn want(&self, name: &str, intent: Intent, origin: Origin) -> Result<Deployment, Error> {
        let path = super::deployment::path(self.find_deployment(name)?);
        let ends = matches!(intent, Intent::Stop | Intent::Delete);
        self.admit(if ends { Need::Freeing } else { Need::Keeping })?;
        self.built(&path).await;
        let answer = self.deployments.ask(&path, Want { intent, origin }).await;
        answer.map_err(|error| match error.class {
            ErrorClass::NotFound => no_such_deployment(name),
            _ => error,
        })?
    }

    /// Changes what is wanted of a deployment. `wanted` works it out from what is wanted now, and again when that has
    /// changed meanwhile.
    ///
    /// # Errors
    /// Those of `wanted`; `NotFound` also for a node that it names anew; `Conflict` when the deployment is being deleted
    /// or is changed by others all the time.
    pub async fn change(
        &self,
        name: &str,
        wanted: impl Fn(&DeploymentSpec) -> Result<DeploymentSpec, Error>,
        origin: Origin,
    ) -> Result<Deployment, Error> {
        let dep = self.deployment(name).await?;
        let path = super::deployment::path(dep.id);
        let mut seen = Box::new(dep.spec.clone());
        for _ in 0..CHANGE_TRIES {
            let wanted = Box::new(wanted(&seen)?);
            if let Some(node) = wanted.node.as_ref().filter(|node| seen.node.as_ref() != Some(node)) {
                self.node(node).await?;
            }
            self.admit(Need::Keeping)?;
            let change = super::deployment::change::Change { seen, wanted, origin: origin.clone() };
            let answer = self.deployments.ask(&path, change).await;
            let changed = answer.map_err(|error| match error.class {
                ErrorClass::NotFound => no_such_deployment(name),
                _ => error,
            })??;
            match changed {
                Changed::Done(dep) => return Ok(*dep),
                Changed::Overtaken(present) => seen = present,
            }
        }
        let why = format!("deployment \"{name}\" is being changed by others all the time, try again");
        Err(Error::new(ErrorClass::Conflict, why))
    }

    /// Writes down what an operator is about to do where no record changes with it.
    ///
    /// # Errors
    /// What the store says; then it must not be done.
    pub async fn audit(&self, origin: Origin, kind: &str, message: String) -> Result<(), Error> {
        let line = Line::of_audit(origin, kind, message, self.tree.clock().wall());
        self.journal.commit(Vec::new(), vec![line]).await.map_err(store_error)
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

    /// Runs a command beside a replica's runtime. The audit knows of it, without the arguments: these may be secrets.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when nothing runs, `Unreachable` when the node is offline, `Timeout` when the command
    /// took too long, `Unprocessable` when it cannot be run at all.
    pub async fn exec(&self, name: &str, request: ExecRequest, origin: Origin) -> Result<ExecOutcome, Error> {
        let dep = self.deployment(name).await?;
        let (replica, node) = choose_replica(&dep, request.replica.as_deref())?;
        let (update, _) = self.node_by_id(&node).await?;
        let name = &update.node.name;
        if update.availability == Availability::Offline {
            return Err(Error::new(ErrorClass::Unreachable, format!("node \"{name}\" is offline")));
        }
        let program: String = request.command.iter().take(1).flat_map(|word| word.chars().take(64)).collect();
        let what = format!("deployment \"{}\": command \"{program}\" beside replica {replica}", dep.name);
        self.audit(origin, "deployment.exec", what).await?;
        let query =
            ExecQuery { deployment: dep.id, replica, command: request.command, timeout: request.timeout };
        self.agents.exec(&update.node.address, query).await.map_err(|error| match error.class {
            ErrorClass::Unreachable => {
                Error::new(ErrorClass::Unreachable, format!("node \"{name}\": {}", error.message))
            }
            _ => error,
        })
    }

    /// All nodes, in the order of their ids.
    ///
    /// # Errors
    /// When the registry does not answer.
    pub async fn nodes(&self) -> Result<Vec<NodePicture>, Error> {
        let nodes = self.registry.read(super::registry::PATH, || GetNodes).await?;
        Ok(nodes.into_iter().map(|(update, heard_ago)| self.picture(update, heard_ago)).collect())
    }

    /// A node by its id or name.
    ///
    /// # Errors
    /// `NotFound`, or `Conflict` when several share the name.
    pub async fn node(&self, name: &str) -> Result<NodePicture, Error> {
        if let Ok(id) = name.parse::<NodeId>()
            && let Ok((update, heard_ago)) = self.node_by_id(&id).await
        {
            return Ok(self.picture(update, heard_ago));
        }
        let nodes = self.nodes().await?;
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

    /// Changes where replicas may go. That ends a drain of the node.
    ///
    /// # Errors
    /// `NotFound`, or `Conflict` when several nodes share the name.
    pub async fn schedule_node(
        &self,
        name: &str,
        scheduling: Scheduling,
        origin: Origin,
    ) -> Result<NodePicture, Error> {
        let id = self.node(name).await?.update.node.id;
        self.end_drain(&id, scheduling).await?;
        self.registry.ask(super::registry::PATH, Change::Schedule(id.clone(), scheduling, origin)).await??;
        self.node(id.as_str()).await
    }

    /// Opens the brake against mass failure: the nodes that it holds are declared offline.
    ///
    /// # Errors
    /// `Conflict` when it is open.
    pub async fn release_brake(&self, origin: Origin) -> Result<(), Error> {
        self.registry.ask(super::registry::PATH, Change::ReleaseBrake(origin)).await?.map(drop)
    }

    /// Forgets a node.
    ///
    /// # Errors
    /// `NotFound`, or `Conflict` when it is online.
    pub async fn forget_node(&self, name: &str, origin: Origin) -> Result<(), Error> {
        let id = self.node(name).await?.update.node.id;
        self.registry.ask(super::registry::PATH, Change::Forget(id, origin)).await?.map(drop)
    }

    /// What runs on these nodes: deployment and replica. Each deployment is looked at once.
    #[must_use]
    pub fn replicas_on<'a>(
        &self,
        nodes: impl IntoIterator<Item = &'a NodeId>,
    ) -> BTreeMap<&'a NodeId, Vec<(Arc<Deployment>, usize)>> {
        let mut by_node: BTreeMap<&NodeId, Vec<_>> =
            nodes.into_iter().map(|node| (node, Vec::new())).collect();
        for cell in self.tree.children(super::deployment::PARENT, None, usize::MAX) {
            let Some(status) = cell.status::<DeploymentStatus>() else { continue };
            for (at, replica) in status.deployment.replicas.iter().enumerate() {
                let here = replica.placement.as_ref().and_then(|place| by_node.get_mut(&place.node_id));
                if let Some(here) = here {
                    here.push((status.deployment.clone(), at));
                }
            }
        }
        by_node
    }

    /// Why nebulad is not ready, in words; nothing when it is.
    #[must_use]
    pub fn not_ready(&self) -> Vec<String> {
        let core = [super::registry::PATH, super::router::PATH, super::scheduler::PATH, super::catalog::PATH];
        let down = core
            .into_iter()
            .filter(|path| self.tree.cell(path).is_none_or(|cell| cell.life() != Life::Running));
        let report = self.store.report();
        let store = report.reason.filter(|_| report.state != "ok");
        let store = store.map(|why| format!("the store is {}: {why}", report.state));
        let stuck = self.tree.culprits().into_iter().map(|(cell, stuck)| {
            format!("actor {} is stuck in {} for {} s", cell.path(), stuck.what, stuck.lasts.as_secs())
        });
        down.map(|path| format!("actor {path} is not running")).chain(store).chain(stuck).collect()
    }

    /// Brings back an actor that has crashed. One that runs is built anew when messages are set aside for it: they are
    /// delivered again.
    ///
    /// # Errors
    /// `NotFound`, or `Conflict` when it runs and nothing is set aside, or when it is no supervisor's child.
    pub async fn restart_actor(&self, path: &str, origin: Origin) -> Result<(), Error> {
        let nobody = || Error::new(ErrorClass::NotFound, format!("there is no actor {path}"));
        self.tree.cell(path).ok_or_else(nobody)?;
        let refusal = match self.supervisors.may_renew(path) {
            Some(true) => {
                self.audit(origin, "actor.restart", format!("actor {path}: restart")).await?;
                // One that came back by itself meanwhile is what was asked for.
                self.supervisors.renew(path);
                return Ok(());
            }
            Some(false) => "is running and no message is set aside; only one that is down can be restarted",
            None => "is not restarted by itself; restart nebulad",
        };
        Err(Error::new(ErrorClass::Conflict, format!("actor {path} {refusal}")))
    }

    /// The messages that are not delivered because their actors fell over them each time.
    #[must_use]
    pub fn messages_set_aside(&self) -> Vec<PoisonView> {
        self.tree.poison().list(None)
    }

    async fn node_by_id(&self, id: &NodeId) -> Result<(NodeUpdate, Option<Duration>), Error> {
        self.registry
            .read(super::registry::PATH, || GetNode(id.clone()))
            .await?
            .ok_or_else(|| Error::new(ErrorClass::NotFound, format!("there is no node \"{id}\"")))
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
