//! An autoscaler under any load: within its bounds, never against a running request, and quiet when the load is.

use std::collections::BTreeMap;

use nebula_core::ids::ReplicaId;
use proptest::prelude::*;

use super::*;

/// A deployment whose replicas do what the autoscaler decides; a new one serves after a while.
#[derive(Default)]
struct World {
    scaler: Autoscaler,
    wanted: u32,
    /// When each will serve.
    ready: Vec<u64>,
    asked: u64,
}

impl World {
    /// The load of a second, spread evenly over those who serve; nobody serving, it waits.
    fn load(&mut self, requests: u32, second: u64) -> (u32, Load) {
        self.asked += u64::from(requests);
        let serving: Vec<u8> =
            self.ready.iter().zip(1_u8..).filter(|(ready, _)| **ready <= second).map(|(_, n)| n).collect();
        let count = serving.len() as u32;
        let mut inflight = BTreeMap::new();
        for (at, n) in (0..).zip(&serving) {
            let share = requests / count + u32::from(at < requests % count);
            inflight.insert(ReplicaId::from_bytes([*n; 16]), share);
        }
        let waiting = if count == 0 { requests } else { 0 };
        (count, Load { inflight, waiting, asked: self.asked })
    }

    fn look(&mut self, scale: &Autoscale, requests: u32, second: u64) -> (Load, u32, Option<Decision>) {
        let (running, load) = self.load(requests, second);
        let now = Tick(second * 1_000);
        let decision = self.scaler.decide(scale, self.wanted, running, &load, now);
        if let Some(decision) = &decision {
            self.wanted = decision.to;
            self.ready.resize(self.wanted as usize, second + 20);
        }
        (load, running, decision)
    }
}

prop_compose! {
    fn any_scale()(min in 0_u32..4, more in 0_u32..8, target in 1_u32..10, cooldown in 0_u64..120, idle in 1_u64..400)
        -> Autoscale {
        let (cooldown, idle_after) = (Duration::from_secs(cooldown), Duration::from_secs(idle));
        Autoscale { min, max: (min + more).max(1), target, cooldown, idle_after }
    }
}

/// Requests at a time, for so many looks.
fn any_loads() -> impl Strategy<Value = Vec<(u32, u8)>> {
    prop::collection::vec((prop_oneof![2 => Just(0_u32), 5 => 0_u32..100], 1_u8..40), 1..12)
}

proptest! {
    #[test]
    fn it_stays_within_its_bounds_and_takes_nothing_from_anybody(scale in any_scale(), loads in any_loads()) {
        let mut worlds = [World::default(), World::default()];
        let (mut second, mut changed) = (0, None);
        for (requests, looks) in loads {
            for _ in 0..looks {
                let before = worlds[0].wanted;
                let (load, running, decision) = worlds[0].look(&scale, requests, second);
                let again = worlds[1].look(&scale, requests, second).2;
                prop_assert_eq!(&decision, &again, "the same load, the same decision");
                if let Some(Decision { to, .. }) = decision {
                    prop_assert!((scale.min..=scale.max).contains(&to), "{} is out of bounds", to);
                    prop_assert!(to != before);
                    if to < before {
                        prop_assert_eq!(to, before - 1, "one by one");
                        let idle = load.inflight.values().any(|count| *count == 0);
                        prop_assert!(idle || running < before, "all are busy");
                        let since = Duration::from_secs(second - changed.unwrap_or(0));
                        prop_assert!(since >= scale.cooldown, "after {:?}", since);
                        prop_assert!(to > 0 || load.total() == 0, "somebody asks");
                    }
                    changed = Some(second);
                }
                let needed = load.total().div_ceil(scale.target).min(scale.max);
                prop_assert!(worlds[0].wanted >= needed, "{} for {:?}", worlds[0].wanted, load);
                second += 2;
            }
        }
    }

    #[test]
    fn a_load_that_stays_the_same_ends_in_a_number_that_stays_the_same(
        scale in any_scale(),
        before in any_loads(),
        requests in 1_u32..100,
    ) {
        let mut world = World::default();
        let mut second = 0;
        let times = |loads: Vec<(u32, u8)>| loads.into_iter().flat_map(|(n, looks)| (0..looks).map(move |_| n));
        for requests in times(before) {
            world.look(&scale, requests, second);
            second += 2;
        }
        // Long enough for all to go one by one, and for new ones to serve.
        for _ in 0..1_000 {
            world.look(&scale, requests, second);
            second += 2;
        }
        let settled = world.wanted;
        for _ in 0..300 {
            let (load, _, decision) = world.look(&scale, requests, second);
            prop_assert_eq!(decision, None, "{:?}", load);
            second += 2;
        }
        let needed = requests.div_ceil(scale.target).clamp(scale.min.max(1), scale.max);
        let busy = requests >= settled;
        prop_assert!(settled == needed || busy && settled > needed, "{} instead of {}", settled, needed);
    }
}
