//! Where everything is inside a data directory.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use nebula_core::clock::WallTime;

use crate::error::OpenError;

/// The paths in one data directory.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The engine's files.
    pub(crate) fn engine(&self) -> PathBuf {
        self.root.join("db")
    }

    /// An engine that is being made; nothing that was acknowledged is only in it.
    pub(crate) fn creating(&self) -> PathBuf {
        self.root.join("db.creating")
    }

    /// An engine that was rebuilt completely and takes the place of a damaged one.
    pub(crate) fn rebuilt(&self) -> PathBuf {
        self.root.join("db.rebuilt")
    }

    /// An engine that was compacted completely and takes the place of the larger one.
    pub(crate) fn compacted(&self) -> PathBuf {
        self.root.join("db.compacted")
    }

    /// The log of batches.
    pub(crate) fn redo(&self) -> PathBuf {
        self.root.join("redo")
    }

    /// The store's own exports.
    pub(crate) fn exports(&self) -> PathBuf {
        self.root.join("exports")
    }

    /// A free name that starts with `what` and tells when.
    pub(crate) fn aside(&self, what: &str, now: WallTime) -> PathBuf {
        let mut free = self.root.join(format!("{what}-{}", stamp(now)));
        let mut more = 1;
        while free.exists() {
            free = self.root.join(format!("{what}-{}-{more}", stamp(now)));
            more += 1;
        }
        free
    }
}

/// `yyyymmddThhmmssZ`.
pub(crate) fn stamp(at: WallTime) -> String {
    let text = at.rfc3339();
    let seconds = text.split('.').next().unwrap_or_default();
    format!("{}Z", seconds.replace(['-', ':'], ""))
}

/// Makes the names in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Renames, and makes it durable before anything else is done.
pub(crate) fn rename(from: &Path, to: &Path, root: &Path) -> Result<(), OpenError> {
    std::fs::rename(from, to).and_then(|()| sync_dir(root)).map_err(|error| OpenError::io(from, error))
}

/// Removes a directory with all in it, if it is there.
pub(crate) fn remove_all(dir: &Path) -> Result<(), OpenError> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(OpenError::io(dir, error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_time_and_are_free() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path());
        let now = WallTime(951_827_696_789);
        let first = layout.aside("db.corrupt", now);
        assert_eq!(first, root.path().join("db.corrupt-20000229T123456Z"));
        std::fs::create_dir(&first).unwrap();
        assert_eq!(layout.aside("db.corrupt", now), root.path().join("db.corrupt-20000229T123456Z-1"));
    }
}
