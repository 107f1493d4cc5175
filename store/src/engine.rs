//! What the writer needs of an engine. sled is one; the writer's tests bring another that fails on demand.

use std::collections::BTreeMap;

/// Writes by key: `None` removes.
pub(crate) type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Entries in key order.
pub(crate) type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// The engine cannot go on; the text says at which step and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct EngineError(pub(crate) String);

/// An ordered map of bytes on disk.
pub(crate) trait Engine: Send {
    /// The value under `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError>;

    /// All entries whose key starts with `prefix`, in key order.
    fn scan(&self, prefix: &[u8]) -> Result<Entries, EngineError>;

    /// Applies all writes or none; not durable yet.
    fn apply(&mut self, writes: Writes) -> Result<(), EngineError>;

    /// Makes everything applied durable. After an error nothing is known about what was.
    fn sync(&mut self) -> Result<(), EngineError>;

    /// Bytes on disk.
    fn size_bytes(&self) -> u64;
}
