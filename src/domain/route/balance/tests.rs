//! What each policy does, case by case.

use super::super::fixtures::balanced;
use super::*;

fn pick(random: u32) -> Pick {
    Pick { random, affinity: None }
}

fn like(affinity: u64) -> Pick {
    Pick { random: 0, affinity: Some(affinity) }
}

fn port(guard: Option<&InflightGuard>) -> Option<u16> {
    guard.map(|guard| guard.endpoint().address.port())
}

#[test]
fn the_least_busy_endpoint_gets_the_next_request() {
    let route = balanced(Balance::LeastOutstanding, 1..=3);
    let held: Vec<_> = (0..6).filter_map(|random| route.take(&[], pick(random))).collect();
    assert!(route.endpoints.iter().all(|endpoint| endpoint.inflight() == 2), "spread evenly");
    drop(held);
    assert!(route.endpoints.iter().all(|endpoint| endpoint.inflight() == 0));
}

#[test]
fn chance_decides_among_equals_and_only_among_them() {
    for balance in Balance::ALL {
        let route = balanced(balance, 1..=4);
        let busy = route.endpoints[1].enter();
        route.endpoints[1].set_turn(1);
        let mut times = [0; 5];
        for random in 0..3_000_u32 {
            let place = route.take(&[], pick(random.wrapping_mul(2_654_435_761)));
            times[usize::from(port(place.as_ref()).expect("a place"))] += 1;
            [0, 2, 3].iter().for_each(|at| route.endpoints[*at].set_turn(0));
        }
        assert_eq!(times[2], 0, "{balance}");
        assert!([1, 3, 4].iter().all(|at| (900..1_100).contains(&times[*at])), "{balance}: {times:?}");
        drop(busy);
    }
}

#[test]
fn gates_decide_before_load_and_when_all_are_shut_one_is_tried() {
    for balance in Balance::ALL {
        let route = balanced(balance, [1, 2]);
        let [first, second] = route.endpoints.as_slice() else { panic!("two endpoints") };
        first.gate.set(GateState::Shut);
        let busy = route.take(&[], like(0));
        assert_eq!(port(busy.as_ref()), Some(2), "{balance}");
        assert_eq!(
            port(route.take(&[], like(0)).as_ref()),
            Some(2),
            "{balance}: busy and open, not idle and shut"
        );
        second.gate.set(GateState::Doubted);
        assert_eq!(port(route.take(&[], like(0)).as_ref()), Some(2), "{balance}: a doubt is no verdict");
        second.gate.set(GateState::Limited);
        assert_eq!(port(route.take(&[], like(0)).as_ref()), Some(2), "{balance}");
        second.gate.set(GateState::Shut);
        assert_eq!(port(route.take(&[], pick(0)).as_ref()), Some(1), "{balance}: the idle one of the shut");
    }
}

#[test]
fn a_limited_endpoint_gets_one_request_at_a_time_while_others_are_open() {
    for balance in Balance::ALL {
        let route = balanced(balance, [1, 2]);
        route.endpoints[0].gate.set(GateState::Limited);
        let held: Vec<_> = (0..20).filter_map(|n| route.take(&[], like(n))).collect();
        assert_eq!(held.len(), 20, "{balance}");
        assert!(route.endpoints[0].inflight() <= 1, "{balance}: {}", route.endpoints[0].inflight());
    }
}

#[test]
fn no_replica_is_asked_twice_for_one_request() {
    for balance in Balance::ALL {
        let route = balanced(balance, [1, 2]);
        let tried: Vec<_> = route.endpoints.iter().map(|endpoint| endpoint.replica_id).collect();
        for affinity in 0..8 {
            assert_eq!(port(route.take(&tried[..1], like(affinity)).as_ref()), Some(2), "{balance}");
        }
        assert!(route.take(&tried, pick(0)).is_none(), "{balance}");
        assert!(balanced(balance, []).take(&[], pick(0)).is_none(), "{balance}");
    }
}

#[test]
fn a_newcomer_has_one_turn_and_not_all_that_it_missed() {
    let route = balanced(Balance::RoundRobin, [1, 2, 3]);
    (0..9).for_each(|random| drop(route.take(&[], pick(random))));
    route.endpoints[2].set_turn(0);
    let next: Vec<_> = (0..4).filter_map(|random| port(route.take(&[], pick(random)).as_ref())).collect();
    assert_eq!(next.iter().filter(|port| **port == 3).count(), 2, "once in three: {next:?}");
    assert_eq!(next[0], 3);
}

#[test]
fn a_full_replica_is_passed_over_for_the_next_in_the_prefixs_order() {
    let route = balanced(Balance::Prefix, 1..=4);
    let order: Vec<_> = {
        let mut tried = Vec::new();
        while let Some(place) = route.take(&tried, like(7)) {
            tried.push(place.endpoint().replica_id);
        }
        tried
    };
    let held: Vec<_> = (0..40).filter_map(|_| route.take(&[], like(7))).collect();
    let load = |replica| held.iter().filter(|place| place.endpoint().replica_id == replica).count();
    let loads: Vec<_> = order.iter().map(|replica| load(*replica)).collect();
    assert_eq!(loads[0], 13, "1.25 times the mean of 10: {loads:?}");
    assert!(loads.is_sorted_by(|a, b| a >= b) && loads[3] < 5, "in the prefix's own order: {loads:?}");
}

#[test]
fn the_bound_is_five_quarters_of_the_mean_rounded_up() {
    for (load, count, most) in [(1, 1, 2), (1, 3, 1), (8, 8, 2), (100, 10, 13), (80, 8, 13), (10, 0, 13)] {
        assert_eq!(most_in_flight(load, count), most, "{load} over {count}");
    }
}

#[test]
fn words_name_policies() {
    for balance in Balance::ALL {
        assert_eq!(balance.to_string().parse(), Ok(balance));
        assert_eq!(serde_json::json!(balance), balance.as_str());
    }
    let error = "random".parse::<Balance>().map_err(|error| error.to_string());
    assert_eq!(
        error,
        Err("routing \"random\" is none of least_outstanding, round_robin and prefix".to_owned())
    );
}
