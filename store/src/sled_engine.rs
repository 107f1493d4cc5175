//! sled behind [`Engine`]. The only file that calls it.
//!
//! sled's `flush` hands the log to the operating system but does not wait for the disk, so every sync ends with
//! `fdatasync` on a descriptor of our own, whose errors sled cannot swallow.

#![expect(clippy::disallowed_methods, reason = "this is the engine that the writer thread owns")]

use std::{
    fs::File,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::Duration,
};

use nebula_core::clock::Clock;
use rustix::io::Errno;

use crate::{
    engine::{Engine, EngineError, Entries, Writes},
    error::OpenError,
    status::panic_text,
};

/// sled collects garbage only from its own periodic flush; durability never waits for it.
const FLUSH_EVERY_MS: u64 = 500;
/// sled's own lock outlives its last handle for a moment.
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// The log file inside the engine's directory.
const LOG_FILE: &str = "db";
const CONFIG_FILE: &str = "conf";
/// A snapshot that was being written: sled would take a torn one for the newest.
const TORN_SNAPSHOT: (&str, &str) = ("snap.", ".generating");

/// What the operating system says when it has no more files or memory to give.
const SHORTAGES: [Option<i32>; 3] =
    [Some(Errno::MFILE.raw_os_error()), Some(Errno::NFILE.raw_os_error()), Some(Errno::NOMEM.raw_os_error())];

pub(crate) struct SledEngine {
    db: sled::Db,
    log: File,
    /// Dropped after `db`, as fields go in their order.
    _last: LastHandle,
}

/// sled syncs once more when its last handle goes, and panics if that fails. What was acknowledged was synced by us
/// before, so there is nothing to be told but the failure.
struct LastHandle(Option<sled::Db>);

impl Drop for LastHandle {
    fn drop(&mut self) {
        let db = self.0.take();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(db))) {
            tracing::error!(error = panic_text(panic.as_ref()), "engine not closed in order");
        }
    }
}

impl SledEngine {
    /// Opens the engine in `dir`, which must exist and be locked by us. Its files are on disk when this returns.
    pub(crate) fn open(dir: &Path, cache_bytes: u64) -> Result<Self, OpenError> {
        remove_torn_snapshots(dir).map_err(|error| OpenError::io(dir, error))?;
        let config =
            sled::Config::new().path(dir).cache_capacity(cache_bytes).flush_every_ms(Some(FLUSH_EVERY_MS));
        let db = open_patiently(dir, &config)?;
        let log_path = dir.join(LOG_FILE);
        let log = File::open(&log_path).map_err(|error| OpenError::io(log_path, error))?;
        for path in [dir.join(CONFIG_FILE), dir.join(LOG_FILE), dir.to_owned()] {
            File::open(&path).and_then(|file| file.sync_all()).map_err(|error| OpenError::io(path, error))?;
        }
        let _last = LastHandle(Some(db.clone()));
        Ok(Self { db, log, _last })
    }
}

impl Engine for SledEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        let value = self.db.get(key).map_err(|error| failure("read", &error))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(&self, prefix: &[u8]) -> Result<Entries, EngineError> {
        let mut entries = Entries::new();
        self.visit(prefix, &mut |key, value| entries.push((key.to_owned(), value.to_owned())))?;
        Ok(entries)
    }

    fn visit(&self, prefix: &[u8], see: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), EngineError> {
        for entry in self.db.scan_prefix(prefix) {
            let (key, value) = entry.map_err(|error| failure("scan", &error))?;
            see(&key, &value);
        }
        Ok(())
    }

    fn apply(&mut self, writes: Writes) -> Result<(), EngineError> {
        let mut batch = sled::Batch::default();
        for (key, value) in writes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        self.db.apply_batch(batch).map_err(|error| failure("write", &error))
    }

    fn sync(&mut self) -> Result<(), EngineError> {
        self.db.flush().map_err(|error| failure("flush", &error))?;
        rustix::fs::fdatasync(&self.log).map_err(|error| EngineError::io("fdatasync", &error.into()))
    }

    fn size_bytes(&self) -> u64 {
        self.log.metadata().map_or(0, |metadata| metadata.len())
    }
}

fn failure(step: &str, error: &sled::Error) -> EngineError {
    match error {
        sled::Error::Io(error) => EngineError::io(step, error),
        error => EngineError::other(format!("{step}: {error}")),
    }
}

fn remove_torn_snapshots(dir: &Path) -> io::Result<()> {
    for entry in dir.read_dir()? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(TORN_SNAPSHOT.0) && name.ends_with(TORN_SNAPSHOT.1) {
            std::fs::remove_file(entry.path())?;
            tracing::info!(file = %name, "unfinished snapshot removed");
        }
    }
    Ok(())
}

/// Opens sled, waiting a while for its own lock: whoever holds it does not hold ours, so it is on its way out.
fn open_patiently(dir: &Path, config: &sled::Config) -> Result<sled::Db, OpenError> {
    let clock = Clock::start();
    let give_up = clock.now().plus(LOCK_WAIT);
    loop {
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
        let error = match opened {
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(error)) => error,
            Err(panic) => {
                let reason = format!("the engine panicked: {}", panic_text(panic.as_ref()));
                return Err(OpenError::Damaged { path: dir.to_owned(), reason });
            }
        };
        if !is_lock_error(&error) {
            return Err(classify(dir, error));
        }
        if clock.now() >= give_up {
            return Err(OpenError::InUse { path: dir.to_owned(), pid: None });
        }
        std::thread::sleep(LOCK_RETRY);
    }
}

fn is_lock_error(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().contains("could not acquire lock"))
}

fn classify(dir: &Path, error: sled::Error) -> OpenError {
    let damaged = |reason: String| OpenError::Damaged { path: dir.to_owned(), reason };
    match error {
        // No file or memory to be had is nothing that the files suffer from.
        sled::Error::Io(error) if SHORTAGES.contains(&error.raw_os_error()) => OpenError::io(dir, error),
        sled::Error::Io(error) => match error.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::NotFound => OpenError::io(dir, error),
            _ => damaged(error.to_string()),
        },
        sled::Error::Corruption { .. } => damaged("the engine found bytes it did not write".to_owned()),
        other => damaged(other.to_string()),
    }
}
