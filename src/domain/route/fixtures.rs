//! Routes for the tests of this part.

use std::sync::Arc;

use nebula_core::clock::WallTime;
use nebula_core::ids::{DeploymentId, Generation, ReplicaId};
use nebula_core::runtime::RuntimeKind;
use nebula_core::token::Secret;

use super::{Access, Balance, Endpoint, Route};

pub(super) fn endpoint(replica_id: ReplicaId, port: u16) -> Arc<Endpoint> {
    let address = format!("127.0.0.1:{port}").parse().expect("an address");
    let node = "n1".parse().expect("a node id");
    Arc::new(Endpoint::new(replica_id, Generation::FIRST, node, address))
}

pub(super) fn route(name: &str, access: Access, endpoints: Vec<Arc<Endpoint>>) -> Route {
    Route {
        deployment_id: DeploymentId::random(),
        name: name.to_owned(),
        served_name: name.to_owned(),
        runtime: RuntimeKind::Sim,
        access,
        gateway_token: Secret::from_text("nbgw_x"),
        created_at: WallTime(1),
        balance: Balance::default(),
        coming: false,
        wakes: false,
        demand: Arc::default(),
        endpoints,
    }
}

/// A route over replicas with these numbers, which are their ports too.
pub(super) fn balanced(balance: Balance, numbers: impl IntoIterator<Item = u16>) -> Route {
    let endpoints = numbers.into_iter().map(|number| {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&number.to_be_bytes());
        endpoint(ReplicaId::from_bytes(id), number.max(1))
    });
    Route { balance, ..route("m", Access::Public, endpoints.collect()) }
}
