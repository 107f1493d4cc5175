//! Writes one fetched file on a thread of its own: bytes go to an unfinished file and into its checksum; only what is
//! whole and right gets its name.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::digest::{Check, Sum};
use super::error::ModelError;

/// Pieces that may wait for the disk.
const PIECES_WAITING: usize = 16;
/// Bytes that are read at once when what is there is checked.
const READ_AT_ONCE: usize = 256 * 1024;

/// Where a file is written and what it must be.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Where it gets its name.
    pub(super) target: PathBuf,
    /// Where it is while it is not finished.
    pub(super) partial: PathBuf,
    /// Held by whoever writes it.
    pub(super) lock: PathBuf,
    /// Bytes in all.
    pub(super) size: u64,
    pub(super) check: Check,
}

impl Place {
    /// Whether it is there already. Blocks.
    pub(super) fn is_there(&self) -> bool {
        std::fs::metadata(&self.target).is_ok_and(|found| found.is_file() && found.len() == self.size)
    }

    /// Bytes that are still to be written. Blocks.
    pub(super) fn missing(&self) -> u64 {
        if self.is_there() {
            return 0;
        }
        let partial = std::fs::metadata(&self.partial).map_or(0, |found| found.len());
        // One that is too long is thrown away.
        self.size.checked_sub(partial).unwrap_or(self.size)
    }
}

enum Order {
    Bytes(Bytes),
    /// What was written counts no more.
    Restart,
    /// All has come. Answers whether it was right; if not, it is thrown away.
    Finish(oneshot::Sender<bool>),
}

/// The side that gives orders. When it goes away the unfinished file stays for the next one.
pub(super) struct Writer {
    orders: mpsc::Sender<Order>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
    what: String,
    /// Bytes that are written or on their way.
    pub(super) len: u64,
}

impl Writer {
    /// Takes up what is there of the file. `lock` is held until the writer's last byte.
    ///
    /// # Errors
    /// When the unfinished file cannot be made or read.
    pub(super) async fn open(place: Place, lock: File) -> Result<Self, ModelError> {
        let (orders, inbox) = mpsc::channel(PIECES_WAITING);
        let (ready, opened) = oneshot::channel();
        let what = format!("{} cannot be written", place.partial.display());
        let thread = tokio::task::spawn_blocking(move || {
            let _held = lock;
            work(&place, inbox, ready)
        });
        let mut writer = Self { orders, thread: Some(thread), what, len: 0 };
        match opened.await {
            Ok(len) => writer.len = len,
            Err(_) => return Err(writer.failure().await),
        }
        Ok(writer)
    }

    /// Adds bytes; waits when the disk is slower than the network.
    pub(super) async fn write(&mut self, bytes: Bytes) -> Result<(), ModelError> {
        let more = bytes.len() as u64;
        self.order(Order::Bytes(bytes)).await?;
        self.len += more;
        Ok(())
    }

    /// Throws away what was written.
    pub(super) async fn restart(&mut self) -> Result<(), ModelError> {
        self.order(Order::Restart).await?;
        self.len = 0;
        Ok(())
    }

    /// Gives the file its name if it is what it must be; throws away what was written if not.
    pub(super) async fn finish(&mut self) -> Result<bool, ModelError> {
        let (answer, answered) = oneshot::channel();
        self.order(Order::Finish(answer)).await?;
        match answered.await {
            Ok(right) => {
                if !right {
                    self.len = 0;
                }
                Ok(right)
            }
            Err(_) => Err(self.failure().await),
        }
    }

    async fn order(&mut self, order: Order) -> Result<(), ModelError> {
        match self.orders.send(order).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.failure().await),
        }
    }

    /// Why the thread has ended.
    async fn failure(&mut self) -> ModelError {
        match self.thread.take() {
            Some(thread) => match thread.await {
                Ok(Err(error)) => ModelError::files(&self.what, &error),
                Ok(Ok(())) | Err(_) => ModelError::lost("wrote a file"),
            },
            None => ModelError::lost("wrote a file"),
        }
    }
}

/// The thread: until nobody gives orders any more.
fn work(
    place: &Place,
    mut orders: mpsc::Receiver<Order>,
    ready: oneshot::Sender<u64>,
) -> std::io::Result<()> {
    make_parent(&place.partial)?;
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&place.partial)?;
    let Some((mut sum, mut len)) = take_up(place, &mut file, &ready)? else { return Ok(()) };
    if ready.send(len).is_err() {
        return Ok(());
    }
    while let Some(order) = orders.blocking_recv() {
        match order {
            Order::Bytes(bytes) => {
                file.write_all_at(&bytes, len)?;
                sum.add(&bytes);
                len += bytes.len() as u64;
            }
            Order::Restart => {
                file.set_len(0)?;
                (sum, len) = (Sum::new(place.check, place.size), 0);
            }
            Order::Finish(answer) => {
                let made = std::mem::replace(&mut sum, Sum::new(place.check, place.size));
                let right = len == place.size && made.matches();
                if right {
                    file.sync_all()?;
                    make_parent(&place.target)?;
                    std::fs::rename(&place.partial, &place.target)?;
                    sync_parent(&place.target)?;
                } else {
                    file.set_len(0)?;
                    len = 0;
                }
                // Whoever asked may have gone.
                let _ = answer.send(right);
                if right {
                    return Ok(());
                }
            }
        }
    }
    if len == 0 { std::fs::remove_file(&place.partial) } else { Ok(()) }
}

/// Reads what an earlier writer left, for the checksum. None: nobody waits any more.
fn take_up(
    place: &Place,
    file: &mut File,
    ready: &oneshot::Sender<u64>,
) -> std::io::Result<Option<(Sum, u64)>> {
    let mut sum = Sum::new(place.check, place.size);
    if file.metadata()?.len() > place.size {
        file.set_len(0)?;
    }
    let (mut len, mut buffer) = (0, vec![0; READ_AT_ONCE]);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(Some((sum, len)));
        }
        if ready.is_closed() {
            return Ok(None);
        }
        sum.add(buffer.get(..read).unwrap_or_default());
        len += read as u64;
    }
}

pub(super) fn make_parent(path: &Path) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), std::fs::create_dir_all)
}

/// Makes a name durable that was just given.
pub(super) fn sync_parent(path: &Path) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

/// Writes a small file whole or not at all. Blocks.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    make_parent(path)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", uuid::Uuid::new_v4().simple()));
    let new = path.with_file_name(name);
    let mut file = File::create(&new)?;
    let written =
        file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&new, path));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&new);
    }
    written.and_then(|()| sync_parent(path))
}
