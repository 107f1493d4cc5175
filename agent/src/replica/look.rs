//! What is left of what a stored replica ran as.

use std::sync::Arc;

use super::machine::{Found, Phase, State};
use super::spec::{Ended, Spec};
use crate::driver::docker::ContainerName;
use crate::driver::logs::Logs;
use crate::driver::{Drivers, Left};
use crate::store;

/// How many of its last lines are told, and in how many bytes.
const LAST_LINES: usize = 20;
const LAST_BYTES: usize = 4 * 1024;

/// Under which name a replica's attempt is found again.
pub(super) fn name(state: &State, spec: &Spec) -> ContainerName {
    ContainerName {
        deployment: state.deployment,
        replica: state.replica,
        generation: state.generation,
        attempt: state.attempt,
        config_hash: store::replicas::config_hash(spec),
    }
}

/// Looks for what a stored state names, or for what it was about to make. What else there is of the replica is removed.
pub(super) async fn look(drivers: &Drivers, state: &State, spec: &Spec, logs: &Arc<Logs>) -> Found {
    let (name, log) = (name(state, spec), logs.of(state.attempt));
    let left = match (&state.phase, state.phase.instance()) {
        (Phase::Spawning { .. }, _) => drivers.find(&name).await,
        // What is being ended may have another generation already.
        (Phase::Killing { .. }, Some(instance)) => drivers.look(instance, None, state.replica, &log).await,
        (_, Some(instance)) => drivers.look(instance, Some(&name), state.replica, &log).await,
        (_, None) => Left::Nothing(Ended::default()),
    };
    match left {
        Left::Running(instance) => return Found::Alive(instance),
        Left::Unknown => return Found::Unknown,
        Left::Other | Left::Nothing(_) => {}
    }
    drivers.sweep(state.replica).await;
    match left {
        Left::Nothing(ended) if !ended.blameless => {
            let read = tokio::task::spawn_blocking(move || log.last_words(LAST_LINES, LAST_BYTES));
            let output = read.await.unwrap_or_default();
            Found::Gone(Ended { output, ..ended })
        }
        Left::Nothing(_) | Left::Other | Left::Running(_) | Left::Unknown => Found::Rebooted,
    }
}
