//! Where a container's output ends up: the log of its attempt, in which everything stands once.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, PoisonError};

use bollard::container::LogOutput;
use tokio::sync::Mutex;

use super::Docker;
use super::output::{Cursor, Stream};
use crate::driver::logs::Log;
use crate::replica::spec::ContainerRef;

/// How much older than the newest piece one may be that comes after it, in seconds: the two streams are not in step.
const OVERLAP: u64 = 5;
/// What is put together before it is written, in bytes: pieces may be as short as a line.
const WRITTEN_AT_ONCE: usize = 64 * 1024;

/// The tapes of the containers that are watched, or were until their watchers were stopped.
pub(super) type Tapes = HashMap<ContainerRef, Arc<Mutex<Tape>>>;

/// One container's output on its way into its log.
#[derive(Debug)]
pub(super) struct Tape {
    log: Arc<Log>,
    cursor: Cursor,
    /// The disk took nothing the last time.
    is_broken: bool,
}

impl Docker {
    /// The tape of a container. The first one of this agent's life begins the log anew: what an earlier agent wrote
    /// comes again from the Engine.
    pub(super) async fn tape(&self, container: ContainerRef, log: Arc<Log>) -> Arc<Mutex<Tape>> {
        let known = self.0.tapes.lock().unwrap_or_else(PoisonError::into_inner).get(&container).cloned();
        if let Some(tape) = known {
            return tape;
        }
        let opening = tokio::task::spawn_blocking(move || Tape::begin(log));
        let Ok(tape) = opening.await else {
            // The panic has been logged, or the program is ending.
            return std::future::pending().await;
        };
        let tape = Arc::new(Mutex::new(tape));
        let mut tapes = self.0.tapes.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(tapes.entry(container).or_insert(tape))
    }

    pub(super) fn forget_tape(&self, container: ContainerRef) {
        self.0.tapes.lock().unwrap_or_else(PoisonError::into_inner).remove(&container);
    }
}

impl Tape {
    fn begin(log: Arc<Log>) -> Self {
        if let Err(error) = log.begin_anew() {
            tracing::warn!(%error, "output of a container may stand in its log twice");
        }
        Self { log, cursor: Cursor::default(), is_broken: false }
    }

    /// The output comes again. Since when it must, in seconds since 1970, for nothing to be missing.
    pub(super) fn rewind(&mut self) -> u64 {
        self.cursor.rewind();
        self.cursor.newest().map_or(0, |newest| newest.saturating_sub(OVERLAP))
    }

    /// Writes what is new of some pieces. A disk that takes nothing costs the output, never the container.
    pub(super) fn take(&mut self, pieces: &[LogOutput]) {
        let mut new = Vec::new();
        for piece in pieces {
            let (stream, bytes) = parts(piece);
            new.extend_from_slice(self.cursor.take(stream, bytes).unwrap_or_default());
            if new.len() >= WRITTEN_AT_ONCE {
                self.write(&new);
                new.clear();
            }
        }
        self.write(&new);
    }

    /// Whether a piece should have come by now and did not.
    pub(super) fn lacks(&self, piece: &LogOutput) -> bool {
        let (stream, bytes) = parts(piece);
        self.cursor.lacks(stream, bytes)
    }

    /// Writes a line of the agent's own, on a line of its own.
    pub(super) fn note(&mut self, text: &str) {
        let ends_line = self.log.tail(1, 1).is_ok_and(|(last, _)| last.is_empty() || last == b"\n");
        let before = if ends_line { "" } else { "\n" };
        self.write(format!("{before}[nebula] {text}\n").as_bytes());
    }

    fn write(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let written = self.log.append(bytes);
        if let Err(error) = &written
            && !self.is_broken
        {
            tracing::warn!(%error, "output of a container is not kept");
        }
        self.is_broken = written.is_err();
    }

    /// The last lines, for people.
    pub(super) fn last_words(&self, lines: usize, max: usize) -> String {
        self.log.last_words(lines, max)
    }
}

fn parts(piece: &LogOutput) -> (Stream, &[u8]) {
    match piece {
        LogOutput::StdErr { message } => (Stream::Err, message),
        LogOutput::StdOut { message } | LogOutput::StdIn { message } | LogOutput::Console { message } => {
            (Stream::Out, message)
        }
    }
}

/// Does something to a tape where it may block.
pub(super) async fn on_tape<T: Send + 'static>(
    tape: &Arc<Mutex<Tape>>,
    act: impl FnOnce(&mut Tape) -> T + Send + 'static,
) -> io::Result<T> {
    let mut tape = Arc::clone(tape).lock_owned().await;
    tokio::task::spawn_blocking(move || act(&mut tape)).await.map_err(io::Error::other)
}
