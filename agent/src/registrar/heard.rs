//! How the conversation with nebulad goes, for the metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nebula_core::clock::Tick;

/// Counts heartbeats.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    failures: AtomicU64,
    /// When nebulad last acknowledged one, in ticks.
    last: AtomicU64,
}

impl Heard {
    /// A heartbeat was acknowledged.
    pub(super) fn acknowledged(&self, now: Tick) {
        self.last.store(now.0, Ordering::Relaxed);
    }

    /// A call to nebulad has failed.
    pub(super) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Calls that have failed since the agent started.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// The time since the last acknowledged heartbeat; before the first, since the clock was started.
    pub(crate) fn age(&self, now: Tick) -> Duration {
        now.since(Tick(self.last.load(Ordering::Relaxed)))
    }
}
