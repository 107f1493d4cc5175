//! The catalog: which deployments there are, by name.
//!
//! * Owns: the names of deployments, each of which is taken once, and the keys under which they were created.
//! * Persists: a new deployment's first record, with its key if it has one.
//! * Talks to: the deployments' supervisor.
//! * Timers: none.
//! * On crash: loads the names from the store and starts what is not running.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use actix::{Actor, ActorFutureExt, Context, Handler, Message, ResponseActFuture, WrapFuture};
use nebula_core::ids::DeploymentId;
use serde::Serialize;

use self::keys::Keys;
use super::letter::{Member, opens_letters};
use super::supervisor::{Birth, ChildSpec, DeathWatch, Restart};
use super::system::{System, patiently, store_error};
use super::tree::Cell;
use crate::domain::deployment::Deployment;
use crate::domain::error::{Error, ErrorClass};
use crate::domain::event::{Happening, Line, Origin};
use crate::domain::idempotency::UsedKey;
use crate::ports::{StoreError, Write};

mod keys;

/// Where the catalog is in the tree.
pub const PATH: &str = "/catalog";

/// How many deployments may be made durable at a time.
const CREATING_MAX: usize = 256;

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
    keys: Keys,
    system: System,
    cell: Arc<Cell>,
    /// Deployments that are being made durable.
    creating: usize,
    watch: DeathWatch,
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
        let stored = patiently(|| system.store.deployment_names()).await.map_err(store_error)?;
        for (id, _) in &stored {
            // One that cannot be built is shown as crashed; it keeps nobody else from starting.
            let child = super::deployment::spec(system.clone(), *id);
            if let Err(error) = system.supervisors.deployments.start(child).await {
                tracing::error!(deployment_id = %id, %error, "deployment not started");
            }
        }
        let keys = Keys::load(patiently(|| system.store.used_keys()).await.map_err(store_error)?);
        let names = stored.into_iter().map(|(id, name)| (name, id)).collect();
        let catalog = Self {
            names: Arc::new(RwLock::new(names)),
            keys,
            system,
            cell: birth.cell.clone(),
            creating: 0,
            watch: birth.watch,
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

impl Member for Catalog {
    fn cell(&self) -> &Arc<Cell> {
        &self.cell
    }

    fn watch(&mut self) -> &mut DeathWatch {
        &mut self.watch
    }

    fn busy(&self) -> bool {
        self.creating > 0
    }
}

opens_letters!(Catalog);

/// From the API: a new deployment. Answers when it is durable. With a key it may be sent again; without one a
/// timeout means: unknown, look it up by name.
#[derive(Debug, Message)]
#[rtype(result = "Result<Created, Error>")]
pub struct Create {
    /// The deployment.
    pub deployment: Deployment,
    /// The client's key for this request and the hash of its body.
    pub key: Option<(String, [u8; 32])>,
    /// Who wants it.
    pub origin: Origin,
}

/// What became of a `Create`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It was made.
    New,
    /// The same request had made this one before.
    Before(DeploymentId),
}

impl Catalog {
    /// Takes the name and the key for a new deployment, unless one of them is taken.
    fn take(&mut self, create: &Create) -> Result<Option<Created>, Error> {
        let dep = &create.deployment;
        if let Some((key, body)) = &create.key {
            match self.keys.begin(key, body, dep.created_at)? {
                Some(id) => return Ok(Some(Created::Before(id))),
                None => tracing::debug!(deployment_id = %dep.id, "idempotency key taken"),
            }
        }
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        if names.contains_key(&dep.name) {
            self.keys.abandon(create.key.as_ref().map(|(key, _)| key.as_str()));
            return Err(Error::new(ErrorClass::Conflict, format!("the name \"{}\" is taken", dep.name)));
        }
        names.insert(dep.name.clone(), dep.id);
        Ok(None)
    }

    /// A new deployment's first writes: its record and its key.
    fn first_writes(&mut self, dep: &Deployment, used: Option<&UsedKey>) -> Vec<Write> {
        let outdated = self.keys.outdated(dep.created_at).into_iter().map(Write::DeleteUsedKey);
        let mut writes: Vec<Write> = outdated.collect();
        writes.push(Write::PutDeployment(Box::new(dep.clone())));
        writes.extend(used.map(|used| Write::PutUsedKey(Box::new(used.clone()))));
        writes
    }
}

/// The journal's first lines about a new deployment.
fn first_lines(dep: &Deployment, origin: Origin) -> Vec<Line> {
    let message = format!("model {} on runtime {}", dep.spec.model, dep.spec.runtime);
    let audited = format!("deployment \"{}\": {message}", dep.name);
    let created = Happening { kind: "created", message, replica: None, node: None };
    let audit = Line::of_audit(origin, "deployment.create", audited, dep.created_at);
    vec![audit.to_deployment(dep.id), Line::of_deployment(dep.id, created, dep.created_at)]
}

impl Handler<Create> for Catalog {
    type Result = ResponseActFuture<Self, Result<Created, Error>>;

    fn handle(&mut self, create: Create, _: &mut Context<Self>) -> Self::Result {
        if self.creating >= CREATING_MAX {
            return Box::pin(async { Err(Error::overloaded()) }.into_actor(self));
        }
        match self.take(&create) {
            Ok(None) => self.publish(),
            Ok(Some(before)) => return Box::pin(async move { Ok(before) }.into_actor(self)),
            Err(error) => return Box::pin(async move { Err(error) }.into_actor(self)),
        }
        let Create { deployment: dep, key, origin } = create;
        let used = key.map(|(key, body)| UsedKey { key, body, deployment: dep.id, at: dep.created_at });
        let writes = self.first_writes(&dep, used.as_ref());
        let commit = self.system.journal.commit(writes, first_lines(&dep, origin));
        self.creating += 1;
        let created = commit.into_actor(self).map(move |result, catalog: &mut Self, _| {
            let _turn = catalog.cell.future_turn("future: a new deployment is committed");
            catalog.creating -= 1;
            catalog.created(&dep, used, result)
        });
        Box::pin(created)
    }
}

impl Catalog {
    fn created(
        &mut self,
        dep: &Deployment,
        used: Option<UsedKey>,
        result: Result<(), StoreError>,
    ) -> Result<Created, Error> {
        match result {
            Ok(()) => {
                tracing::info!(deployment_id = %dep.id, model = dep.name, "deployment created");
                self.keys.finish(used);
                self.system.tree.plant(&super::deployment::path(dep.id), "deployment");
                let child = super::deployment::spec(self.system.clone(), dep.id);
                self.system.supervisors.deployments.start_later(child);
                Ok(Created::New)
            }
            Err(error) => {
                self.keys.abandon(used.as_ref().map(|used| used.key.as_str()));
                self.free(&dep.name);
                Err(store_error(error))
            }
        }
    }
}

/// From a deployment that has nothing left: its name is free.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Gone(pub DeploymentId);

impl Handler<Gone> for Catalog {
    type Result = ();

    fn handle(&mut self, Gone(id): Gone, _: &mut Context<Self>) {
        self.names.write().unwrap_or_else(PoisonError::into_inner).retain(|_, other| *other != id);
        self.publish();
        let keys: Vec<Write> = self.keys.forget(id).into_iter().map(Write::DeleteUsedKey).collect();
        if !keys.is_empty() {
            // A key that stays behind if this fails is forgotten after a day.
            actix_rt::spawn(self.system.store.commit(keys));
        }
    }
}
