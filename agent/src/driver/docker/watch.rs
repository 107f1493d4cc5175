//! Watching a container to its end: its output goes into the log, and when it has ended, it is removed.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::models::{ContainerState, ContainerStateStatusEnum};
use bollard::query_parameters::LogsOptionsBuilder;
use futures_util::StreamExt as _;
use nebula_core::ids::ReplicaId;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Mutex, Notify, broadcast};

use super::Docker;
use super::containers::is_up;
use super::engine::{CALL_LIMIT, EngineError};
use super::events::Notice;
use super::tape::{Tape, on_tape};
use crate::driver::logs::Log;
use crate::replica::spec::{ContainerRef, Ended};

/// Before the Engine is asked again after it did not answer, and before output is asked for again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// When the container has ended, how long its output may still flow by itself, and then may pause while the rest of it
/// is read.
const REST_LIMIT: Duration = Duration::from_secs(30);
/// After this long without output the Engine is asked whether there is none.
const QUIET_FIRST: Duration = Duration::from_secs(5);
/// And then again and again.
const QUIET_AGAIN: Duration = Duration::from_secs(30);
/// What the Engine is asked for.
const WHAT: &str = "tell a container's output";
/// Pieces of output that are taken at once; the Engine cuts them at 16 KiB.
const PIECES_MAX: usize = 256;
/// What is kept of a runtime's last words.
const LAST_LINES: usize = 20;
const LAST_BYTES: usize = 4 * 1024;

/// How a container's output flows.
#[derive(Default)]
struct Flow {
    is_open: AtomicBool,
    /// It has broken off, or come to its end.
    stopped: Notify,
}

/// How a container was found at its end.
struct Finish {
    code: Option<i32>,
    out_of_memory: bool,
    /// It is gone.
    is_removed: bool,
    /// The Engine was away since the container was last seen running.
    was_away: bool,
}

impl Docker {
    /// Pumps a container's output into its log, waits for its end, and removes it. Waits through an Engine that is
    /// away. May be dropped at any time and begun again.
    pub(crate) async fn watch(&self, container: ContainerRef, replica: ReplicaId, log: Arc<Log>) -> Ended {
        // Before anything else is awaited, so that no notice is missed.
        let notices = self.0.notices.subscribe();
        let tape = self.tape(container, log).await;
        let flow = Flow::default();
        let finish = async {
            let finish = self.finish(container, notices, &flow).await;
            if !finish.is_removed && flow.is_open.load(Ordering::Acquire) {
                // The output of a container that has ended has an end. Without it, what is left is read anew.
                let _ = tokio::time::timeout(REST_LIMIT, flow.stopped.notified()).await;
            }
            finish
        };
        let finish = tokio::select! {
            finish = finish => finish,
            never = self.pump(container, &tape, &flow) => match never {},
        };
        if !finish.is_removed {
            self.take_rest(container, replica, &tape).await;
        }
        // Somebody who removes a running container is seen ending it first.
        let is_removed = finish.is_removed || self.state(container).await.is_ok_and(is_going);
        let by_hand = is_removed && !finish.was_away;
        let output = on_tape(&tape, move |tape| {
            if by_hand {
                tape.note("the container was removed by somebody");
            }
            tape.last_words(LAST_LINES, LAST_BYTES)
        });
        let output = output.await.unwrap_or_default();
        if let Err(error) = self.remove(container).await {
            tracing::warn!(replica_id = %replica, container_id = %container.to_hex(), %error, "ended container stays");
        }
        self.forget_tape(container);
        Ended {
            code: finish.code,
            out_of_memory: finish.out_of_memory,
            blameless: finish.was_away,
            output,
            ..Ended::default()
        }
    }

    /// Waits for a container's end.
    async fn finish(
        &self,
        container: ContainerRef,
        mut notices: broadcast::Receiver<Notice>,
        flow: &Flow,
    ) -> Finish {
        let mut outages = self.outages();
        let mut lost = false;
        let mut told = None;
        loop {
            let before = self.outages();
            let state = match self.state(container).await {
                Ok(state) => state,
                Err(error) => {
                    lost |= matches!(error, EngineError::Absent { .. });
                    tokio::time::sleep(AGAIN_AFTER).await;
                    continue;
                }
            };
            match state {
                Some(state) if is_up(&state) => {
                    (outages, lost) = (before, false);
                    if told.take().is_some() {
                        // It has just said that it ends, or it was started again by hand.
                        tokio::time::sleep(AGAIN_AFTER).await;
                        continue;
                    }
                }
                Some(state) => {
                    return Finish {
                        code: state.exit_code.and_then(|code| i32::try_from(code).ok()),
                        out_of_memory: state.oom_killed == Some(true),
                        is_removed: false,
                        was_away: lost || self.outages() != outages,
                    };
                }
                None => {
                    return Finish {
                        code: told.flatten(),
                        out_of_memory: false,
                        is_removed: true,
                        was_away: lost || self.outages() != outages,
                    };
                }
            }
            told = hint(container, &mut notices, flow).await;
        }
    }

    /// Pumps output as it comes, for ever.
    async fn pump(&self, container: ContainerRef, tape: &Arc<Mutex<Tape>>, flow: &Flow) -> Infallible {
        loop {
            flow.is_open.store(true, Ordering::Release);
            // Whether the Engine answers is said elsewhere.
            if let Err(error) = self.pour(container, tape, true).await {
                tracing::debug!(container_id = %container.to_hex(), %error, "output of a container breaks off");
            }
            flow.is_open.store(false, Ordering::Release);
            flow.stopped.notify_one();
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    /// Takes what is left of the output of a container that has ended.
    async fn take_rest(&self, container: ContainerRef, replica: ReplicaId, tape: &Arc<Mutex<Tape>>) {
        match self.pour(container, tape, false).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => {
                tracing::warn!(replica_id = %replica, %error, "last output of a container not read");
            }
            _ => {}
        }
    }

    /// Takes what is new of a container's output, to its end or for as long as more may come. Ends early when
    /// there is more and it does not come.
    async fn pour(
        &self,
        container: ContainerRef,
        tape: &Arc<Mutex<Tape>>,
        follow: bool,
    ) -> Result<(), EngineError> {
        let engine = &self.0.engine;
        let client = engine.client(CALL_LIMIT)?;
        let since = tape.lock().await.rewind();
        let options = LogsOptionsBuilder::default()
            .follow(follow)
            .since(i32::try_from(since).unwrap_or(0))
            .stdout(true)
            .stderr(true)
            .timestamps(true)
            .tail("all")
            .build();
        let mut batches = client.logs(&container.to_hex(), Some(options)).ready_chunks(PIECES_MAX);
        let first = if follow { QUIET_FIRST } else { REST_LIMIT };
        let (mut quiet, mut is_behind) = (first, false);
        loop {
            let batch = match tokio::time::timeout(quiet, batches.next()).await {
                Ok(Some(batch)) => batch,
                Ok(None) => return Ok(()),
                Err(_) if is_behind => {
                    tracing::debug!(container_id = %container.to_hex(), "output of a container stands still");
                    return Ok(());
                }
                Err(_) if !follow => {
                    let host = engine.host().to_string();
                    return Err(EngineError::TimedOut { host, what: WHAT, limit: REST_LIMIT });
                }
                Err(_) => {
                    is_behind = self.has_more(container, tape).await;
                    quiet = if is_behind { AGAIN_AFTER } else { QUIET_AGAIN };
                    continue;
                }
            };
            (quiet, is_behind) = (first, false);
            let mut broken = None;
            let mut pieces: Vec<LogOutput> = Vec::with_capacity(batch.len());
            for piece in batch {
                match piece {
                    Ok(piece) => pieces.push(piece),
                    Err(error) => broken = Some(error),
                }
            }
            // A writer that panicked has been logged; the next pieces are tried again.
            let _ = on_tape(tape, move |tape| tape.take(&pieces)).await;
            if let Some(error) = broken {
                return Err(engine.error(error, WHAT, CALL_LIMIT));
            }
        }
    }

    /// Whether the Engine has output that did not come. Engines are known that lose their place in a log that is
    /// followed when they begin its next file.
    async fn has_more(&self, container: ContainerRef, tape: &Arc<Mutex<Tape>>) -> bool {
        let Ok(client) = self.0.engine.client(CALL_LIMIT) else { return false };
        let options =
            LogsOptionsBuilder::default().stdout(true).stderr(true).timestamps(true).tail("1").build();
        let id = container.to_hex();
        let pieces = client.logs(&id, Some(options));
        let newest = pieces.fold(None, async |newest, piece| piece.ok().or(newest));
        match tokio::time::timeout(CALL_LIMIT, newest).await {
            Ok(Some(newest)) => tape.lock().await.lacks(&newest),
            Ok(None) | Err(_) => false,
        }
    }
}

/// Whether a container that has ended is gone, or is just being removed.
fn is_going(state: Option<ContainerState>) -> bool {
    state.is_none_or(|state| {
        state.dead == Some(true) || state.status == Some(ContainerStateStatusEnum::REMOVING)
    })
}

/// Waits until something says that the container may have ended. Some: the Engine says that it has, and with which
/// code.
async fn hint(
    container: ContainerRef,
    notices: &mut broadcast::Receiver<Notice>,
    flow: &Flow,
) -> Option<Option<i32>> {
    loop {
        let notice = tokio::select! {
            notice = notices.recv() => notice,
            () = flow.stopped.notified() => return None,
        };
        match notice {
            Ok(Notice::Ended { container: ended, code }) if ended == container => return Some(code),
            Ok(Notice::Running(running)) if !running.contains(&container) => return None,
            Err(RecvError::Lagged(_)) => return None,
            Ok(_) => {}
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}
