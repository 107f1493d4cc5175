//! Requests that may be sent again: what was made for which key.

use std::time::Duration;

use nebula_core::clock::WallTime;
use nebula_core::ids::DeploymentId;

/// How long a key is remembered.
pub const KEPT_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// How many keys are remembered; beyond it the oldest is forgotten early.
pub const KEYS_MAX: usize = 10_000;
/// The longest key.
pub const KEY_BYTES_MAX: usize = 255;

/// A key that was used to create a deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedKey {
    /// As the client sent it.
    pub key: String,
    /// SHA-256 of the request's body: another body under the same key is a mistake.
    pub body: [u8; 32],
    /// What was made.
    pub deployment: DeploymentId,
    /// When.
    pub at: WallTime,
}

impl UsedKey {
    /// Whether it need not be remembered any more.
    #[must_use]
    pub fn is_over(&self, now: WallTime) -> bool {
        u128::from(now.0.saturating_sub(self.at.0)) > KEPT_FOR.as_millis()
    }
}
