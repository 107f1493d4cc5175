//! Aliases: how a change of one is asked for, made durable and told to the router.

use std::sync::Arc;

use actix::{ActorContext, ActorFutureExt, Context, Handler, Message, ResponseActFuture, WrapFuture};
use nebula_core::clock::WallTime;
use nebula_core::ids::DeploymentId;

use super::aliases::{AliasChange, Plan, no_such_alias};
use super::{Catalog, CatalogStatus, PATH};
use crate::actors::deployment::DeploymentStatus;
use crate::actors::letter::Member;
use crate::actors::system::{System, store_error};
use crate::actors::tree::Life;
use crate::actors::upkeep::Need;
use crate::domain::alias::{Alias, AliasPatch};
use crate::domain::deployment::Phase;
use crate::domain::error::Error;
use crate::domain::event::{Line, Origin};
use crate::ports::StoreError;

/// How many changes of aliases may be made durable at a time.
const CHANGING_MAX: usize = 256;

/// From the API: an alias is made, changed or deleted. Answers when it is durable, with the alias as it is then, or was.
#[derive(Debug, Message)]
#[rtype(result = "Result<Arc<Alias>, Error>")]
pub struct ChangeAlias {
    /// What is to change.
    pub change: AliasChange,
    /// When.
    pub at: WallTime,
    /// Who wants it.
    pub origin: Origin,
}

impl Handler<ChangeAlias> for Catalog {
    type Result = ResponseActFuture<Self, Result<Arc<Alias>, Error>>;

    fn handle(&mut self, message: ChangeAlias, _: &mut Context<Self>) -> Self::Result {
        if self.aliases.under_way() >= CHANGING_MAX {
            return Box::pin(async { Err(Error::overloaded()) }.into_actor(self));
        }
        let ChangeAlias { change, at, origin } = message;
        let planned = self.aliases.begin(&super::read(&self.names), change, at);
        let plan = match planned {
            Ok(plan) => plan,
            Err(error) => return Box::pin(async move { Err(error) }.into_actor(self)),
        };
        let (kind, what) = plan.told();
        let audit = Line::of_audit(origin, kind, what, at);
        let commit = self.system.journal.commit(vec![plan.write()], vec![audit]);
        Box::pin(commit.into_actor(self).map(move |result, catalog: &mut Self, ctx: &mut Context<Self>| {
            let _turn = catalog.cell.future_turn("future: an alias's change is committed");
            if let Err(error @ StoreError::Failed(_)) = &result {
                // What is stored counts, and it is read again.
                catalog.watch().ends_because(format!("whether an alias was changed is unknown: {error}"));
                ctx.stop();
            }
            catalog.changed(plan, result.map_err(store_error))
        }))
    }
}

impl Catalog {
    fn changed(&mut self, plan: Plan, result: Result<(), Error>) -> Result<Arc<Alias>, Error> {
        if let Err(error) = result {
            self.aliases.given_up(&plan);
            return Err(error);
        }
        let alias = self.with_names(|names, aliases| aliases.done(names, plan));
        self.tell_router();
        Ok(alias)
    }

    /// Tells the router all aliases as they are now.
    pub(super) fn tell_router(&self) {
        self.publish();
        let all: Vec<Arc<Alias>> = self.names().aliases().cloned().collect();
        self.system.publish_aliases(all);
    }
}

impl System {
    fn catalog_status(&self) -> Result<Arc<CatalogStatus>, Error> {
        let cell = self.tree.cell(PATH).and_then(|cell| cell.status::<CatalogStatus>());
        cell.ok_or_else(Error::restarting)
    }

    /// The deployment that has this name.
    ///
    /// # Errors
    /// `Restarting` while nobody knows yet.
    pub fn deployment_named(&self, name: &str) -> Result<Option<DeploymentId>, Error> {
        Ok(self.catalog_status()?.find(name))
    }

    /// Where a deployment stands, as far as it has said.
    #[must_use]
    pub fn deployment_state(&self, id: DeploymentId) -> Phase {
        let cell = self.tree.cell(&crate::actors::deployment::path(id));
        let said = cell.as_ref().and_then(|cell| cell.status::<DeploymentStatus>());
        match (said, cell.map(|cell| cell.life())) {
            (_, Some(Life::Crashed)) => Phase::Failed,
            (Some(status), _) => status.deployment.state(),
            (None, _) => Phase::Pending,
        }
    }

    /// All aliases, by name.
    ///
    /// # Errors
    /// `Restarting` while nobody knows yet.
    pub fn aliases(&self) -> Result<Vec<Arc<Alias>>, Error> {
        Ok(self.catalog_status()?.aliases())
    }

    /// The alias of this name.
    ///
    /// # Errors
    /// `NotFound`, or `Restarting` while nobody knows yet.
    pub fn alias(&self, name: &str) -> Result<Arc<Alias>, Error> {
        self.catalog_status()?.alias(name).ok_or_else(|| no_such_alias(name))
    }

    /// Makes an alias. Its targets and its fallback are names or ids of deployments.
    ///
    /// # Errors
    /// `Unprocessable` when it can never be right, `NotFound` when a deployment is not there, `Conflict` when the name is
    /// taken or there are too many; what the store says.
    pub async fn create_alias(&self, mut alias: Alias, origin: Origin) -> Result<Arc<Alias>, Error> {
        self.admit(Need::Growing)?;
        for target in &mut alias.targets {
            target.deployment = self.name_of(&target.deployment).await;
        }
        if let Some(fallback) = &mut alias.fallback {
            *fallback = self.name_of(fallback).await;
        }
        self.change_alias(AliasChange::Create(alias), origin).await
    }

    /// Changes what is given of an alias.
    ///
    /// # Errors
    /// As for [`System::create_alias`]; `NotFound` also when there is no such alias, `Conflict` while it is being changed.
    pub async fn patch_alias(
        &self,
        name: &str,
        mut patch: AliasPatch,
        origin: Origin,
    ) -> Result<Arc<Alias>, Error> {
        self.admit(Need::Keeping)?;
        for target in patch.targets.iter_mut().flatten() {
            target.deployment = self.name_of(&target.deployment).await;
        }
        if let Some(Some(fallback)) = &mut patch.fallback {
            *fallback = self.name_of(fallback).await;
        }
        self.change_alias(AliasChange::Patch(name.to_owned(), patch), origin).await
    }

    /// Deletes an alias; its deployments stay.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` while it is being changed; what the store says.
    pub async fn delete_alias(&self, name: &str, origin: Origin) -> Result<(), Error> {
        self.admit(Need::Freeing)?;
        self.change_alias(AliasChange::Delete(name.to_owned()), origin).await.map(drop)
    }

    async fn change_alias(&self, change: AliasChange, origin: Origin) -> Result<Arc<Alias>, Error> {
        let at = self.tree.clock().wall();
        self.catalog.ask(PATH, ChangeAlias { change, at, origin }).await?
    }

    /// The name of a deployment that is meant by its name or its id; what is neither stays as it is.
    async fn name_of(&self, wanted: &str) -> String {
        if wanted.parse::<DeploymentId>().is_err() {
            return wanted.to_owned();
        }
        self.deployment(wanted).await.map_or_else(|_| wanted.to_owned(), |dep| dep.name.clone())
    }
}
