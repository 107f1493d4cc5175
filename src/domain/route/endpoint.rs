//! Where a replica answers, and what is known of it from thread to thread: how many requests it has, when it had its
//! last turn, and how far its gate is open.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use nebula_core::address::HostPort;
use nebula_core::ids::{Generation, NodeId, ReplicaId};

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
    /// The number of its last turn, among all turns of its route; 0: it had none.
    turn: AtomicU64,
}

/// What the route's actor thinks of an endpoint, readable from every thread.
#[derive(Debug)]
pub struct Gate(AtomicU8);

/// How far a gate is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateState {
    /// Requests pass.
    Open,
    /// Requests pass. Something failed since the last good answer, so good news counts too.
    Doubted,
    /// The replica is saturated or on trial: asked when it has nothing to do or nobody else is open.
    Limited,
    /// It fails: asked only when no gate at all is open.
    Shut,
}

/// A request's place in an endpoint's count: taken before it is sent, given back when dropped.
#[derive(Debug)]
pub struct InflightGuard(Arc<Endpoint>);

impl Endpoint {
    /// An endpoint with nothing in flight and an open gate.
    #[must_use]
    pub fn new(replica_id: ReplicaId, generation: Generation, node_id: NodeId, address: HostPort) -> Self {
        Self {
            replica_id,
            generation,
            node_id,
            address,
            gate: Gate::default(),
            inflight: AtomicU32::new(0),
            turn: AtomicU64::new(0),
        }
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

    /// Counts a request if there are still so many in flight as when the endpoint was chosen: threads that choose at
    /// the same moment do not all choose the same.
    pub(super) fn enter_at(self: &Arc<Self>, seen: u32) -> Option<InflightGuard> {
        let counted = self.inflight.compare_exchange(seen, seen + 1, Ordering::Relaxed, Ordering::Relaxed);
        counted.ok().map(|_| InflightGuard(Arc::clone(self)))
    }

    pub(super) fn turn(&self) -> u64 {
        self.turn.load(Ordering::Relaxed)
    }

    pub(super) fn set_turn(&self, turn: u64) {
        self.turn.store(turn, Ordering::Relaxed);
    }
}

impl Gate {
    const STATES: [GateState; 4] = [GateState::Open, GateState::Doubted, GateState::Limited, GateState::Shut];

    /// How far it is open.
    #[must_use]
    pub fn state(&self) -> GateState {
        let number = usize::from(self.0.load(Ordering::Relaxed));
        Self::STATES.get(number).copied().unwrap_or(GateState::Shut)
    }

    /// Sets it.
    pub fn set(&self, state: GateState) {
        self.0.store(state as u8, Ordering::Relaxed);
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self(AtomicU8::new(GateState::Open as u8))
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
    use super::super::fixtures::endpoint;
    use super::*;

    #[test]
    fn a_gate_is_what_it_was_set_to() {
        let gate = Gate::default();
        assert_eq!(gate.state(), GateState::Open);
        for state in Gate::STATES {
            gate.set(state);
            assert_eq!(gate.state(), state);
        }
    }

    #[test]
    fn a_place_is_taken_only_if_the_count_is_what_was_seen() {
        let endpoint = endpoint(ReplicaId::random(), 1);
        let first = endpoint.enter_at(0).expect("nothing is in flight");
        assert!(endpoint.enter_at(0).is_none(), "somebody was faster");
        assert_eq!(endpoint.inflight(), 1);
        drop((first, endpoint.enter_at(1)));
        assert_eq!(endpoint.inflight(), 0);
    }
}
