//! What the store says of itself, as operators see it. Times are RFC 3339, sizes are bytes.

use serde::Serialize;

/// What the store says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StoreReport {
    /// `ok`, `reopening` or `failed`.
    pub state: &'static str,
    /// Why it is not `ok`.
    pub reason: Option<String>,
    /// Size of its log.
    pub size_bytes: u64,
    /// Commits since it was opened.
    pub commits_total: u64,
    /// Groups in which they became durable.
    pub groups_total: u64,
    /// Requests that wait for its thread.
    pub queue_depth: u64,
    /// How long the last 1,024 groups took to become durable.
    pub commit_latency: LatencyReport,
    /// How many damaged or unreadable records were set aside.
    pub set_aside: u64,
    /// The disk under it.
    pub disk: DiskReport,
    /// The newest of its own exports.
    pub last_export: Option<ExportReport>,
    /// Why the last try to export failed, if it did.
    pub export_failed: Option<String>,
    /// That it was rebuilt and may lack what was acknowledged, until somebody accepts that.
    pub restored: Option<RestoredReport>,
}

/// Times in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LatencyReport {
    /// Half of them took no longer.
    pub p50_us: u64,
    /// 99 of 100 took no longer.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
}

/// The disk under the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiskReport {
    /// `ample`, `low` (look after it), `scarce` (no new deployments) or `full` (only what makes room).
    pub level: &'static str,
    /// What may still be written.
    pub free_bytes: u64,
    /// The size of the volume.
    pub total_bytes: u64,
    /// What is kept in reserve.
    pub ballast_bytes: u64,
}

/// An export that is whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExportReport {
    /// The file.
    pub file: String,
    /// When it was made.
    pub at: String,
    /// Records in it.
    pub records: u64,
    /// Its size.
    pub bytes: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// A store that was rebuilt with a gap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RestoredReport {
    /// When.
    pub at: String,
    /// From which export.
    pub export: Option<String>,
    /// When that was made.
    pub export_at: Option<String>,
    /// What was found.
    pub why: String,
}

/// A record that was set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SetAsideReport {
    /// Where it was; bytes that are no text are escaped.
    pub key: String,
    /// When it was set aside.
    pub at: String,
    /// Why.
    pub reason: String,
    /// Its size.
    pub bytes: u64,
}
