//! What the gateway routes by: the table made of what deployments publish, with the endpoints of the table
//! before, so that requests in flight and shut gates are not forgotten by a publication.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nebula_core::ids::DeploymentId;

use self::aliases::Aliases;
use crate::actors::deployment::route::{EndpointSpec, RouteSpec};
use crate::domain::alias::Alias;
use crate::domain::route::{Access, Endpoint, Route, RouteTable};

mod aliases;

/// The router's state.
#[derive(Default)]
pub struct Machine {
    specs: BTreeMap<DeploymentId, RouteSpec>,
    /// The last table; the routes of `changed` deployments are made anew for the next.
    table: RouteTable,
    changed: BTreeSet<DeploymentId>,
    aliases: Aliases,
    endpoints: usize,
}

/// A table, and what is different in it.
pub struct Publication {
    /// All routes.
    pub table: RouteTable,
    /// Those that are new or not what they were.
    pub changed: Vec<Arc<Route>>,
}

impl Machine {
    /// The router as it starts: with the routes of the stored deployments and the stored aliases, and the endpoints of
    /// the table that is published at the moment. All routes count as changed.
    #[must_use]
    pub fn load(specs: Vec<RouteSpec>, published: &RouteTable) -> Self {
        let specs: BTreeMap<_, _> = specs.into_iter().map(|spec| (spec.deployment_id, spec)).collect();
        let before = published.iter().map(|route| route.deployment_id);
        let changed = specs.keys().copied().chain(before).collect();
        let endpoints = published.iter().map(|route| route.endpoints.len()).sum();
        Self { specs, table: published.clone(), changed, aliases: Aliases::of(published), endpoints }
    }

    /// A deployment's route is this now. Answers whether that changes anything.
    pub fn publish(&mut self, spec: RouteSpec) -> bool {
        let id = spec.deployment_id;
        let changes = self.specs.get(&id) != Some(&spec);
        if changes {
            self.specs.insert(id, spec);
            self.changed.insert(id);
        }
        changes
    }

    /// A deployment has no route any more. Answers its name, if it had one.
    pub fn withdraw(&mut self, id: DeploymentId) -> Option<String> {
        let spec = self.specs.remove(&id)?;
        self.changed.insert(id);
        Some(spec.name)
    }

    /// These are all aliases now. Answers whether that changes anything.
    pub fn set_aliases(&mut self, all: Vec<Arc<Alias>>) -> bool {
        self.aliases.set(all)
    }

    /// The table of everything that was published, and what has changed since the one before. The cost grows with what
    /// has changed, not with what there is.
    pub fn publication(&mut self) -> Publication {
        let mut changed = Vec::with_capacity(self.changed.len());
        for id in std::mem::take(&mut self.changed) {
            let old = self.table.by_id(id).cloned();
            self.endpoints -= old.as_ref().map_or(0, |old| old.endpoints.len());
            self.aliases.touch(old.as_ref().map(|old| old.name.as_str()));
            let Some(spec) = self.specs.get(&id) else {
                self.table.remove(id);
                continue;
            };
            let new = Arc::new(route(spec, old.as_deref()));
            self.endpoints += new.endpoints.len();
            self.aliases.touch(Some(&new.name));
            self.table.put(Arc::clone(&new));
            changed.push(new);
        }
        if let Some(routes) = self.aliases.routes(|name| Some(self.table.named(name)?.deployment_id)) {
            self.table = std::mem::take(&mut self.table).with_aliases(routes);
        }
        Publication { table: self.table.clone(), changed }
    }

    /// How many routes there are, and how many endpoints the last table had.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.specs.len(), self.endpoints)
    }

    /// How many aliases there are.
    #[must_use]
    pub fn alias_count(&self) -> usize {
        self.aliases.len()
    }
}

/// The route of a deployment; endpoints that its old one has too are the same.
fn route(spec: &RouteSpec, old: Option<&Route>) -> Route {
    let known = old.map(|old| old.endpoints.as_slice()).unwrap_or_default();
    let endpoint = |wanted: &EndpointSpec| {
        let same = known.iter().find(|endpoint| is_same(endpoint, wanted)).cloned();
        same.unwrap_or_else(|| Arc::new(new_endpoint(wanted)))
    };
    Route {
        deployment_id: spec.deployment_id,
        name: spec.name.clone(),
        served_name: spec.served_name.clone(),
        runtime: spec.runtime,
        access: if spec.public { Access::Public } else { Access::Token(spec.tokens.clone()) },
        gateway_token: spec.gateway_token.clone(),
        created_at: spec.created_at,
        balance: spec.balance,
        coming: spec.coming,
        wakes: spec.wakes,
        demand: old.map(|old| Arc::clone(&old.demand)).unwrap_or_default(),
        endpoints: spec.endpoints.iter().map(endpoint).collect(),
    }
}

fn is_same(endpoint: &Endpoint, spec: &EndpointSpec) -> bool {
    (endpoint.replica_id, endpoint.generation, &endpoint.address)
        == (spec.replica_id, spec.generation, &spec.address)
}

fn new_endpoint(spec: &EndpointSpec) -> Endpoint {
    Endpoint::new(spec.replica_id, spec.generation, spec.node_id.clone(), spec.address.clone())
}

#[cfg(test)]
mod alias_tests;
#[cfg(test)]
mod props;
#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod tests {
    use nebula_core::clock::WallTime;
    use nebula_core::runtime::RuntimeKind;
    use nebula_core::token::{Secret, TokenHash};

    use super::*;
    use crate::domain::route::Pick;
    use nebula_core::ids::{Generation, ReplicaId};

    const PICK: Pick = Pick { random: 0, affinity: None };

    fn spec(name: &str, replicas: &[ReplicaId], generation: u64) -> RouteSpec {
        RouteSpec {
            deployment_id: DeploymentId::from_bytes([name.len() as u8; 16]),
            name: name.to_owned(),
            served_name: name.to_owned(),
            runtime: RuntimeKind::Sim,
            public: false,
            tokens: vec![TokenHash::of("nbtok_x")],
            gateway_token: Secret::from_text("nbgw_x"),
            created_at: WallTime(1),
            balance: Default::default(),
            coming: false,
            wakes: false,
            endpoints: replicas
                .iter()
                .map(|id| EndpointSpec {
                    replica_id: *id,
                    generation: Generation(generation),
                    node_id: "n".parse().expect("an id"),
                    address: "127.0.0.1:8888".parse().expect("an address"),
                })
                .collect(),
        }
    }

    #[test]
    fn endpoints_survive_publications_and_a_restart_of_the_router() {
        let replica = ReplicaId::random();
        let mut machine = Machine::load(vec![spec("a", &[replica], 1)], &RouteTable::default());
        let first = machine.publication().table;
        let held = first.get("a").expect("a route").take(&[], PICK).expect("an endpoint");
        assert!(machine.publish(spec("bb", &[], 1)));
        let second = machine.publication().table;
        assert_eq!(second.get("a").expect("a route").endpoints[0].inflight(), 1);
        let mut restarted = Machine::load(vec![spec("a", &[replica], 1)], &second);
        assert_eq!(restarted.publication().table.get("a").expect("a route").endpoints[0].inflight(), 1);
        drop(held);
    }

    #[test]
    fn another_generation_is_another_endpoint() {
        let replica = ReplicaId::random();
        let mut machine = Machine::load(vec![spec("a", &[replica], 1)], &RouteTable::default());
        let old = machine.publication().table;
        machine.publish(spec("a", &[replica], 2));
        let new = machine.publication().table;
        let endpoint = |table: &RouteTable| table.get("a").expect("a route").endpoints[0].clone();
        assert!(!Arc::ptr_eq(&endpoint(&old), &endpoint(&new)));
    }

    #[test]
    fn the_same_route_again_changes_nothing() {
        let mut machine = Machine::load(Vec::new(), &RouteTable::default());
        assert!(machine.publish(spec("a", &[], 1)));
        assert!(!machine.publish(spec("a", &[], 1)));
        assert_eq!(machine.withdraw(DeploymentId::from_bytes([1; 16])).as_deref(), Some("a"));
        assert_eq!(machine.withdraw(DeploymentId::from_bytes([1; 16])), None);
        assert!(machine.publication().table.get("a").is_none());
    }
}
