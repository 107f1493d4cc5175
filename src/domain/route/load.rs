//! What the gateway has for one deployment right now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use nebula_core::clock::Tick;
use nebula_core::ids::ReplicaId;

use super::Route;

/// Requests of one deployment at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests in flight, by replica that can be asked.
    pub inflight: BTreeMap<ReplicaId, u32>,
    /// Requests that are held until a replica answers.
    pub waiting: u32,
    /// A number that changes with each request: what came and went between two looks is seen too.
    pub asked: u64,
}

impl Load {
    /// What a route's requests are at the moment.
    #[must_use]
    pub fn of(route: &Route) -> Self {
        let inflight = route.endpoints.iter().map(|endpoint| (endpoint.replica_id, endpoint.inflight()));
        Self { inflight: inflight.collect(), waiting: route.demand.waiting(), asked: route.demand.asked() }
    }

    /// All requests, in flight or held.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.inflight.values().fold(self.waiting, |sum, count| sum.saturating_add(*count))
    }
}

/// How much a route is asked for. Successive tables share it.
#[derive(Debug, Default)]
pub struct Demand {
    waiting: AtomicU32,
    asked: AtomicU64,
    /// When its deployment was last to be woken, in milliseconds of the clock and one; 0: never.
    woken: AtomicU64,
}

/// A held request's place in the count: given back when dropped, however its wait ends.
#[derive(Debug)]
pub struct Waiting(Arc<Demand>);

impl Demand {
    /// A request has come.
    pub fn ask(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that is held.
    #[must_use]
    pub fn wait(self: &Arc<Self>) -> Waiting {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(Arc::clone(self))
    }

    /// Whether it is this caller's turn to wake the deployment: at most one of all has it `every` so often.
    #[must_use]
    pub fn wakes(&self, now: Tick, every: Duration) -> bool {
        let last = self.woken.load(Ordering::Relaxed);
        if last > 0 && now.since(Tick(last - 1)) < every {
            return false;
        }
        self.woken.compare_exchange(last, now.0 + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// How many requests are held.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Access;
    use super::super::fixtures::{endpoint, route};
    use super::*;

    #[test]
    fn what_is_in_flight_and_what_waits_is_counted_until_it_is_dropped() {
        let ids = [ReplicaId::from_bytes([1; 16]), ReplicaId::from_bytes([2; 16])];
        let route = route("m", Access::Public, ids.iter().map(|id| endpoint(*id, 1)).collect());
        let busy = [route.endpoints[0].enter(), route.endpoints[0].enter()];
        let waiting = route.demand.wait();
        route.demand.ask();
        let load = Load::of(&route);
        assert_eq!(load, Load { inflight: BTreeMap::from([(ids[0], 2), (ids[1], 0)]), waiting: 1, asked: 1 });
        assert_eq!(load.total(), 3);
        drop((busy, waiting));
        assert_eq!(Load::of(&route).total(), 0);
    }

    #[test]
    fn one_of_all_wakes_a_deployment_at_a_time() {
        let (demand, every) = (Demand::default(), Duration::from_secs(1));
        for (now, wakes) in [
            (0, true),
            (0, false),
            (999, false),
            (1_000, true),
            (1_001, false),
            (9_000, true),
            (9_999, false),
        ] {
            assert_eq!(demand.wakes(Tick(now), every), wakes, "{now}");
        }
    }
}
