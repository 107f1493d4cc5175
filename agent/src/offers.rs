//! Which runtimes this node can run: those whose program is here, and with a Docker Engine those that have an image.

use std::sync::Arc;
use std::time::Duration;

use nebula_core::runtime::{Driver, RuntimeKind};
use tokio::sync::{Notify, watch};

use crate::driver::docker::EngineStatus;
use crate::runtimes::{self, Tools};

/// How long looking for programs may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(30);

/// Looks at once what takes a program to find out, and again whenever the Engine comes or goes; `supported` is what
/// nebulad hears, and `changed` makes it hear at once. On a node of processes only, the Engine counts for nothing. Ends
/// with the Engine's status.
pub(crate) async fn follow(
    tools: Tools,
    driver: Option<Driver>,
    mut engine: watch::Receiver<EngineStatus>,
    supported: watch::Sender<Vec<String>>,
    changed: Arc<Notify>,
) {
    let mut known = None;
    loop {
        // An Engine that only does not answer just now is still there: what it could run, the node can run.
        let ready = match &*engine.borrow_and_update() {
            _ if driver == Some(Driver::Process) => false,
            EngineStatus::Ready { .. } => true,
            EngineStatus::Unresponsive { .. } => known.unwrap_or(false),
            EngineStatus::Unknown | EngineStatus::Absent { .. } => false,
        };
        if known.replace(ready) != Some(ready)
            && let Some(found) = look(tools.clone(), ready).await
            && supported.send_if_modified(|known| std::mem::replace(known, found.clone()) != found)
        {
            changed.notify_one();
        }
        if engine.changed().await.is_err() {
            return;
        }
    }
}

async fn look(tools: Tools, engine_ready: bool) -> Option<Vec<String>> {
    let looking = tokio::task::spawn_blocking(move || runtimes::supported(&tools, engine_ready));
    match tokio::time::timeout(LOOK_TIMEOUT, looking).await {
        Ok(Ok(found)) => Some(names(&found)),
        Ok(Err(_)) | Err(_) => {
            tracing::warn!("looking for runtimes took too long");
            None
        }
    }
}

/// The names on the wire.
pub(crate) fn names(runtimes: &[RuntimeKind]) -> Vec<String> {
    runtimes.iter().map(|runtime| runtime.as_str().to_owned()).collect()
}
