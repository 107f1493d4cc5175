//! The journal's counter: every line has a number of its own over all deployments, in the order in which lines
//! were decided.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Hands out sequence numbers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Journal {
    last: Arc<AtomicU64>,
}

impl Journal {
    /// Goes on after the last number that the store holds.
    #[must_use]
    pub fn after(last: u64) -> Self {
        Self { last: Arc::new(AtomicU64::new(last)) }
    }

    /// The next number.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.last.fetch_add(1, Ordering::AcqRel) + 1
    }
}
