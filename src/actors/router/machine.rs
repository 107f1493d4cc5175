//! What the gateway routes by: the table made of what deployments publish, with the endpoints of the table
//! before, so that requests in flight and shut gates are not forgotten by a publication.

use std::collections::BTreeMap;
use std::sync::Arc;

use nebula_core::address::HostPort;
use nebula_core::ids::{DeploymentId, Generation, ReplicaId};

use crate::actors::deployment::route::{EndpointSpec, RouteSpec};
use crate::domain::route::{Access, Endpoint, Route, RouteTable};

type EndpointKey = (ReplicaId, Generation, HostPort);

/// The router's state.
pub struct Machine {
    specs: BTreeMap<DeploymentId, RouteSpec>,
    endpoints: BTreeMap<EndpointKey, Arc<Endpoint>>,
}

impl Machine {
    /// The router as it starts: with the routes of the stored deployments, and the endpoints of the table that
    /// is published at the moment.
    #[must_use]
    pub fn load(specs: Vec<RouteSpec>, published: &RouteTable) -> Self {
        let endpoints = published
            .iter()
            .flat_map(|route| route.endpoints.iter().map(|endpoint| (key_of(endpoint), endpoint.clone())))
            .collect();
        Self { specs: specs.into_iter().map(|spec| (spec.deployment_id, spec)).collect(), endpoints }
    }

    /// A deployment's route is this now. Answers whether that changes anything.
    pub fn publish(&mut self, spec: RouteSpec) -> bool {
        let id = spec.deployment_id;
        self.specs.insert(id, spec.clone()).as_ref() != Some(&spec)
    }

    /// A deployment has no route any more.
    pub fn withdraw(&mut self, id: DeploymentId) -> bool {
        self.specs.remove(&id).is_some()
    }

    /// The table of everything that was published.
    pub fn table(&mut self) -> RouteTable {
        let mut endpoints = BTreeMap::new();
        let routes = self.specs.values().map(|spec| {
            let of_route = spec.endpoints.iter().map(|wanted| {
                let key = (wanted.replica_id, wanted.generation, wanted.address.clone());
                let endpoint =
                    self.endpoints.get(&key).cloned().unwrap_or_else(|| Arc::new(new_endpoint(wanted)));
                endpoints.insert(key, endpoint.clone());
                endpoint
            });
            route(spec, of_route.collect())
        });
        let table = RouteTable::new(routes.collect());
        self.endpoints = endpoints;
        table
    }

    /// How many routes there are, and how many endpoints.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.specs.len(), self.endpoints.len())
    }
}

fn key_of(endpoint: &Endpoint) -> EndpointKey {
    (endpoint.replica_id, endpoint.generation, endpoint.address.clone())
}

fn new_endpoint(spec: &EndpointSpec) -> Endpoint {
    Endpoint::new(spec.replica_id, spec.generation, spec.node_id.clone(), spec.address.clone())
}

fn route(spec: &RouteSpec, endpoints: Vec<Arc<Endpoint>>) -> Route {
    Route {
        deployment_id: spec.deployment_id,
        name: spec.name.clone(),
        served_name: spec.name.clone(),
        runtime: spec.runtime,
        access: if spec.public { Access::Public } else { Access::Token(vec![spec.token]) },
        gateway_token: spec.gateway_token.clone(),
        created_at: spec.created_at,
        endpoints,
    }
}

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

    fn spec(name: &str, replicas: &[ReplicaId], generation: u64) -> RouteSpec {
        RouteSpec {
            deployment_id: DeploymentId::from_bytes([name.len() as u8; 16]),
            name: name.to_owned(),
            runtime: RuntimeKind::Sim,
            public: false,
            token: TokenHash::of("nbtok_x"),
            gateway_token: Secret::from_text("nbgw_x"),
            created_at: WallTime(1),
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
        let first = machine.table();
        let held = first.get("a").expect("a route").take(&[], 0).expect("an endpoint");
        assert!(machine.publish(spec("bb", &[], 1)));
        let second = machine.table();
        assert_eq!(second.get("a").expect("a route").endpoints[0].inflight(), 1);
        let mut restarted = Machine::load(vec![spec("a", &[replica], 1)], &second);
        assert_eq!(restarted.table().get("a").expect("a route").endpoints[0].inflight(), 1);
        drop(held);
    }

    #[test]
    fn another_generation_is_another_endpoint() {
        let replica = ReplicaId::random();
        let mut machine = Machine::load(vec![spec("a", &[replica], 1)], &RouteTable::default());
        let old = machine.table();
        machine.publish(spec("a", &[replica], 2));
        let new = machine.table();
        let endpoint = |table: &RouteTable| table.get("a").expect("a route").endpoints[0].clone();
        assert!(!Arc::ptr_eq(&endpoint(&old), &endpoint(&new)));
    }

    #[test]
    fn the_same_route_again_changes_nothing() {
        let mut machine = Machine::load(Vec::new(), &RouteTable::default());
        assert!(machine.publish(spec("a", &[], 1)));
        assert!(!machine.publish(spec("a", &[], 1)));
        assert!(machine.withdraw(DeploymentId::from_bytes([1; 16])));
        assert!(!machine.withdraw(DeploymentId::from_bytes([1; 16])));
        assert!(machine.table().get("a").is_none());
    }
}
