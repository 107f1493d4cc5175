//! Any requests that come and end in any order, over any replicas.

use std::collections::HashMap;

use proptest::prelude::*;

use super::super::fixtures::balanced;
use super::*;

#[derive(Clone, Debug)]
enum Act {
    /// A request comes.
    Request(u32, Option<u64>),
    /// One of those in flight ends.
    Ends(prop::sample::Index),
}

fn act() -> impl Strategy<Value = Act> {
    // Few prefixes, so that some replicas are wanted by many.
    let affinity = proptest::option::weighted(0.8, 0_u64..4);
    prop_oneof![
        3 => (any::<u32>(), affinity).prop_map(|(random, affinity)| Act::Request(random, affinity)),
        1 => any::<prop::sample::Index>().prop_map(Act::Ends),
    ]
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    proptest::collection::vec(act(), 1..150)
}

/// Plays the requests; `check` sees the route, the loads before each choice, and what was chosen.
fn play(
    route: &Route,
    acts: Vec<Act>,
    mut check: impl FnMut(&[u32], usize, Pick) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let mut inflight = Vec::new();
    for act in acts {
        match act {
            Act::Request(random, affinity) => {
                let before: Vec<u32> = route.endpoints.iter().map(|endpoint| endpoint.inflight()).collect();
                let pick = Pick { random, affinity };
                let place = route.take(&[], pick).expect("there are replicas");
                let same = |endpoint: &Arc<Endpoint>| std::ptr::eq(&**endpoint, place.endpoint());
                let at = route.endpoints.iter().position(same).expect("one of the route's");
                prop_assert_eq!(route.endpoints[at].inflight(), before[at] + 1, "counted before it is sent");
                check(&before, at, pick)?;
                inflight.push(place);
            }
            Act::Ends(_) if inflight.is_empty() => {}
            Act::Ends(which) => drop(inflight.swap_remove(which.index(inflight.len()))),
        }
    }
    drop(inflight);
    prop_assert!(route.endpoints.iter().all(|endpoint| endpoint.inflight() == 0));
    Ok(())
}

/// Where a prefix goes when nothing is in flight.
fn home(route: &Route, affinity: u64) -> ReplicaId {
    let place = route.take(&[], Pick { random: 0, affinity: Some(affinity) });
    place.expect("there are replicas").endpoint().replica_id
}

proptest! {
    #[test]
    fn nobody_is_less_busy_than_the_one_that_is_asked(count in 1_u16..9, acts in acts()) {
        play(&balanced(Balance::LeastOutstanding, 0..count), acts, |before, at, _| {
            prop_assert_eq!(Some(&before[at]), before.iter().min());
            Ok(())
        })?;
    }

    #[test]
    fn turns_go_round(count in 1_u16..9, acts in acts()) {
        let mut turns: HashMap<usize, u64> = HashMap::new();
        play(&balanced(Balance::RoundRobin, 0..count), acts, |_, at, _| {
            *turns.entry(at).or_default() += 1;
            let of = |at: usize| turns.get(&at).copied().unwrap_or(0);
            let (most, least) = (0..usize::from(count)).fold((0, u64::MAX), |(most, least), at| {
                (of(at).max(most), of(at).min(least))
            });
            prop_assert!(most - least <= 1, "{:?}", turns);
            Ok(())
        })?;
    }

    #[test]
    fn no_prefix_brings_a_replica_over_its_bound(count in 1_u16..9, acts in acts()) {
        play(&balanced(Balance::Prefix, 0..count), acts, |before, at, pick| {
            let load = before.iter().map(|load| u64::from(*load)).sum::<u64>() + 1;
            let mean = load as f64 / f64::from(count);
            let after = f64::from(before[at] + 1);
            prop_assert!(after <= (1.25 * mean).ceil(), "{after} with a mean of {mean}");
            if pick.affinity.is_none() {
                prop_assert_eq!(Some(&before[at]), before.iter().min(), "without a prefix the load decides");
            }
            Ok(())
        })?;
    }

    #[test]
    fn a_prefix_stays_where_it_is_while_loads_are_even(
        count in 1_u16..12, each in 0_usize..6, affinity: u64, randoms in proptest::collection::vec(any::<u32>(), 1..8),
    ) {
        let route = balanced(Balance::Prefix, 0..count);
        let home = home(&route, affinity);
        let _busy: Vec<_> = route.endpoints.iter().flat_map(|e| (0..each).map(|_| e.enter())).collect();
        for random in randoms {
            let place = route.take(&[], Pick { random, affinity: Some(affinity) }).expect("there are replicas");
            prop_assert_eq!(place.endpoint().replica_id, home);
        }
    }

}

proptest! {
    // Each case looks at many prefixes.
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_replica_that_leaves_moves_only_its_own_share(count in 2_u16..9, gone in any::<prop::sample::Index>()) {
        const PREFIXES: u64 = 2_000;
        let gone = u16::try_from(gone.index(usize::from(count))).expect("small");
        let before = balanced(Balance::Prefix, 0..count);
        let after = balanced(Balance::Prefix, (0..count).filter(|number| *number != gone));
        let left = before.endpoints[usize::from(gone)].replica_id;
        let mut moved_to: HashMap<ReplicaId, u64> = HashMap::new();
        for affinity in 0..PREFIXES {
            let (old, new) = (home(&before, affinity), home(&after, affinity));
            if old == left {
                *moved_to.entry(new).or_default() += 1;
            } else {
                prop_assert_eq!(old, new, "what had nothing to do with it stays");
            }
        }
        let share = PREFIXES / u64::from(count);
        let moved: u64 = moved_to.values().sum();
        prop_assert!((share / 2..=share * 2).contains(&moved), "{moved} of {PREFIXES} over {count}");
        prop_assert_eq!(moved_to.len(), usize::from(count) - 1, "to all others");
    }
}
