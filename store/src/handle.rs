//! The handle that everybody holds: it puts requests into the bounded queue of the store's thread.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
};

use tokio::sync::oneshot;

use crate::{
    batch::Batch,
    engine::Engine,
    error::{CommitError, ReadError},
    lock::DirLock,
    record::Record,
    status::{Shared, StoreStatus},
    writer::{Request, Writer},
};

/// Requests that may wait for the thread.
const QUEUE: usize = 1024;

/// A handle to the store. Cheap to clone; the store closes when the last one is dropped, or by [`Store::close`].
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    queue: SyncSender<Request>,
    thread: Mutex<Option<JoinHandle<()>>>,
    shared: Arc<Shared>,
}

impl Store {
    /// Starts the thread that owns `engine`; it holds `lock` until the engine is closed.
    pub(crate) fn start<E: Engine + 'static>(engine: E, shared: Shared, lock: DirLock) -> io::Result<Self> {
        let (queue, requests) = sync_channel(QUEUE);
        let shared = Arc::new(shared);
        let writer = Writer::new(engine, shared.clone());
        let thread = std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || {
            writer.run(&requests);
            drop(lock);
        })?;
        Ok(Self { inner: Arc::new(Inner { queue, thread: Mutex::new(Some(thread)), shared }) })
    }

    /// Applies all of `batch` or none of it; durable when it resolves to `Ok`.
    ///
    /// The batch is queued by the call itself, so calls keep their order, and dropping the future does not undo it.
    ///
    /// # Errors
    /// See [`CommitError`]. After `Failed` the batch may have been applied.
    pub fn commit(
        &self,
        batch: Batch,
    ) -> impl Future<Output = Result<(), CommitError>> + Send + 'static + use<> {
        let queued = batch.within_limits().and_then(|batch| {
            let (reply, answer) = oneshot::channel();
            self.send(Request::Commit { batch, reply }).map(|()| answer).map_err(CommitError::from)
        });
        async move { queued?.await.unwrap_or(Err(CommitError::Failed)) }
    }

    /// The record under `key`. A bad one is set aside, and there is none.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn get(
        &self,
        key: Vec<u8>,
    ) -> impl Future<Output = Result<Option<Record>, ReadError>> + Send + 'static + use<> {
        let (reply, answer) = oneshot::channel();
        let queued = self.send(Request::Get { key, reply });
        async move {
            queued?;
            answer.await.unwrap_or(Err(ReadError::Failed))
        }
    }

    /// All records whose key starts with `prefix`, in key order. Bad ones are set aside and left out.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn scan(
        &self,
        prefix: Vec<u8>,
    ) -> impl Future<Output = Result<Vec<(Vec<u8>, Record)>, ReadError>> + Send + 'static + use<> {
        let (reply, answer) = oneshot::channel();
        let queued = self.send(Request::Scan { prefix, reply });
        async move {
            queued?;
            answer.await.unwrap_or(Err(ReadError::Failed))
        }
    }

    /// What the store says about itself; never waits.
    #[must_use]
    pub fn status(&self) -> StoreStatus {
        self.inner.shared.status()
    }

    /// Finishes what is queued, closes the engine and releases the lock. Blocks until that is done; later calls on
    /// any handle get `Closed`.
    pub fn close(&self) {
        self.inner.close();
    }

    fn send(&self, request: Request) -> Result<(), ReadError> {
        self.inner.queue.try_send(request).map_err(|error| match error {
            TrySendError::Full(_) => ReadError::Overloaded,
            TrySendError::Disconnected(_) if self.inner.shared.has_failed() => ReadError::Failed,
            TrySendError::Disconnected(_) => ReadError::Closed,
        })
    }
}

impl Inner {
    fn close(&self) {
        // Held while waiting, so that whoever closes second waits too.
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            // Both fail only if the thread is gone, and then it is closed.
            let _ = self.queue.send(Request::Close);
            let _ = thread.join();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

/// A request that did not reach the queue fails the same way for all kinds.
impl From<ReadError> for CommitError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Overloaded => Self::Overloaded,
            ReadError::Failed => Self::Failed,
            ReadError::Closed => Self::Closed,
        }
    }
}
