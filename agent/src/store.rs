//! What the agent keeps: which node it is, its replicas, the commands it has carried out, each deployment's journal.
//!
//! | key | what |
//! |---|---|
//! | `n` | the node's id |
//! | `r/` replica `p` | the replica's spec |
//! | `r/` replica `s` | the replica's state |
//! | `e/` deployment sequence | a line of a deployment's journal |
//! | `c/` sequence | the id of a command that was carried out |
//! | `f/` sequence | the last generation of a replica that was deleted |
//!
//! Not kept: health, statistics, timers.

pub(crate) mod commands;
pub(crate) mod fences;
pub(crate) mod journal;
pub(crate) mod records;
pub(crate) mod replicas;

use nebula_core::ids::NodeId;
use nebula_store::codec::{self, CodecError};
use nebula_store::{Batch, CommitError, ReadError, Record, Store};

const NODE_KEY: &[u8] = b"n";

/// Why the store did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// Nothing was written, or perhaps it was: see [`CommitError`].
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// Nothing was read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A value does not fit or cannot be read back.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// The record for a value.
pub(crate) fn record<T: bincode::Encode>(kind: u8, value: &T) -> Result<Record, CodecError> {
    Ok(Record { kind, schema: records::SCHEMA, payload: codec::encode(value)? })
}

/// The value in a record; none, with a log line, when it cannot be read.
pub(crate) fn value<T: bincode::Decode<()>>(record: &Record, kind: u8) -> Option<T> {
    if record.kind != kind || record.schema != records::SCHEMA {
        tracing::error!(kind = record.kind, schema = record.schema, "record of another form left alone");
        return None;
    }
    codec::decode(&record.payload)
        .inspect_err(|error| tracing::error!(%error, kind, "record cannot be read and is left alone"))
        .ok()
}

/// The id under which this node was registered last.
///
/// # Errors
/// When the store fails.
pub(crate) async fn node_id(store: &Store) -> Result<Option<NodeId>, StoreError> {
    let Some(record) = store.get(NODE_KEY.to_vec()).await? else { return Ok(None) };
    let text: Option<String> = value(&record, records::NODE);
    Ok(text.and_then(|text| text.parse().ok()))
}

/// Keeps the node's id.
///
/// # Errors
/// When the store fails.
pub(crate) async fn keep_node_id(store: &Store, id: &NodeId) -> Result<(), StoreError> {
    let record = record(records::NODE, &id.as_str().to_owned())?;
    Ok(store.commit(Batch::new().put(NODE_KEY, record)).await?)
}

/// The number at the end of a key.
fn sequence(key: &[u8]) -> Option<u64> {
    let bytes = key.last_chunk::<8>()?;
    Some(u64::from_be_bytes(*bytes))
}
