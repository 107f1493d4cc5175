//! How a store is opened.

use std::time::Duration;

/// What to do when the engine's files are damaged. Nothing is deleted in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDamage {
    /// Say so and change nothing.
    Refuse,
    /// Set the damaged files aside and rebuild from the newest good export and the log of batches; refuse if neither
    /// is there.
    Rebuild,
    /// Rebuild, and if that is impossible start empty.
    StartEmpty,
}

/// How to open a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// The most memory the engine's page cache may take, in bytes.
    pub cache_bytes: u64,
    /// Space kept in reserve in a file of its own, in bytes, given back when the disk is full; 0: none.
    pub ballast_bytes: u64,
    /// How often the store is exported; none: only when asked.
    pub export_every: Option<Duration>,
    /// The engine is compacted at a start when it takes up more than this, in bytes, and eight times what is in it.
    pub compact_above_bytes: u64,
    /// What to do when the engine's files are damaged.
    pub on_damage: OnDamage,
    /// Also take file systems on which a sync promises too little (NFS, SMB, FUSE, 9p).
    pub allow_any_filesystem: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 16 * 1024 * 1024,
            ballast_bytes: 64 * 1024 * 1024,
            export_every: Some(Duration::from_secs(5 * 60)),
            compact_above_bytes: 256 * 1024 * 1024,
            on_damage: OnDamage::Rebuild,
            allow_any_filesystem: false,
        }
    }
}
