//! Replicas in the store: spec and state, each a record of its own, as the spec never changes within a generation.

use std::collections::BTreeMap;

use nebula_core::ids::ReplicaId;
use nebula_store::{Batch, Record, Store};
use sha2::{Digest as _, Sha256};

use super::records::{SPEC, STATE, SpecRecord, StateRecord, read_spec, read_state};
use super::{StoreError, load, record};
use crate::replica::machine::State;
use crate::replica::spec::Spec;

const PREFIX: &[u8] = b"r/";
/// What of a hash is shown.
const HASH_BYTES: usize = 8;
const SPEC_PART: u8 = b'p';
const STATE_PART: u8 = b's';

fn key(replica: ReplicaId, part: u8) -> Vec<u8> {
    [PREFIX, replica.as_bytes(), &[part]].concat()
}

/// The record of a spec.
///
/// # Errors
/// When it is too large to be kept.
pub(crate) fn spec_record(spec: &Spec) -> Result<Record, StoreError> {
    Ok(record(SPEC, &SpecRecord::from(spec))?)
}

/// Tells what a replica's container was made from: another spec has another hash. It is that of the spec's record in the
/// form of schema 2, also when the record's form changes: containers that run are told apart by it.
pub(crate) fn config_hash(spec: &Spec) -> String {
    let payload = spec_record(spec).map(|record| record.payload).unwrap_or_default();
    Sha256::digest(payload).iter().take(HASH_BYTES).map(|byte| format!("{byte:02x}")).collect()
}

/// Adds a replica's spec and state to a batch.
///
/// # Errors
/// When one of them is too large to be kept.
pub(crate) fn put(batch: Batch, spec: &Spec, state: &State) -> Result<Batch, StoreError> {
    let replica = state.replica;
    let state = record(STATE, &StateRecord::from(state))?;
    Ok(batch.put(key(replica, SPEC_PART), spec_record(spec)?).put(key(replica, STATE_PART), state))
}

/// Adds the removal of a replica to a batch.
pub(crate) fn delete(batch: Batch, replica: ReplicaId) -> Batch {
    batch.delete(key(replica, SPEC_PART)).delete(key(replica, STATE_PART))
}

/// All replicas. One of which a record cannot be read is left out, and that record set aside.
///
/// # Errors
/// When the store fails.
pub(crate) async fn all(store: &Store) -> Result<Vec<(Spec, State)>, StoreError> {
    Ok(pair(load(store, PREFIX, part).await?))
}

/// One replica.
///
/// # Errors
/// When the store fails.
pub(crate) async fn one(store: &Store, replica: ReplicaId) -> Result<Option<(Spec, State)>, StoreError> {
    let prefix = [PREFIX, replica.as_bytes()].concat();
    Ok(pair(load(store, &prefix, part).await?).pop())
}

/// One of the two records of a replica.
enum Part {
    Spec(ReplicaId, Spec),
    State(State),
}

fn part(key: &[u8], record: &Record) -> Result<Part, String> {
    let Some((id, [part])) = key.strip_prefix(PREFIX).and_then(|rest| rest.split_first_chunk::<16>()) else {
        return Err("its key names no replica".to_owned());
    };
    let replica = ReplicaId::from_bytes(*id);
    match *part {
        SPEC_PART => Ok(Part::Spec(replica, read_spec(record)?)),
        STATE_PART => Ok(Part::State(read_state(record, replica)?)),
        _ => Err("its key names no part of a replica".to_owned()),
    }
}

fn pair(parts: Vec<(Vec<u8>, Part)>) -> Vec<(Spec, State)> {
    let mut specs = BTreeMap::new();
    let mut states = Vec::new();
    for (_, part) in parts {
        match part {
            Part::Spec(replica, spec) => drop(specs.insert(replica, spec)),
            Part::State(state) => states.push(state),
        }
    }
    states.into_iter().filter_map(|state| Some((specs.remove(&state.replica)?, state))).collect()
}
