//! The life of one replica. Pure: the same state, event and time give the same effects.
//!
//! ```text
//! preparing → spawning → starting → running ⇄ backing off
//!     ↑                      ↓         ↓
//!     └──────────────────  killing  ←──┘      → stopped | failed | removed
//! ```
//! Desired and observed are apart: a command only changes what is wanted, and [`Machine::pursue`] says what follows
//! from the phase. Every command carries a generation; an older one than the newest seen is refused. `Persist` comes
//! first among the effects of a step, and `Reply` is an effect after it, so nothing is answered before it is durable.

mod events;
mod flow;
mod load;
mod phase;
#[cfg(test)]
mod props;
#[cfg(test)]
mod tests;
mod view;

use std::sync::Arc;
use std::time::Duration;

use nebula_core::clock::Tick;
use nebula_core::ids::{DeploymentId, Generation, ReplicaId};

pub use self::events::{Effect, Entry, Event, Refusal, Signal};
pub use self::load::Found;
pub use self::phase::{Failure, FailureReason, Phase};
pub use self::view::{Status, View};
use super::spec::{Access, Ended, ProcessRef, Spec};

/// Between two hard signals at least, however short the grace is.
const KILL_AGAIN_MIN: Duration = Duration::from_secs(1);

/// How often a replica is given another port when somebody else took its own first.
const MOVES_MAX: u8 = 3;

/// The times and limits of a replica's life.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// How long a runtime may take until it is healthy.
    pub start_deadline: Duration,
    /// Between the polite and the hard signal.
    pub grace: Duration,
    /// Before the first restart after a crash; doubles with each further one.
    pub backoff_first: Duration,
    /// The longest wait before a restart.
    pub backoff_max: Duration,
    /// Crashes older than this are forgotten.
    pub crash_window: Duration,
    /// So many crashes within the window end in `failed`.
    pub crash_max: u8,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            start_deadline: Duration::from_secs(15 * 60),
            grace: Duration::from_secs(10),
            backoff_first: Duration::from_secs(10),
            backoff_max: Duration::from_secs(5 * 60),
            crash_window: Duration::from_secs(10 * 60),
            crash_max: 5,
        }
    }
}

/// What is wanted of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Desired {
    /// It runs.
    Running,
    /// It does not run, its record and logs stay.
    Stopped,
    /// Nothing of it stays.
    Deleted,
}

/// What survives the agent.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub deployment: DeploymentId,
    pub replica: ReplicaId,
    /// The newest that was seen.
    pub generation: Generation,
    pub desired: Desired,
    pub phase: Phase,
    pub access: Access,
    /// Where the runtime listens on loopback; 0: none was chosen yet.
    pub port: u16,
    /// Counts the tries to start it; fences what belongs to one try, and names its log.
    pub attempt: u32,
    /// How often it was started again after a crash.
    pub restarts: u32,
    /// It was healthy once since it was last told to start.
    pub ever_healthy: bool,
    /// This generation's restart was carried out.
    pub restarted: bool,
    /// How many crashes count against it now.
    pub recent_crashes: u8,
    /// How the last try ended, for people.
    pub last_end: String,
}

/// One replica.
#[derive(Clone, Debug)]
pub struct Machine {
    policy: Policy,
    state: State,
    spec: Arc<Spec>,
    /// When it crashed lately, oldest first.
    crashes: Vec<Tick>,
    /// Lines for the journal that go with the next persist.
    journal: Vec<Entry>,
    /// How often it was given another port since it was last told to start.
    moves: u8,
    /// The grace of the command that ends it.
    grace: Duration,
    /// Grows with each phase; a timer with another one is stale.
    fence: u64,
    halting: bool,
}

/// The effects that follow a new phase.
type Follow = Vec<Effect>;

impl Machine {
    /// A replica that nobody has started yet.
    pub fn new(policy: Policy, deployment: DeploymentId, replica: ReplicaId, spec: Arc<Spec>) -> Self {
        let state = State {
            deployment,
            replica,
            generation: Generation(0),
            desired: Desired::Stopped,
            phase: Phase::New,
            access: Access::default(),
            port: 0,
            attempt: 0,
            restarts: 0,
            ever_healthy: false,
            restarted: false,
            recent_crashes: 0,
            last_end: String::new(),
        };
        Self::with(policy, state, spec)
    }

    fn with(policy: Policy, state: State, spec: Arc<Spec>) -> Self {
        let (crashes, journal) = (Vec::new(), Vec::new());
        Self {
            policy,
            state,
            spec,
            crashes,
            journal,
            moves: 0,
            grace: policy.grace,
            fence: 0,
            halting: false,
        }
    }

    /// What is to be made durable.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What runs, or would.
    pub fn spec(&self) -> &Arc<Spec> {
        &self.spec
    }

    /// Takes one event.
    pub fn step(&mut self, event: Event, now: Tick) -> Vec<Effect> {
        match event {
            Event::Start { generation, spec, access, port } => self.on_start(generation, spec, access, port),
            Event::Stop { generation, grace } => self.on_stop(generation, grace),
            Event::Restart { generation } => self.on_restart(generation),
            Event::Delete { generation } => self.on_delete(generation),
            Event::SetAccess { access } => self.on_access(access),
            Event::Prepared { attempt, port } => self.on_prepared(attempt, port),
            Event::PrepareFailed { attempt, message } => self.on_prepare_failed(attempt, message),
            Event::Spawned { attempt, process } => self.on_spawned(attempt, process),
            Event::SpawnFailed { attempt, message } => self.on_spawn_failed(attempt, message),
            Event::Exited { attempt, ended } => self.on_exited(attempt, &ended, now),
            Event::Healthy { attempt } => self.on_healthy(attempt),
            Event::Timer { fence } => self.on_timer(fence),
            Event::Halt { leave } => self.on_halt(leave),
        }
    }

    fn on_start(
        &mut self,
        generation: Generation,
        spec: Arc<Spec>,
        access: Access,
        port: u16,
    ) -> Vec<Effect> {
        if self.state.phase != Phase::New {
            if let Err(refusal) = self.check(Some(generation)) {
                return vec![Effect::Reply(Err(refusal))];
            }
            if generation == self.state.generation && !(generation.0 == 0 && self.has_come_to_an_end()) {
                return vec![Effect::Reply(Ok(()))];
            }
        } else if self.halting {
            return vec![Effect::Reply(Err(Refusal::Halting))];
        }
        let state = &mut self.state;
        state.generation = generation;
        state.access = access;
        state.port = port;
        state.restarted = false;
        state.restarts = 0;
        self.grace = self.policy.grace;
        self.spec = spec;
        self.begin_anew();
        self.note("accepted", format!("generation {generation} of {} accepted", self.spec.served_name));
        let follow = self.pursue();
        self.answer(follow)
    }

    fn on_stop(&mut self, generation: Option<Generation>, grace: Option<Duration>) -> Vec<Effect> {
        if let Err(refusal) = self.check(generation) {
            return vec![Effect::Reply(Err(refusal))];
        }
        self.raise(generation);
        self.state.desired = Desired::Stopped;
        self.grace = grace.unwrap_or(self.policy.grace);
        let follow = self.pursue();
        self.answer(follow)
    }

    fn on_restart(&mut self, generation: Option<Generation>) -> Vec<Effect> {
        if let Err(refusal) = self.check(generation) {
            return vec![Effect::Reply(Err(refusal))];
        }
        // The same restart twice is one restart. Without a generation every request counts.
        if generation == Some(self.state.generation) && self.state.restarted {
            return vec![Effect::Reply(Ok(()))];
        }
        self.raise(generation);
        self.state.restarted = generation.is_some();
        self.grace = self.policy.grace;
        self.begin_anew();
        self.note("restarted", "restart wanted".to_owned());
        let follow = self.pursue();
        self.answer(follow)
    }

    fn on_delete(&mut self, generation: Option<Generation>) -> Vec<Effect> {
        match self.check(generation) {
            Err(Refusal::Deleting) => return vec![Effect::Reply(Ok(()))],
            Err(refusal) => return vec![Effect::Reply(Err(refusal))],
            Ok(()) => {}
        }
        self.raise(generation);
        self.state.desired = Desired::Deleted;
        self.grace = self.policy.grace;
        self.note("deleted", "delete wanted".to_owned());
        let follow = self.pursue();
        self.answer(follow)
    }

    fn on_access(&mut self, access: Access) -> Vec<Effect> {
        if let Err(refusal) = self.check(None) {
            return vec![Effect::Reply(Err(refusal))];
        }
        let gateway = access.gateway.or(self.state.access.gateway);
        self.state.access = Access { gateway, ..access };
        self.note("access", "credentials replaced".to_owned());
        self.answer(vec![Effect::Route { ready: self.is_ready() }])
    }

    fn on_prepared(&mut self, attempt: u32, port: u16) -> Vec<Effect> {
        if self.state.phase != Phase::Preparing || attempt != self.state.attempt {
            return Vec::new();
        }
        self.state.port = port;
        let follow = self.enter(Phase::Spawning { stale: false });
        self.finish(follow)
    }

    fn on_prepare_failed(&mut self, attempt: u32, message: String) -> Vec<Effect> {
        if self.state.phase != Phase::Preparing || attempt != self.state.attempt {
            return Vec::new();
        }
        self.fail(Failure { reason: FailureReason::Prepare, message, exit_code: 0 })
    }

    fn on_spawned(&mut self, attempt: u32, process: ProcessRef) -> Vec<Effect> {
        let Phase::Spawning { stale } = self.state.phase else {
            return vec![Effect::Signal { process, signal: Signal::Kill }];
        };
        if attempt != self.state.attempt {
            return vec![Effect::Signal { process, signal: Signal::Kill }];
        }
        let watch = Effect::Watch { attempt, process };
        let mut follow = vec![watch];
        let next =
            if stale { Phase::Killing { process, failure: None } } else { Phase::Starting { process } };
        follow.extend(self.enter(next));
        self.finish(follow)
    }

    fn on_spawn_failed(&mut self, attempt: u32, message: String) -> Vec<Effect> {
        match self.state.phase {
            Phase::Spawning { .. } if attempt != self.state.attempt => Vec::new(),
            Phase::Spawning { stale: true } => {
                let follow = self.settle();
                self.finish(follow)
            }
            Phase::Spawning { stale: false } => {
                self.fail(Failure { reason: FailureReason::Spawn, message, exit_code: 0 })
            }
            Phase::New
            | Phase::Preparing
            | Phase::Starting { .. }
            | Phase::Running { .. }
            | Phase::BackingOff
            | Phase::Killing { .. }
            | Phase::Stopped
            | Phase::Failed(_)
            | Phase::Removed
            | Phase::Halted => Vec::new(),
        }
    }

    fn on_exited(&mut self, attempt: u32, ended: &Ended, now: Tick) -> Vec<Effect> {
        if attempt != self.state.attempt {
            return Vec::new();
        }
        match &self.state.phase {
            Phase::Starting { .. }
                if !self.state.ever_healthy && ended.port_taken && self.moves < MOVES_MAX =>
            {
                self.move_port(ended)
            }
            Phase::Starting { .. } if !self.state.ever_healthy => {
                let message = with_output(
                    format!("the runtime {} before it was healthy", ended.phrase()),
                    &ended.output,
                );
                self.fail(Failure { reason: FailureReason::Exited, message, exit_code: ended.exit_code() })
            }
            Phase::Starting { .. } | Phase::Running { .. } => self.crash(ended, now),
            Phase::Killing { failure, .. } => match failure.clone() {
                Some(failure) => {
                    self.fail(Failure { message: with_output(failure.message, &ended.output), ..failure })
                }
                None => {
                    let follow = self.settle();
                    self.finish(follow)
                }
            },
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

    fn on_healthy(&mut self, attempt: u32) -> Vec<Effect> {
        match self.state.phase {
            Phase::Starting { process } if attempt == self.state.attempt => {
                self.state.ever_healthy = true;
                let follow = self.enter(Phase::Running { process });
                self.finish(follow)
            }
            Phase::New
            | Phase::Preparing
            | Phase::Spawning { .. }
            | Phase::Starting { .. }
            | Phase::Running { .. }
            | Phase::BackingOff
            | Phase::Killing { .. }
            | Phase::Stopped
            | Phase::Failed(_)
            | Phase::Removed
            | Phase::Halted => Vec::new(),
        }
    }

    fn on_timer(&mut self, fence: u64) -> Vec<Effect> {
        if fence != self.fence {
            return Vec::new();
        }
        match self.state.phase {
            Phase::Starting { process } => {
                let limit = nebula_core::duration::human(self.policy.start_deadline);
                let failure = Failure {
                    reason: FailureReason::HealthDeadline,
                    message: format!("the runtime was not healthy within {limit}"),
                    exit_code: 0,
                };
                let follow = self.enter(Phase::Killing { process, failure: Some(failure) });
                self.finish(follow)
            }
            Phase::BackingOff => {
                self.state.restarts = self.state.restarts.saturating_add(1);
                let follow = self.enter(Phase::Preparing);
                self.finish(follow)
            }
            Phase::Killing { process, .. } => vec![
                Effect::Signal { process, signal: Signal::Kill },
                Effect::SetTimer { fence: self.fence, after: self.policy.grace.max(KILL_AGAIN_MIN) },
            ],
            Phase::New
            | Phase::Preparing
            | Phase::Spawning { .. }
            | Phase::Running { .. }
            | Phase::Stopped
            | Phase::Failed(_)
            | Phase::Removed
            | Phase::Halted => Vec::new(),
        }
    }

    fn on_halt(&mut self, leave: bool) -> Vec<Effect> {
        self.halting = true;
        if leave || !self.state.phase.is_busy() {
            return vec![Effect::Done];
        }
        self.grace = self.policy.grace;
        let mut follow = self.pursue();
        // A command may have granted more time than the agent's own stop has.
        if matches!(self.state.phase, Phase::Killing { .. }) && follow.is_empty() {
            follow.push(Effect::SetTimer { fence: self.fence, after: self.grace });
        }
        self.finish(follow)
    }
}

/// A message with what the runtime wrote last below it.
fn with_output(message: String, output: &str) -> String {
    if output.is_empty() { message } else { format!("{message}; its last lines:\n{output}") }
}
