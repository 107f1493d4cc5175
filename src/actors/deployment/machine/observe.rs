//! What a node's report says of a replica, and how that is told.

use nebula_core::text::cut;

use crate::domain::deployment::{Desired, Phase, Replica};
use crate::domain::report::{ReplicaReport, ReportedStatus};

/// The longest message of a replica that is kept.
const MESSAGE_BYTES_MAX: usize = 2_000;

/// Takes what a node says of a replica into the picture.
pub(super) fn observe(replica: &mut Replica, report: &ReplicaReport, desired: Desired) {
    let going = replica.leaving || desired != Desired::Running;
    // A stop carries the deployment's generation, which may be newer than the replica's: so is then what answers it.
    let newer = going && report.generation > replica.generation;
    if report.generation != replica.generation && !newer {
        return;
    }
    replica.generation = report.generation;
    replica.container_id.clone_from(&report.container_id);
    replica.port = report.port;
    replica.restarts = report.restarts;
    replica.seen = report.seen.clone();
    replica.phase = match report.status {
        ReportedStatus::Stopped | ReportedStatus::Failed if going => Phase::Stopped,
        _ if going => Phase::Stopping,
        ReportedStatus::Preparing => Phase::Preparing,
        ReportedStatus::Starting => Phase::Starting,
        ReportedStatus::Running => Phase::Running,
        ReportedStatus::Stopping => Phase::Stopping,
        ReportedStatus::Stopped | ReportedStatus::Failed => Phase::Failed,
    };
    replica.message = match report.status {
        ReportedStatus::Stopped if !going => "the runtime was stopped on its node".to_owned(),
        ReportedStatus::Running | ReportedStatus::Stopped => String::new(),
        ReportedStatus::Preparing
        | ReportedStatus::Starting
        | ReportedStatus::Stopping
        | ReportedStatus::Failed => clip(message(report)),
    };
}

/// The agent's words, and the want of memory where they do not say it.
fn message(report: &ReplicaReport) -> String {
    let message = match report.exit_code {
        Some(code)
            if report.status == ReportedStatus::Failed
                && !report.message.contains(&format!("code {code}")) =>
        {
            format!("{} (exit code {code})", report.message).trim_start().to_owned()
        }
        _ => report.message.clone(),
    };
    match (report.seen.out_of_memory, message.as_str()) {
        (true, "") => "it ran out of memory".to_owned(),
        (true, said) if !said.to_ascii_lowercase().contains("memory") => format!("out of memory: {said}"),
        _ => message,
    }
}

pub(super) fn phase_line(replica: &Replica) -> String {
    let place =
        replica.placement.as_ref().map(|place| format!(" on node {}", place.node_name)).unwrap_or_default();
    let stands = match replica.phase {
        Phase::Failed => "has failed".to_owned(),
        phase => format!("is {}", phase.as_str()),
    };
    match replica.message.as_str() {
        "" => format!("replica {}{place} {stands}", replica.index),
        message => format!("replica {}{place} {stands}: {message}", replica.index),
    }
}

pub(super) fn clip(text: String) -> String {
    cut(text, MESSAGE_BYTES_MAX)
}
