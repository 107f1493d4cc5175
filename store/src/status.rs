//! What the store says about itself, readable at any time without asking its thread.

use std::{
    any::Any,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// A view of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStatus {
    /// Size of the log file in bytes.
    pub size_bytes: u64,
    /// Batches committed since the store was opened.
    pub commits: u64,
    /// Bad records that were set aside, now or in earlier runs.
    pub set_aside: u64,
    /// How long the last group of commits took to become durable, in milliseconds.
    pub last_commit_ms: u64,
    /// Why the store has failed, if it has. It never recovers by itself.
    pub failed: Option<String>,
}

/// What the thread writes and the handles read.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) size_bytes: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) set_aside: AtomicU64,
    pub(crate) last_commit_ms: AtomicU64,
    failed: OnceLock<String>,
}

impl Shared {
    pub(crate) fn status(&self) -> StoreStatus {
        StoreStatus {
            size_bytes: self.size_bytes.load(Relaxed),
            commits: self.commits.load(Relaxed),
            set_aside: self.set_aside.load(Relaxed),
            last_commit_ms: self.last_commit_ms.load(Relaxed),
            failed: self.failed.get().cloned(),
        }
    }

    /// Marks the store as failed; the first reason stays.
    pub(crate) fn fail(&self, reason: String) {
        tracing::error!(%reason, "store failed");
        let _ = self.failed.set(reason);
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.get().is_some()
    }
}

/// The text of a caught panic.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a text".to_owned())
}
