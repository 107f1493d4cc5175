//! The engine's view of itself in the port's words.

use nebula_core::clock::WallTime;
use nebula_store::{ExportInfo, Restored, SetAside, StoreStatus};

use crate::ports::{DiskReport, ExportReport, LatencyReport, RestoredReport, SetAsideReport, StoreReport};

pub(super) fn report(status: StoreStatus) -> StoreReport {
    StoreReport {
        state: status.state.as_str(),
        reason: status.failed.or(status.reopening),
        size_bytes: status.size_bytes,
        commits_total: status.commits,
        groups_total: status.groups,
        queue_depth: status.queue_depth,
        commit_latency: LatencyReport {
            p50_us: status.latency.p50_us,
            p99_us: status.latency.p99_us,
            max_us: status.latency.max_us,
        },
        set_aside: status.set_aside,
        disk: DiskReport {
            level: status.disk.level.as_str(),
            free_bytes: status.disk.free_bytes,
            total_bytes: status.disk.total_bytes,
            ballast_bytes: status.disk.ballast_bytes,
        },
        last_export: status.last_export.as_ref().map(export),
        export_failed: status.export_failed,
        restored: status.restored.map(restored),
    }
}

pub(super) fn export(info: &ExportInfo) -> ExportReport {
    ExportReport {
        file: info.path.display().to_string(),
        at: info.at.rfc3339(),
        records: info.records,
        bytes: info.bytes,
        took_ms: info.took_ms,
    }
}

fn restored(restored: Restored) -> RestoredReport {
    RestoredReport {
        at: restored.at.rfc3339(),
        export: restored.export,
        export_at: restored.export_at.map(WallTime::rfc3339),
        why: restored.why,
    }
}

pub(super) fn set_aside(record: SetAside) -> SetAsideReport {
    SetAsideReport {
        key: record.key.escape_ascii().to_string(),
        at: record.at.rfc3339(),
        reason: record.reason,
        bytes: record.bytes,
    }
}
