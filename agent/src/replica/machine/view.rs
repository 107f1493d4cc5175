//! What is told of a replica.

use nebula_core::ids::Generation;

use super::{Desired, FailureReason, Machine, Phase};
use crate::replica::spec::Instance;

/// A replica's state as nebulad and people see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    Preparing,
    Starting,
    Running,
    Stopping,
    Stopped,
    Failed,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Preparing, Self::Starting, Self::Running, Self::Stopping, Self::Stopped, Self::Failed];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

/// What is told of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub status: Status,
    pub generation: Generation,
    pub port: u16,
    pub instance: Option<Instance>,
    /// Something may be made for it that is not known yet.
    pub is_beginning: bool,
    pub attempt: u32,
    pub restarts: u32,
    /// Why it failed, or what it waits for; empty when all is well.
    pub message: String,
    /// How the last attempt of one that failed ended; none: nothing had run, or nobody knows.
    pub exit_code: Option<i32>,
    /// The last attempt ended because it had no memory left.
    pub out_of_memory: bool,
}

impl Machine {
    /// What is told now. None before the replica exists and after it is gone.
    pub fn view(&self) -> Option<View> {
        let state = &self.state;
        let (status, message, exit_code) = match &state.phase {
            Phase::New | Phase::Removed => return None,
            Phase::Preparing | Phase::Spawning { .. } if state.last_end.is_empty() => {
                (Status::Preparing, String::new(), None)
            }
            Phase::Preparing | Phase::Spawning { .. } | Phase::Starting { .. } => {
                (Status::Starting, state.last_end.clone(), None)
            }
            Phase::Running { .. } => (Status::Running, String::new(), None),
            Phase::BackingOff => {
                let wait = nebula_core::duration::human(self.backoff());
                (Status::Starting, format!("starts again {wait} after the end of {}", state.last_end), None)
            }
            Phase::Hung { message, .. } => {
                let limit = nebula_core::duration::human(self.policy.hung_max);
                (Status::Starting, format!("{message}; after {limit} of that it is started again"), None)
            }
            Phase::Killing { failure: Some(failure), .. }
                if failure.reason == FailureReason::Unresponsive =>
            {
                (Status::Starting, format!("{}; it is ended and starts again", failure.message), None)
            }
            Phase::Killing { failure: Some(failure), .. } => {
                (Status::Stopping, failure.message.clone(), None)
            }
            Phase::Draining { .. } => match state.desired {
                Desired::Running => {
                    (Status::Starting, "the one before answers its last requests".to_owned(), None)
                }
                Desired::Stopped | Desired::Deleted => (Status::Stopping, String::new(), None),
            },
            Phase::Killing { failure: None, .. } => match state.desired {
                Desired::Running if !self.halting => {
                    (Status::Starting, "the one before is told to end".to_owned(), None)
                }
                Desired::Running | Desired::Stopped | Desired::Deleted => {
                    (Status::Stopping, String::new(), None)
                }
            },
            Phase::Stopped => (Status::Stopped, String::new(), None),
            Phase::Halted => (Status::Stopping, "the agent is stopping".to_owned(), None),
            Phase::Failed(failure) => {
                (Status::Failed, format!("{}: {}", failure.reason, failure.message), failure.exit_code())
            }
        };
        let (generation, port, instance) = (state.generation, state.port, state.phase.instance());
        let (attempt, restarts) = (state.attempt, state.restarts);
        let is_beginning = matches!(state.phase, Phase::Preparing | Phase::Spawning { .. });
        Some(View {
            status,
            is_beginning,
            generation,
            port,
            instance,
            attempt,
            restarts,
            message,
            exit_code,
            out_of_memory: state.out_of_memory,
        })
    }
}
