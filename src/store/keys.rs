//! Keys: a prefix for each kind of record, fixed-width ids, big-endian numbers, so that a scan is in order.
//! Prefixes are frozen; one that is retired stays reserved.

use nebula_core::ids::{CommandId, DeploymentId, KeyId, NodeId, OperationId, ReplicaId};
use nebula_core::token::TokenHash;

use crate::domain::event::Ring;
use crate::domain::usage::{Block, UsageId};
use crate::ports::StoreError;

/// Nodes, by id.
pub(super) const NODES: &[u8] = b"n/";
/// Deployments, by id.
pub(super) const DEPLOYMENTS: &[u8] = b"d/";
/// Replicas, by deployment and id.
const REPLICAS: &[u8] = b"p/";
/// Commands, by node and id.
const COMMANDS: &[u8] = b"c/";
/// Journal lines of deployments, by deployment and number.
const DEPLOYMENT_EVENTS: &[u8] = b"e/";
/// Journal lines of nodes, by node and number; those that concern all nodes are of a node without an id.
const NODE_EVENTS: &[u8] = b"v/";
/// Journal lines of the audit, by number.
const AUDIT: &[u8] = b"a/";
/// All journal lines.
pub(super) const EVENTS: [&[u8]; 3] = [DEPLOYMENT_EVENTS, NODE_EVENTS, AUDIT];
/// Idempotency keys, by their hash.
pub(super) const USED_KEYS: &[u8] = b"i/";
/// Messages that were set aside, by the hash of their actor's path and their fingerprint.
pub(super) const POISON: &[u8] = b"x/";

/// API keys, by id.
pub(super) const API_KEYS: &[u8] = b"k/";
/// Names that stand for deployments, by name.
pub(super) const ALIASES: &[u8] = b"l/";
/// What was used, by block, beginning and the hash of key and model.
pub(super) const USAGE: &[u8] = b"u/";

/// Operations, by id.
pub(super) const OPERATIONS: &[u8] = b"o/";

/// Every kind of record with its prefix, as operators see it.
pub(super) const KINDS: [(&str, &[u8]); 13] = [
    ("nodes", NODES),
    ("deployments", DEPLOYMENTS),
    ("replicas", REPLICAS),
    ("commands", COMMANDS),
    ("deployment_events", DEPLOYMENT_EVENTS),
    ("node_events", NODE_EVENTS),
    ("audit", AUDIT),
    ("used_keys", USED_KEYS),
    ("messages_set_aside", POISON),
    ("api_keys", API_KEYS),
    ("usage", USAGE),
    ("aliases", ALIASES),
    ("operations", OPERATIONS),
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

pub(super) fn event(ring: &Ring, seq: u64) -> Vec<u8> {
    let number = seq.to_be_bytes();
    match ring {
        Ring::Deployment(id) => join(&[DEPLOYMENT_EVENTS, id.as_bytes(), &number]),
        Ring::Node(id) => join(&[NODE_EVENTS, id.as_str().as_bytes(), &[END], &number]),
        Ring::Fleet => join(&[NODE_EVENTS, &[END], &number]),
        Ring::Audit => join(&[AUDIT, &number]),
    }
}

pub(super) fn used_key(key: &str) -> Vec<u8> {
    join(&[USED_KEYS, TokenHash::of(key).as_bytes()])
}

pub(super) fn poison(path: &str, fingerprint: u64) -> Vec<u8> {
    join(&[POISON, TokenHash::of(path).as_bytes(), &fingerprint.to_be_bytes()])
}

pub(super) fn api_key(id: KeyId) -> Vec<u8> {
    join(&[API_KEYS, id.as_bytes()])
}

pub(super) fn alias(name: &str) -> Vec<u8> {
    join(&[ALIASES, name.as_bytes()])
}

pub(super) fn usage_block(block: &Block) -> Vec<u8> {
    join(&[USAGE, &[block.span.number()], &block.start.0.to_be_bytes()])
}

pub(super) fn usage(id: &UsageId) -> Vec<u8> {
    // A row without a key is one of no key there is.
    let key = id.key.map_or([0; 16], |key| *key.as_bytes());
    let hash = TokenHash::of_bytes(&join(&[&key, id.model.as_bytes()]));
    join(&[&usage_block(&id.block()), &id.from.0.to_be_bytes(), hash.as_bytes()])
}

pub(super) fn operation(id: OperationId) -> Vec<u8> {
    join(&[OPERATIONS, id.as_bytes()])
}

/// The id in a deployment's key.
pub(super) fn deployment_id(key: &[u8]) -> Result<DeploymentId, StoreError> {
    let id = key.last_chunk::<16>().filter(|_| key.len() == DEPLOYMENTS.len() + 16);
    id.map(|id| DeploymentId::from_bytes(*id))
        .ok_or_else(|| StoreError::Failed("a deployment's key holds no id".to_owned()))
}
