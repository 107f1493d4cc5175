//! What agents report of their replicas.

use std::fmt;

use nebula_core::address::HostPort;
use nebula_core::ids::{CommandId, DeploymentId, Generation, NodeId, ReplicaId};
use serde::Serialize;

use super::node::{Availability, NodeHealth, NodeStats, Scheduling};

/// What an agent says of one replica.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicaReport {
    /// Whose replica it is.
    pub deployment_id: DeploymentId,
    /// Which replica.
    pub replica_id: ReplicaId,
    /// Which version of it runs.
    pub generation: Generation,
    /// Where it stands.
    pub status: ReportedStatus,
    /// Container id, or the process id of a plain process.
    pub container_id: String,
    /// The runtime's port on the node's loopback interface.
    pub port: u16,
    /// Why it failed, or why it was started again.
    pub message: String,
    /// How often the agent started it again.
    pub restarts: u32,
    /// How the last attempt of one that failed ended; none: nothing had run, or nobody knows.
    pub exit_code: Option<i32>,
    /// What else the agent saw.
    pub seen: Seen,
}

/// What an agent sees of a replica that matters while it lasts: shown, never stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// How far its preparation or its start has got.
    pub progress: Option<Progress>,
    /// Its last end was for want of memory.
    pub out_of_memory: bool,
}

/// How far something that takes long has got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// From 0 to 100, where that can be said.
    pub percent: Option<u8>,
    /// One line for people.
    pub message: String,
}

/// The message, and the share unless the message tells one itself.
impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.percent {
            Some(percent) if !self.message.contains('%') => write!(f, ", {percent} %"),
            _ => Ok(()),
        }
    }
}

/// Where a replica stands on its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportedStatus {
    /// The model or image is being fetched.
    Preparing,
    /// The runtime loads.
    Starting,
    /// It answers.
    Running,
    /// It is being stopped.
    Stopping,
    /// It was stopped on purpose.
    Stopped,
    /// It ended or never came up.
    Failed,
}

/// One heartbeat's content.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeReport {
    /// What the node uses.
    pub stats: Option<NodeStats>,
    /// How it feels.
    pub health: Option<NodeHealth>,
    /// All its replicas: one that is not here does not exist there.
    pub replicas: Vec<ReplicaReport>,
    /// Commands that were carried out.
    pub acked: Vec<CommandId>,
}

/// What a deployment needs to know of a node that holds one of its replicas.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeFacts {
    /// The node.
    pub node_id: NodeId,
    /// For people.
    pub node_name: String,
    /// Whether it is heard from.
    pub availability: Availability,
    /// What the operator wants of it.
    pub scheduling: Scheduling,
    /// Where its auth proxy listens.
    pub proxy: HostPort,
    /// Grows with each report of this run of nebulad; 0: none yet.
    pub report_seq: u64,
    /// This deployment's replicas by the newest report.
    pub replicas: Vec<ReplicaReport>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_tells_its_share_once() {
        let said = |percent, message: &str| Progress { percent, message: message.to_owned() }.to_string();
        assert_eq!(said(Some(30), "pulling image x: 1.2 of 4.0 GB"), "pulling image x: 1.2 of 4.0 GB, 30 %");
        assert_eq!(said(Some(30), "loading weights: 30% done"), "loading weights: 30% done");
        assert_eq!(said(None, "compiling"), "compiling");
    }
}
