//! What the store tells about itself and its exports.

use std::path::PathBuf;

use nebula_core::clock::WallTime;

/// Where a rebuilt store keeps [`Restored`] until an operator accepts it.
pub(crate) const RESTORED_KEY: &[u8] = b"m/restored";

/// The store was rebuilt and may lack acknowledged writes. It stays so, across restarts, until it is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// When it was rebuilt.
    pub at: WallTime,
    /// The name of the export it was rebuilt from; none if from the log of batches alone, or if it was started empty.
    pub export: Option<String>,
    /// When that export was made.
    pub export_at: Option<WallTime>,
    /// What was found, in one line.
    pub why: String,
}

/// An export that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// The file.
    pub path: PathBuf,
    /// When it was made.
    pub at: WallTime,
    /// The store's format in it.
    pub schema: u16,
    /// The number of the last write in it.
    pub seq: u64,
    /// Records in it.
    pub records: u64,
    /// The file's size in bytes.
    pub bytes: u64,
    /// How long it took, in milliseconds; 0 when it was read rather than made.
    pub took_ms: u64,
}

/// A store that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreInfo {
    /// The number of the last write.
    pub seq: u64,
    /// Good records, the store's own not counted.
    pub records: u64,
    /// Bytes of their keys and values.
    pub live_bytes: u64,
    /// Bytes on disk.
    pub size_bytes: u64,
    /// Bad records that were set aside.
    pub set_aside: u64,
    /// Whether it was rebuilt and not yet accepted.
    pub restored: Option<Restored>,
}
