//! Replicas in the store: spec and state, each a record of its own, as the spec never changes within a generation.

use std::collections::BTreeMap;

use nebula_core::ids::ReplicaId;
use nebula_store::{Batch, Record, Store};

use super::records::{SPEC, STATE, SpecRecord, StateRecord};
use super::{StoreError, record, value};
use crate::replica::machine::State;
use crate::replica::spec::Spec;

const PREFIX: &[u8] = b"r/";
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

/// All replicas. One of which a record cannot be read is left out.
///
/// # Errors
/// When the store fails.
pub(crate) async fn all(store: &Store) -> Result<Vec<(Spec, State)>, StoreError> {
    Ok(pair(store.scan(PREFIX.to_vec()).await?))
}

/// One replica.
///
/// # Errors
/// When the store fails.
pub(crate) async fn one(store: &Store, replica: ReplicaId) -> Result<Option<(Spec, State)>, StoreError> {
    let prefix = [PREFIX, replica.as_bytes()].concat();
    Ok(pair(store.scan(prefix).await?).pop())
}

fn pair(records: Vec<(Vec<u8>, Record)>) -> Vec<(Spec, State)> {
    let mut specs = BTreeMap::new();
    let mut states = BTreeMap::new();
    for (key, record) in records {
        let Some((id, [part])) = key.strip_prefix(PREFIX).and_then(|rest| rest.split_first_chunk::<16>())
        else {
            continue;
        };
        let replica = ReplicaId::from_bytes(*id);
        if *part == SPEC_PART {
            let spec: Option<SpecRecord> = value(&record, SPEC);
            specs.extend(spec.and_then(SpecRecord::into_spec).map(|spec| (replica, spec)));
        } else {
            let state: Option<StateRecord> = value(&record, STATE);
            states.extend(state.map(|state| (replica, state.into_state(replica))));
        }
    }
    states.into_iter().filter_map(|(replica, state)| Some((specs.remove(&replica)?, state))).collect()
}
