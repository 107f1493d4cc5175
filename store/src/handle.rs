//! The handle that everybody holds: it puts requests into the bounded queue of the store's thread.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::Ordering::Relaxed,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};

use tokio::sync::oneshot;

use crate::{
    batch::Batch,
    engine::Exports,
    error::{CommitError, ExportFailed, ReadError},
    info::{ExportInfo, RESTORED_KEY},
    lock::DirLock,
    quarantine::{SetAside, Unreadable},
    record::Record,
    stall,
    status::{Shared, StoreState, StoreStatus, panic_text},
    writer::{ExportAsk, Read, Request, Writer},
};

/// Requests that may wait for the thread.
const QUEUE: usize = 1024;

/// Closing waits for the thread so often, for so long each time: about 10 s.
const CLOSE_LOOKS: u32 = 100;
const CLOSE_LOOK: Duration = Duration::from_millis(100);

/// A handle to the store. Cheap to clone; the store closes when the last one is dropped, or by [`Store::close`].
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    queue: SyncSender<Request>,
    /// Disconnected when the thread has ended.
    ended: Mutex<Option<Receiver<()>>>,
    shared: Arc<Shared>,
}

impl Store {
    /// Starts the thread that owns the engine; it holds `lock` until the engine is closed.
    pub(crate) fn spawn<E: Exports + 'static>(
        writer: Writer<E>,
        shared: Arc<Shared>,
        lock: DirLock,
    ) -> io::Result<Self> {
        let (queue, requests) = sync_channel(QUEUE);
        let watched = stall::watch(shared.clone())?;
        let (end, ended) = sync_channel::<()>(1);
        let panicked = shared.clone();
        std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| writer.run(&requests))) {
                panicked.fail(format!("panic: {}", panic_text(panic.as_ref())));
            }
            // Whoever asks after the end hears that it is closed, not that it failed.
            drop(requests);
            drop((lock, watched, end));
        })?;
        Ok(Self { inner: Arc::new(Inner { queue, ended: Mutex::new(Some(ended)), shared }) })
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
        let shared = self.inner.shared.clone();
        async move { shared.answer(queued?).await.unwrap_or(Err(CommitError::Failed)) }
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
        let queued = self.send(Request::Read(Read::Get { key, reply }));
        let shared = self.inner.shared.clone();
        async move {
            queued?;
            shared.answer(answer).await.unwrap_or(Err(ReadError::Failed))
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
        let queued = self.send(Request::Read(Read::Scan { prefix, reply }));
        let shared = self.inner.shared.clone();
        async move {
            queued?;
            shared.answer(answer).await.unwrap_or(Err(ReadError::Failed))
        }
    }

    /// Sets records aside whose payload nobody can read, all in one step, and returns how many; one that was replaced
    /// since it was read stays. When so many are bad that it looks like a bug in the program, the store fails instead.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub fn set_aside(
        &self,
        records: Vec<Unreadable>,
    ) -> impl Future<Output = Result<u64, CommitError>> + Send + 'static + use<> {
        let (reply, answer) = oneshot::channel();
        let queued = self.send(Request::Read(Read::SetAside { records, reply }));
        let shared = self.inner.shared.clone();
        async move {
            queued?;
            shared.answer(answer).await.unwrap_or(Err(CommitError::Failed))
        }
    }

    /// The newest 100 records that were set aside, newest first.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn set_aside_list(
        &self,
    ) -> impl Future<Output = Result<Vec<SetAside>, ReadError>> + Send + 'static + use<> {
        let (reply, answer) = oneshot::channel();
        let queued = self.send(Request::Read(Read::ListSetAside { reply }));
        let shared = self.inner.shared.clone();
        async move {
            queued?;
            shared.answer(answer).await.unwrap_or(Err(ReadError::Failed))
        }
    }

    /// Makes an export now: one of the store's own, or the new file `target`. Whole and on the disk when it resolves to
    /// `Ok`. Other requests wait only while the entries are written, not for the disk.
    ///
    /// # Errors
    /// See [`ExportFailed`].
    pub fn export_now(
        &self,
        target: Option<PathBuf>,
    ) -> impl Future<Output = Result<ExportInfo, ExportFailed>> + Send + 'static + use<> {
        let (reply, answer) = oneshot::channel();
        let queued = self.send(Request::Export(ExportAsk { target, reply }));
        let shared = self.inner.shared.clone();
        async move {
            queued?;
            shared.answer(answer).await.unwrap_or(Err(ReadError::Failed.into()))
        }
    }

    /// Accepts that the store was rebuilt and may lack acknowledged writes (see [`StoreStatus::restored`]), durably.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub fn accept_restored(&self) -> impl Future<Output = Result<(), CommitError>> + Send + 'static + use<> {
        self.commit(Batch::new().delete(RESTORED_KEY).freeing())
    }

    /// What the store says about itself; never waits.
    #[must_use]
    pub fn status(&self) -> StoreStatus {
        self.inner.shared.status()
    }

    /// Finishes what is queued, closes the engine and releases the lock. Blocks until that is done, or for about 10 s when
    /// the engine does not come back; later calls on any handle get `Closed`.
    pub fn close(&self) {
        self.inner.close();
    }

    fn send(&self, request: Request) -> Result<(), ReadError> {
        let Inner { queue, shared, .. } = &*self.inner;
        match shared.state() {
            StoreState::Ok => {}
            StoreState::Reopening => return Err(ReadError::Unavailable),
            StoreState::Failed => return Err(ReadError::Failed),
        }
        shared.queued.fetch_add(1, Relaxed);
        queue.try_send(request).map_err(|error| {
            shared.queued.fetch_sub(1, Relaxed);
            match error {
                TrySendError::Full(_) => ReadError::Overloaded,
                TrySendError::Disconnected(_) if shared.state() == StoreState::Failed => ReadError::Failed,
                TrySendError::Disconnected(_) => ReadError::Closed,
            }
        })
    }
}

impl Inner {
    fn close(&self) {
        // Held while waiting, so that whoever closes second waits too.
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(ended) = ended.take() else { return };
        let mut told = false;
        for _ in 0..CLOSE_LOOKS {
            if !told {
                // A queue that is full is emptied meanwhile; one that is gone is closed.
                told = !matches!(self.queue.try_send(Request::Close), Err(TrySendError::Full(_)));
            }
            if ended.recv_timeout(CLOSE_LOOK) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
            if self.shared.is_stalled() {
                break;
            }
        }
        tracing::error!(
            "store's thread does not end and is left behind; what was acknowledged is on the disk"
        );
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}
