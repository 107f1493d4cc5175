//! What happens to a replica in the world outside, and what follows from it.

use nebula_core::duration::human;

use super::{
    Effect, Entry, Failure, FailureReason, KILL_AGAIN_MIN, MOVES_MAX, Machine, Phase, Signal, with_output,
};
use crate::replica::spec::{Ended, Instance};

impl Machine {
    pub(super) fn on_prepared(&mut self, attempt: u32, port: u16) -> Vec<Effect> {
        if self.state.phase != Phase::Preparing || attempt != self.state.attempt {
            return Vec::new();
        }
        self.state.port = port;
        let follow = self.enter(Phase::Spawning { stale: false });
        self.finish(follow)
    }

    pub(super) fn on_prepare_failed(
        &mut self,
        attempt: u32,
        reason: FailureReason,
        message: String,
    ) -> Vec<Effect> {
        if self.state.phase != Phase::Preparing || attempt != self.state.attempt {
            return Vec::new();
        }
        self.fail(Failure { reason, message, exit_code: 0 })
    }

    pub(super) fn on_noted(&mut self, attempt: u32, entry: Entry) -> Vec<Effect> {
        if self.state.phase != Phase::Preparing || attempt != self.state.attempt {
            return Vec::new();
        }
        self.journal.push(entry);
        self.finish(Vec::new())
    }

    pub(super) fn on_spawned(&mut self, attempt: u32, instance: Instance) -> Vec<Effect> {
        if self.state.phase.instance() == Some(instance) {
            // It was found before this was heard.
            return Vec::new();
        }
        let Phase::Spawning { stale } = self.state.phase else {
            return vec![Effect::Signal { instance, signal: Signal::Kill }];
        };
        if attempt != self.state.attempt {
            return vec![Effect::Signal { instance, signal: Signal::Kill }];
        }
        let watch = Effect::Watch { attempt, instance };
        let mut follow = vec![watch];
        let next =
            if stale { Phase::Killing { instance, failure: None } } else { Phase::Starting { instance } };
        follow.extend(self.enter(next));
        self.finish(follow)
    }

    pub(super) fn on_spawn_failed(&mut self, attempt: u32, message: String) -> Vec<Effect> {
        let Phase::Spawning { stale } = self.state.phase else { return Vec::new() };
        if attempt != self.state.attempt {
            return Vec::new();
        }
        if stale {
            return self.again();
        }
        self.fail(Failure { reason: FailureReason::Spawn, message, exit_code: 0 })
    }

    pub(super) fn on_port_taken(&mut self, attempt: u32, message: String) -> Vec<Effect> {
        let wanted = self.state.phase == Phase::Spawning { stale: false } && attempt == self.state.attempt;
        if !wanted || self.moves >= MOVES_MAX {
            return self.on_spawn_failed(attempt, message);
        }
        let port = self.state.port;
        self.move_port(format!("another program took port {port}; it starts on another port"))
    }

    pub(super) fn on_exited(&mut self, attempt: u32, ended: &Ended) -> Vec<Effect> {
        if attempt != self.state.attempt {
            return Vec::new();
        }
        match self.state.phase.clone() {
            Phase::Starting { .. }
                if !self.state.ever_healthy && ended.port_taken && self.moves < MOVES_MAX =>
            {
                self.move_port(format!(
                    "another program took port {} and the runtime {}; it starts again on another port",
                    self.state.port,
                    ended.phrase()
                ))
            }
            Phase::Starting { .. } | Phase::Running { .. } | Phase::Hung { .. } if ended.blameless => {
                self.lose(ended)
            }
            // Its command line is wrong, most likely: who deployed it hears of it at once.
            Phase::Starting { instance: Instance::Process(_) } if !self.state.ever_healthy => {
                self.state.out_of_memory = ended.out_of_memory;
                let message = with_output(
                    format!("the runtime {} before it was healthy", ended.phrase()),
                    &ended.output,
                );
                self.fail(Failure { reason: FailureReason::Exited, message, exit_code: ended.exit_code() })
            }
            Phase::Starting { .. } | Phase::Running { .. } | Phase::Hung { .. } => {
                let phrase = ended.phrase();
                self.crash(ended, &phrase)
            }
            Phase::Killing { failure: Some(Failure { reason: FailureReason::Unresponsive, .. }), .. } => {
                let phrase = format!("answered nothing for {} and was ended", human(self.policy.hung_max));
                self.crash(ended, &phrase)
            }
            Phase::Killing { failure: Some(failure), .. } => {
                self.fail(Failure { message: with_output(failure.message, &ended.output), ..failure })
            }
            Phase::Draining { .. } | Phase::Killing { failure: None, .. } => self.again(),
            Phase::New
            | Phase::Preparing
            | Phase::Spawning { .. }
            | Phase::BackingOff
            | Phase::Stopped
            | Phase::Failed(_)
            | Phase::Removed
            | Phase::Halted => Vec::new(),
        }
    }

    pub(super) fn on_healthy(&mut self, attempt: u32) -> Vec<Effect> {
        let Phase::Starting { instance } = self.state.phase else { return Vec::new() };
        if attempt != self.state.attempt {
            return Vec::new();
        }
        self.state.ever_healthy = true;
        self.state.out_of_memory = false;
        let follow = self.enter(Phase::Running { instance });
        self.finish(follow)
    }

    /// The deadline is put off, within the limit for all of it. Nothing of that is kept: an agent that begins anew
    /// counts anew.
    pub(super) fn on_progressed(&mut self, attempt: u32) -> Vec<Effect> {
        if !matches!(self.state.phase, Phase::Starting { .. }) || attempt != self.state.attempt {
            return Vec::new();
        }
        self.progressed = true;
        self.fence += 1;
        let left = self.policy.start_total.saturating_sub(self.now.since(self.began));
        let after = self.policy.start_deadline.min(left);
        vec![Effect::SetTimer { fence: self.fence, after }]
    }

    pub(super) fn on_silent(&mut self, attempt: u32, message: String) -> Vec<Effect> {
        let Phase::Running { instance } = self.state.phase else { return Vec::new() };
        if attempt != self.state.attempt {
            return Vec::new();
        }
        let follow = self.enter(Phase::Hung { instance, message });
        self.finish(follow)
    }

    /// The time that it has to answer again begins anew.
    pub(super) fn on_excused(&mut self, attempt: u32) -> Vec<Effect> {
        if !matches!(self.state.phase, Phase::Hung { .. }) || attempt != self.state.attempt {
            return Vec::new();
        }
        self.fence += 1;
        vec![Effect::SetTimer { fence: self.fence, after: self.policy.hung_max }]
    }

    pub(super) fn on_answering(&mut self, attempt: u32) -> Vec<Effect> {
        let Phase::Hung { instance, .. } = self.state.phase else { return Vec::new() };
        if attempt != self.state.attempt {
            return Vec::new();
        }
        let follow = self.enter(Phase::Running { instance });
        self.finish(follow)
    }

    pub(super) fn on_broken(&mut self, attempt: u32, reason: FailureReason, message: String) -> Vec<Effect> {
        let (Phase::Starting { instance } | Phase::Running { instance } | Phase::Hung { instance, .. }) =
            self.state.phase
        else {
            return Vec::new();
        };
        if attempt != self.state.attempt {
            return Vec::new();
        }
        self.end_for(instance, Failure { reason, message, exit_code: 0 })
    }

    pub(super) fn on_timer(&mut self, fence: u64) -> Vec<Effect> {
        if fence != self.fence {
            return Vec::new();
        }
        match self.state.phase.clone() {
            Phase::Starting { instance } => {
                let message = self.too_late();
                let reason = FailureReason::HealthDeadline;
                self.end_for(instance, Failure { reason, message, exit_code: 0 })
            }
            Phase::Hung { instance, message } => {
                let reason = FailureReason::Unresponsive;
                self.end_for(instance, Failure { reason, message, exit_code: 0 })
            }
            Phase::BackingOff => {
                self.state.restarts = self.state.restarts.saturating_add(1);
                let follow = self.enter(Phase::Preparing);
                self.finish(follow)
            }
            // So that an agent that begins anew does not take them for fresh ones.
            Phase::Running { .. } => {
                self.crashes.clear();
                self.state.recent_crashes = 0;
                self.finish(Vec::new())
            }
            Phase::Draining { instance } => self.time_is_over(instance),
            Phase::Killing { instance, .. } => vec![
                Effect::Signal { instance, signal: Signal::Kill },
                Effect::SetTimer { fence: self.fence, after: self.policy.grace.max(KILL_AGAIN_MIN) },
            ],
            Phase::New
            | Phase::Preparing
            | Phase::Spawning { .. }
            | Phase::Stopped
            | Phase::Failed(_)
            | Phase::Removed
            | Phase::Halted => Vec::new(),
        }
    }

    fn end_for(&mut self, instance: Instance, failure: Failure) -> Vec<Effect> {
        let follow = self.enter(Phase::Killing { instance, failure: Some(failure) });
        self.finish(follow)
    }

    /// Why the deadline for its start is over.
    fn too_late(&self) -> String {
        let Self { policy, progressed, .. } = self;
        if self.now.since(self.began) >= policy.start_total {
            return format!("the runtime was not healthy within {}", human(policy.start_total));
        }
        let limit = human(policy.start_deadline);
        if *progressed {
            format!("the runtime made no progress for {limit} and is not healthy")
        } else {
            format!("the runtime was not healthy within {limit}")
        }
    }
}
