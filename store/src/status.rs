//! What the store says about itself, readable at any time without asking its thread.

use std::{
    any::Any,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::{oneshot, watch};

use crate::{
    disk::DiskStatus,
    info::{ExportInfo, Restored},
    latency::{Latency, Window},
};

/// Whether the store serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreState {
    /// It serves.
    #[default]
    Ok,
    /// It opens its engine again; until then everything is answered `Unavailable`.
    Reopening,
    /// It has failed and never recovers by itself.
    Failed,
}

impl StoreState {
    /// The state in one word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Reopening => "reopening",
            Self::Failed => "failed",
        }
    }
}

/// A view of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStatus {
    /// Whether it serves.
    pub state: StoreState,
    /// Why it opens its engine again, while it does.
    pub reopening: Option<String>,
    /// Why the store has failed, if it has. It never recovers by itself.
    pub failed: Option<String>,
    /// Size of the log file in bytes.
    pub size_bytes: u64,
    /// Batches committed since the store was opened.
    pub commits: u64,
    /// Groups in which they were committed.
    pub groups: u64,
    /// Requests that wait for the store's thread.
    pub queue_depth: u64,
    /// Records that were set aside, now or in earlier runs.
    pub set_aside: u64,
    /// How long the last group of commits took to become durable, in milliseconds.
    pub last_commit_ms: u64,
    /// How long the last 1,024 groups took.
    pub latency: Latency,
    /// The disk under it.
    pub disk: DiskStatus,
    /// The newest whole export among the store's own.
    pub last_export: Option<ExportInfo>,
    /// Why the last try to export failed, if it did.
    pub export_failed: Option<String>,
    /// That it was rebuilt and may lack acknowledged writes, until that is accepted.
    pub restored: Option<Restored>,
}

/// What the thread writes and the handles read.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    state: AtomicU8,
    /// The number of the step that the thread is at: odd while it is in the engine.
    step: AtomicU64,
    is_stalled: AtomicBool,
    /// Tells those who wait for an answer that none will come.
    failed: watch::Sender<bool>,
    pub(crate) queued: AtomicU64,
    pub(crate) size_bytes: AtomicU64,
    pub(crate) set_aside: AtomicU64,
    rest: Mutex<Rest>,
}

#[derive(Debug, Default)]
struct Rest {
    /// Why it is not `Ok`.
    reason: String,
    commits: u64,
    groups: u64,
    last_commit: Duration,
    window: Window,
    disk: DiskStatus,
    last_export: Option<ExportInfo>,
    export_failed: Option<String>,
    restored: Option<Restored>,
}

impl Shared {
    pub(crate) fn status(&self) -> StoreStatus {
        let rest = self.rest();
        let state = self.state();
        let reason_if = |wanted| (state == wanted).then(|| rest.reason.clone());
        StoreStatus {
            state,
            reopening: reason_if(StoreState::Reopening),
            failed: reason_if(StoreState::Failed),
            size_bytes: self.size_bytes.load(Relaxed),
            commits: rest.commits,
            groups: rest.groups,
            queue_depth: self.queued.load(Relaxed),
            set_aside: self.set_aside.load(Relaxed),
            last_commit_ms: u64::try_from(rest.last_commit.as_millis()).unwrap_or(u64::MAX),
            latency: rest.window.summary(),
            disk: rest.disk,
            last_export: rest.last_export.clone(),
            export_failed: rest.export_failed.clone(),
            restored: rest.restored.clone(),
        }
    }

    pub(crate) fn state(&self) -> StoreState {
        match self.state.load(Relaxed) {
            0 => StoreState::Ok,
            1 => StoreState::Reopening,
            _ => StoreState::Failed,
        }
    }

    /// Serves again.
    pub(crate) fn serve(&self) {
        self.set(StoreState::Ok, String::new());
    }

    /// Opens the engine again because of `reason`.
    pub(crate) fn reopen(&self, reason: String) {
        self.set(StoreState::Reopening, reason);
    }

    /// Marks the store as failed; the first reason stays.
    pub(crate) fn fail(&self, reason: String) {
        if self.state() != StoreState::Failed {
            tracing::error!(%reason, "store failed");
            self.set(StoreState::Failed, reason);
        }
    }

    /// The thread is in the engine from here to the next [`Shared::leave`].
    pub(crate) fn enter(&self) {
        self.step.fetch_or(1, Relaxed);
    }

    pub(crate) fn leave(&self) {
        let step = self.step.load(Relaxed);
        self.step.store(step.wrapping_add(step % 2), Relaxed);
    }

    pub(crate) fn step(&self) -> u64 {
        self.step.load(Relaxed)
    }

    /// The thread does not come back from the engine: the store has failed, and nobody waits for an answer any more.
    pub(crate) fn stalled(&self, reason: String) {
        self.is_stalled.store(true, Relaxed);
        self.fail(reason);
        self.failed.send_replace(true);
    }

    pub(crate) fn is_stalled(&self) -> bool {
        self.is_stalled.load(Relaxed)
    }

    /// What an answer comes to that the store's thread owes: none, when it was dropped or the thread has stalled.
    pub(crate) async fn answer<T>(self: Arc<Self>, answer: oneshot::Receiver<T>) -> Option<T> {
        let mut failed = self.failed.subscribe();
        tokio::select! {
            biased;
            answer = answer => answer.ok(),
            _ = failed.wait_for(|failed| *failed) => None,
        }
    }

    /// A group was committed with `commits` batches applied.
    pub(crate) fn committed(&self, commits: u64, took: Duration) {
        let mut rest = self.rest();
        rest.commits = rest.commits.saturating_add(commits);
        rest.groups = rest.groups.saturating_add(1);
        rest.last_commit = took;
        rest.window.add(took);
    }

    pub(crate) fn set_disk(&self, disk: DiskStatus) {
        self.rest().disk = disk;
    }

    pub(crate) fn set_restored(&self, restored: Option<Restored>) {
        self.rest().restored = restored;
    }

    /// An export among the store's own is whole, or failed.
    pub(crate) fn exported(&self, result: Result<ExportInfo, String>) {
        let mut rest = self.rest();
        match result {
            Ok(info) => {
                rest.last_export = Some(info);
                rest.export_failed = None;
            }
            Err(error) => rest.export_failed = Some(error),
        }
    }

    fn set(&self, state: StoreState, reason: String) {
        let mut rest = self.rest();
        if self.state() != StoreState::Failed {
            rest.reason = reason;
            self.state.store(state as u8, Relaxed);
        }
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
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
