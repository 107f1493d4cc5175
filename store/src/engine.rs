//! What the writer needs of an engine. sled is one; the writer's tests bring another that fails on demand.

use std::{collections::BTreeMap, io, path::PathBuf};

use crate::info::{ExportInfo, Restored};

/// Writes by key: `None` removes.
pub(crate) type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Entries in key order.
pub(crate) type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// What an engine's error means for those above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The disk is full: opening the engine again helps as soon as there is space.
    NoSpace,
    /// Anything else, which no second try makes good.
    Other,
}

/// The engine cannot go on; the text says at which step and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct EngineError {
    pub(crate) trouble: Trouble,
    pub(crate) text: String,
}

impl EngineError {
    /// An error that no second try makes good.
    pub(crate) fn other(text: impl Into<String>) -> Self {
        Self { trouble: Trouble::Other, text: text.into() }
    }

    /// The error of the operating system at `step`.
    pub(crate) fn io(step: &str, error: &io::Error) -> Self {
        let trouble = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Trouble::NoSpace,
            _ => Trouble::Other,
        };
        Self { trouble, text: format!("{step}: {error}") }
    }
}

impl From<io::Error> for EngineError {
    fn from(error: io::Error) -> Self {
        Self::io("read", &error)
    }
}

/// An ordered map of bytes on disk.
pub(crate) trait Engine: Send {
    /// The value under `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError>;

    /// All entries whose key starts with `prefix`, in key order.
    fn scan(&self, prefix: &[u8]) -> Result<Entries, EngineError>;

    /// Shows all entries whose key starts with `prefix`, in key order, one by one.
    fn visit(&self, prefix: &[u8], see: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), EngineError> {
        self.scan(prefix)?.iter().for_each(|(key, value)| see(key, value));
        Ok(())
    }

    /// Applies all writes or none; not durable yet.
    fn apply(&mut self, writes: Writes) -> Result<(), EngineError>;

    /// Makes everything applied durable. After an error nothing is known about what was.
    fn sync(&mut self) -> Result<(), EngineError>;

    /// Bytes on disk.
    fn size_bytes(&self) -> u64;
}

/// What is left to do of an export once its entries are written: wait for the disk, rename, remove old ones. Runs on
/// another thread.
pub(crate) type FinishExport = Box<dyn FnOnce() -> io::Result<ExportInfo> + Send>;

/// An engine that can be exported while it is in use.
pub(crate) trait Exports: Engine {
    /// The number of the last write.
    fn seq(&self) -> u64;

    /// Whether an export should be made before its time.
    fn wants_export(&self) -> bool;

    /// Writes all entries into a new export, among the store's own or at `target`. After an error there is none, and
    /// the engine goes on as before.
    fn begin_export(&mut self, target: Option<PathBuf>) -> Result<FinishExport, EngineError>;

    /// An export among the store's own was finished: what only older ones needed may go.
    fn exported(&mut self, export: &ExportInfo) -> Result<(), EngineError>;
}

/// An engine that was opened, and what was found on the way.
pub(crate) struct Opened<E> {
    pub(crate) engine: E,
    /// It may lack acknowledged writes and was not accepted yet.
    pub(crate) restored: Option<Restored>,
    /// The newest whole export among the store's own.
    pub(crate) last_export: Option<ExportInfo>,
}
