//! How a replica moves from phase to phase.

use std::time::Duration;

use nebula_core::duration::human;
use nebula_core::ids::Generation;

use super::{
    Desired, Effect, Entry, Failure, FailureReason, Follow, Machine, Phase, Refusal, Signal, with_output,
};
use crate::replica::spec::Ended;

impl Machine {
    /// Whether a command of `generation` may be carried out.
    pub(super) fn check(&self, generation: Option<Generation>) -> Result<(), Refusal> {
        if matches!(self.state.phase, Phase::New | Phase::Removed) {
            return Err(Refusal::Unknown);
        }
        let newest = self.state.generation;
        if let Some(given) = generation.filter(|given| *given < newest) {
            return Err(Refusal::Stale { given, newest });
        }
        if self.halting {
            return Err(Refusal::Halting);
        }
        if self.state.desired == Desired::Deleted { Err(Refusal::Deleting) } else { Ok(()) }
    }

    /// Remembers a newer generation.
    pub(super) fn raise(&mut self, generation: Option<Generation>) {
        if let Some(newer) = generation.filter(|given| *given > self.state.generation) {
            self.state.generation = newer;
            self.state.restarted = false;
        }
    }

    /// Whether it is stopped or has failed, or will be when its process has ended. A start without a generation
    /// begins anew then: no number tells it from the start before.
    pub(super) fn has_come_to_an_end(&self) -> bool {
        let failed = match &self.state.phase {
            Phase::Failed(_) => true,
            Phase::Killing { failure: Some(failure), .. } => failure.reason != FailureReason::Unresponsive,
            Phase::New
            | Phase::Preparing
            | Phase::Spawning { .. }
            | Phase::Starting { .. }
            | Phase::Running { .. }
            | Phase::Hung { .. }
            | Phase::Draining { .. }
            | Phase::BackingOff
            | Phase::Killing { failure: None, .. }
            | Phase::Stopped
            | Phase::Removed
            | Phase::Halted => false,
        };
        failed || self.state.desired == Desired::Stopped
    }

    /// Forgets how it went so far and wants it to run.
    pub(super) fn begin_anew(&mut self) {
        self.state.desired = Desired::Running;
        self.state.ever_healthy = false;
        self.state.recent_crashes = 0;
        self.state.last_end.clear();
        self.state.out_of_memory = false;
        self.crashes.clear();
        self.moves = 0;
    }

    /// What follows from what is wanted, after that has changed.
    pub(super) fn pursue(&mut self) -> Follow {
        match self.state.phase.clone() {
            Phase::Stopped if self.state.desired == Desired::Stopped => Vec::new(),
            Phase::New | Phase::Preparing | Phase::BackingOff | Phase::Stopped | Phase::Failed(_) => {
                self.settle()
            }
            Phase::Spawning { .. } => {
                self.state.phase = Phase::Spawning { stale: true };
                Vec::new()
            }
            Phase::Starting { instance } => self.enter(Phase::Killing { instance, failure: None }),
            Phase::Running { instance } | Phase::Hung { instance, .. } => self.leave(instance),
            Phase::Draining { instance } => self.hasten(instance),
            // The timer stays as it is: a command that is repeated must not put off the hard signal.
            Phase::Killing { instance, .. } => {
                self.state.phase = Phase::Killing { instance, failure: None };
                Vec::new()
            }
            Phase::Removed | Phase::Halted => Vec::new(),
        }
    }

    /// Nothing runs: what comes next.
    pub(super) fn settle(&mut self) -> Follow {
        let next = match self.state.desired {
            Desired::Running if self.halting => Phase::Halted,
            Desired::Running => Phase::Preparing,
            Desired::Stopped => Phase::Stopped,
            Desired::Deleted => Phase::Removed,
        };
        self.enter(next)
    }

    /// It failed for good.
    pub(super) fn fail(&mut self, failure: Failure) -> Vec<Effect> {
        let follow = self.enter(Phase::Failed(failure));
        self.finish(follow)
    }

    /// Nothing runs: what comes next, durably.
    pub(super) fn again(&mut self) -> Vec<Effect> {
        let follow = self.settle();
        self.finish(follow)
    }

    /// Somebody else took its port first: another one is looked for.
    pub(super) fn move_port(&mut self, message: String) -> Vec<Effect> {
        self.moves += 1;
        self.note("exited", message.clone());
        self.state.last_end = message;
        self.again()
    }

    /// It went with the Docker Engine: it starts again at once, and that counts as nothing.
    pub(super) fn lose(&mut self, ended: &Ended) -> Vec<Effect> {
        let message = format!("the runtime {}", ended.phrase());
        self.note("exited", format!("{message}; it starts again at once"));
        self.state.last_end = message;
        self.again()
    }

    /// It ended and nobody had told it to. `phrase`: how, after "the runtime".
    pub(super) fn crash(&mut self, ended: &Ended, phrase: &str) -> Vec<Effect> {
        let (policy, now, attempt) = (self.policy, self.now, self.state.attempt);
        self.state.out_of_memory = ended.out_of_memory;
        self.crashes.retain(|at| now.since(*at) < policy.crash_window);
        self.crashes.push(now);
        self.state.recent_crashes = u8::try_from(self.crashes.len()).unwrap_or(u8::MAX);
        let end = format!("attempt {attempt}: the runtime {phrase}");
        self.state.last_end = with_output(end, &ended.output);
        if self.state.recent_crashes >= policy.crash_max {
            let message = format!(
                "the runtime ended {} times within {} and last {phrase}",
                self.crashes.len(),
                human(policy.crash_window),
            );
            let message = with_output(message, &ended.output);
            return self.fail(Failure {
                reason: FailureReason::CrashLoop,
                message,
                exit_code: ended.exit_code(),
            });
        }
        let delay = human(self.backoff());
        self.note("exited", format!("attempt {attempt}: the runtime {phrase}; it starts again in {delay}"));
        let follow = self.enter(Phase::BackingOff);
        self.finish(follow)
    }

    /// How long to wait before the next start.
    pub(super) fn backoff(&self) -> Duration {
        let doublings = u32::from(self.state.recent_crashes.saturating_sub(1)).min(16);
        self.policy.backoff_first.saturating_mul(1 << doublings).min(self.policy.backoff_max)
    }

    /// Whether calls may be passed to the runtime.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.state.phase, Phase::Running { .. })
    }

    /// Changes the phase. What the old one had pending ends with it.
    pub(super) fn enter(&mut self, phase: Phase) -> Follow {
        let old = std::mem::replace(&mut self.state.phase, phase);
        self.fence += 1;
        let mut follow = Vec::new();
        if old.asks() && !self.state.phase.asks() {
            follow.push(Effect::StopProbe);
        }
        if old.has_timer() && !self.state.phase.has_timer() {
            follow.push(Effect::CancelTimer);
        }
        self.follow(&mut follow);
        follow
    }

    fn follow(&mut self, follow: &mut Follow) {
        let fence = self.fence;
        match self.state.phase.clone() {
            Phase::Preparing => {
                self.state.attempt = self.state.attempt.saturating_add(1);
                let attempt = self.state.attempt;
                follow.extend([Effect::Route { ready: false }, Effect::Prepare { attempt }, Effect::Report]);
            }
            Phase::Spawning { .. } => follow.push(Effect::Spawn { attempt: self.state.attempt }),
            Phase::Starting { instance } => {
                self.note("started", format!("{instance} on port {}", self.state.port));
                (self.began, self.progressed) = (self.now, false);
                let attempt = self.state.attempt;
                let timer = Effect::SetTimer { fence, after: self.policy.start_deadline };
                follow.extend([Effect::Probe { attempt }, timer, Effect::Report]);
            }
            Phase::Running { .. } => {
                self.note("running", "the runtime is healthy".to_owned());
                // When it fires, all crashes are older than the window. One that is not wanted any more is stale.
                if self.state.recent_crashes > 0 {
                    follow.push(Effect::SetTimer { fence, after: self.policy.crash_window });
                }
                let guard = Effect::Guard { attempt: self.state.attempt };
                follow.extend([guard, Effect::Route { ready: true }, Effect::Report]);
            }
            Phase::Hung { message, .. } => {
                self.note("unresponsive", message);
                let timer = Effect::SetTimer { fence, after: self.policy.hung_max };
                follow.extend([Effect::Route { ready: false }, timer, Effect::Report]);
            }
            Phase::Draining { .. } => self.begin_to_drain(follow),
            Phase::BackingOff => {
                let timer = Effect::SetTimer { fence, after: self.backoff() };
                follow.extend([Effect::Route { ready: false }, timer, Effect::Report]);
            }
            Phase::Killing { instance, .. } => {
                self.note("stopping", format!("{instance} is told to end"));
                let signal = Effect::Signal { instance, signal: Signal::Term };
                let timer = Effect::SetTimer { fence, after: self.grace };
                follow.extend([Effect::Route { ready: false }, signal, timer, Effect::Report]);
            }
            Phase::Stopped => {
                self.note("stopped", "nothing runs any more".to_owned());
                follow.extend([Effect::Route { ready: false }, Effect::Report]);
                follow.extend(self.halting.then_some(Effect::Done));
            }
            Phase::Failed(failure) => {
                self.state.last_end.clear();
                self.note("failed", format!("{}: {}", failure.reason, failure.message));
                follow.extend([Effect::Route { ready: false }, Effect::Report]);
                follow.extend(self.halting.then_some(Effect::Done));
            }
            Phase::Removed => follow.extend([Effect::Report, Effect::Done]),
            Phase::Halted => follow.push(Effect::Done),
            Phase::New => {}
        }
    }

    /// A line for the journal, durable with the next persist.
    pub(super) fn note(&mut self, kind: &'static str, message: String) {
        self.journal.push(Entry { kind, message });
    }

    /// Puts the persist before what follows.
    pub(super) fn finish(&mut self, follow: Follow) -> Vec<Effect> {
        self.durable(follow, None)
    }

    /// The same, and answers who asked as soon as it is durable.
    pub(super) fn answer(&mut self, follow: Follow) -> Vec<Effect> {
        self.durable(follow, Some(Effect::Reply(Ok(()))))
    }

    /// Below which starts stay refused when nothing is left: the one that was deleted may come again, late. Without a
    /// generation nothing is refused.
    fn fence_of_removal(&self) -> Generation {
        let deleted = self.state.generation;
        if deleted == Generation(0) { deleted } else { deleted.next() }
    }

    fn durable(&mut self, follow: Follow, reply: Option<Effect>) -> Vec<Effect> {
        let journal = std::mem::take(&mut self.journal);
        let first = match self.state.phase {
            Phase::Removed => Effect::Remove(self.fence_of_removal()),
            Phase::New
            | Phase::Preparing
            | Phase::Spawning { .. }
            | Phase::Starting { .. }
            | Phase::Running { .. }
            | Phase::Hung { .. }
            | Phase::Draining { .. }
            | Phase::BackingOff
            | Phase::Killing { .. }
            | Phase::Stopped
            | Phase::Failed(_)
            | Phase::Halted => Effect::Persist(journal),
        };
        std::iter::once(first).chain(reply).chain(follow).collect()
    }
}
