//! Who may call what, where it listens, and whether it does: the table that the proxy reads for each request.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use nebula_core::ids::{DeploymentId, ReplicaId};

use super::gate::Gate;
use super::stats::Stats;
use crate::replica::spec::Access;

/// One replica as the proxy sees it.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) deployment: DeploymentId,
    pub(crate) replica: ReplicaId,
    /// The name under which the runtime serves the model.
    pub(crate) name: String,
    pub(crate) access: Access,
    /// Where the runtime listens on loopback.
    pub(crate) port: u16,
    /// Open while it answers and is to get requests.
    pub(crate) gate: Gate,
}

/// All routes. Readers take no lock; writers take turns.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    table: ArcSwap<Table>,
    writing: Mutex<()>,
    stats: Stats,
}

/// An immutable table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    routes: BTreeMap<(DeploymentId, ReplicaId), Arc<Route>>,
}

/// Why no deployment was picked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotPicked {
    /// There is none of that name or id.
    #[error("there is no deployment \"{0}\" on this node")]
    Unknown(String),
    /// The deployment has no such replica here.
    #[error("the deployment has no replica \"{0}\" on this node")]
    UnknownReplica(String),
    /// None was named and there is not exactly one.
    #[error(
        "{0} deployments run on this node; name one with X-Nebula-Deployment or the path /d/<id or name>/"
    )]
    Unnamed(usize),
    /// Two share the name.
    #[error("more than one deployment on this node is named \"{0}\"; use the id")]
    Ambiguous(String),
}

impl Routes {
    /// The table as it is now.
    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// How many calls were answered, and how.
    pub(crate) fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Adds or replaces a replica's route.
    pub(crate) fn set(&self, route: Route) {
        self.change(|table| drop(table.routes.insert((route.deployment, route.replica), Arc::new(route))));
    }

    /// Removes a replica's route.
    pub(crate) fn remove(&self, deployment: DeploymentId, replica: ReplicaId) {
        self.change(|table| drop(table.routes.remove(&(deployment, replica))));
    }

    fn change(&self, change: impl FnOnce(&mut Table)) {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = Table::clone(&self.table.load());
        change(&mut table);
        self.table.store(Arc::new(table));
    }
}

impl Table {
    /// The replicas that are meant: of the deployment with this id or name, or of the only one; narrowed to one
    /// replica if that is named.
    ///
    /// # Errors
    /// When there is nothing that is meant.
    pub(crate) fn pick(
        &self,
        named: Option<&str>,
        replica: Option<&str>,
    ) -> Result<Vec<Arc<Route>>, NotPicked> {
        let deployment = match named {
            Some(named) => self.find(named)?,
            None => self.only()?,
        };
        let routes = self.of(deployment);
        let Some(replica) = replica else { return Ok(routes) };
        let one: Option<ReplicaId> = replica.parse().ok();
        let narrowed: Vec<_> = routes.into_iter().filter(|route| Some(route.replica) == one).collect();
        if narrowed.is_empty() {
            return Err(NotPicked::UnknownReplica(crate::text::clip(replica.to_owned(), 80)));
        }
        Ok(narrowed)
    }

    /// Whether a deployment has a replica here other than this one.
    pub(crate) fn has_other(&self, deployment: DeploymentId, replica: ReplicaId) -> bool {
        self.routes.keys().any(|(other, id)| *other == deployment && *id != replica)
    }

    fn of(&self, deployment: DeploymentId) -> Vec<Arc<Route>> {
        let routes = self.routes.iter().filter(|((id, _), _)| *id == deployment);
        routes.map(|(_, route)| Arc::clone(route)).collect()
    }

    fn find(&self, named: &str) -> Result<DeploymentId, NotPicked> {
        if let Ok(id) = named.parse::<DeploymentId>()
            && self.routes.keys().any(|(other, _)| *other == id)
        {
            return Ok(id);
        }
        let text = || crate::text::clip(named.to_owned(), 200);
        let mut ids: Vec<_> =
            self.routes.values().filter(|route| route.name == named).map(|route| route.deployment).collect();
        ids.dedup();
        match ids.as_slice() {
            [] => Err(NotPicked::Unknown(text())),
            [id] => Ok(*id),
            _ => Err(NotPicked::Ambiguous(text())),
        }
    }

    fn only(&self) -> Result<DeploymentId, NotPicked> {
        let mut ids: Vec<_> = self.routes.keys().map(|(id, _)| *id).collect();
        ids.dedup();
        match ids.as_slice() {
            [id] => Ok(*id),
            _ => Err(NotPicked::Unnamed(ids.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(deployment: DeploymentId, name: &str) -> Route {
        let (replica, name) = (ReplicaId::random(), name.to_owned());
        Route { deployment, replica, name, access: Access::default(), port: 1, gate: Gate::default() }
    }

    #[test]
    fn deployments_are_picked_by_id_by_name_and_as_the_only_one() {
        let routes = Routes::default();
        assert_eq!(routes.table().pick(None, None).err(), Some(NotPicked::Unnamed(0)));
        let one = DeploymentId::random();
        routes.set(route(one, "org/a"));
        routes.set(route(one, "org/a"));
        assert_eq!(routes.table().pick(None, None).expect("the only one").len(), 2);
        let two = route(DeploymentId::random(), "b");
        routes.set(two.clone());
        let table = routes.table();
        assert_eq!(table.pick(None, None).err(), Some(NotPicked::Unnamed(2)));
        assert_eq!(table.pick(Some("org/a"), None).expect("by name").len(), 2);
        assert_eq!(table.pick(Some(&one.to_string()), None).expect("by id").len(), 2);
        assert_eq!(table.pick(Some("c"), None).err(), Some(NotPicked::Unknown("c".to_owned())));
        let narrowed = table.pick(Some("b"), Some(&two.replica.to_string())).expect("by replica");
        assert_eq!(narrowed.first().map(|route| route.replica), Some(two.replica));
        assert!(matches!(table.pick(Some("org/a"), Some("x")), Err(NotPicked::UnknownReplica(_))));
        assert!(table.has_other(one, two.replica));
        assert!(!table.has_other(two.deployment, two.replica));
        routes.remove(two.deployment, two.replica);
        assert!(routes.table().pick(Some("b"), None).is_err());
    }

    #[test]
    fn a_shared_name_is_not_guessed() {
        let routes = Routes::default();
        routes.set(route(DeploymentId::random(), "same"));
        routes.set(route(DeploymentId::random(), "same"));
        assert_eq!(
            routes.table().pick(Some("same"), None).err(),
            Some(NotPicked::Ambiguous("same".to_owned()))
        );
    }
}
