//! A route's breaker: what its replicas' answers say about where the next request should go.
//!
//! Connection errors, timeouts and server errors in a row count against a replica; what a client did wrong never does.
//! A saturated replica is not broken: it gets one request at a time for a moment. A shut gate opens by itself, on
//! trial. While nothing is held against a replica, nobody needs to say that it answers: its gate tells.

use std::collections::BTreeMap;
use std::time::Duration;

use nebula_core::clock::Tick;
use nebula_core::ids::ReplicaId;

use crate::domain::route::GateState;

/// So many failures in a row shut a gate.
const FAILURES_MAX: u32 = 5;
/// How long a gate stays shut at first; doubled for each trial that fails.
const SHUT_FIRST: Duration = Duration::from_secs(5);
/// How long at most.
const SHUT_MAX: Duration = Duration::from_secs(60);
/// How long a saturated replica gets one request at a time.
const SATURATED: Duration = Duration::from_secs(2);

/// How a request to a replica ended, as far as it says something about the replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered.
    Answered,
    /// It could not be reached, did not answer in time, or answered with an error of its own.
    Failed,
    /// It said that it has too much to do.
    Saturated,
}

/// A gate that is to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetGate(pub ReplicaId, pub GateState);

#[derive(Clone, Copy, Debug, Default)]
struct Record {
    failures: u32,
    trips: u32,
    state: Breaker,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Breaker {
    #[default]
    Closed,
    Saturated {
        until: Tick,
    },
    Shut {
        until: Tick,
    },
    Trial,
}

/// A route's state.
#[derive(Debug, Default)]
pub struct Machine {
    replicas: BTreeMap<ReplicaId, Record>,
}

impl Machine {
    /// The route has these replicas now.
    pub fn replicas(&mut self, now: &[ReplicaId]) {
        self.replicas.retain(|id, _| now.contains(id));
        for id in now {
            self.replicas.entry(*id).or_default();
        }
    }

    /// What is known of a replica says nothing about it any more: it was started anew, or is elsewhere.
    pub fn forget(&mut self, id: ReplicaId) {
        self.replicas.entry(id).and_modify(|record| *record = Record::default());
    }

    /// A request to a replica has ended.
    pub fn outcome(&mut self, id: ReplicaId, outcome: Outcome, now: Tick) -> Option<SetGate> {
        let record = self.replicas.get_mut(&id)?;
        let before = record.gate();
        match (outcome, record.state) {
            (Outcome::Answered, Breaker::Closed | Breaker::Saturated { .. }) => record.failures = 0,
            (Outcome::Answered, Breaker::Shut { .. } | Breaker::Trial) => *record = Record::default(),
            (Outcome::Saturated, Breaker::Closed | Breaker::Saturated { .. } | Breaker::Trial) => {
                record.failures = 0;
                record.state = Breaker::Saturated { until: now.plus(SATURATED) };
            }
            (Outcome::Saturated, Breaker::Shut { .. }) => {}
            (Outcome::Failed, Breaker::Trial) => record.shut(now),
            (Outcome::Failed, Breaker::Closed | Breaker::Saturated { .. }) => {
                record.failures += 1;
                if record.failures >= FAILURES_MAX {
                    record.shut(now);
                }
            }
            (Outcome::Failed, Breaker::Shut { .. }) => {}
        }
        record.changed(id, before)
    }

    /// Time has passed.
    pub fn timer(&mut self, now: Tick) -> Vec<SetGate> {
        let mut gates = Vec::new();
        for (id, record) in &mut self.replicas {
            let before = record.gate();
            match record.state {
                Breaker::Saturated { until } if until <= now => record.state = Breaker::Closed,
                Breaker::Shut { until } if until <= now => record.state = Breaker::Trial,
                Breaker::Closed | Breaker::Saturated { .. } | Breaker::Shut { .. } | Breaker::Trial => {}
            }
            gates.extend(record.changed(*id, before));
        }
        gates
    }

    /// When `timer` is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Tick> {
        let due = self.replicas.values().filter_map(|record| match record.state {
            Breaker::Saturated { until } | Breaker::Shut { until } => Some(until),
            Breaker::Closed | Breaker::Trial => None,
        });
        due.min()
    }

    /// Every replica with its gate.
    pub fn gates(&self) -> impl Iterator<Item = SetGate> + '_ {
        self.replicas.iter().map(|(id, record)| SetGate(*id, record.gate()))
    }
}

impl Record {
    fn shut(&mut self, now: Tick) {
        let pause = SHUT_FIRST.saturating_mul(2_u32.saturating_pow(self.trips)).min(SHUT_MAX);
        self.trips = self.trips.saturating_add(1);
        self.failures = 0;
        self.state = Breaker::Shut { until: now.plus(pause) };
    }

    fn gate(&self) -> GateState {
        match self.state {
            Breaker::Closed if self.failures > 0 => GateState::Doubted,
            Breaker::Closed => GateState::Open,
            Breaker::Saturated { .. } | Breaker::Trial => GateState::Limited,
            Breaker::Shut { .. } => GateState::Shut,
        }
    }

    fn changed(&self, id: ReplicaId, before: GateState) -> Option<SetGate> {
        (self.gate() != before).then(|| SetGate(id, self.gate()))
    }
}

#[cfg(test)]
mod breaker_tests;
#[cfg(test)]
mod props;
#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Tick {
        Tick(secs * 1_000)
    }

    fn one() -> (Machine, ReplicaId) {
        let id = ReplicaId::random();
        let mut machine = Machine::default();
        machine.replicas(&[id]);
        (machine, id)
    }

    fn fail(machine: &mut Machine, id: ReplicaId, times: u32, now: Tick) -> Option<SetGate> {
        (0..times).filter_map(|_| machine.outcome(id, Outcome::Failed, now)).last()
    }

    #[test]
    fn five_failures_in_a_row_shut_the_gate_and_an_answer_between_starts_over() {
        let (mut machine, id) = one();
        let doubted = Some(SetGate(id, GateState::Doubted));
        assert_eq!(fail(&mut machine, id, 4, at(0)), doubted);
        assert_eq!(machine.outcome(id, Outcome::Answered, at(0)), Some(SetGate(id, GateState::Open)));
        assert_eq!(fail(&mut machine, id, 4, at(0)), doubted);
        assert_eq!(fail(&mut machine, id, 1, at(0)), Some(SetGate(id, GateState::Shut)));
    }

    #[test]
    fn a_shut_gate_heals_by_itself_on_trial_and_stays_shut_longer_when_the_trial_fails() {
        let (mut machine, id) = one();
        fail(&mut machine, id, 5, at(0));
        assert_eq!(machine.next_deadline(), Some(at(5)));
        assert_eq!(machine.timer(at(5)), [SetGate(id, GateState::Limited)]);
        assert_eq!(fail(&mut machine, id, 1, at(5)), Some(SetGate(id, GateState::Shut)));
        assert_eq!(machine.next_deadline(), Some(at(15)));
        machine.timer(at(15));
        assert_eq!(machine.outcome(id, Outcome::Answered, at(16)), Some(SetGate(id, GateState::Open)));
        assert_eq!(machine.next_deadline(), None);
    }

    #[test]
    fn saturation_limits_and_passes() {
        let (mut machine, id) = one();
        assert_eq!(machine.outcome(id, Outcome::Saturated, at(0)), Some(SetGate(id, GateState::Limited)));
        assert_eq!(machine.timer(at(2)), [SetGate(id, GateState::Open)]);
    }

    #[test]
    fn an_answer_while_shut_opens_at_once() {
        let (mut machine, id) = one();
        fail(&mut machine, id, 5, at(0));
        assert_eq!(machine.outcome(id, Outcome::Answered, at(1)), Some(SetGate(id, GateState::Open)));
    }

    #[test]
    fn a_replica_that_was_started_anew_has_done_nothing_wrong() {
        let (mut machine, id) = one();
        fail(&mut machine, id, 5, at(0));
        machine.forget(id);
        assert_eq!(machine.gates().collect::<Vec<_>>(), [SetGate(id, GateState::Open)]);
        assert_eq!(machine.next_deadline(), None);
        machine.forget(ReplicaId::random());
        assert_eq!(machine.gates().count(), 1, "a stranger stays one");
    }

    #[test]
    fn replicas_that_left_are_forgotten() {
        let (mut machine, id) = one();
        fail(&mut machine, id, 5, at(0));
        machine.replicas(&[]);
        assert_eq!(machine.outcome(id, Outcome::Answered, at(1)), None);
        machine.replicas(&[id]);
        assert_eq!(machine.gates().collect::<Vec<_>>(), [SetGate(id, GateState::Open)]);
    }
}
