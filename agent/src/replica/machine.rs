//! The life of one replica. Pure: the same state, event and time give the same effects.
//!
//! ```text
//! preparing → spawning → starting → running ⇄ hung
//!     ↑                     ↓          ↓       ↓
//!     ├─ backing off ←──────┴──────────┤       ↓
//!     └─────────────────────────── killing ←───┘     → stopped | failed | removed
//! ```
//! Before it is killed by a command that grants time to requests in flight, one that runs or hangs is `draining`.
//!
//! Desired and observed are apart: a command only changes what is wanted, and [`Machine::pursue`] says what follows
//! from the phase. Every command carries a generation; an older one than the newest seen is refused. `Persist` comes
//! first among the effects of a step, and `Reply` is an effect after it, so nothing is answered before it is durable.

mod commands;
mod drain;
#[cfg(test)]
mod drain_tests;
mod events;
mod flow;
mod load;
mod outside;
#[cfg(test)]
mod outside_tests;
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
use super::spec::{Access, Spec};

/// Between two hard signals at least, however short the grace is.
const KILL_AGAIN_MIN: Duration = Duration::from_secs(1);

/// How often a replica is given another port when somebody else took its own first.
const MOVES_MAX: u8 = 3;

/// The times and limits of a replica's life.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// How long a runtime may take until it is healthy, counted from when it last made progress.
    pub start_deadline: Duration,
    /// How long it may take in all, whatever progress it makes.
    pub start_total: Duration,
    /// How long one that was healthy may answer nothing until it is ended and started again.
    pub hung_max: Duration,
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
            start_total: Duration::from_secs(4 * 60 * 60),
            hung_max: Duration::from_secs(60),
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
    /// The last try ended because it had no memory left.
    pub out_of_memory: bool,
}

/// One replica.
#[derive(Clone, Debug)]
pub struct Machine {
    policy: Policy,
    state: State,
    spec: Arc<Spec>,
    /// When the step that is under way happens.
    now: Tick,
    /// When the runtime that is starting began to.
    began: Tick,
    /// It has made progress since.
    progressed: bool,
    /// When it crashed lately, oldest first.
    crashes: Vec<Tick>,
    /// Lines for the journal that go with the next persist.
    journal: Vec<Entry>,
    /// How often it was given another port since it was last told to start.
    moves: u8,
    /// The grace of the command that ends it.
    grace: Duration,
    /// What the newest command grants to requests in flight.
    drain: Duration,
    /// When the time of those in flight is over, while it drains.
    drained_by: Tick,
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
            out_of_memory: false,
        };
        Self::with(policy, state, spec, Tick(0))
    }

    fn with(policy: Policy, state: State, spec: Arc<Spec>, now: Tick) -> Self {
        Self {
            policy,
            state,
            spec,
            now,
            began: now,
            progressed: false,
            crashes: Vec::new(),
            journal: Vec::new(),
            moves: 0,
            grace: policy.grace,
            drain: Duration::ZERO,
            drained_by: now,
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
        self.now = now;
        match event {
            Event::Start { generation, spec, access, port, drain } => {
                self.on_start(generation, spec, access, port, drain)
            }
            Event::Stop { generation, grace, drain } => self.on_stop(generation, grace, drain),
            Event::Restart { generation } => self.on_restart(generation),
            Event::Delete { generation, drain } => self.on_delete(generation, drain),
            Event::SetAccess { access } => self.on_access(access),
            Event::Prepared { attempt, port } => self.on_prepared(attempt, port),
            Event::PrepareFailed { attempt, reason, message } => {
                self.on_prepare_failed(attempt, reason, message)
            }
            Event::Noted { attempt, entry } => self.on_noted(attempt, entry),
            Event::Spawned { attempt, instance } => self.on_spawned(attempt, instance),
            Event::SpawnFailed { attempt, message } => self.on_spawn_failed(attempt, message),
            Event::PortTaken { attempt, message } => self.on_port_taken(attempt, message),
            Event::Exited { attempt, ended } => self.on_exited(attempt, &ended),
            Event::Healthy { attempt } => self.on_healthy(attempt),
            Event::Progressed { attempt } => self.on_progressed(attempt),
            Event::Silent { attempt, message } => self.on_silent(attempt, message),
            Event::Excused { attempt } => self.on_excused(attempt),
            Event::Answering { attempt } => self.on_answering(attempt),
            Event::Broken { attempt, reason, message } => self.on_broken(attempt, reason, message),
            Event::Drained { attempt } => self.on_drained(attempt),
            Event::Timer { fence } => self.on_timer(fence),
            Event::Halt { leave } => self.on_halt(leave),
        }
    }
}

/// A message with what the runtime wrote last below it.
fn with_output(message: String, output: &str) -> String {
    if output.is_empty() { message } else { format!("{message}; its last lines:\n{output}") }
}
