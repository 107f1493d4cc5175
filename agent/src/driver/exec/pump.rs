//! From a command's pipe to the session, chunk by chunk.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::{mpsc, watch};

use super::{ExecError, Output};

/// The most that is read at once, in bytes.
const CHUNK: usize = 16 * 1024;
/// Once the command has ended: how long its outputs may be silent, and how much may come, when a process that it
/// left holds them open.
const SILENCE_MAX: Duration = Duration::from_secs(1);
const LATE_MAX: usize = 1024 * 1024;

/// Reads `pipe` until its end, until nobody listens, or until enough has come after the command's end.
pub(super) async fn pump(
    pipe: Option<impl AsyncRead + Unpin>,
    kind: fn(Bytes) -> Output,
    output: &mpsc::Sender<Result<Output, ExecError>>,
    mut ended: watch::Receiver<bool>,
) {
    let Some(mut pipe) = pipe else { return };
    let mut late = 0;
    while late <= LATE_MAX {
        let mut chunk = BytesMut::with_capacity(CHUNK);
        let read = tokio::select! {
            read = pipe.read_buf(&mut chunk) => read,
            () = silence(&mut ended) => return,
        };
        // A terminal whose other end is closed reports an error where a pipe reports its end.
        let Ok(count @ 1..) = read else { return };
        if *ended.borrow() {
            late += count;
        }
        if output.send(Ok(kind(chunk.freeze()))).await.is_err() {
            return;
        }
    }
}

async fn silence(ended: &mut watch::Receiver<bool>) {
    // The sender lives as long as all who listen.
    let _ = ended.wait_for(|ended| *ended).await;
    tokio::time::sleep(SILENCE_MAX).await;
}
