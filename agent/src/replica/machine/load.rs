//! How a replica comes back when an agent starts.

use std::sync::Arc;

use nebula_core::clock::Tick;

use super::{Effect, Machine, Phase, Policy, State};
use crate::replica::spec::{Ended, Instance, Spec};

/// What is there of the process that the stored state names, or of one that it was about to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It runs.
    Alive(Instance),
    /// It ended while nobody watched, or was never made.
    Gone(Ended),
    /// It is gone for a reason that says nothing about the runtime: the machine was started anew since, or what ran
    /// was not what the stored state says and was removed.
    Rebooted,
    /// Nobody can say now, as the Docker Engine does not answer.
    Unknown,
}

impl Machine {
    /// The replica as it was stored, and what follows from what is found of its process. A process that runs is
    /// kept, never doubled.
    pub fn load(
        policy: Policy,
        state: State,
        spec: Arc<Spec>,
        found: Found,
        now: Tick,
    ) -> (Self, Vec<Effect>) {
        let mut machine = Self::with(policy, state, spec, now);
        // When they were is not known any more; counting them as fresh errs on the careful side.
        machine.crashes = vec![now; usize::from(machine.state.recent_crashes)];
        let effects = machine.resume(found);
        (machine, effects)
    }

    fn resume(&mut self, found: Found) -> Vec<Effect> {
        let attempt = self.state.attempt;
        match (self.state.phase.clone(), found) {
            (Phase::New | Phase::Removed, _) => vec![Effect::Done],
            (Phase::Preparing | Phase::Halted, _) => self.again(),
            (Phase::BackingOff, _) => self.enter(Phase::BackingOff),
            (Phase::Stopped | Phase::Failed(_), _) => vec![Effect::Route { ready: false }],
            (Phase::Spawning { stale }, Found::Alive(instance)) => {
                let next = if stale {
                    Phase::Killing { instance, failure: None }
                } else {
                    Phase::Starting { instance }
                };
                self.adopt(attempt, instance, next)
            }
            // Whoever makes the next one first removes what there is of the last.
            (Phase::Spawning { .. }, Found::Gone(_) | Found::Rebooted | Found::Unknown) => self.again(),
            (Phase::Starting { .. }, Found::Alive(instance)) => {
                self.adopt(attempt, instance, Phase::Starting { instance })
            }
            // What is hung is stored as running, and will be seen to be hung again.
            (Phase::Running { .. } | Phase::Hung { .. }, Found::Alive(instance)) => {
                self.adopt(attempt, instance, Phase::Running { instance })
            }
            (Phase::Killing { failure, .. }, Found::Alive(instance)) => {
                self.adopt(attempt, instance, Phase::Killing { instance, failure })
            }
            // The requests in flight were the former agent's, and broke with it.
            (Phase::Draining { instance }, Found::Alive(_) | Found::Unknown) => {
                self.adopt(attempt, instance, Phase::Killing { instance, failure: None })
            }
            // It is taken up as it was: its watch says how it ended, if it has, when the Engine answers.
            (phase @ Phase::Starting { instance }, Found::Unknown)
            | (phase @ Phase::Running { instance }, Found::Unknown)
            | (phase @ Phase::Killing { instance, .. }, Found::Unknown) => {
                self.adopt(attempt, instance, phase)
            }
            (Phase::Hung { instance, .. }, Found::Unknown) => {
                self.adopt(attempt, instance, Phase::Running { instance })
            }
            (Phase::Starting { .. } | Phase::Running { .. } | Phase::Hung { .. }, Found::Rebooted) => {
                self.again()
            }
            (
                Phase::Starting { .. }
                | Phase::Running { .. }
                | Phase::Hung { .. }
                | Phase::Draining { .. }
                | Phase::Killing { .. },
                Found::Gone(ended),
            ) => self.on_exited(attempt, &ended),
            (Phase::Draining { .. } | Phase::Killing { .. }, Found::Rebooted) => {
                self.on_exited(attempt, &Ended::default())
            }
        }
    }

    fn adopt(&mut self, attempt: u32, instance: Instance, phase: Phase) -> Vec<Effect> {
        let mut follow = vec![Effect::Route { ready: false }, Effect::Watch { attempt, instance }];
        follow.extend(self.enter(phase));
        self.finish(follow)
    }
}
