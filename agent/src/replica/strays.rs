//! What is left of replicas that no record speaks of: it is ended and removed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nebula_core::ids::ReplicaId;

use super::manager::{Inner, Replicas};
use crate::driver::process;

/// Between two looks for containers that belong to no replica any more.
const STRAYS_EVERY: Duration = Duration::from_secs(30);

impl Inner {
    /// Whether a replica may have a container now.
    fn may_run(&self, replica: ReplicaId) -> bool {
        // Whoever stops the agent decides what stays.
        if self.halting.load(Ordering::Acquire) {
            return true;
        }
        let Some(handle) = self.handle(replica) else { return false };
        let seen = handle.seen.borrow();
        seen.as_ref().is_none_or(|snapshot| snapshot.view.instance.is_some() || snapshot.view.is_beginning)
    }
}

impl Replicas {
    /// Ends and removes what no record speaks of: the store was lost, or a deletion was cut short.
    pub(super) async fn remove_strays(&self, known: Vec<ReplicaId>) {
        let dir = self.0.dir.clone();
        let removing = tokio::task::spawn_blocking(move || {
            for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
                let replica = entry.file_name().to_str().and_then(|name| name.parse::<ReplicaId>().ok());
                let Some(stray) = replica.filter(|replica| !known.contains(replica)) else { continue };
                tracing::warn!(replica_id = %stray, "replica without a record is removed");
                process::sweep(stray);
                if let Err(error) = std::fs::remove_dir_all(entry.path()) {
                    tracing::warn!(replica_id = %stray, %error, "its files stay");
                }
            }
        });
        // A panic in there has been logged.
        let _ = removing.await;
    }

    /// Has containers removed that belong to no replica which may have one: now, whenever the Engine comes back, and
    /// every now and then. One is left behind when an Engine hangs while it makes it.
    pub(super) fn look_for_strays(&self) {
        let inner = Arc::downgrade(&self.0);
        let drivers = self.0.drivers.clone();
        tokio::spawn(async move {
            let mut status = drivers.docker().subscribe();
            loop {
                if status.borrow_and_update().is_ready() {
                    let inner = inner.clone();
                    let may_run = move |replica| inner.upgrade().is_none_or(|inner| inner.may_run(replica));
                    drivers.docker().remove_strays(may_run).await;
                }
                tokio::select! {
                    changed = status.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(STRAYS_EVERY) => {}
                }
                if inner.strong_count() == 0 {
                    return;
                }
            }
        });
    }
}
