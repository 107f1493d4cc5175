//! Our own log of batches, beside the engine.
//!
//! The engine forgets silently what follows the first bytes it cannot read, and an export is minutes old. What was
//! acknowledged since the last export is therefore also here: `redo/<number of the first batch>.redo`, frames of
//! [`frame`] behind a magic. A file is only appended to by the process that started it; each start and each export
//! begins a new one, so a torn end is never written over.

pub(crate) mod frame;
pub(crate) mod survey;

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::{engine::Writes, layout::sync_dir};

pub(crate) use survey::Survey;

/// What a file of the log starts with; the last byte is the format.
const MAGIC: [u8; 8] = *b"NbRedo\x00\x01";

/// A file of the log before it has its name.
const UNNAMED: &str = "unnamed";

/// The file that is appended to.
pub(crate) struct Redo {
    dir: PathBuf,
    file: File,
    first: u64,
    buffer: Vec<u8>,
    unusable: bool,
}

impl Redo {
    /// Starts a file for the batches from `first` on, which must be higher than all numbers in the log. It is on disk,
    /// with its name, when this returns.
    ///
    /// A file of that name can only be one that was started and got no whole batch: it is replaced.
    pub(crate) fn start(dir: &Path, first: u64) -> io::Result<Self> {
        if !dir.exists() {
            DirBuilder::new().mode(0o700).create(dir)?;
            dir.parent().map_or(Ok(()), sync_dir)?;
        }
        let file = named(dir, first)?;
        sync_dir(dir)?;
        Ok(Self { dir: dir.to_owned(), file, first, buffer: Vec::new(), unusable: false })
    }

    /// Appends batch `seq`; not durable yet. After an error the file may end in a part of it: nothing more may be
    /// appended. Returns its size in bytes.
    pub(crate) fn append(&mut self, seq: u64, writes: &Writes) -> io::Result<u64> {
        if self.unusable {
            return Err(io::Error::other("its last file may not be on disk"));
        }
        frame::encode(seq, writes, &mut self.buffer);
        self.file.write_all(&self.buffer)?;
        Ok(u64::try_from(self.buffer.len()).unwrap_or(u64::MAX))
    }

    /// Makes what was appended durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.file)?)
    }

    /// Goes on in a new file with batch `first`. What was appended must be durable. After an error the log goes on in
    /// the file before, if it can go on at all.
    pub(crate) fn rotate(&mut self, first: u64) -> io::Result<()> {
        // A file without batches already starts with that number.
        if first == self.first {
            return Ok(());
        }
        self.file = named(&self.dir, first)?;
        self.first = first;
        // With a name that is not on disk, what is acknowledged next could be lost with it.
        sync_dir(&self.dir).inspect_err(|_| self.unusable = true)
    }
}

/// A file of the log with its magic. The name appears when the file is complete, so that after an error the log still
/// ends with the file before.
fn named(dir: &Path, first: u64) -> io::Result<File> {
    let unnamed = dir.join(UNNAMED);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unnamed)?;
    file.write_all(&MAGIC)?;
    file.sync_all()?;
    std::fs::rename(unnamed, dir.join(format!("{first:020}.redo")))?;
    Ok(file)
}

/// Removes the files that hold nothing after batch `covered`. The last file is the one that is written, and stays.
pub(crate) fn prune(dir: &Path, covered: u64) -> io::Result<()> {
    let files = survey::files(dir)?;
    let follows = files.iter().skip(1).map(|(first, _)| *first);
    for ((_, path), next) in files.iter().zip(follows) {
        if next <= covered.saturating_add(1) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
