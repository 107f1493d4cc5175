//! Any publications and withdrawals in any order, and a router that falls at any point: the table is always what was
//! published last, and nothing in flight is forgotten.

use std::collections::BTreeMap;

use nebula_core::clock::WallTime;
use nebula_core::ids::{Generation, ReplicaId};
use nebula_core::runtime::RuntimeKind;
use nebula_core::token::{Secret, TokenHash};
use proptest::prelude::*;

use super::*;
use crate::domain::route::{InflightGuard, Pick};

#[derive(Clone, Debug)]
enum Act {
    /// A deployment publishes so many replicas of this generation.
    Publish(u8, u8, u64),
    Withdraw(u8),
    /// A request goes to some replica of a deployment and stays.
    Request(u8, u32),
    /// The oldest request ends.
    Ends,
    /// The router is built again from the records, which say what was published last.
    Fall,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0_u8..4, 0_u8..4, 1_u64..4).prop_map(|(d, replicas, g)| Act::Publish(d, replicas, g)),
        1 => (0_u8..4).prop_map(Act::Withdraw),
        3 => (0_u8..4, any::<u32>()).prop_map(|(d, random)| Act::Request(d, random)),
        1 => Just(Act::Ends),
        1 => Just(Act::Fall),
    ]
}

fn spec(d: u8, replicas: u8, generation: u64) -> RouteSpec {
    let endpoint = |at: u8| EndpointSpec {
        replica_id: ReplicaId::from_bytes([d * 16 + at; 16]),
        generation: Generation(generation),
        node_id: "n".parse().expect("an id"),
        address: "127.0.0.1:8888".parse().expect("an address"),
    };
    RouteSpec {
        deployment_id: DeploymentId::from_bytes([d; 16]),
        name: format!("d{d}"),
        served_name: format!("d{d}"),
        runtime: RuntimeKind::Sim,
        public: false,
        tokens: vec![TokenHash::of(&format!("nbtok_{d}"))],
        gateway_token: Secret::from_text("nbgw_x"),
        created_at: WallTime(1),
        balance: Default::default(),
        coming: false,
        wakes: false,
        endpoints: (0..replicas).map(endpoint).collect(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_table_is_what_was_published_last(acts in proptest::collection::vec(act(), 1..60)) {
        let mut machine = Machine::load(Vec::new(), &RouteTable::default());
        let mut published: BTreeMap<u8, RouteSpec> = BTreeMap::new();
        let mut inflight: Vec<InflightGuard> = Vec::new();
        let mut table = machine.publication().table;
        for act in acts {
            match act {
                Act::Publish(d, replicas, generation) => {
                    let spec = spec(d, replicas, generation);
                    let changes = machine.publish(spec.clone());
                    prop_assert_eq!(changes, published.insert(d, spec.clone()).as_ref() != Some(&spec));
                }
                Act::Withdraw(d) => {
                    let known = published.remove(&d).is_some();
                    prop_assert_eq!(machine.withdraw(DeploymentId::from_bytes([d; 16])).is_some(), known);
                }
                Act::Request(d, random) => {
                    let route = table.by_id(DeploymentId::from_bytes([d; 16]));
                    inflight.extend(route.and_then(|route| route.take(&[], Pick { random, affinity: None })));
                }
                Act::Ends => drop((!inflight.is_empty()).then(|| inflight.remove(0))),
                Act::Fall => machine = Machine::load(published.values().cloned().collect(), &table),
            }
            table = machine.publication().table;
            prop_assert_eq!(table.iter().count(), published.len());
            for (d, spec) in &published {
                let route = table.by_id(DeploymentId::from_bytes([*d; 16])).expect("a route");
                let there: Vec<_> = route.endpoints.iter().map(|e| (e.replica_id, e.generation)).collect();
                let wanted: Vec<_> = spec.endpoints.iter().map(|e| (e.replica_id, e.generation)).collect();
                prop_assert_eq!(there, wanted);
                for endpoint in &route.endpoints {
                    let same = |guard: &&InflightGuard| std::ptr::eq(guard.endpoint(), &**endpoint);
                    prop_assert_eq!(endpoint.inflight() as usize, inflight.iter().filter(same).count());
                }
            }
        }
    }
}
