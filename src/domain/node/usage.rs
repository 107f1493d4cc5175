//! What placing needs to know of a node besides what it has: as coarse as that allows, so that it changes seldom.

use std::collections::BTreeSet;

use nebula_core::ids::ReplicaId;

use super::NodeStats;
use crate::domain::report::{ReplicaReport, ReportedStatus};

/// Others' GPU memory is counted in steps of this size.
const MEMORY_STEP: u64 = 256 << 20;

/// Free disk space is counted in steps of this size.
const DISK_STEP: u64 = 1 << 30;

/// What a node has left besides what is reserved there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Its GPUs.
    pub gpus: Vec<GpuUse>,
    /// Free where models are fetched to, rounded down to GiB; none: not known.
    pub disk_free_bytes: Option<u64>,
    /// The models that it holds completely, as their sources are written, in order.
    pub models: Vec<String>,
    /// The replicas that live on it, whoever knows of them.
    pub living: BTreeSet<ReplicaId>,
}

/// What one GPU has left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuUse {
    /// NVML's UUID.
    pub uuid: String,
    /// Memory that belongs to none of the node's replicas, rounded up to 256 MiB.
    pub used_by_others_bytes: u64,
    /// Why it takes no replicas; empty: it does.
    pub problem: String,
}

impl Usage {
    /// What an agent's newest report says.
    #[must_use]
    pub fn of(stats: &NodeStats, replicas: &[ReplicaReport]) -> Self {
        let gpus = stats.gpu_stats.iter().map(|gpu| GpuUse {
            uuid: gpu.uuid.clone(),
            used_by_others_bytes: gpu
                .memory_used_by_others_bytes
                .div_ceil(MEMORY_STEP)
                .saturating_mul(MEMORY_STEP),
            problem: gpu.problem.clone(),
        });
        let mut models = stats.models.clone();
        models.sort_unstable();
        models.dedup();
        let disk_free_bytes = stats.disk_free_bytes.map(|free| free / DISK_STEP * DISK_STEP);
        let lives = |report: &&ReplicaReport| {
            !matches!(report.status, ReportedStatus::Stopped | ReportedStatus::Failed)
        };
        let living = replicas.iter().filter(lives).map(|report| report.replica_id).collect();
        Self { gpus: gpus.collect(), disk_free_bytes, models, living }
    }
}

#[cfg(test)]
mod tests {
    use super::super::GpuStats;
    use super::*;

    #[test]
    fn small_changes_are_none() {
        let stats = |others, free| NodeStats {
            gpu_stats: vec![GpuStats { memory_used_by_others_bytes: others, ..GpuStats::default() }],
            disk_free_bytes: Some(free),
            models: vec!["hf://b/b".to_owned(), "hf://a/a".to_owned(), "hf://b/b".to_owned()],
            cpu_usage_percent: 1.0,
            ..NodeStats::default()
        };
        let gib = 1 << 30;
        let usage = Usage::of(&stats(1, 3 * gib + 5), &[]);
        assert_eq!(usage, Usage::of(&stats(200 << 20, 4 * gib - 1), &[]));
        assert_eq!(usage.gpus.first().map(|gpu| gpu.used_by_others_bytes), Some(256 << 20));
        assert_eq!(usage.disk_free_bytes, Some(3 * gib));
        assert_eq!(usage.models, ["hf://a/a", "hf://b/b"]);
        assert_ne!(usage, Usage::of(&stats(300 << 20, 3 * gib), &[]));
        assert_ne!(usage, Usage::of(&stats(1, 4 * gib), &[]));
    }
}
