//! What the gateway is told, and when.

use nebula_core::runtime::RuntimeKind;
use nebula_core::source::ModelSource;

use super::fixtures::*;
use super::*;
use crate::actors::deployment::route::EndpointSpec;
use crate::domain::report::ReportedStatus;
use crate::domain::route::Balance;

fn published(effects: &[Effect]) -> Option<&RouteSpec> {
    effects.iter().find_map(|effect| match effect {
        Effect::Publish(spec) => Some(&**spec),
        _ => None,
    })
}

fn endpoint(index: u8, node: &str) -> EndpointSpec {
    EndpointSpec {
        replica_id: replica_id(index),
        generation: Generation(1),
        node_id: node_id(node),
        address: format!("{node}:8888").parse().expect("an address"),
    }
}

#[test]
fn a_route_says_all_that_the_gateway_needs() {
    let mut dep = Deployment { generation: Generation(4), ..deployment(vec![running(0, "a")]) };
    dep.spec.routing = Balance::RoundRobin;
    let expected = RouteSpec {
        deployment_id: deployment_id(),
        name: "demo".to_owned(),
        served_name: "demo".to_owned(),
        runtime: RuntimeKind::Sim,
        public: false,
        tokens: vec![dep.token],
        gateway_token: dep.gateway_token.clone(),
        created_at: WallTime(1),
        balance: Balance::RoundRobin,
        coming: false,
        wakes: false,
        endpoints: vec![endpoint(0, "a")],
    };
    assert_eq!(RouteSpec::of(&dep), expected);
    dep.spec.runtime = RuntimeKind::Ollama;
    dep.spec.source = Some(ModelSource::Ollama { tag: "llama3.2:1b".to_owned() });
    assert_eq!(RouteSpec::of(&dep).served_name, "llama3.2:1b", "Ollama's models keep their names");
}

#[test]
fn only_replicas_that_run_and_stay_and_are_to_run_get_requests() {
    for phase in Phase::ALL {
        for leaving in [false, true] {
            for desired in [Desired::Running, Desired::Stopped, Desired::Deleted] {
                let replica = Replica { phase, leaving, ..running(0, "a") };
                let dep = Deployment { desired, ..deployment(vec![replica]) };
                let serves = phase == Phase::Running && !leaving && desired == Desired::Running;
                let expected = if serves { vec![endpoint(0, "a")] } else { Vec::new() };
                assert_eq!(RouteSpec::of(&dep).endpoints, expected, "{phase:?} {leaving} {desired:?}");
            }
        }
    }
}

#[test]
fn a_replica_is_on_its_way_until_one_serves_or_all_have_failed() {
    use Phase::{Failed, Pending, Preparing, Running, Starting, Stopping, Unreachable};
    let coming = |dep: Deployment| RouteSpec::of(&dep).coming;
    let of = |phases: &[Phase]| {
        let replicas = phases.iter().map(|phase| Replica { phase: *phase, ..running(0, "a") });
        deployment(replicas.collect())
    };
    for (phases, expected) in [
        (&[Pending][..], true),
        (&[Preparing], true),
        (&[Starting], true),
        (&[Unreachable], true),
        (&[Stopping], true),
        (&[Failed], false),
        (&[Failed, Starting], true),
        (&[Running], false),
        (&[Running, Starting], false),
    ] {
        assert_eq!(coming(of(phases)), expected, "{phases:?}");
        for desired in [Desired::Stopped, Desired::Deleted] {
            assert!(!coming(Deployment { desired, ..of(phases) }), "{phases:?} {desired:?}");
        }
    }
    let mut none = deployment(Vec::new());
    assert!(!coming(none.clone()), "none is wanted");
    none.spec.replicas = 1;
    assert!(coming(none.clone()), "none is there yet");
    none.replicas = vec![Replica { leaving: true, phase: Stopping, ..running(0, "a") }];
    assert!(coming(none), "its place is being taken");
}

#[test]
fn the_gateway_hears_at_once_and_then_only_what_is_new() {
    let mut machine = Machine::load(deployment(vec![running(0, "a"), running(1, "b")]));
    assert_eq!(machine.published(), None);
    let effects = machine.step(Event::Started, NOW);
    let first = published(&effects).expect("published").clone();
    assert_eq!(first.endpoints, [endpoint(0, "a"), endpoint(1, "b")]);
    assert_eq!(machine.published(), Some(&first));
    let same = facts("a", 1, vec![reported(0, 1, ReportedStatus::Running)]);
    assert_eq!(machine.step(Event::Node(same), NOW), []);
    let failed = facts("a", 2, vec![reported(0, 1, ReportedStatus::Failed)]);
    let effects = machine.step(Event::Node(failed), NOW);
    assert_eq!(published(&effects).map(|spec| spec.endpoints.clone()), Some(vec![endpoint(1, "b")]));
}

#[test]
fn the_gateway_follows_a_proxy_that_moves() {
    let mut machine = started(deployment(vec![running(0, "a"), running(1, "b")]));
    let moved = NodeFacts {
        proxy: "10.0.0.9:9999".parse().expect("an address"),
        ..facts("a", 1, vec![reported(0, 1, ReportedStatus::Running)])
    };
    let effects = machine.step(Event::Node(moved), NOW);
    let addresses: Vec<String> = published(&effects)
        .expect("published")
        .endpoints
        .iter()
        .map(|endpoint| endpoint.address.to_string())
        .collect();
    assert_eq!(addresses, ["10.0.0.9:9999", "b:8888"]);
}

#[test]
fn a_deployment_that_ends_is_withdrawn_and_not_published_again() {
    let mut machine = started(deployment(Vec::new()));
    let effects = intend(&mut machine, Intent::Delete);
    assert_eq!(published(&effects), None);
    assert!(effects.contains(&Effect::Withdraw));
}
