//! Operations: what an operator has begun, takes its time, and can be looked at and cancelled meanwhile. There is one
//! kind of them, the drain of a node.

use nebula_core::clock::WallTime;
use nebula_core::ids::{DeploymentId, NodeId, OperationId, ReplicaId};
use serde::Serialize;

use super::node::Scheduling;

/// How many operations that have ended are kept.
pub const OPERATIONS_ENDED_MAX: usize = 100;
/// So many of the replicas that are left are named, so that a record is not too large to be stored.
pub const BLOCKED_MAX: usize = 10;

/// A node is being emptied, or was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// The node.
    pub node: NodeId,
    /// For people.
    pub node_name: String,
    /// Where it stands.
    pub state: OperationState,
    /// What the node is to be: draining while this runs, and what its end makes of it afterwards.
    pub makes: Scheduling,
    /// When it began.
    pub started_at: WallTime,
    /// When it fails if the node is not empty.
    pub until: WallTime,
    /// When it ended.
    pub ended_at: Option<WallTime>,
    /// The most replicas that were seen on the node.
    pub total: u32,
    /// How many of them are still there, or were at its end.
    pub left: u32,
    /// Why they are, at most [`BLOCKED_MAX`] of them.
    pub blocked: Vec<Blocked>,
    /// One line that says how far it is, or how it ended.
    pub message: String,
}

/// Where an operation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OperationState {
    /// It goes on.
    Running,
    /// Nothing is left on the node.
    Done,
    /// An operator changed their mind, or the node is gone.
    Cancelled,
    /// It took too long.
    Failed,
}

impl OperationState {
    /// All of them, in the order of their stored numbers.
    pub const ALL: [Self; 4] = [Self::Running, Self::Done, Self::Cancelled, Self::Failed];
}

/// What is still on a node that is being emptied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Blocked {
    /// The name of the deployment, or its id when it does not tell its name.
    pub deployment: String,
    /// Its id.
    pub deployment_id: DeploymentId,
    /// The replica; none when the deployment does not say what it has.
    pub replica: Option<ReplicaId>,
    /// Why it is still there.
    pub why: String,
}
