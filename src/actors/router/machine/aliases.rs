//! What aliases come to: the names that they were given, as the deployments that have these names now.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nebula_core::ids::DeploymentId;

use crate::domain::alias::Alias;
use crate::domain::route::{AliasRoute, RouteTable};

/// The aliases, and which of them a deployment's coming or going concerns.
#[derive(Default)]
pub(super) struct Aliases {
    all: BTreeMap<String, Arc<Alias>>,
    /// The aliases that name a deployment, by its name.
    naming: BTreeMap<String, BTreeSet<String>>,
    /// Names of aliases that must be looked at again.
    stale: BTreeSet<String>,
    routes: Arc<BTreeMap<String, Arc<AliasRoute>>>,
}

impl Aliases {
    /// Those that a table has, until [`Aliases::set`] says which there are.
    pub(super) fn of(table: &RouteTable) -> Self {
        let routes: BTreeMap<_, _> =
            table.aliases().map(|alias| (alias.name.clone(), Arc::clone(alias))).collect();
        Self { stale: routes.keys().cloned().collect(), routes: Arc::new(routes), ..Self::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// These are all aliases now. Answers whether that changes anything.
    pub(super) fn set(&mut self, all: Vec<Arc<Alias>>) -> bool {
        let new: BTreeMap<String, Arc<Alias>> =
            all.into_iter().map(|alias| (alias.name.clone(), alias)).collect();
        let names: BTreeSet<&String> = self.all.keys().chain(new.keys()).collect();
        let different = names.into_iter().filter(|name| self.all.get(*name) != new.get(*name));
        let different: Vec<String> = different.cloned().collect();
        if different.is_empty() {
            return false;
        }
        self.stale.extend(different);
        self.naming.clear();
        for alias in new.values() {
            for name in alias.names() {
                self.naming.entry(name.clone()).or_default().insert(alias.name.clone());
            }
        }
        self.all = new;
        true
    }

    /// A deployment of this name comes or goes.
    pub(super) fn touch(&mut self, deployment: Option<&str>) {
        if let Some(concerned) = deployment.and_then(|name| self.naming.get(name)) {
            self.stale.extend(concerned.iter().cloned());
        }
    }

    /// All aliases' routes, if any of them may be another one than before. `find` knows which deployment has a name.
    pub(super) fn routes(
        &mut self,
        find: impl Fn(&str) -> Option<DeploymentId>,
    ) -> Option<Arc<BTreeMap<String, Arc<AliasRoute>>>> {
        let mut different = false;
        for name in std::mem::take(&mut self.stale) {
            let route = self.all.get(&name).map(|alias| route(alias, &find));
            if self.routes.get(&name).map(|old| &**old) == route.as_ref() {
                continue;
            }
            different = true;
            let routes = Arc::make_mut(&mut self.routes);
            match route {
                Some(route) => drop(routes.insert(name, Arc::new(route))),
                None => drop(routes.remove(&name)),
            }
        }
        different.then(|| Arc::clone(&self.routes))
    }
}

/// Targets that are not there are left out: their share goes to the others.
fn route(alias: &Alias, find: impl Fn(&str) -> Option<DeploymentId>) -> AliasRoute {
    let targets = alias.targets.iter();
    AliasRoute {
        name: alias.name.clone(),
        created_at: alias.created_at,
        targets: targets.filter_map(|target| Some((find(&target.deployment)?, target.weight))).collect(),
        fallback: alias.fallback.as_deref().and_then(find),
    }
}
