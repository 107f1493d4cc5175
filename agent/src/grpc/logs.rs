//! A replica's log as a stream: what there is, and with `follow` what comes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nebula_proto::StreamDeploymentLogsChunk;
use tokio::sync::{mpsc, watch};
use tonic::Status;

use crate::driver::logs::{Log, Logs};
use crate::replica::machine::Status as ReplicaStatus;
use crate::replica::task::Snapshot;

/// Bytes of one message.
const CHUNK: usize = 32 * 1024;
/// Messages that may wait for the reader.
pub(super) const CHUNKS_WAITING: usize = 8;
/// How often a followed log is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Everything that is kept of one try.
const KEPT_MAX: u64 = 4 * 1024 * 1024;

/// What somebody wants to read.
pub(super) struct Reading {
    pub(super) logs: Arc<Logs>,
    /// Where the replica stands; nothing once it is gone.
    pub(super) seen: watch::Receiver<Option<Arc<Snapshot>>>,
    /// The last lines of what is there; none: all of it.
    pub(super) tail: Option<usize>,
    pub(super) follow: bool,
    pub(super) previous: bool,
}

type Chunks = mpsc::Sender<Result<StreamDeploymentLogsChunk, Status>>;

/// Sends a log until its end, or until nobody reads.
pub(super) async fn send(reading: Reading, chunks: Chunks) {
    if let Err(error) = try_send(&reading, &chunks).await {
        // The reader may have gone.
        let _ = chunks.send(Err(error)).await;
    }
}

async fn try_send(reading: &Reading, chunks: &Chunks) -> Result<(), Status> {
    let Some((mut number, mut log)) = reading.logs.newest(reading.previous) else { return Ok(()) };
    let mut at = match reading.tail {
        Some(lines) => {
            let tail_of = Arc::clone(&log);
            let (data, end) = blocking(move || tail_of.tail(lines, KEPT_MAX)).await?;
            let mut data = Bytes::from(data);
            while !data.is_empty() {
                if !push(chunks, data.split_to(data.len().min(CHUNK))).await {
                    return Ok(());
                }
            }
            end
        }
        None => 0,
    };
    loop {
        // Whether more can come is looked at before the reading: what came until then is read below.
        let over = is_over(&reading.seen);
        let (data, next) = read(&log, at).await?;
        at = next;
        if !data.is_empty() {
            if !push(chunks, data.into()).await {
                return Ok(());
            }
            continue;
        }
        if !reading.follow || reading.previous {
            return Ok(());
        }
        match reading.logs.newest(false) {
            Some((newer, newer_log)) if newer > number => {
                (number, log, at) = (newer, newer_log, 0);
                continue;
            }
            _ if over => return Ok(()),
            _ => {}
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = chunks.closed() => return Ok(()),
        }
    }
}

async fn push(chunks: &Chunks, data: Bytes) -> bool {
    chunks.send(Ok(StreamDeploymentLogsChunk { data })).await.is_ok()
}

async fn read(log: &Arc<Log>, at: u64) -> Result<(Vec<u8>, u64), Status> {
    let log = Arc::clone(log);
    blocking(move || log.read(at, CHUNK as u64)).await
}

/// Runs something that waits for the disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Status> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| Status::internal(format!("the log cannot be read: {error}"))),
        Err(_) => Err(Status::internal("the log cannot be read")),
    }
}

/// Whether the replica writes no more.
fn is_over(seen: &watch::Receiver<Option<Arc<Snapshot>>>) -> bool {
    seen.borrow()
        .as_ref()
        .is_none_or(|snapshot| matches!(snapshot.view.status, ReplicaStatus::Stopped | ReplicaStatus::Failed))
}
