//! The way from a request to a deployment that sleeps or starts.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use nebula_core::clock::Clock;
use nebula_core::ids::DeploymentId;

use crate::domain::route::Route;

/// While requests wait for it, a deployment that sleeps is woken this often: a word may be lost.
pub(super) const WAKE_EVERY: Duration = Duration::from_secs(1);
/// Longest progress that a comment tells, in characters.
const PROGRESS_MAX: usize = 160;

/// Wakes deployments and knows how far those have got that start. Must neither block nor queue without bound: a word
/// that does not fit is dropped and said again.
#[derive(Clone)]
pub struct Wakes {
    wake: Arc<dyn Fn(DeploymentId) + Send + Sync>,
    progress: Arc<dyn Fn(DeploymentId) -> Option<String> + Send + Sync>,
}

impl Wakes {
    /// Deployments are woken by `wake`, and `progress` says how far one has got that starts.
    #[must_use]
    pub fn to(
        wake: impl Fn(DeploymentId) + Send + Sync + 'static,
        progress: impl Fn(DeploymentId) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        Self { wake: Arc::new(wake), progress: Arc::new(progress) }
    }

    /// Wakes a deployment that sleeps, unless somebody has just done so.
    pub(super) fn wake(&self, route: &Route, clock: &Clock) {
        if route.wakes && route.demand.wakes(clock.now(), WAKE_EVERY) {
            (self.wake)(route.deployment_id);
        }
    }

    /// How far a deployment has got, on one line.
    pub(super) fn progress(&self, deployment: DeploymentId) -> Option<String> {
        let text = (self.progress)(deployment)?;
        Some(text.chars().take(PROGRESS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect())
    }
}

impl fmt::Debug for Wakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wakes(…)")
    }
}
