//! The stored form of operations.

use bincode::{Decode, Encode};
use nebula_core::clock::WallTime;
use nebula_core::ids::{DeploymentId, OperationId, ReplicaId};
use nebula_store::Record;

use super::{kind, number, parse, pick, read, write};
use crate::domain::node::Scheduling;
use crate::domain::operation::{Blocked, Operation, OperationState};
use crate::ports::StoreError;

#[derive(Encode, Decode)]
struct OperationV1 {
    id: [u8; 16],
    node: String,
    node_name: String,
    state: u8,
    makes: u8,
    started_at: u64,
    until: u64,
    ended_at: Option<u64>,
    total: u32,
    left: u32,
    blocked: Vec<BlockedV1>,
    message: String,
}

#[derive(Encode, Decode)]
struct BlockedV1 {
    deployment: String,
    deployment_id: [u8; 16],
    replica: Option<[u8; 16]>,
    why: String,
}

pub(in crate::store) fn operation(operation: &Operation) -> Result<Record, StoreError> {
    let blocked = operation.blocked.iter().map(|blocked| BlockedV1 {
        deployment: blocked.deployment.clone(),
        deployment_id: *blocked.deployment_id.as_bytes(),
        replica: blocked.replica.map(|id| *id.as_bytes()),
        why: blocked.why.clone(),
    });
    let stored = OperationV1 {
        id: *operation.id.as_bytes(),
        node: operation.node.to_string(),
        node_name: operation.node_name.clone(),
        state: number(&OperationState::ALL, &operation.state),
        makes: number(&Scheduling::ALL, &operation.makes),
        started_at: operation.started_at.0,
        until: operation.until.0,
        ended_at: operation.ended_at.map(|at| at.0),
        total: operation.total,
        left: operation.left,
        blocked: blocked.collect(),
        message: operation.message.clone(),
    };
    write(kind::OPERATION, &format!("operation {}", operation.id), &stored)
}

pub(in crate::store) fn read_operation(record: &Record) -> Result<Operation, StoreError> {
    let stored: OperationV1 = read(kind::OPERATION, record)?;
    let blocked = stored.blocked.into_iter().map(|blocked| Blocked {
        deployment: blocked.deployment,
        deployment_id: DeploymentId::from_bytes(blocked.deployment_id),
        replica: blocked.replica.map(ReplicaId::from_bytes),
        why: blocked.why,
    });
    Ok(Operation {
        id: OperationId::from_bytes(stored.id),
        node: parse(&stored.node)?,
        node_name: stored.node_name,
        state: pick(&OperationState::ALL, stored.state)?,
        makes: pick(&Scheduling::ALL, stored.makes)?,
        started_at: WallTime(stored.started_at),
        until: WallTime(stored.until),
        ended_at: stored.ended_at.map(WallTime),
        total: stored.total,
        left: stored.left,
        blocked: blocked.collect(),
        message: stored.message,
    })
}
