//! One file over HTTP: goes on where it was left, tries again what may pass, and keeps nothing that is not what was
//! announced.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use reqwest::header::{CONTENT_RANGE, HeaderMap, RANGE, RETRY_AFTER};
use reqwest::{RequestBuilder, Response, StatusCode};

use super::board::{Chalk, FileStatus};
use super::error::{Kind, ModelError};
use super::writer::{Place, Writer, make_parent};

/// Tries in a row that brought little, before it is given up.
const TRIES: u32 = 3;
/// A try that brought this many bytes was worth it and is not counted.
const WORTH: u64 = 64 << 20;
/// The longest wait that another side may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// How often it is looked whether somebody else has finished writing the file.
const LOCK_EVERY: Duration = Duration::from_millis(200);

/// The times of a download.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Without a byte for this long, a try has failed.
    pub(super) stall: Duration,
    /// The wait after the first try that failed; it doubles with each.
    pub(super) retry: Duration,
    /// Progress is told this often at most.
    pub(super) tell: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            stall: Duration::from_secs(120),
            retry: Duration::from_secs(2),
            tell: Duration::from_millis(500),
        }
    }
}

/// A file that is wanted.
pub(super) struct Want {
    /// Its name for people.
    pub(super) name: String,
    pub(super) place: Place,
    /// Makes a request for the whole of it.
    pub(super) request: Box<dyn Fn() -> RequestBuilder + Send + Sync>,
    /// What a refusal means, by its status and headers.
    pub(super) refused: fn(&str, StatusCode, &HeaderMap) -> ModelError,
    /// What is to be noted once it is there; blocks.
    pub(super) finished: Option<Arc<dyn Fn() -> Result<(), ModelError> + Send + Sync>>,
}

/// Fetches a file and tells the board's line `at` how far it is.
///
/// # Errors
/// When it cannot be had. What has come by then stays for the next time, unless it was wrong.
pub(super) async fn download(
    want: &Want,
    limits: Limits,
    chalk: &Chalk,
    at: usize,
) -> Result<(), ModelError> {
    let place = &want.place;
    let lock = lock(place).await?;
    let looked = place.clone();
    if blocking("looked at a file", move || looked.is_there()).await? {
        done(chalk, at);
        return Ok(());
    }
    chalk.file(at, |file| file.status = FileStatus::Checking);
    let mut writer = Writer::open(place.clone(), lock).await?;
    let (mut failures, mut was_wrong) = (0, false);
    loop {
        chalk.file(at, |file| (file.done, file.status) = (writer.len, FileStatus::Downloading));
        let before = writer.len;
        match rest(want, limits, &mut writer, chalk, at).await {
            Ok(()) => {
                chalk.file(at, |file| file.status = FileStatus::Checking);
                if writer.finish().await? {
                    done(chalk, at);
                    return Ok(());
                }
                if was_wrong {
                    return Err(wrong(&want.name));
                }
                was_wrong = true;
                tracing::warn!(
                    file = want.name,
                    "a fetched file is not what was announced; it is fetched again"
                );
            }
            Err(error) if error.is_retryable() => {
                failures = if writer.len.saturating_sub(before) >= WORTH { 1 } else { failures + 1 };
                if failures >= TRIES {
                    return Err(error);
                }
                let wait = error.retry_after.unwrap_or(limits.retry * (1 << (failures - 1)));
                tracing::debug!(file = want.name, %error, "a download is tried again");
                tokio::time::sleep(wait).await;
            }
            Err(error) => return Err(error),
        }
    }
}

fn done(chalk: &Chalk, at: usize) {
    chalk.file(at, |file| (file.done, file.status) = (file.total, FileStatus::Done));
}

fn wrong(name: &str) -> ModelError {
    ModelError::new(
        Kind::Damaged,
        format!(
            "{name} came twice with a wrong checksum, and was thrown away; something between here and there changes \
             it, or it is damaged at its source"
        ),
    )
}

/// One try for what is missing.
async fn rest(
    want: &Want,
    limits: Limits,
    writer: &mut Writer,
    chalk: &Chalk,
    at: usize,
) -> Result<(), ModelError> {
    let size = want.place.size;
    if writer.len == size {
        return Ok(());
    }
    let mut request = (want.request)();
    if writer.len > 0 {
        request = request.header(RANGE, format!("bytes={}-", writer.len));
    }
    let response = in_time(limits.stall, &want.name, request.send()).await?;
    let response = response.map_err(|error| ModelError::request(&want.name, error))?;
    match response.status() {
        StatusCode::PARTIAL_CONTENT if goes_on(&response, writer.len, size) => {}
        // The other side begins at the beginning, so do we.
        StatusCode::OK => {
            if writer.len > 0 {
                writer.restart().await?;
                chalk.file(at, |file| file.done = 0);
            }
        }
        StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
            writer.restart().await?;
            return Err(ModelError::network(format!("{} cannot be gone on with, it begins anew", want.name)));
        }
        status => return Err((want.refused)(&want.name, status, response.headers())),
    }
    let mut body = response.bytes_stream();
    while let Some(bytes) = in_time(limits.stall, &want.name, body.next()).await? {
        let bytes = bytes.map_err(|error| ModelError::request(&want.name, error))?;
        if writer.len + bytes.len() as u64 > size {
            writer.restart().await?;
            return Err(ModelError::network(format!("{} is longer than was announced", want.name)));
        }
        writer.write(bytes).await?;
        chalk.file(at, |file| file.done = writer.len);
    }
    if writer.len < size {
        return Err(ModelError::network(format!(
            "{} broke off at {} of {size} bytes",
            want.name, writer.len
        )));
    }
    Ok(())
}

/// Waits for something that must not take longer than the limit.
pub(super) async fn in_time<T>(
    stall: Duration,
    name: &str,
    what: impl Future<Output = T>,
) -> Result<T, ModelError> {
    tokio::time::timeout(stall, what).await.map_err(|_| {
        ModelError::network(format!("{name} cannot be fetched: no byte came for {} s", stall.as_secs_f32()))
    })
}

/// Whether a part is the one that was asked for: `Content-Range: bytes 100-199/200`.
fn goes_on(response: &Response, from: u64, size: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let parts = range.and_then(|text| text.strip_prefix("bytes ")?.split_once('/'));
    let Some((range, total)) = parts else { return false };
    let begins = range.split_once('-').and_then(|(first, _)| first.trim().parse().ok());
    begins == Some(from) && (total == "*" || total.parse() == Ok(size))
}

/// A refusal that nobody knows better: what may pass is told apart from what does not.
pub(super) fn refusal(name: &str, status: StatusCode, headers: &HeaderMap) -> ModelError {
    let text = format!("{name} cannot be fetched: the other side answers {status}");
    if status.is_server_error()
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
    {
        let mut error = ModelError::network(text);
        let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        error.retry_after = seconds.map(Duration::from_secs).map(|wait| wait.min(RETRY_AFTER_MAX));
        return error;
    }
    let kind = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Kind::Denied,
        StatusCode::NOT_FOUND | StatusCode::GONE => Kind::NotFound,
        _ => Kind::Invalid,
    };
    ModelError::new(kind, text)
}

/// Waits until nobody else writes the file, in this process or another.
async fn lock(place: &Place) -> Result<File, ModelError> {
    loop {
        let path = place.lock.clone();
        if let Some(lock) = blocking("locked a file", move || try_lock(&path)).await?? {
            return Ok(lock);
        }
        tokio::time::sleep(LOCK_EVERY).await;
    }
}

fn try_lock(path: &Path) -> Result<Option<File>, ModelError> {
    let cannot = |error| ModelError::files(&format!("{} cannot be made", path.display()), &error);
    make_parent(path).map_err(cannot)?;
    let file = File::options().create(true).append(true).open(path).map_err(cannot)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(cannot(error.into())),
    }
}

/// Runs something that waits for the disk.
pub(super) async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ModelError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ModelError::lost(what))
}
