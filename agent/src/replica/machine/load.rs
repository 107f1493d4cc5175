//! How a replica comes back when an agent starts.

use std::sync::Arc;

use nebula_core::clock::Tick;

use super::{Effect, Machine, Phase, Policy, State};
use crate::replica::spec::{Ended, ProcessRef, Spec};

/// What is there of the process that the stored state names, or of one that it was about to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It runs.
    Alive(ProcessRef),
    /// It ended while nobody watched, or was never made.
    Gone(Ended),
    /// The machine was started anew since: that it is gone says nothing about the runtime.
    Rebooted,
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
        let mut machine = Self::with(policy, state, spec);
        // When they were is not known any more; counting them as fresh errs on the careful side.
        machine.crashes = vec![now; usize::from(machine.state.recent_crashes)];
        let effects = machine.resume(found, now);
        (machine, effects)
    }

    fn resume(&mut self, found: Found, now: Tick) -> Vec<Effect> {
        let attempt = self.state.attempt;
        match (self.state.phase.clone(), found) {
            (Phase::New | Phase::Removed, _) => vec![Effect::Done],
            (Phase::Preparing | Phase::Halted, _) => self.again(),
            (Phase::BackingOff, _) => self.enter(Phase::BackingOff),
            (Phase::Stopped | Phase::Failed(_), _) => vec![Effect::Route { ready: false }],
            (Phase::Spawning { stale }, Found::Alive(process)) => {
                let next = if stale {
                    Phase::Killing { process, failure: None }
                } else {
                    Phase::Starting { process }
                };
                self.adopt(attempt, process, next)
            }
            (Phase::Spawning { .. }, Found::Gone(_) | Found::Rebooted) => self.again(),
            (Phase::Starting { .. }, Found::Alive(process)) => {
                self.adopt(attempt, process, Phase::Starting { process })
            }
            (Phase::Running { .. }, Found::Alive(process)) => {
                self.adopt(attempt, process, Phase::Running { process })
            }
            (Phase::Killing { failure, .. }, Found::Alive(process)) => {
                self.adopt(attempt, process, Phase::Killing { process, failure })
            }
            (Phase::Starting { .. } | Phase::Running { .. }, Found::Rebooted) => self.again(),
            (Phase::Starting { .. } | Phase::Running { .. } | Phase::Killing { .. }, Found::Gone(ended)) => {
                self.on_exited(attempt, &ended, now)
            }
            (Phase::Killing { .. }, Found::Rebooted) => self.on_exited(attempt, &Ended::default(), now),
        }
    }

    fn again(&mut self) -> Vec<Effect> {
        let follow = self.settle();
        self.finish(follow)
    }

    fn adopt(&mut self, attempt: u32, process: ProcessRef, phase: Phase) -> Vec<Effect> {
        let mut follow = vec![Effect::Route { ready: false }, Effect::Watch { attempt, process }];
        follow.extend(self.enter(phase));
        self.finish(follow)
    }
}
