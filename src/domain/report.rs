//! What agents report of their replicas.

use nebula_core::address::HostPort;
use nebula_core::ids::{CommandId, DeploymentId, Generation, NodeId, ReplicaId};

use super::node::{Availability, NodeHealth, NodeStats};

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
    /// Why it failed, or what it is doing.
    pub message: String,
    /// How often the agent started it again.
    pub restarts: u32,
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
    /// Where its auth proxy listens.
    pub proxy: HostPort,
    /// Grows with each report of this run of nebulad; 0: none yet.
    pub report_seq: u64,
    /// This deployment's replicas by the newest report.
    pub replicas: Vec<ReplicaReport>,
}
