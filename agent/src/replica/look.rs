//! What is left of a stored replica's process.

use std::sync::Arc;

use super::machine::{Found, Phase, State};
use super::spec::Ended;
use crate::driver::logs::Logs;
use crate::driver::{process, procfs};

/// How many of its last lines are told, and in how many bytes.
const LAST_LINES: usize = 20;
const LAST_BYTES: usize = 4 * 1024;

/// Looks for the process that a stored state names, or for the one that it was about to make.
pub(super) async fn look(state: &State, logs: &Arc<Logs>) -> Found {
    let (phase, replica, attempt) = (state.phase.clone(), state.replica, state.attempt);
    let logs = Arc::clone(logs);
    let looking = tokio::task::spawn_blocking(move || {
        let found = match (&phase, phase.process()) {
            (Phase::Spawning { .. }, _) => process::find(replica, attempt),
            (_, process) => process.filter(|process| procfs::is_alive(*process)),
        };
        if let Some(process) = found {
            return Found::Alive(process);
        }
        process::sweep(replica);
        match phase.process() {
            Some(process) if process.boot != procfs::boot() => Found::Rebooted,
            _ => {
                let output = logs.of(attempt).last_words(LAST_LINES, LAST_BYTES);
                Found::Gone(Ended { output, ..Ended::default() })
            }
        }
    });
    looking.await.unwrap_or_else(|_| Found::Gone(Ended::default()))
}
