//! Routes: which replicas answer for a public model name, and who may ask. The router publishes an immutable
//! [`RouteTable`]; the gateway reads it without asking anybody.
//!
//! Endpoints are shared between successive tables, so that what is in flight and what a gate says survive a
//! publication.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use nebula_core::address::HostPort;
use nebula_core::clock::WallTime;
use nebula_core::ids::{DeploymentId, Generation, NodeId, ReplicaId};
use nebula_core::runtime::RuntimeKind;
use nebula_core::token::{Secret, TokenHash};

/// All routes at one moment.
#[derive(Debug, Default)]
pub struct RouteTable {
    routes: Vec<Arc<Route>>,
    by_model: HashMap<String, Arc<Route>>,
    by_token: HashMap<TokenHash, DeploymentId>,
}

/// A deployment as the gateway sees it.
#[derive(Debug)]
pub struct Route {
    /// The deployment; its id is a model name too.
    pub deployment_id: DeploymentId,
    /// The public model name.
    pub name: String,
    /// The name under which the runtime serves the model.
    pub served_name: String,
    /// What is spoken upstream.
    pub runtime: RuntimeKind,
    /// Who may call.
    pub access: Access,
    /// What the agents' proxies want to see.
    pub gateway_token: Secret,
    /// When the deployment was created.
    pub created_at: WallTime,
    /// The replicas that may be asked; none while nothing of the deployment can serve.
    pub endpoints: Vec<Arc<Endpoint>>,
}

/// Who may call a route, besides the administrator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anybody.
    Public,
    /// Who shows one of these tokens; an empty list lets nobody in.
    Token(Vec<TokenHash>),
}

/// Where one replica answers.
#[derive(Debug)]
pub struct Endpoint {
    /// The replica.
    pub replica_id: ReplicaId,
    /// Of the replica when the endpoint was made; another generation is another endpoint.
    pub generation: Generation,
    /// The replica's node.
    pub node_id: NodeId,
    /// The agent's auth proxy.
    pub address: HostPort,
    /// Set by the route's actor.
    pub gate: Gate,
    inflight: AtomicU32,
}

/// What the route's actor thinks of an endpoint, readable from every thread.
#[derive(Debug)]
pub struct Gate(AtomicU8);

/// How far a gate is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateState {
    /// Requests pass.
    Open,
    /// The replica is saturated or on trial: asked when it has nothing to do or nobody else is open.
    Limited,
    /// It fails: asked only when no gate at all is open.
    Shut,
}

/// A request's place in an endpoint's count: taken before it is sent, given back when dropped.
#[derive(Debug)]
pub struct InflightGuard(Arc<Endpoint>);

impl RouteTable {
    /// A table of these routes. When two share a name, the first by name and age wins.
    #[must_use]
    pub fn new(routes: Vec<Route>) -> Self {
        let mut routes: Vec<Arc<Route>> = routes.into_iter().map(Arc::new).collect();
        routes.sort_by(|a, b| (&a.name, a.created_at).cmp(&(&b.name, b.created_at)));
        let mut by_model = HashMap::with_capacity(routes.len() * 2);
        let mut by_token = HashMap::with_capacity(routes.len());
        for route in &routes {
            by_model.entry(route.name.clone()).or_insert_with(|| Arc::clone(route));
            by_model.insert(route.deployment_id.to_string(), Arc::clone(route));
            if let Access::Token(hashes) = &route.access {
                by_token.extend(hashes.iter().map(|hash| (*hash, route.deployment_id)));
            }
        }
        Self { routes, by_model, by_token }
    }

    /// The route for a model's name or a deployment's id.
    #[must_use]
    pub fn get(&self, model: &str) -> Option<&Arc<Route>> {
        self.by_model.get(model)
    }

    /// The route of a deployment.
    #[must_use]
    pub fn by_id(&self, id: DeploymentId) -> Option<&Arc<Route>> {
        self.get(&id.to_string())
    }

    /// All routes, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.iter()
    }

    /// The deployment to which a token belongs. The cost does not depend on how many there are, and as the key is a
    /// hash, the time it takes says nothing about any token.
    #[must_use]
    pub fn holder(&self, token: &TokenHash) -> Option<DeploymentId> {
        let (hash, deployment) = self.by_token.get_key_value(token)?;
        hash.same(token).then_some(*deployment)
    }
}

impl Access {
    /// Whether a token with this hash opens it.
    #[must_use]
    pub fn admits(&self, token: &TokenHash) -> bool {
        match self {
            Self::Public => true,
            // Every hash is compared, so that the time does not tell which one fits.
            Self::Token(hashes) => hashes.iter().fold(false, |found, hash| hash.same(token) | found),
        }
    }
}

impl Route {
    /// Takes a place at the endpoint that should get the next request: one that is open, else one whose gate is
    /// limited, else, rather than refusing, one whose gate is shut. Among those the one with the fewest requests in
    /// flight, among equals one that `random` decides. `tried` are not taken again.
    #[must_use]
    pub fn take(&self, tried: &[ReplicaId], random: u32) -> Option<InflightGuard> {
        let count = self.endpoints.len();
        let start = usize::try_from(random).unwrap_or(0) % count.max(1);
        self.endpoints
            .iter()
            .cycle()
            .skip(start)
            .take(count)
            .filter(|endpoint| !tried.contains(&endpoint.replica_id))
            .min_by_key(|endpoint| endpoint.rank())
            .map(Endpoint::enter)
    }
}

impl Endpoint {
    /// An endpoint with nothing in flight and an open gate.
    #[must_use]
    pub fn new(replica_id: ReplicaId, generation: Generation, node_id: NodeId, address: HostPort) -> Self {
        Self { replica_id, generation, node_id, address, gate: Gate::default(), inflight: AtomicU32::new(0) }
    }

    /// How many requests are on their way to it or being answered.
    #[must_use]
    pub fn inflight(&self) -> u32 {
        self.inflight.load(Ordering::Relaxed)
    }

    /// Counts a request.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> InflightGuard {
        self.inflight.fetch_add(1, Ordering::Relaxed);
        InflightGuard(Arc::clone(self))
    }

    fn rank(&self) -> (u8, u32) {
        let inflight = self.inflight();
        let class = match self.gate.state() {
            GateState::Open => 0,
            GateState::Limited if inflight == 0 => 0,
            GateState::Limited => 1,
            GateState::Shut => 2,
        };
        (class, inflight)
    }
}

impl Gate {
    /// How far it is open.
    #[must_use]
    pub fn state(&self) -> GateState {
        match self.0.load(Ordering::Relaxed) {
            0 => GateState::Open,
            1 => GateState::Limited,
            _ => GateState::Shut,
        }
    }

    /// Sets it.
    pub fn set(&self, state: GateState) {
        let value = match state {
            GateState::Open => 0,
            GateState::Limited => 1,
            GateState::Shut => 2,
        };
        self.0.store(value, Ordering::Relaxed);
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self(AtomicU8::new(0))
    }
}

impl InflightGuard {
    /// Where the request goes.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.0
    }
}

impl Drop for InflightGuard {
    fn drop(&mut self) {
        self.0.inflight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(port: u16) -> Arc<Endpoint> {
        let address = format!("127.0.0.1:{port}").parse().expect("an address");
        let node = "n1".parse().expect("a node id");
        Arc::new(Endpoint::new(ReplicaId::random(), Generation::FIRST, node, address))
    }

    fn route(name: &str, access: Access, endpoints: Vec<Arc<Endpoint>>) -> Route {
        Route {
            deployment_id: DeploymentId::random(),
            name: name.to_owned(),
            served_name: name.to_owned(),
            runtime: RuntimeKind::Sim,
            access,
            gateway_token: Secret::from_text("nbgw_x"),
            created_at: WallTime(1),
            endpoints,
        }
    }

    fn port(guard: Option<&InflightGuard>) -> Option<u16> {
        guard.map(|guard| guard.endpoint().address.port())
    }

    #[test]
    fn a_route_is_found_by_name_and_by_id_and_its_token_by_hash() {
        let hash = TokenHash::of("nbtok_1");
        let one = route("org/one", Access::Token(vec![hash]), Vec::new());
        let id = one.deployment_id;
        let table = RouteTable::new(vec![route("two", Access::Public, Vec::new()), one]);
        assert_eq!(table.get("org/one").map(|route| route.deployment_id), Some(id));
        assert_eq!(table.get(&id.to_string()).map(|route| route.deployment_id), Some(id));
        assert!(table.get("three").is_none());
        assert_eq!(table.holder(&hash), Some(id));
        assert_eq!(table.holder(&TokenHash::of("nbtok_2")), None);
        assert_eq!(table.iter().map(|route| route.name.as_str()).collect::<Vec<_>>(), ["org/one", "two"]);
    }

    #[test]
    fn a_private_route_without_a_token_lets_nobody_in() {
        assert!(!Access::Token(Vec::new()).admits(&TokenHash::of("")));
        let access = Access::Token(vec![TokenHash::of("a"), TokenHash::of("b")]);
        assert!(access.admits(&TokenHash::of("a")) && access.admits(&TokenHash::of("b")));
        assert!(!access.admits(&TokenHash::of("c")));
        assert!(Access::Public.admits(&TokenHash::of("c")));
    }

    #[test]
    fn the_least_busy_open_endpoint_gets_the_next_request() {
        let route = route("m", Access::Public, vec![endpoint(1), endpoint(2), endpoint(3)]);
        let held: Vec<_> = (0..6).filter_map(|random| route.take(&[], random)).collect();
        assert!(route.endpoints.iter().all(|endpoint| endpoint.inflight() == 2), "spread evenly");
        drop(held);
        assert!(route.endpoints.iter().all(|endpoint| endpoint.inflight() == 0));
        let picked: Vec<_> = (0..3).map(|random| port(route.take(&[], random).as_ref())).collect();
        assert_eq!(picked, [Some(1), Some(2), Some(3)], "ties are broken by the random number");
    }

    #[test]
    fn gates_decide_before_load_and_when_all_are_shut_one_is_tried() {
        let route = route("m", Access::Public, vec![endpoint(1), endpoint(2)]);
        let [first, second] = route.endpoints.as_slice() else { panic!("two endpoints") };
        first.gate.set(GateState::Shut);
        let busy = route.take(&[], 0);
        assert_eq!(port(busy.as_ref()), Some(2));
        assert_eq!(port(route.take(&[], 0).as_ref()), Some(2), "busy and open beats idle and shut");
        second.gate.set(GateState::Limited);
        assert_eq!(port(route.take(&[], 0).as_ref()), Some(2));
        second.gate.set(GateState::Shut);
        assert_eq!(port(route.take(&[], 0).as_ref()), Some(1), "panic mode: the idle one of the shut");
        assert_eq!(first.gate.state(), GateState::Shut);
    }

    #[test]
    fn a_limited_endpoint_gets_one_request_at_a_time_while_others_are_open() {
        let route = route("m", Access::Public, vec![endpoint(1), endpoint(2)]);
        route.endpoints[0].gate.set(GateState::Limited);
        let open = [route.endpoints[1].enter(), route.endpoints[1].enter()];
        let trial = route.take(&[], 0);
        assert_eq!(port(trial.as_ref()), Some(1));
        assert_eq!(port(route.take(&[], 0).as_ref()), Some(2));
        drop(open);
    }

    #[test]
    fn no_replica_is_asked_twice() {
        let route = route("m", Access::Public, vec![endpoint(1), endpoint(2)]);
        let tried: Vec<_> = route.endpoints.iter().map(|endpoint| endpoint.replica_id).collect();
        assert_eq!(port(route.take(&tried[..1], 0).as_ref()), Some(2));
        assert!(route.take(&tried, 0).is_none());
    }
}
