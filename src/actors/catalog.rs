//! The catalog: which deployments and aliases there are, by name.
//!
//! * Owns: the names of deployments and aliases, each of which is taken once, what the aliases stand for, and the keys
//!   under which deployments were created.
//! * Persists: a new deployment's first record, with its key if it has one; every change of an alias.
//! * Talks to: the deployments' supervisor; the router (all aliases, whenever one changes).
//! * Timers: one, after which new deployments are offered again to a store that had too much to do.
//! * On crash: loads the names and the aliases from the store and starts what is not running. It ends by itself when
//!   nobody can know whether a change of an alias was stored.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseFuture, WrapFuture};
use nebula_core::ids::DeploymentId;
use serde::Serialize;
use tokio::sync::oneshot;

use self::aliases::Aliases;
use self::keys::Keys;
use self::names::Names;
use self::queue::Queue;
use super::letter::{Member, opens_letters};
use super::supervisor::{Birth, ChildSpec, DeathWatch, Restart};
use super::system::{OVERLOADED_PAUSE, System, patiently, store_error};
use super::tree::Cell;
use crate::domain::alias::Alias;
use crate::domain::deployment::Deployment;
use crate::domain::error::{Error, ErrorClass};
use crate::domain::event::{Happening, Line, Origin};
use crate::domain::idempotency::UsedKey;
use crate::ports::{StoreError, Write};

mod aliases;
mod change;
mod keys;
mod names;
mod queue;

pub use self::aliases::AliasChange;
pub use self::change::ChangeAlias;

/// Where the catalog is in the tree.
pub const PATH: &str = "/catalog";

/// What the catalog publishes.
#[derive(Debug, Serialize)]
pub struct CatalogStatus {
    /// How many deployments there are.
    pub deployments: usize,
    /// How many aliases there are.
    pub aliases: usize,
    /// How many new deployments wait for the store.
    pub creating: usize,
    #[serde(skip)]
    names: Arc<RwLock<Names>>,
}

impl CatalogStatus {
    /// The deployment of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<DeploymentId> {
        read(&self.names).deployment(name)
    }

    /// The name of this deployment.
    pub(in crate::actors) fn name_of(&self, id: DeploymentId) -> Option<String> {
        read(&self.names).name_of(id).map(ToOwned::to_owned)
    }

    /// The alias of this name.
    pub(in crate::actors) fn alias(&self, name: &str) -> Option<Arc<Alias>> {
        read(&self.names).alias(name).cloned()
    }

    fn aliases(&self) -> Vec<Arc<Alias>> {
        read(&self.names).aliases().cloned().collect()
    }
}

fn read(names: &RwLock<Names>) -> RwLockReadGuard<'_, Names> {
    names.read().unwrap_or_else(PoisonError::into_inner)
}

/// The catalog's actor.
pub struct Catalog {
    names: Arc<RwLock<Names>>,
    aliases: Aliases,
    keys: Keys,
    queue: Queue<Waiting>,
    system: System,
    cell: Arc<Cell>,
    watch: DeathWatch,
}

/// A new deployment that has its name and waits for the store.
struct Waiting {
    dep: Deployment,
    used: Option<UsedKey>,
    origin: Origin,
    answer: oneshot::Sender<Result<Created, Error>>,
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
        let aliases = patiently(|| system.store.aliases()).await.map_err(store_error)?;
        let catalog = Self {
            names: Arc::new(RwLock::new(Names::load(stored, aliases))),
            aliases: Aliases::default(),
            keys,
            queue: Queue::new(),
            system,
            cell: birth.cell.clone(),
            watch: birth.watch,
        };
        catalog.tell_router();
        birth.cell.running(catalog.start());
        Ok(())
    }

    fn names(&self) -> RwLockReadGuard<'_, Names> {
        read(&self.names)
    }

    fn with_names<T>(&mut self, change: impl FnOnce(&mut Names, &mut Aliases) -> T) -> T {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut names, &mut self.aliases)
    }

    fn publish(&self) {
        let (deployments, aliases) = self.names().counts();
        let (creating, names) = (self.queue.len(), self.names.clone());
        self.cell.publish(Arc::new(CatalogStatus { deployments, aliases, creating, names }));
    }

    fn free(&mut self, id: DeploymentId) {
        self.with_names(|names, _| names.free(id));
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
        self.queue.len() > 0 || self.aliases.under_way() > 0
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
        let mut free = self.names().is_free(&dep.name);
        if free.is_ok() && self.aliases.is_busy(&dep.name) {
            let what = format!("the name \"{}\" is being taken by an alias", dep.name);
            free = Err(Error::new(ErrorClass::Conflict, what));
        }
        if let Err(taken) = free {
            self.keys.abandon(create.key.as_ref().map(|(key, _)| key.as_str()));
            return Err(taken);
        }
        self.with_names(|names, _| names.take(&dep.name, dep.id));
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
    type Result = ResponseFuture<Result<Created, Error>>;

    fn handle(&mut self, create: Create, ctx: &mut Context<Self>) -> Self::Result {
        if self.queue.is_full() {
            return Box::pin(async { Err(Error::overloaded()) });
        }
        match self.take(&create) {
            Ok(None) => {}
            Ok(Some(before)) => return Box::pin(async move { Ok(before) }),
            Err(error) => return Box::pin(async move { Err(error) }),
        }
        let Create { deployment: dep, key, origin } = create;
        let used = key.map(|(key, body)| UsedKey { key, body, deployment: dep.id, at: dep.created_at });
        let (answer, created) = oneshot::channel();
        self.queue.push(Waiting { dep, used, origin, answer });
        self.create_next(ctx);
        self.publish();
        Box::pin(async move { created.await.unwrap_or_else(|_| Err(Error::restarting())) })
    }
}

impl Catalog {
    /// Gives the store as many of those that wait as it may have at a time.
    fn create_next(&mut self, ctx: &mut Context<Self>) {
        while let Some(next) = self.queue.next() {
            let writes = self.first_writes(&next.dep, next.used.as_ref());
            let lines = first_lines(&next.dep, next.origin.clone());
            let commit = self.system.journal.commit(writes, lines).into_actor(self);
            ctx.spawn(commit.map(move |result, catalog: &mut Self, ctx| {
                let _turn = catalog.cell.future_turn("future: a new deployment is committed");
                catalog.committed(next, result, ctx);
            }));
        }
    }

    fn committed(&mut self, made: Waiting, result: Result<(), StoreError>, ctx: &mut Context<Self>) {
        if result == Err(StoreError::Overloaded) {
            if self.queue.again(made) {
                ctx.run_later(OVERLOADED_PAUSE, |catalog, ctx| {
                    let _turn =
                        catalog.cell.timer_turn("timer: new deployments are offered to the store again");
                    catalog.queue.resume();
                    catalog.create_next(ctx);
                });
            }
            return;
        }
        self.queue.done();
        let created = self.created(&made.dep, made.used, result);
        // A caller who has gone away finds it by name.
        let _ = made.answer.send(created);
        self.create_next(ctx);
        self.publish();
    }

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
                self.free(dep.id);
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
        self.free(id);
        let keys: Vec<Write> = self.keys.forget(id).into_iter().map(Write::DeleteUsedKey).collect();
        if !keys.is_empty() {
            // A key that stays behind if this fails is forgotten after a day.
            actix_rt::spawn(self.system.store.commit(keys));
        }
    }
}
