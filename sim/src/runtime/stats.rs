//! What was asked and what became of it, for tests to read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

/// Requests so far; `requests` is the sum of the other four.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) requests: u64,
    pub(crate) inflight: u64,
    /// Answered as planned, errors included.
    pub(crate) finished: u64,
    /// The client hung up before the end.
    pub(crate) cancelled: u64,
    /// Broken off by a simulated failure.
    pub(crate) failed: u64,
}

/// A request as it came in.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
    /// In the order of arrival; names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

/// The books of one runtime.
#[derive(Default)]
pub(crate) struct Stats {
    counts: Mutex<Counts>,
    tokens: AtomicU64,
    last: Mutex<Option<Received>>,
    closed: Notify,
}

/// How a request ended.
#[derive(Clone, Copy)]
enum Outcome {
    Finished,
    Cancelled,
    Failed,
}

impl Stats {
    /// Books a new request.
    pub(crate) fn open(self: &Arc<Self>) -> Ticket {
        let mut counts = lock(&self.counts);
        counts.requests += 1;
        counts.inflight += 1;
        Ticket { stats: Arc::clone(self), number: counts.requests, outcome: Outcome::Cancelled }
    }

    pub(crate) fn counts(&self) -> Counts {
        *lock(&self.counts)
    }

    /// Tokens made for streams so far.
    pub(crate) fn tokens(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed)
    }

    pub(crate) fn record(&self, received: Received) {
        *lock(&self.last) = Some(received);
    }

    pub(crate) fn last(&self) -> Option<Received> {
        lock(&self.last).clone()
    }

    /// Waits until no request is in flight.
    pub(crate) async fn idle(&self) {
        loop {
            let closed = self.closed.notified();
            if self.counts().inflight == 0 {
                return;
            }
            closed.await;
        }
    }

    fn close(&self, outcome: Outcome) {
        let mut counts = lock(&self.counts);
        counts.inflight -= 1;
        match outcome {
            Outcome::Finished => counts.finished += 1,
            Outcome::Cancelled => counts.cancelled += 1,
            Outcome::Failed => counts.failed += 1,
        }
        drop(counts);
        self.closed.notify_waiters();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One request in flight. Dropped before it is finished or failed, it counts as cancelled.
pub(crate) struct Ticket {
    stats: Arc<Stats>,
    number: u64,
    outcome: Outcome,
}

impl Ticket {
    /// The first request is number 1.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Books a token.
    pub(crate) fn token(&self) {
        self.stats.tokens.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn finish(mut self) {
        self.outcome = Outcome::Finished;
    }

    pub(crate) fn fail(mut self) {
        self.outcome = Outcome::Failed;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.stats.close(self.outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_request_ends_in_one_column() {
        let stats = Arc::new(Stats::default());
        let tickets = [stats.open(), stats.open(), stats.open(), stats.open()];
        assert_eq!(tickets.each_ref().map(Ticket::number), [1, 2, 3, 4]);
        let [one, two, three, four] = tickets;
        one.finish();
        drop(two);
        three.fail();
        let want = Counts { requests: 4, inflight: 1, finished: 1, cancelled: 1, failed: 1 };
        assert_eq!(stats.counts(), want);
        tokio::join!(stats.idle(), async { four.finish() });
        assert_eq!((stats.counts().inflight, stats.counts().finished), (0, 2));
    }
}
