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
use nebula_store::{Batch, CommitError, ReadError, Record, Store, Unreadable};

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
    Ok(Record { kind, schema: records::schema(kind), payload: codec::encode(value)? })
}

/// The value in a record of the newest schema, or why it cannot be read.
///
/// # Errors
/// When the record is of another form, or its bytes are no such value.
pub(crate) fn value<T: bincode::Decode<()>>(record: &Record, kind: u8) -> Result<T, String> {
    value_of(record, kind, records::schema(kind))
}

/// The value in a record of one schema.
fn value_of<T: bincode::Decode<()>>(record: &Record, kind: u8, schema: u16) -> Result<T, String> {
    if record.kind != kind || record.schema != schema {
        return Err(format!("of kind {} and schema {}, which is not known here", record.kind, record.schema));
    }
    codec::decode(&record.payload).map_err(|error| error.to_string())
}

/// Everything under `prefix` that can be read, by key. What cannot be read is set aside in the store: it stays there for
/// a person to look at, is counted and is in nobody's way.
///
/// # Errors
/// When the store fails.
pub(crate) async fn load<T>(
    store: &Store,
    prefix: &[u8],
    read: impl Fn(&[u8], &Record) -> Result<T, String>,
) -> Result<Vec<(Vec<u8>, T)>, StoreError> {
    let (mut good, mut unreadable) = (Vec::new(), Vec::new());
    for (key, record) in store.scan(prefix.to_vec()).await? {
        match read(&key, &record) {
            Ok(value) => good.push((key, value)),
            Err(reason) => unreadable.push(Unreadable { key, record, reason }),
        }
    }
    if !unreadable.is_empty() {
        store.set_aside(unreadable).await?;
    }
    Ok(good)
}

/// The id under which this node was registered last.
///
/// # Errors
/// When the store fails.
pub(crate) async fn node_id(store: &Store) -> Result<Option<NodeId>, StoreError> {
    let read = |_: &[u8], record: &Record| {
        let text: String = value(record, records::NODE)?;
        text.parse().map_err(|_| "no id of a node".to_owned())
    };
    let found = load(store, NODE_KEY, read).await?;
    Ok(found.into_iter().next().map(|(_, id)| id))
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
fn sequence(key: &[u8]) -> Result<u64, String> {
    let bytes = key.last_chunk::<8>().ok_or("its key has no number")?;
    Ok(u64::from_be_bytes(*bytes))
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
