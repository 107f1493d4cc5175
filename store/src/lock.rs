//! One process per data directory: a lock file with the owner's pid, locked for as long as the process lives.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use crate::error::OpenError;

const LOCK_FILE: &str = "lock";

/// Holds the lock until it is dropped.
#[derive(Debug)]
pub(crate) struct DirLock {
    _file: File,
}

/// Takes the lock of `dir` or says who has it.
pub(crate) fn acquire(dir: &Path) -> Result<DirLock, OpenError> {
    let path = dir.join(LOCK_FILE);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| OpenError::io(&path, error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            return Err(OpenError::InUse { path: dir.to_owned(), pid: read_pid(&mut file) });
        }
        Err(error) => return Err(OpenError::io(path, error.into())),
    }
    // The lock is what counts: on a full disk the pid may stay unwritten.
    if let Err(error) = write_pid(&mut file) {
        tracing::warn!(%error, path = %path.display(), "pid not written to the lock file");
    }
    Ok(DirLock { _file: file })
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_pid(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes())
}
