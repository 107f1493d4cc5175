//! The table that the gateway gets: what stands in it, and what is counted.

use nebula_core::clock::WallTime;
use nebula_core::ids::{Generation, ReplicaId};
use nebula_core::runtime::RuntimeKind;
use nebula_core::token::{Secret, TokenHash};

use super::*;
use crate::domain::route::GateState;

fn id(n: u8) -> DeploymentId {
    DeploymentId::from_bytes([n; 16])
}

fn endpoint(n: u8, generation: u64, address: &str) -> EndpointSpec {
    EndpointSpec {
        replica_id: ReplicaId::from_bytes([n; 16]),
        generation: Generation(generation),
        node_id: "node-1".parse().expect("an id"),
        address: address.parse().expect("an address"),
    }
}

fn spec(n: u8, name: &str, endpoints: Vec<EndpointSpec>) -> RouteSpec {
    RouteSpec {
        deployment_id: id(n),
        name: name.to_owned(),
        served_name: name.to_owned(),
        runtime: RuntimeKind::Sim,
        public: false,
        tokens: vec![TokenHash::of("nbtok_x")],
        gateway_token: Secret::from_text("nbgw_x"),
        created_at: WallTime(u64::from(n)),
        balance: Default::default(),
        coming: false,
        wakes: false,
        endpoints,
    }
}

fn empty() -> Machine {
    Machine::load(Vec::new(), &RouteTable::default())
}

#[test]
fn a_route_carries_what_was_published() {
    let mut machine = empty();
    machine.publish(spec(1, "a", vec![endpoint(7, 3, "10.0.0.1:8888")]));
    let table = machine.publication().table;
    let route = table.get("a").expect("a route");
    assert_eq!((route.deployment_id, route.name.as_str(), route.served_name.as_str()), (id(1), "a", "a"));
    assert_eq!((route.runtime, route.created_at), (RuntimeKind::Sim, WallTime(1)));
    assert_eq!(route.access, Access::Token(vec![TokenHash::of("nbtok_x")]));
    assert_eq!(route.gateway_token.expose(), "nbgw_x");
    let [there] = route.endpoints.as_slice() else { panic!("one endpoint") };
    assert_eq!((there.replica_id, there.generation), (ReplicaId::from_bytes([7; 16]), Generation(3)));
    assert_eq!((there.node_id.as_str(), there.address.to_string()), ("node-1", "10.0.0.1:8888".to_owned()));
}

#[test]
fn a_public_route_asks_for_no_token() {
    let mut machine = empty();
    machine.publish(RouteSpec { public: true, ..spec(1, "a", Vec::new()) });
    assert_eq!(machine.publication().table.get("a").expect("a route").access, Access::Public);
}

#[test]
fn publications_and_withdrawals_say_whether_anything_changed() {
    let one = || spec(1, "a", vec![endpoint(1, 1, "10.0.0.1:8888")]);
    let mut machine = Machine::load(vec![one()], &RouteTable::default());
    assert!(!machine.publish(one()), "it is known");
    assert!(machine.publish(spec(1, "a", Vec::new())));
    assert!(machine.publish(spec(2, "b", Vec::new())));
    assert_eq!(machine.withdraw(id(3)), None, "there is none");
    assert_eq!(machine.withdraw(id(1)).as_deref(), Some("a"));
    assert_eq!(machine.withdraw(id(1)), None, "there is none any more");
    let names: Vec<String> = machine.publication().table.iter().map(|route| route.name.clone()).collect();
    assert_eq!(names, ["b"], "and the others stay");
}

#[test]
fn routes_and_their_endpoints_are_counted() {
    let mut machine = empty();
    assert_eq!(machine.counts(), (0, 0));
    machine.publish(spec(1, "a", Vec::new()));
    machine.publication();
    assert_eq!(machine.counts(), (1, 0));
    let two = vec![endpoint(1, 1, "10.0.0.1:8888"), endpoint(2, 1, "10.0.0.2:8888")];
    machine.publish(spec(2, "b", two));
    machine.publication();
    assert_eq!(machine.counts(), (2, 2));
    machine.withdraw(id(2));
    machine.publication();
    assert_eq!(machine.counts(), (1, 0), "endpoints of routes that are gone are forgotten");
}

#[test]
fn an_endpoint_is_the_same_while_replica_generation_and_address_are() {
    for (what, after, same) in [
        ("nothing changes", endpoint(1, 1, "10.0.0.1:8888"), true),
        ("another replica", endpoint(2, 1, "10.0.0.1:8888"), false),
        ("another generation", endpoint(1, 2, "10.0.0.1:8888"), false),
        ("another address", endpoint(1, 1, "10.0.0.1:9999"), false),
    ] {
        let mut machine = empty();
        machine.publish(spec(1, "a", vec![endpoint(1, 1, "10.0.0.1:8888")]));
        machine.publication().table.get("a").expect("a route").endpoints[0].gate.set(GateState::Shut);
        machine.publish(spec(1, "a", vec![after.clone()]));
        let published = machine.publication().table;
        let kept = |table: &RouteTable| table.get("a").expect("a route").endpoints[0].gate.state();
        let expected = if same { GateState::Shut } else { GateState::Open };
        assert_eq!(kept(&published), expected, "{what}");
        let mut restarted = Machine::load(vec![spec(1, "a", vec![after])], &published);
        assert_eq!(
            kept(&restarted.publication().table),
            expected,
            "{what}, and after a restart of the router"
        );
    }
}
