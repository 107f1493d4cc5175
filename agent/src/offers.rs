//! Which runtimes this node can run: those whose program is here, and with a Docker Engine those that have an image.

use std::sync::Arc;
use std::time::Duration;

use nebula_core::runtime::{Driver, RuntimeKind};
use tokio::sync::{Notify, watch};

use crate::driver::docker::EngineStatus;
use crate::runtimes::{self, Tools};

/// How long the first look waits for the Engine's first answer.
const ENGINE_WAIT: Duration = Duration::from_secs(2);
/// How long looking for programs may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(30);

/// What is known of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Offers {
    /// The names on the wire.
    pub(crate) supported: watch::Sender<Vec<String>>,
    /// There was a first look, with the Engine if it answers.
    looked: watch::Sender<bool>,
}

impl Offers {
    /// Resolves after the first look, and when the Engine is slow without it.
    pub(crate) async fn first_look(&self) {
        // The sender lives as long as we do.
        let _ = self.looked.subscribe().wait_for(|looked| *looked).await;
    }
}

/// Looks at a glance first; then at what takes a program to find out, and again whenever the Engine comes or goes.
/// `changed` makes nebulad hear of it at once. On a node of processes only, the Engine counts for nothing. Ends with
/// the Engine's status.
pub(crate) async fn follow(
    tools: Tools,
    driver: Option<Driver>,
    mut engine: watch::Receiver<EngineStatus>,
    offers: Offers,
    changed: Arc<Notify>,
) {
    let is_ready = |status: &EngineStatus, before: bool| match status {
        _ if driver == Some(Driver::Process) => false,
        EngineStatus::Ready { .. } => true,
        // It only does not answer just now: what it could run, the node can run.
        EngineStatus::Unresponsive { .. } => before,
        EngineStatus::Unknown | EngineStatus::Absent { .. } => false,
    };
    // Whether it answered in time or not, the look below reads what is known.
    let _ = tokio::time::timeout(ENGINE_WAIT, engine.wait_for(|now| *now != EngineStatus::Unknown)).await;
    let ready = is_ready(&engine.borrow(), false);
    offers.supported.send_replace(names(&runtimes::supported_at_a_glance(&tools, ready)));
    offers.looked.send_replace(true);
    let supported = offers.supported;
    let mut known = None;
    loop {
        let ready = is_ready(&engine.borrow_and_update(), known.unwrap_or(false));
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

fn names(runtimes: &[RuntimeKind]) -> Vec<String> {
    runtimes.iter().map(|runtime| runtime.as_str().to_owned()).collect()
}
