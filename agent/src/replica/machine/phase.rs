//! Where a replica stands.

use std::fmt;

use crate::replica::spec::Instance;

/// What is observed of a replica. Outward names are in [`super::Status`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nobody has started it, nothing is stored.
    New,
    /// It is looked for what the runtime needs.
    Preparing,
    /// The process is being made. `stale`: it is unwanted already and will be ended as soon as it exists.
    Spawning { stale: bool },
    /// The process exists and is asked for its health.
    Starting { instance: Instance },
    /// It is healthy.
    Running { instance: Instance },
    /// It was healthy and answers nothing; it is still asked. `message`: what was seen. Stored as running.
    Hung { instance: Instance, message: String },
    /// It gets no new requests and has a while to answer those in flight; then it is told to end. Stored as killing:
    /// the requests go with the agent whose proxy holds them.
    Draining { instance: Instance },
    /// It crashed and will be started again.
    BackingOff,
    /// It was told to end. `failure`: what becomes of the replica, unless a command says otherwise.
    Killing { instance: Instance, failure: Option<Failure> },
    /// It ended because that was wanted.
    Stopped,
    /// It ended or never came up, and stays so until it is told to start.
    Failed(Failure),
    /// Nothing is left of it.
    Removed,
    /// Nothing runs because the agent stops; the next one starts it.
    Halted,
}

impl Phase {
    /// Whether something runs or is under way.
    pub(super) fn is_busy(&self) -> bool {
        match self {
            Self::Preparing
            | Self::Spawning { .. }
            | Self::Starting { .. }
            | Self::Running { .. }
            | Self::Hung { .. }
            | Self::Draining { .. }
            | Self::BackingOff
            | Self::Killing { .. } => true,
            Self::New | Self::Stopped | Self::Failed(_) | Self::Removed | Self::Halted => false,
        }
    }

    /// Whether a timer runs in it.
    pub(super) fn has_timer(&self) -> bool {
        match self {
            Self::Starting { .. }
            | Self::Hung { .. }
            | Self::Draining { .. }
            | Self::BackingOff
            | Self::Killing { .. } => true,
            Self::New
            | Self::Preparing
            | Self::Spawning { .. }
            | Self::Running { .. }
            | Self::Stopped
            | Self::Failed(_)
            | Self::Removed
            | Self::Halted => false,
        }
    }

    /// Whether the runtime is asked in it.
    pub(super) fn asks(&self) -> bool {
        matches!(self, Self::Starting { .. } | Self::Running { .. } | Self::Hung { .. })
    }

    /// What runs in it.
    pub fn instance(&self) -> Option<Instance> {
        match self {
            Self::Starting { instance }
            | Self::Running { instance }
            | Self::Hung { instance, .. }
            | Self::Draining { instance }
            | Self::Killing { instance, .. } => Some(*instance),
            Self::New
            | Self::Preparing
            | Self::Spawning { .. }
            | Self::BackingOff
            | Self::Stopped
            | Self::Failed(_)
            | Self::Removed
            | Self::Halted => None,
        }
    }

    /// Its name in logs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Preparing => "preparing",
            Self::Spawning { .. } => "spawning",
            Self::Starting { .. } => "starting",
            Self::Running { .. } => "running",
            Self::Hung { .. } => "hung",
            Self::Draining { .. } => "draining",
            Self::BackingOff => "backing_off",
            Self::Killing { .. } => "killing",
            Self::Stopped => "stopped",
            Self::Failed(_) => "failed",
            Self::Removed => "removed",
            Self::Halted => "halted",
        }
    }
}

/// Why a replica failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub reason: FailureReason,
    /// For people; may carry the runtime's last lines.
    pub message: String,
    /// The runtime's exit code; 0 when it had none.
    pub exit_code: i32,
}

impl Failure {
    /// The exit code of the attempt that ended with it; none when nothing had ended by itself, or nobody saw how.
    pub(super) fn exit_code(&self) -> Option<i32> {
        let ended = matches!(self.reason, FailureReason::Exited | FailureReason::CrashLoop);
        Some(self.exit_code).filter(|code| ended && *code >= 0)
    }
}

/// The kinds of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureReason {
    /// The program or a port was not there.
    Prepare,
    /// The process could not be made.
    Spawn,
    /// It ended before it was ever healthy.
    Exited,
    /// It did not become healthy in time.
    HealthDeadline,
    /// It crashed too often.
    CrashLoop,
    /// Its image could not be pulled.
    ImagePull,
    /// Its model could not be fetched or loaded.
    Model,
    /// A GPU that it uses is not there any more.
    Gpu,
    /// It was healthy and then answered nothing. It ends for that, as by a crash, and does not fail.
    Unresponsive,
}

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prepare => "cannot_start",
            Self::Spawn => "cannot_spawn",
            Self::Exited => "exited",
            Self::HealthDeadline => "not_healthy",
            Self::CrashLoop => "crash_loop",
            Self::ImagePull => "image_pull",
            Self::Model => "model",
            Self::Gpu => "gpu",
            Self::Unresponsive => "unresponsive",
        })
    }
}
