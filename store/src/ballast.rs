//! Space kept in reserve: a file of real blocks that is deleted when the disk is full, so that the engine can still be
//! opened and things can be deleted.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FallocateFlags, fallocate};

const FILE: &str = "ballast";
/// Of a volume's size, in percent: the most that is kept in reserve.
const SHARE_PERCENT: u64 = 5;
/// What `st_blocks` counts in.
const BLOCK_BYTES: u64 = 512;

/// The reserve of one data directory.
#[derive(Debug)]
pub(crate) struct Ballast {
    path: PathBuf,
    wanted: u64,
    held: u64,
}

impl Ballast {
    /// The reserve in `dir`: of `bytes`, but no more than a small part of the volume. What an earlier run made is
    /// kept if it is as large.
    pub(crate) fn find(dir: &Path, bytes: u64, volume_bytes: u64) -> Self {
        let path = dir.join(FILE);
        let wanted = bytes.min(volume_bytes / 100 * SHARE_PERCENT);
        let mut ballast = Self { path, wanted, held: 0 };
        match ballast.path.metadata() {
            Ok(found) if found.len() == wanted && found.blocks() * BLOCK_BYTES >= wanted => {
                ballast.held = wanted
            }
            Ok(_) => remove(&ballast.path),
            Err(_) => {}
        }
        ballast
    }

    /// Bytes in reserve now.
    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    /// Bytes that should be in reserve and are not.
    pub(crate) fn missing(&self) -> u64 {
        self.wanted - self.held
    }

    /// Takes the space. Where that is impossible there is no reserve, and it is not tried again.
    pub(crate) fn make(&mut self) {
        if self.missing() == 0 {
            return;
        }
        match allocate(&self.path, self.wanted) {
            Ok(()) => self.held = self.wanted,
            Err(error) => {
                remove(&self.path);
                self.wanted = 0;
                tracing::warn!(%error, path = %self.path.display(), "no space can be kept in reserve");
            }
        }
    }

    /// Gives the space back; false if there was none.
    pub(crate) fn release(&mut self) -> bool {
        if self.held == 0 {
            return false;
        }
        tracing::warn!(bytes = self.held, "disk is full: space kept in reserve is given back");
        remove(&self.path);
        self.held = 0;
        true
    }
}

/// Deletes the reserve in `dir` that an earlier run left; false if there is none.
pub(crate) fn release_in(dir: &Path) -> bool {
    let released = std::fs::remove_file(dir.join(FILE)).is_ok();
    if released {
        tracing::warn!("disk is full: space kept in reserve is given back");
    }
    released
}

fn allocate(path: &Path, bytes: u64) -> io::Result<()> {
    let file: File = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
    Ok(())
}

fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %path.display(), "reserve not deleted");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOLUME: u64 = 1024 * 1024 * 1024;
    const BYTES: u64 = 256 * 1024;

    #[test]
    fn real_blocks_are_taken_kept_and_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut ballast = Ballast::find(dir.path(), BYTES, VOLUME);
        assert_eq!((ballast.held(), ballast.missing()), (0, BYTES));
        ballast.make();
        assert_eq!((ballast.held(), ballast.missing()), (BYTES, 0));
        let file = dir.path().join(FILE).metadata().unwrap();
        assert_eq!(file.len(), BYTES);
        assert!(file.blocks() * BLOCK_BYTES >= BYTES);

        let mut again = Ballast::find(dir.path(), BYTES, VOLUME);
        assert_eq!(again.held(), BYTES);
        assert!(again.release());
        assert!(!again.release());
        assert_eq!(again.missing(), BYTES);
        assert!(!dir.path().join(FILE).exists());
    }

    #[test]
    fn the_reserve_is_a_small_part_of_the_volume_and_follows_the_option() {
        let dir = tempfile::tempdir().unwrap();
        let mut small = Ballast::find(dir.path(), BYTES, 1024 * 1024);
        assert_eq!(small.missing(), 1024 * 1024 / 100 * 5);
        small.make();
        let other = Ballast::find(dir.path(), 0, VOLUME);
        assert_eq!((other.held(), other.missing()), (0, 0));
        assert!(!dir.path().join(FILE).exists());
        assert!(!release_in(dir.path()));
    }

    #[test]
    fn where_it_is_impossible_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let mut ballast = Ballast::find(&dir.path().join("missing"), BYTES, VOLUME);
        ballast.make();
        assert_eq!((ballast.held(), ballast.missing()), (0, 0));
    }
}
