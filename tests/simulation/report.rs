//! What a simulated agent says of one replica.

use nebula_agent::replica::machine as replica;
use nebula_agent::replica::spec::Instance;
use nebulad::domain::report::{ReplicaReport, ReportedStatus, Seen};

use super::agent::Live;

/// The replica as a heartbeat tells it; none once it is gone.
pub(crate) fn report(live: &Live) -> Option<ReplicaReport> {
    let view = live.machine.view()?;
    let status = match view.status {
        replica::Status::Preparing => ReportedStatus::Preparing,
        replica::Status::Starting => ReportedStatus::Starting,
        replica::Status::Running => ReportedStatus::Running,
        replica::Status::Stopping => ReportedStatus::Stopping,
        replica::Status::Stopped => ReportedStatus::Stopped,
        replica::Status::Failed => ReportedStatus::Failed,
    };
    Some(ReplicaReport {
        deployment_id: live.machine.state().deployment,
        replica_id: live.id,
        generation: view.generation,
        status,
        container_id: view.instance.map(Instance::id).unwrap_or_default(),
        port: view.port,
        message: view.message,
        restarts: view.restarts,
        exit_code: view.exit_code,
        seen: Seen::default(),
    })
}
