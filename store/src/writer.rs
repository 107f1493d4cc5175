//! The one thread that owns the engine: takes what is queued as a group, commits it with one sync, then answers.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering::Relaxed, mpsc::Receiver},
};

use nebula_core::clock::{Clock, wall_now};
use tokio::sync::oneshot::Sender;

use crate::{
    batch::{Batch, Expected},
    engine::{Engine, EngineError, Entries, Writes},
    envelope,
    error::{CommitError, ReadError},
    quarantine::{self, Bad, MAX_SET_ASIDE},
    record::{MAX_BATCH_BYTES, Record},
    status::{Shared, panic_text},
};

/// Requests in one group.
const GROUP: usize = 256;
/// A group takes no further request beyond this.
const GROUP_BYTES: usize = MAX_BATCH_BYTES;

/// Records with their keys, in key order.
type Records = Vec<(Vec<u8>, Record)>;

type Commit = (Batch, Sender<Result<(), CommitError>>);
type Answer<T> = Sender<Result<T, ReadError>>;

/// What the handles ask for.
#[derive(Debug)]
pub(crate) enum Request {
    Commit { batch: Batch, reply: Sender<Result<(), CommitError>> },
    Get { key: Vec<u8>, reply: Answer<Option<Record>> },
    Scan { prefix: Vec<u8>, reply: Answer<Records> },
    Close,
}

/// Requests that are answered together. One that is dropped unanswered tells its caller `Failed`.
#[derive(Default)]
struct Group {
    commits: Vec<Commit>,
    reads: VecDeque<Read>,
    close: bool,
}

enum Read {
    Get(Vec<u8>, Answer<Option<Record>>),
    Scan(Vec<u8>, Answer<Records>),
}

pub(crate) struct Writer<E> {
    engine: Option<E>,
    shared: Arc<Shared>,
    clock: Clock,
    set_aside: u64,
}

impl<E: Engine> Writer<E> {
    pub(crate) fn new(engine: E, shared: Arc<Shared>) -> Self {
        Self { engine: Some(engine), shared, clock: Clock::start(), set_aside: 0 }
    }

    /// Serves requests until it is told to close or nobody is left to ask.
    pub(crate) fn run(mut self, requests: &Receiver<Request>) {
        while let Ok(first) = requests.recv() {
            let group = collect(first, requests);
            let close = group.close;
            self.serve(group);
            if close {
                break;
            }
        }
        self.shut();
        if !self.shared.has_failed() {
            requests.try_iter().for_each(turn_away);
        }
    }

    /// Commits and reads of one group. The first error or panic ends the store before anybody is told.
    fn serve(&mut self, mut group: Group) {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            self.commit(&mut group.commits)?;
            self.read(&mut group.reads)
        }));
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.fail(error.to_string()),
            Err(panic) => self.fail(format!("panic: {}", panic_text(panic.as_ref()))),
        }
    }

    fn engine(&mut self) -> Result<&mut E, EngineError> {
        self.engine.as_mut().ok_or_else(|| EngineError("the store has failed".to_owned()))
    }

    fn commit(&mut self, commits: &mut Vec<Commit>) -> Result<(), EngineError> {
        if commits.is_empty() {
            return Ok(());
        }
        let started = self.clock.now();
        let engine = self.engine()?;
        let mut staged = Writes::new();
        let mut verdicts = Vec::with_capacity(commits.len());
        for (batch, _) in commits.iter_mut() {
            let broken = first_broken(engine, &staged, batch)?;
            if broken.is_none() {
                staged.extend(std::mem::take(&mut batch.writes));
            }
            verdicts.push(broken.map_or(Ok(()), |key| Err(CommitError::Conflict { key })));
        }
        if !staged.is_empty() {
            engine.apply(staged)?;
            engine.sync()?;
        }
        let size = engine.size_bytes();
        let took = self.clock.now().since(started);
        let applied = verdicts.iter().filter(|verdict| verdict.is_ok()).count();
        self.shared.size_bytes.store(size, Relaxed);
        self.shared.commits.fetch_add(u64::try_from(applied).unwrap_or(u64::MAX), Relaxed);
        self.shared.last_commit_ms.store(u64::try_from(took.as_millis()).unwrap_or(u64::MAX), Relaxed);
        for ((_, reply), verdict) in commits.drain(..).zip(verdicts) {
            // Whoever dropped the future does not want to know.
            let _ = reply.send(verdict);
        }
        Ok(())
    }

    fn read(&mut self, reads: &mut VecDeque<Read>) -> Result<(), EngineError> {
        // Each stays queued until its answer is there, so that a failure answers it too.
        while let Some(read) = reads.front() {
            let found = match read {
                Read::Get(key, _) => {
                    let value = self.engine()?.get(key)?;
                    value.map(|value| (key.clone(), value)).into_iter().collect()
                }
                Read::Scan(prefix, _) => self.engine()?.scan(prefix)?,
            };
            let records = self.sort_out(found)?;
            match reads.pop_front() {
                Some(Read::Get(_, reply)) => {
                    let _ = reply.send(Ok(records.into_iter().next().map(|(_, record)| record)));
                }
                Some(Read::Scan(_, reply)) => {
                    let _ = reply.send(Ok(records));
                }
                None => {}
            }
        }
        Ok(())
    }

    /// The good records among `found`; the bad ones are set aside first.
    fn sort_out(&mut self, found: Entries) -> Result<Records, EngineError> {
        let mut good = Vec::with_capacity(found.len());
        let mut bad = Vec::new();
        for (key, bytes) in found {
            match envelope::unseal(&key, &bytes) {
                Ok(record) => good.push((key, record)),
                Err(flaw) => bad.push(Bad { key, bytes, flaw }),
            }
        }
        if bad.is_empty() {
            return Ok(good);
        }
        let count = u64::try_from(bad.len()).unwrap_or(u64::MAX);
        let total = self.set_aside.saturating_add(count);
        if total > MAX_SET_ASIDE {
            return Err(EngineError(format!("{total} bad records look like a codec bug, nothing changed")));
        }
        let engine = self.engine()?;
        engine.apply(quarantine::moves(bad, wall_now().0))?;
        engine.sync()?;
        self.set_aside = total;
        self.shared.set_aside.fetch_add(count, Relaxed);
        Ok(good)
    }

    /// Failed for good: the engine is given up and nothing is tried again.
    fn fail(&mut self, reason: String) {
        if !self.shared.has_failed() {
            self.shared.fail(reason);
        }
        self.shut();
    }

    fn shut(&mut self) {
        let engine = self.engine.take();
        if catch_unwind(AssertUnwindSafe(|| drop(engine))).is_err() {
            tracing::error!("store's engine panicked while closing");
        }
    }
}

/// What is queued now, without waiting for more: while one group is synced, the next one gathers.
fn collect(first: Request, requests: &Receiver<Request>) -> Group {
    let mut group = Group::default();
    let mut bytes = group.add(first);
    while !group.close && group.commits.len() + group.reads.len() < GROUP && bytes < GROUP_BYTES {
        let Ok(next) = requests.try_recv() else { break };
        bytes = bytes.saturating_add(group.add(next));
    }
    group
}

impl Group {
    /// Takes a request in and returns the bytes it wants to write.
    fn add(&mut self, request: Request) -> usize {
        match request {
            Request::Commit { batch, reply } => {
                let bytes = batch.bytes();
                self.commits.push((batch, reply));
                return bytes;
            }
            Request::Get { key, reply } => self.reads.push_back(Read::Get(key, reply)),
            Request::Scan { prefix, reply } => self.reads.push_back(Read::Scan(prefix, reply)),
            Request::Close => self.close = true,
        }
        0
    }
}

/// The first key in `batch` whose precondition does not hold after the batches `staged` before it.
///
/// A bad record is neither absent nor present: every precondition on it breaks, and the caller's next read sets it aside.
fn first_broken(
    engine: &impl Engine,
    staged: &Writes,
    batch: &Batch,
) -> Result<Option<Vec<u8>>, EngineError> {
    for (key, expected) in &batch.conditions {
        let stored = match staged.get(key) {
            Some(value) => value.clone(),
            None => engine.get(key)?,
        };
        let record = stored.as_ref().and_then(|bytes| envelope::unseal(key, bytes).ok());
        let holds = match expected {
            Expected::Absent => stored.is_none(),
            Expected::Present => record.is_some(),
            Expected::Value(wanted) => record.as_ref() == Some(wanted),
        };
        if !holds {
            return Ok(Some(key.clone()));
        }
    }
    Ok(None)
}

/// Answers a request that came after the store was closed.
fn turn_away(request: Request) {
    match request {
        Request::Commit { reply, .. } => drop(reply.send(Err(CommitError::Closed))),
        Request::Get { reply, .. } => drop(reply.send(Err(ReadError::Closed))),
        Request::Scan { reply, .. } => drop(reply.send(Err(ReadError::Closed))),
        Request::Close => {}
    }
}

#[cfg(test)]
mod tests;
