//! Many files at a time: a few at once, never more than fit.

use std::path::Path;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _};

use super::board::{Chalk, FileState, FileStatus};
use super::download::{Want, blocking, download};
use super::error::ModelError;
use super::{Inner, room};

/// Files of one model that are fetched at a time.
const AT_ONCE: usize = 4;
/// Files that are fetched at a time on this node.
pub(super) const AT_ONCE_ON_NODE: usize = 8;
/// Files that a model may have.
pub(super) const FILES_MAX: usize = 10_000;

/// Fetches all files that are not there, once it is known that they fit into `dir`.
///
/// # Errors
/// When one of them cannot be had. What has come of the others stays for the next time.
pub(super) async fn fetch_all(
    inner: &Arc<Inner>,
    dir: &Path,
    wants: Vec<Want>,
    chalk: &Chalk,
) -> Result<(), ModelError> {
    make_room(inner, dir, &wants, chalk).await?;
    let all: Vec<_> = wants.iter().enumerate().map(|(at, want)| one(inner, want, chalk, at)).collect();
    futures_util::stream::iter(all).buffer_unordered(AT_ONCE).try_collect::<()>().await
}

async fn one(inner: &Inner, want: &Want, chalk: &Chalk, at: usize) -> Result<(), ModelError> {
    let permit = inner.files.acquire().await.map_err(|_| ModelError::lost("waited for its turn"))?;
    download(want, inner.limits, chalk, at).await?;
    drop(permit);
    match want.finished.clone() {
        Some(finished) => blocking("noted a file", move || finished()).await?,
        None => Ok(()),
    }
}

/// Puts all files on the board, if they fit beside those that others still have to write.
async fn make_room(inner: &Arc<Inner>, dir: &Path, wants: &[Want], chalk: &Chalk) -> Result<(), ModelError> {
    // One at a time, so that two do not count on the same room.
    let _turn = inner.room.lock().await;
    let promised = inner.flights.remaining();
    let (dir, places) = (dir.to_owned(), wants.iter().map(|want| want.place.clone()).collect::<Vec<_>>());
    let missing = blocking("looked at the disk", move || {
        let missing: Vec<u64> = places.iter().map(super::writer::Place::missing).collect();
        room::check(&dir, missing.iter().fold(0, |sum, bytes| u64::saturating_add(sum, *bytes)), promised)?;
        Ok::<_, ModelError>(missing)
    })
    .await??;
    let files = wants.iter().zip(missing).map(|(want, missing)| FileState {
        name: want.name.as_str().into(),
        total: want.place.size,
        done: want.place.size.saturating_sub(missing),
        status: FileStatus::Waiting,
    });
    chalk.files(files.collect());
    Ok(())
}
