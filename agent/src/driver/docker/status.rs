//! Whether the Engine answers: asked again and again, told to whoever wants to know.

use std::time::Duration;

use nebula_core::clock::Tick;
use tokio::time::MissedTickBehavior;

use super::Docker;
use super::engine::{CALL_LIMIT, EngineError};
use crate::driver::programs;

/// Between two pings, and how long each may take.
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_LIMIT: Duration = Duration::from_secs(5);
/// What makes an Engine on this machine hand out NVIDIA's GPUs.
const GPU_RUNTIME: &str = "nvidia";
const GPU_HOOK: &str = "nvidia-container-runtime-hook";

/// What is known of the Engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EngineStatus {
    /// It was not asked yet.
    Unknown,
    /// Nobody is there.
    Absent {
        /// One line for people.
        error: String,
    },
    /// It answers.
    Ready {
        /// Its version.
        version: String,
        /// The newest version of its API.
        api_version: String,
        /// Whether it is set up to hand out GPUs.
        gpus: bool,
    },
    /// Somebody is there and does not answer, or only with errors.
    Unresponsive {
        /// When that was noticed.
        since: Tick,
        /// One line for people.
        error: String,
    },
}

impl EngineStatus {
    /// Whether it answers.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self, Self::Ready { .. })
    }
}

impl Docker {
    /// Asks for ever.
    pub(super) async fn keep_looking(&self) {
        let mut every = tokio::time::interval(PING_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What a ready Engine said of itself holds until it goes away.
        let mut described = None;
        loop {
            every.tick().await;
            let (before, outages) = (self.status(), self.outages());
            let is_known = before.is_ready() && described == Some(outages);
            let next = match self.look(is_known).await {
                Ok(Some(status)) => {
                    described = Some(outages);
                    status
                }
                Ok(None) => continue,
                Err(error) => self.trouble(&before, &error),
            };
            let changed = self.0.status.send_if_modified(|now| {
                let changed = *now != next;
                *now = next.clone();
                changed
            });
            if changed {
                tell(&before, &next);
            }
        }
    }

    /// None: it answers, and what is known of it holds.
    async fn look(&self, is_known: bool) -> Result<Option<EngineStatus>, EngineError> {
        let engine = &self.0.engine;
        engine.call("answer a ping", PING_LIMIT, |docker| async move { docker.ping().await }).await?;
        if is_known {
            return Ok(None);
        }
        let version = engine
            .call("tell its version", CALL_LIMIT, |docker| async move { docker.version().await })
            .await?;
        let info =
            engine.call("describe itself", CALL_LIMIT, |docker| async move { docker.info().await }).await?;
        let gpus = info.runtimes.is_some_and(|runtimes| runtimes.contains_key(GPU_RUNTIME))
            || programs::find(GPU_HOOK, None).is_some();
        Ok(Some(EngineStatus::Ready {
            version: version.version.unwrap_or_default(),
            api_version: version.api_version.unwrap_or_default(),
            gpus,
        }))
    }

    fn trouble(&self, before: &EngineStatus, error: &EngineError) -> EngineStatus {
        if let EngineError::Absent { cause, .. } = error {
            if before.is_ready() {
                self.count_outage();
            }
            let hint = if cause.contains("ermission denied") {
                "; add the agent's user to the group docker"
            } else {
                ""
            };
            return EngineStatus::Absent { error: format!("{error}{hint}") };
        }
        let since = match before {
            EngineStatus::Unresponsive { since, .. } => *since,
            _ => self.0.clock.now(),
        };
        EngineStatus::Unresponsive { since, error: error.to_string() }
    }
}

/// A node without an Engine says so once; one that loses its Engine warns.
fn tell(before: &EngineStatus, now: &EngineStatus) {
    match (before, now) {
        (_, EngineStatus::Ready { version, api_version, gpus }) => {
            tracing::info!(version, api_version, gpus, "docker engine answers");
        }
        (EngineStatus::Unknown, EngineStatus::Absent { error }) => {
            tracing::info!(error, "this node has no docker engine");
        }
        (_, EngineStatus::Absent { error } | EngineStatus::Unresponsive { error, .. }) => {
            tracing::warn!(error, "docker engine does not answer");
        }
        (_, EngineStatus::Unknown) => {}
    }
}
