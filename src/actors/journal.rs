//! The journal: numbers lines, keeps them within their bounds, and lets others read and follow them.
//!
//! Lines are written in the commit of the change that they tell of ([`Journal::commit`]). Whoever reads sees them in
//! the order of their numbers and without gaps, although commits end in any order; see [`ledger`]. The newest lines
//! are in memory, where followers read them: a follower has no buffer of its own, and one that is slow reads on in
//! the store.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Semaphore, watch};

use self::ledger::{Entry, Ledger};
use super::system::patiently;
use crate::domain::event::{Line, Ring};
use crate::ports::{BoxFuture, Store, StoreError, Write};

mod follow;
mod ledger;
mod read;

pub use self::follow::{Follower, News};
pub use self::read::{Filter, Page};

/// How many may follow the journal at a time.
pub const FOLLOWERS_MAX: usize = 64;
/// How many commits the store is given at a time, so that its queue has room for reads and for what others write. The
/// others wait; there are not more of them than actors, each of which commits one change after the other.
const COMMITTING_MAX: usize = 512;
/// How many lines without a change of their own go into one commit.
const LINES_PER_COMMIT_MAX: usize = 256;
/// How long a reader waits for lines that are being written.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(1);

/// How far readers may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Progress {
    last: u64,
    closed: bool,
}

/// The journal. Cheap to clone.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn Store>,
    ledger: Mutex<Ledger>,
    progress: watch::Sender<Progress>,
    followers: Arc<Semaphore>,
    /// Taken by commits that the store has.
    committing: Arc<Semaphore>,
}

impl Journal {
    /// The journal that `store` holds.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn load(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let ledger = Ledger::load(patiently(|| store.journal()).await?);
        let progress = watch::Sender::new(Progress { last: ledger.last(), closed: false });
        let followers = Arc::new(Semaphore::new(FOLLOWERS_MAX));
        let committing = Arc::new(Semaphore::new(COMMITTING_MAX));
        let shared = Shared { store, ledger: Mutex::new(ledger), progress, followers, committing };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Makes a change durable together with the lines that tell of it: all or nothing. With the record of a deployment
    /// or a node its lines go too, except those of the audit.
    ///
    /// # Cancel safety
    /// Dropping the future does not undo: the commit goes on by itself.
    pub(crate) fn commit(
        &self,
        mut writes: Vec<Write>,
        lines: Vec<Line>,
    ) -> BoxFuture<Result<(), StoreError>> {
        let ticket = self.enter(&writes, lines);
        writes.extend(ticket.writes());
        let committed = self.committed(writes);
        let commit = tokio::spawn(async move {
            let result = committed.await;
            match &result {
                Ok(()) => ticket.durable(),
                Err(_) => drop(ticket),
            }
            result
        });
        Box::pin(async move {
            let given_up = |_| Err(StoreError::Failed("the commit was given up".to_owned()));
            commit.await.unwrap_or_else(given_up)
        })
    }

    /// Gives writes to the store in their turn: with thousands of actors that write at once, each waits once, where the
    /// store would refuse most of them again and again.
    fn committed(&self, writes: Vec<Write>) -> BoxFuture<Result<(), StoreError>> {
        let store = self.shared.store.clone();
        let mut turn = Box::pin(self.shared.committing.clone().acquire_owned());
        // Looking once takes the place in the queue, so that commits are given in the order of these calls.
        match turn.as_mut().now_or_never() {
            Some(turn) => {
                let committed = store.commit(writes);
                Box::pin(async move {
                    let _turn = turn;
                    committed.await
                })
            }
            None => Box::pin(async move {
                let _turn = turn.await;
                store.commit(writes).await
            }),
        }
    }

    /// Writes lines that tell of nothing durable. Nobody waits for them, and they are lost when the store takes
    /// nothing.
    pub(crate) fn note(&self, lines: Vec<Line>) {
        for lines in lines.chunks(LINES_PER_COMMIT_MAX) {
            let ticket = self.enter(&[], lines.to_vec());
            let commit = self.shared.store.commit(ticket.writes());
            tokio::spawn(async move {
                match commit.await {
                    Ok(()) => ticket.durable(),
                    Err(error) => tracing::warn!(%error, "lines of the journal are lost"),
                }
            });
        }
    }

    /// Nobody follows the journal any more: nebulad ends.
    pub fn close(&self) {
        self.shared.progress.send_modify(|progress| progress.closed = true);
    }

    /// How many follow it.
    #[must_use]
    pub fn followers(&self) -> usize {
        FOLLOWERS_MAX.saturating_sub(self.shared.followers.available_permits())
    }

    fn enter(&self, writes: &[Write], lines: Vec<Line>) -> Ticket {
        let ended = writes.iter().filter_map(|write| match write {
            Write::DeleteDeployment(id) => Some(Ring::Deployment(*id)),
            Write::DeleteNode(id) => Some(Ring::Node(id.clone())),
            _ => None,
        });
        let ended: Vec<Ring> = ended.collect();
        let entry = self.ledger().enter(lines, &ended);
        Ticket { journal: self.clone(), entry: Some(entry), durable: false }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.shared.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The numbers of lines that are being written. Dropped, they are given up.
struct Ticket {
    journal: Journal,
    entry: Option<Entry>,
    durable: bool,
}

impl Ticket {
    fn writes(&self) -> Vec<Write> {
        let Some(entry) = &self.entry else { return Vec::new() };
        let puts = entry.events.iter().map(|event| Write::PutEvent(Box::new(event.clone())));
        puts.chain(entry.dropped.iter().map(|(ring, seq)| Write::DeleteEvent(ring.clone(), *seq))).collect()
    }

    fn durable(mut self) {
        self.durable = true;
        self.entry.iter().flat_map(|entry| &entry.events).for_each(|event| log(&event.line));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Some(entry) = self.entry.take() else { return };
        let mut ledger = self.journal.ledger();
        ledger.settle(entry, self.durable);
        let last = ledger.last();
        drop(ledger);
        self.journal.shared.progress.send_if_modified(|progress| {
            let newer = last > progress.last;
            progress.last = progress.last.max(last);
            newer
        });
    }
}

fn log(line: &Line) {
    let (event, detail) = (&line.kind, &line.message);
    match &line.subject {
        crate::domain::event::Subject::Deployment(id) => {
            tracing::info!(deployment_id = %id, event, detail, "deployment event");
        }
        crate::domain::event::Subject::Node(id) => tracing::info!(node_id = %id, event, detail, "node event"),
        crate::domain::event::Subject::Fleet => tracing::info!(event, detail, "fleet event"),
        crate::domain::event::Subject::Audit { origin, .. } => {
            tracing::info!(event, detail, by = origin.by, request_id = origin.request_id, "audit");
        }
    }
}
