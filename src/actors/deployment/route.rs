//! What a deployment lets the gateway route to it.

use nebula_core::address::HostPort;
use nebula_core::clock::WallTime;
use nebula_core::ids::{DeploymentId, Generation, NodeId, ReplicaId};
use nebula_core::runtime::RuntimeKind;
use nebula_core::token::{Secret, TokenHash};

use crate::domain::deployment::{Deployment, Desired, Phase, Replica};
use crate::domain::route::Balance;

/// A deployment as the router needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSpec {
    /// The deployment.
    pub deployment_id: DeploymentId,
    /// The public model name.
    pub name: String,
    /// The name under which the runtime serves the model.
    pub served_name: String,
    /// The engine.
    pub runtime: RuntimeKind,
    /// Callers need no credential.
    pub public: bool,
    /// What the deployment tokens that are valid hash to.
    pub tokens: Vec<TokenHash>,
    /// What the gateway shows to the agents' proxies.
    pub gateway_token: Secret,
    /// When the deployment was created.
    pub created_at: WallTime,
    /// Which of the replicas gets a request.
    pub balance: Balance,
    /// None of them answers yet, and one is on its way.
    pub coming: bool,
    /// None of them answers, and a request starts one, or one that was started so is on its way.
    pub wakes: bool,
    /// The replicas that answer.
    pub endpoints: Vec<EndpointSpec>,
}

/// A replica that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSpec {
    /// The replica.
    pub replica_id: ReplicaId,
    /// Which version of it runs there.
    pub generation: Generation,
    /// Its node.
    pub node_id: NodeId,
    /// The auth proxy of its node's agent.
    pub address: HostPort,
}

impl RouteSpec {
    /// The route of a deployment as it is now. A deployment that is not to run has no endpoints.
    #[must_use]
    pub fn of(dep: &Deployment) -> Self {
        let staying = || dep.replicas.iter().filter(|replica| !replica.leaving);
        let serving = staying().filter(|r| dep.desired == Desired::Running && r.phase == Phase::Running);
        let endpoints: Vec<EndpointSpec> = serving.filter_map(endpoint).collect();
        let wanted = dep.desired == Desired::Running && dep.spec.replicas > 0;
        let hopeful = staying().next().is_none() || staying().any(|replica| replica.phase != Phase::Failed);
        let sleeps = dep.spec.autoscale.is_some_and(|scale| scale.min == 0);
        let wakes = dep.desired == Desired::Running && sleeps && hopeful && endpoints.is_empty();
        Self {
            deployment_id: dep.id,
            name: dep.name.clone(),
            served_name: dep.served_name().to_owned(),
            runtime: dep.spec.runtime,
            public: dep.spec.public,
            tokens: dep.tokens(),
            gateway_token: dep.gateway_token.clone(),
            created_at: dep.created_at,
            balance: dep.spec.routing,
            coming: wanted && hopeful && endpoints.is_empty(),
            wakes,
            endpoints,
        }
    }
}

fn endpoint(replica: &Replica) -> Option<EndpointSpec> {
    let place = replica.placement.as_ref()?;
    Some(EndpointSpec {
        replica_id: replica.id,
        generation: replica.generation,
        node_id: place.node_id.clone(),
        address: place.proxy.clone(),
    })
}
