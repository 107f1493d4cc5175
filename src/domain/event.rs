//! The journal: what happened to a deployment, in words.

use nebula_core::clock::WallTime;
use nebula_core::ids::{DeploymentId, NodeId, ReplicaId};

/// How many events of one deployment are kept.
pub const EVENTS_PER_DEPLOYMENT_MAX: usize = 200;

/// Something that happened, before it has its place in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// A short word: `created`, `placed`, `running`, `failed` …
    pub kind: &'static str,
    /// One line.
    pub message: String,
    /// The replica concerned.
    pub replica: Option<ReplicaId>,
    /// The node concerned.
    pub node: Option<NodeId>,
}

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalEvent {
    /// Grows over the whole journal.
    pub seq: u64,
    /// When it happened.
    pub time: WallTime,
    /// The deployment concerned.
    pub deployment: DeploymentId,
    /// A short word.
    pub kind: String,
    /// One line.
    pub message: String,
    /// The replica concerned.
    pub replica: Option<ReplicaId>,
    /// The node concerned.
    pub node: Option<NodeId>,
}
