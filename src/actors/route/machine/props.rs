//! A breaker under any answers at any times, with replicas that come and go and a route that falls at any point: a gate
//! is never shut for good, and never without a reason.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Act {
    Outcome(u8, Outcome),
    /// The route has the replicas below this now.
    Replicas(u8),
    /// So many milliseconds pass, and the timer fires if it is due.
    Wait(u64),
    /// The route is built anew: it asks for its endpoints, and gates are open.
    Fall,
}

fn act() -> impl Strategy<Value = Act> {
    let outcome = prop_oneof![
        3 => Just(Outcome::Failed),
        1 => Just(Outcome::Answered),
        1 => Just(Outcome::Saturated)
    ];
    prop_oneof![
        8 => (0_u8..4, outcome).prop_map(|(replica, outcome)| Act::Outcome(replica, outcome)),
        1 => (0_u8..5).prop_map(Act::Replicas),
        3 => (0_u64..20_000).prop_map(Act::Wait),
        1 => Just(Act::Fall),
    ]
}

fn id(number: u8) -> ReplicaId {
    ReplicaId::from_bytes([number; 16])
}

fn gates(machine: &Machine) -> BTreeMap<ReplicaId, GateState> {
    machine.gates().map(|SetGate(id, state)| (id, state)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn gates_shut_with_reason_and_open_by_themselves(acts in proptest::collection::vec(act(), 1..120)) {
        let (mut machine, mut now, mut there) = (Machine::default(), Tick(0), 4_u8);
        machine.replicas(&(0..there).map(id).collect::<Vec<_>>());
        // Failures in a row, as far as they matter, and whether a trial is under way.
        let mut failures: BTreeMap<u8, u32> = BTreeMap::new();
        for act in acts {
            let before = gates(&machine);
            match act {
                Act::Outcome(number, outcome) => {
                    let said = machine.outcome(id(number), outcome, now);
                    let after = gates(&machine);
                    match said {
                        Some(SetGate(replica, state)) => {
                            prop_assert_eq!(replica, id(number));
                            prop_assert_eq!(after.get(&replica), Some(&state));
                            prop_assert_ne!(before.get(&replica), Some(&state), "said although it is so");
                        }
                        None => prop_assert_eq!(&before, &after, "changed without a word"),
                    }
                    let row = failures.entry(number).or_default();
                    *row = if outcome == Outcome::Failed { *row + 1 } else { 0 };
                    if number < there && after.get(&id(number)) == Some(&GateState::Shut) && said.is_some() {
                        let trial = before.get(&id(number)) == Some(&GateState::Limited);
                        prop_assert!(*row >= FAILURES_MAX || trial, "shut after {row} failures");
                    }
                    if outcome == Outcome::Answered && number < there && said.is_some() {
                        prop_assert_eq!(after.get(&id(number)), Some(&GateState::Open));
                    }
                }
                Act::Replicas(count) => {
                    there = count;
                    machine.replicas(&(0..count).map(id).collect::<Vec<_>>());
                    failures.retain(|number, _| *number < count);
                    prop_assert_eq!(gates(&machine).len(), usize::from(count));
                }
                Act::Wait(ms) => {
                    now = Tick(now.0 + ms);
                    machine.timer(now);
                }
                Act::Fall => {
                    machine = Machine::default();
                    machine.replicas(&(0..there).map(id).collect::<Vec<_>>());
                    failures.clear();
                    prop_assert!(gates(&machine).values().all(|state| *state == GateState::Open));
                }
            }
            let held = gates(&machine).into_values().any(|state| state == GateState::Shut);
            prop_assert!(!held || machine.next_deadline().is_some(), "shut for good");
        }
        // Left alone, every gate lets something through again within the longest pause.
        now = now.plus(SHUT_MAX);
        machine.timer(now);
        prop_assert!(gates(&machine).values().all(|state| *state != GateState::Shut));
    }
}
