//! Keys: a prefix for each kind of record, fixed-width ids, big-endian numbers, so that a scan is in order.
//! Prefixes are frozen; one that is retired stays reserved.

use nebula_core::ids::{CommandId, DeploymentId, NodeId, ReplicaId};
use nebula_core::token::TokenHash;

use crate::ports::StoreError;

/// Nodes, by id.
pub(super) const NODES: &[u8] = b"n/";
/// Deployments, by id.
pub(super) const DEPLOYMENTS: &[u8] = b"d/";
/// Replicas, by deployment and id.
const REPLICAS: &[u8] = b"p/";
/// Commands, by node and id.
const COMMANDS: &[u8] = b"c/";
/// Journal lines, by deployment and number.
pub(super) const EVENTS: &[u8] = b"e/";
/// Idempotency keys, by their hash.
pub(super) const USED_KEYS: &[u8] = b"i/";

/// Every kind of record with its prefix, as operators see it.
pub(super) const KINDS: [(&str, &[u8]); 6] = [
    ("nodes", NODES),
    ("deployments", DEPLOYMENTS),
    ("replicas", REPLICAS),
    ("commands", COMMANDS),
    ("events", EVENTS),
    ("used_keys", USED_KEYS),
];

/// Ends a node's id inside a key; no id holds it.
const END: u8 = 0;

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

pub(super) fn node(id: &NodeId) -> Vec<u8> {
    join(&[NODES, id.as_str().as_bytes()])
}

pub(super) fn deployment(id: DeploymentId) -> Vec<u8> {
    join(&[DEPLOYMENTS, id.as_bytes()])
}

pub(super) fn replicas(deployment: DeploymentId) -> Vec<u8> {
    join(&[REPLICAS, deployment.as_bytes()])
}

pub(super) fn replica(deployment: DeploymentId, id: ReplicaId) -> Vec<u8> {
    join(&[REPLICAS, deployment.as_bytes(), id.as_bytes()])
}

pub(super) fn commands(node: &NodeId) -> Vec<u8> {
    join(&[COMMANDS, node.as_str().as_bytes(), &[END]])
}

pub(super) fn command(node: &NodeId, id: CommandId) -> Vec<u8> {
    join(&[&commands(node), id.as_bytes()])
}

pub(super) fn events(deployment: DeploymentId) -> Vec<u8> {
    join(&[EVENTS, deployment.as_bytes()])
}

pub(super) fn event(deployment: DeploymentId, seq: u64) -> Vec<u8> {
    join(&[&events(deployment), &seq.to_be_bytes()])
}

pub(super) fn used_key(key: &str) -> Vec<u8> {
    join(&[USED_KEYS, TokenHash::of(key).as_bytes()])
}

/// The id in a deployment's key.
pub(super) fn deployment_id(key: &[u8]) -> Result<DeploymentId, StoreError> {
    let id = key.last_chunk::<16>().filter(|_| key.len() == DEPLOYMENTS.len() + 16);
    id.map(|id| DeploymentId::from_bytes(*id))
        .ok_or_else(|| StoreError::Failed("a deployment's key holds no id".to_owned()))
}

/// The number in an event's key; 0 for a key that is none.
pub(super) fn event_seq(key: &[u8]) -> u64 {
    let tail = key.last_chunk::<8>().copied();
    tail.map_or(0, u64::from_be_bytes)
}
