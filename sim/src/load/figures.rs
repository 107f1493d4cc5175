//! What was counted so far.

use std::collections::BTreeMap;
use std::time::Duration;

use super::events::Seen;
use super::failure::Failure;
use crate::latency::Latency;

/// A complete answer.
#[derive(Debug)]
pub(crate) struct Done {
    /// From when the request was due to its last byte.
    pub(crate) took: Duration,
    /// To the first event with data; none: no stream.
    pub(crate) first: Option<Duration>,
    pub(crate) seen: Seen,
}

/// Counts of one run. What began within the warm-up is not in them.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) answered: u64,
    pub(crate) failures: BTreeMap<Failure, u64>,
    pub(crate) latency: Latency,
    pub(crate) first: Latency,
    /// From when the runtime sent an event to when it came, where it says so.
    pub(crate) delay: Latency,
    pub(crate) events: u64,
    pub(crate) tokens: u64,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
    /// Connections that the server had closed between two requests.
    pub(crate) reconnects: u64,
    /// When the last counted request ended, since the start.
    pub(crate) last_end: Duration,
}

impl Figures {
    pub(crate) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// One more request of so many bytes has ended.
    pub(crate) fn add(&mut self, result: Result<Done, Failure>, sent: usize, at: Duration) {
        self.last_end = self.last_end.max(at);
        match result {
            Ok(done) => {
                self.answered += 1;
                self.latency.add(done.took);
                if let Some(first) = done.first {
                    self.first.add(first);
                }
                self.events += done.seen.events;
                self.tokens += done.seen.tokens;
                self.bytes_received += done.seen.bytes;
                self.bytes_sent += sent as u64;
            }
            Err(failure) => *self.failures.entry(failure).or_default() += 1,
        }
    }
}

/// What became of the connections that were to be held open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Held {
    pub(crate) wanted: u32,
    pub(crate) opened: u32,
    /// Ended before the run did.
    pub(crate) lost: u32,
}
