//! What can go wrong, as the caller must treat it.

use std::{
    io,
    path::{Path, PathBuf},
};

use nebula_core::exit::{Exit, Fatal};

use crate::engine::{EngineError, Trouble};

/// Why a batch was not committed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The queue is full; nothing was applied, try again later.
    #[error("store is overloaded")]
    Overloaded,
    /// A precondition does not hold; nothing was applied.
    #[error("record {} is not as expected", key.escape_ascii())]
    Conflict {
        /// The key whose precondition does not hold.
        key: Vec<u8>,
    },
    /// A key, a payload or the batch is over its limit; nothing was applied.
    #[error("{what} of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// What is too large: `key`, `record` or `batch`.
        what: &'static str,
        /// Its size in bytes.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// There is too little space on the disk for such a batch; nothing was applied.
    #[error("the disk is full")]
    DiskFull,
    /// The store is opening its engine again; nothing was applied, try again later.
    #[error("store is reopening")]
    Unavailable,
    /// The batch may have been applied: whoever asked must load its state again.
    #[error("store has failed")]
    Failed,
    /// The store was closed; nothing was applied.
    #[error("store is closed")]
    Closed,
}

/// Why nothing was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The queue is full, try again later.
    #[error("store is overloaded")]
    Overloaded,
    /// The store is opening its engine again, try again later.
    #[error("store is reopening")]
    Unavailable,
    /// The store has failed and answers nothing more.
    #[error("store has failed")]
    Failed,
    /// The store was closed.
    #[error("store is closed")]
    Closed,
}

/// Why no export was made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExportFailed {
    /// The queue is full, or too many exports wait already; try again later.
    #[error("store is overloaded")]
    Overloaded,
    /// The store is opening its engine again, try again later.
    #[error("store is reopening")]
    Unavailable,
    /// It could not be written, or the store has failed.
    #[error("export failed: {0}")]
    Failed(String),
    /// The store was closed.
    #[error("store is closed")]
    Closed,
}

/// A request that did not reach the queue, or the engine, fails the same way for all kinds.
impl From<ReadError> for ExportFailed {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Overloaded => Self::Overloaded,
            ReadError::Unavailable => Self::Unavailable,
            ReadError::Failed => Self::Failed(error.to_string()),
            ReadError::Closed => Self::Closed,
        }
    }
}

impl From<ReadError> for CommitError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Overloaded => Self::Overloaded,
            ReadError::Unavailable => Self::Unavailable,
            ReadError::Failed => Self::Failed,
            ReadError::Closed => Self::Closed,
        }
    }
}

/// Why the store did not open. Nothing was deleted.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another store has the directory.
    #[error("data directory {} is in use{}", path.display(), owner(*pid))]
    InUse {
        /// The data directory.
        path: PathBuf,
        /// Who has it, if it could be read.
        pid: Option<u32>,
    },
    /// The directory is missing and cannot be made, cannot be read, or cannot be written.
    #[error("data directory cannot be used: {}", path.display())]
    Unusable {
        /// The file or directory that cannot be used.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file that somebody asked for cannot be written; the store is as it was.
    #[error("cannot write {}: {reason}", path.display())]
    Target {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// There is no space left.
    #[error("no space left on the disk of {}", path.display())]
    DiskFull {
        /// The data directory.
        path: PathBuf,
    },
    /// The file system promises too little about what it has written.
    #[error("data directory {} is on {kind}, which may lose what was acknowledged", path.display())]
    Filesystem {
        /// The data directory.
        path: PathBuf,
        /// The kind of file system.
        kind: &'static str,
    },
    /// The engine cannot read what is there.
    #[error("store in {} is damaged: {reason}", path.display())]
    Damaged {
        /// The engine's directory.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A newer version of the program wrote it.
    #[error("store in {} has format {found}, this version knows format {known}", path.display())]
    NewerSchema {
        /// The data directory.
        path: PathBuf,
        /// The format found.
        found: u16,
        /// The newest format this version knows.
        known: u16,
    },
}

fn owner(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" by process {pid}")).unwrap_or_default()
}

impl OpenError {
    /// The error for `source` at `path`: a full disk is told apart.
    pub(crate) fn io(path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            _ => Self::Unusable { path, source },
        }
    }

    /// The error of an engine in `dir`: a full disk is told apart.
    pub(crate) fn engine(dir: impl Into<PathBuf>, error: EngineError) -> Self {
        let path = dir.into();
        match error.trouble {
            Trouble::NoSpace => Self::DiskFull { path },
            Trouble::Other => Self::Damaged { path, reason: error.text },
        }
    }

    /// The error of an export to `file`: a full disk is told apart.
    pub(crate) fn target(file: &Path, error: &EngineError) -> Self {
        let path = file.to_owned();
        match error.trouble {
            Trouble::NoSpace => Self::DiskFull { path },
            Trouble::Other => Self::Target { path, reason: error.text.clone() },
        }
    }
}

impl From<OpenError> for Fatal {
    fn from(error: OpenError) -> Self {
        let message = error.to_string();
        match error {
            OpenError::InUse { .. } => Self::new(Exit::InUse, message)
                .hint("stop the other process first, or choose another directory with --data-dir"),
            OpenError::Unusable { source, .. } => {
                let exit = if is_disk_error(&source) { Exit::Disk } else { Exit::DataDir };
                Self::new(exit, format!("{message}: {source}")).hint(advice(&source))
            }
            OpenError::Target { .. } => {
                Self::new(Exit::Failed, message).hint("check the path, and that this user may write there")
            }
            OpenError::DiskFull { .. } => {
                Self::new(Exit::Disk, message).hint("free some space and start again")
            }
            OpenError::Filesystem { .. } => Self::new(Exit::DataDir, message).hint(
                "choose a directory on a local disk with --data-dir, or take the risk with --allow-any-filesystem",
            ),
            OpenError::Damaged { .. } => Self::new(Exit::Disk, message).hint(
                "nothing was deleted; bring an export back with `store import --force`, or begin with an empty directory",
            ),
            OpenError::NewerSchema { .. } => Self::new(Exit::DataDir, message)
                .hint("start the newer version again; an older one would not understand its records"),
        }
    }
}

/// The disk did not do what it was told: EIO. The standard library has no kind for it.
fn is_disk_error(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        _ if is_disk_error(source) => {
            "nothing was deleted; look at the kernel's log, the disk may be failing"
        }
        io::ErrorKind::PermissionDenied => {
            "give the directory to the user this program runs as, or choose another with --data-dir"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "mount the file system for writing, or choose another directory with --data-dir"
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "there is a file where the directory should be; move it away or choose another with --data-dir"
        }
        _ => "check the path, or choose another directory with --data-dir",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fatal(error: OpenError) -> (Exit, String) {
        let fatal = Fatal::from(error);
        assert!(fatal.hint.is_some());
        (fatal.exit, fatal.message)
    }

    #[test]
    fn errors_name_the_path_and_the_exit_code() {
        let path = PathBuf::from("/data");
        let (exit, message) = fatal(OpenError::InUse { path: path.clone(), pid: Some(42) });
        assert_eq!(exit, Exit::InUse);
        assert_eq!(message, "data directory /data is in use by process 42");
        let (exit, message) = fatal(OpenError::io("/data", io::ErrorKind::PermissionDenied.into()));
        assert_eq!(exit, Exit::DataDir);
        assert_eq!(message, "data directory cannot be used: /data: permission denied");
        let (exit, message) = fatal(OpenError::io("/data", rustix::io::Errno::IO.into()));
        assert_eq!(exit, Exit::Disk);
        assert!(message.starts_with("data directory cannot be used: /data: "), "{message}");
        let (exit, message) = fatal(OpenError::io("/data", io::ErrorKind::StorageFull.into()));
        assert_eq!(exit, Exit::Disk);
        assert_eq!(message, "no space left on the disk of /data");
        let (exit, message) =
            fatal(OpenError::target(Path::new("/no/x"), &EngineError::other("export: no such file")));
        assert_eq!((exit, message.as_str()), (Exit::Failed, "cannot write /no/x: export: no such file"));
        let full = EngineError { trouble: Trouble::NoSpace, text: String::new() };
        assert_eq!(fatal(OpenError::target(Path::new("/no/x"), &full)).0, Exit::Disk);
        let (exit, message) = fatal(OpenError::NewerSchema { path, found: 9, known: 1 });
        assert_eq!(exit, Exit::DataDir);
        assert_eq!(message, "store in /data has format 9, this version knows format 1");
    }
}
