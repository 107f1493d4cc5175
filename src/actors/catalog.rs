//! The catalog: which deployments there are, by name.
//!
//! * Owns: the names of deployments, each of which is taken once.
//! * Persists: a new deployment's first record.
//! * Talks to: the deployments' supervisor.
//! * Timers: none.
//! * On crash: loads the names from the store and starts what is not running.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use actix::{Actor, ActorFutureExt, Context, Handler, Message, ResponseActFuture, WrapFuture};
use nebula_core::ids::DeploymentId;
use serde::Serialize;

use super::supervisor::{Birth, ChildSpec, DeathWatch, Restart};
use super::system::{System, start_child, start_child_later, store_error};
use super::tree::Cell;
use crate::domain::deployment::Deployment;
use crate::domain::error::{Error, ErrorClass};
use crate::domain::event::JournalEvent;
use crate::ports::Write;

/// Where the catalog is in the tree.
pub const PATH: &str = "/catalog";

/// What the catalog publishes.
#[derive(Debug, Serialize)]
pub struct CatalogStatus {
    /// How many deployments there are.
    pub deployments: usize,
    /// Their ids by name.
    #[serde(skip)]
    pub names: Arc<RwLock<BTreeMap<String, DeploymentId>>>,
}

impl CatalogStatus {
    /// The deployment of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<DeploymentId> {
        self.names.read().unwrap_or_else(PoisonError::into_inner).get(name).copied()
    }
}

/// The catalog's actor.
pub struct Catalog {
    names: Arc<RwLock<BTreeMap<String, DeploymentId>>>,
    system: System,
    cell: Arc<Cell>,
    _watch: DeathWatch,
}

/// How the catalog is built.
pub(crate) fn spec(system: System) -> ChildSpec {
    ChildSpec::new("catalog", "catalog", Restart::Permanent, move |birth| {
        let system = system.clone();
        async move { Catalog::load(birth, system).await }
    })
}

impl Catalog {
    async fn load(birth: Birth, system: System) -> Result<(), Error> {
        let stored = system.store.deployment_names().await.map_err(store_error)?;
        for (id, _) in &stored {
            // One that cannot be built is shown as crashed; it keeps nobody else from starting.
            let child = super::deployment::spec(system.clone(), *id);
            if let Err(error) = start_child(&system.supervisors.deployments, child).await {
                tracing::error!(deployment_id = %id, %error, "deployment not started");
            }
        }
        let names = stored.into_iter().map(|(id, name)| (name, id)).collect();
        let catalog = Self {
            names: Arc::new(RwLock::new(names)),
            system,
            cell: birth.cell.clone(),
            _watch: birth.watch,
        };
        catalog.publish();
        birth.cell.running(catalog.start());
        Ok(())
    }

    fn publish(&self) {
        let deployments = self.names.read().unwrap_or_else(PoisonError::into_inner).len();
        self.cell.publish(Arc::new(CatalogStatus { deployments, names: self.names.clone() }));
    }

    fn free(&self, name: &str) {
        self.names.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.publish();
    }
}

impl Actor for Catalog {
    type Context = Context<Self>;
}

/// From the API: a new deployment. Answers when it is durable. A timeout means: unknown, look it up by name.
#[derive(Message)]
#[rtype(result = "Result<(), Error>")]
pub struct Create(pub Deployment);

impl Handler<Create> for Catalog {
    type Result = ResponseActFuture<Self, Result<(), Error>>;

    fn handle(&mut self, Create(dep): Create, _: &mut Context<Self>) -> Self::Result {
        self.cell.received();
        let taken = {
            let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
            let taken = names.contains_key(&dep.name);
            if !taken {
                names.insert(dep.name.clone(), dep.id);
            }
            taken
        };
        if taken {
            let error = Error::new(ErrorClass::Conflict, format!("the name \"{}\" is taken", dep.name));
            return Box::pin(async move { Err(error) }.into_actor(self));
        }
        self.publish();
        let created = JournalEvent {
            seq: self.system.journal.next(),
            time: dep.created_at,
            deployment: dep.id,
            kind: "created".to_owned(),
            message: format!("model {} on runtime {}", dep.spec.model, dep.spec.runtime),
            replica: None,
            node: None,
        };
        let (id, name) = (dep.id, dep.name.clone());
        let writes = vec![Write::PutDeployment(Box::new(dep)), Write::PutEvent(Box::new(created))];
        let commit = self.system.store.commit(writes);
        Box::pin(commit.into_actor(self).map(move |result, catalog, _| match result {
            Ok(()) => {
                tracing::info!(deployment_id = %id, model = name, "deployment created");
                let child = super::deployment::spec(catalog.system.clone(), id);
                catalog.system.tree.plant(&super::deployment::path(id), "deployment");
                start_child_later(catalog.system.supervisors.deployments.clone(), child);
                Ok(())
            }
            Err(error) => {
                catalog.free(&name);
                Err(store_error(error))
            }
        }))
    }
}

/// From a deployment that has nothing left: its name is free.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Gone(pub DeploymentId);

impl Handler<Gone> for Catalog {
    type Result = ();

    fn handle(&mut self, Gone(id): Gone, _: &mut Context<Self>) {
        self.cell.received();
        self.names.write().unwrap_or_else(PoisonError::into_inner).retain(|_, other| *other != id);
        self.publish();
    }
}
