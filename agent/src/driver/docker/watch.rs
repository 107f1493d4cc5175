//! Watching a container to its end: its output goes into the log, and when it has ended, it is removed.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bollard::container::LogOutput;
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
/// How long the rest of the output may take when the container has ended.
const REST_LIMIT: Duration = Duration::from_secs(30);
/// Pieces of output that are taken at once; the Engine cuts them at 16 KiB.
const PIECES_MAX: usize = 256;
/// What is kept of a runtime's last words.
const LAST_LINES: usize = 20;
const LAST_BYTES: usize = 4 * 1024;

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
        let silence = Notify::new();
        let finish = tokio::select! {
            finish = self.finish(container, notices, &silence) => finish,
            never = self.pump(container, &tape, &silence) => match never {},
        };
        if !finish.is_removed {
            self.take_rest(container, replica, &tape).await;
        }
        // Somebody who removes a running container is seen ending it first.
        let is_removed = finish.is_removed || matches!(self.state(container).await, Ok(None));
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
        silence: &Notify,
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
            told = hint(container, &mut notices, silence).await;
        }
    }

    /// Pumps output as it comes, for ever.
    async fn pump(&self, container: ContainerRef, tape: &Arc<Mutex<Tape>>, silence: &Notify) -> Infallible {
        loop {
            // Whether the Engine answers is said elsewhere.
            if let Err(error) = self.pour(container, tape, true).await {
                tracing::debug!(container_id = %container.to_hex(), %error, "output of a container breaks off");
            }
            silence.notify_one();
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    /// Takes what is left of the output of a container that has ended.
    async fn take_rest(&self, container: ContainerRef, replica: ReplicaId, tape: &Arc<Mutex<Tape>>) {
        let rest = tokio::time::timeout(REST_LIMIT, self.pour(container, tape, false));
        let error = match rest.await {
            Ok(Ok(())) => return,
            Ok(Err(error)) if error.is_not_found() || error.is_conflict() => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("it took more than {} s", REST_LIMIT.as_secs()),
        };
        tracing::warn!(replica_id = %replica, error, "last output of a container not read");
    }

    /// Takes a container's output from its beginning, to its end or for as long as more may come.
    async fn pour(
        &self,
        container: ContainerRef,
        tape: &Arc<Mutex<Tape>>,
        follow: bool,
    ) -> Result<(), EngineError> {
        let engine = &self.0.engine;
        let client = engine.client(CALL_LIMIT)?;
        let options = LogsOptionsBuilder::default()
            .follow(follow)
            .stdout(true)
            .stderr(true)
            .timestamps(true)
            .tail("all")
            .build();
        let mut batches = client.logs(&container.to_hex(), Some(options)).ready_chunks(PIECES_MAX);
        tape.lock().await.rewind();
        while let Some(batch) = batches.next().await {
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
                return Err(engine.error(error, "tell a container's output", CALL_LIMIT));
            }
        }
        Ok(())
    }
}

/// Waits until something says that the container may have ended. Some: the Engine says that it has, and with which
/// code.
async fn hint(
    container: ContainerRef,
    notices: &mut broadcast::Receiver<Notice>,
    silence: &Notify,
) -> Option<Option<i32>> {
    loop {
        let notice = tokio::select! {
            notice = notices.recv() => notice,
            () = silence.notified() => return None,
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
