//! Who has which name: deployments and aliases share them, as clients ask for both in the same place. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use nebula_core::ids::DeploymentId;

use crate::domain::alias::Alias;
use crate::domain::error::{Error, ErrorClass};

/// All names.
#[derive(Debug, Default)]
pub(super) struct Names {
    deployments: HashMap<String, DeploymentId>,
    by_id: HashMap<DeploymentId, String>,
    aliases: BTreeMap<String, Arc<Alias>>,
}

impl Names {
    pub(super) fn load(deployments: Vec<(DeploymentId, String)>, aliases: Vec<Alias>) -> Self {
        let mut names = Self::default();
        deployments.into_iter().for_each(|(id, name)| names.take(&name, id));
        aliases.into_iter().for_each(|alias| names.put(Arc::new(alias)));
        names
    }

    /// The deployment of this name.
    pub(super) fn deployment(&self, name: &str) -> Option<DeploymentId> {
        self.deployments.get(name).copied()
    }

    /// The name of this deployment.
    pub(super) fn name_of(&self, id: DeploymentId) -> Option<&str> {
        self.by_id.get(&id).map(String::as_str)
    }

    /// The alias of this name.
    pub(super) fn alias(&self, name: &str) -> Option<&Arc<Alias>> {
        self.aliases.get(name)
    }

    /// All aliases, by name.
    pub(super) fn aliases(&self) -> impl Iterator<Item = &Arc<Alias>> {
        self.aliases.values()
    }

    /// How many deployments and how many aliases there are.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.deployments.len(), self.aliases.len())
    }

    /// Whether nobody has this name.
    ///
    /// # Errors
    /// `Conflict`, saying who has it.
    pub(super) fn is_free(&self, name: &str) -> Result<(), Error> {
        let by = match (self.deployments.contains_key(name), self.aliases.contains_key(name)) {
            (true, _) => "a deployment",
            (false, true) => "an alias",
            (false, false) => return Ok(()),
        };
        Err(Error::new(ErrorClass::Conflict, format!("the name \"{name}\" is taken by {by}")))
    }

    pub(super) fn take(&mut self, name: &str, id: DeploymentId) {
        self.deployments.insert(name.to_owned(), id);
        self.by_id.insert(id, name.to_owned());
    }

    /// The deployment is gone.
    pub(super) fn free(&mut self, id: DeploymentId) {
        if let Some(name) = self.by_id.remove(&id)
            && self.deployments.get(&name) == Some(&id)
        {
            self.deployments.remove(&name);
        }
    }

    pub(super) fn put(&mut self, alias: Arc<Alias>) {
        self.aliases.insert(alias.name.clone(), alias);
    }

    pub(super) fn remove_alias(&mut self, name: &str) {
        self.aliases.remove(name);
    }
}
