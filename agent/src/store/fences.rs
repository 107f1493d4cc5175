//! The last generations of replicas that were deleted, so that a late start does not bring one back.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use nebula_core::ids::{Generation, ReplicaId};
use nebula_store::{Batch, Record, Store};

use super::records::{FENCE, FenceRecord};
use super::{StoreError, load, record, sequence, value};

/// Deleted replicas remembered.
const FENCES_MAX: usize = 1_024;
const PREFIX: &[u8] = b"f/";

/// What may not come back.
#[derive(Debug, Default)]
pub(crate) struct Fences {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    order: VecDeque<(u64, ReplicaId)>,
    newest: HashMap<ReplicaId, Generation>,
}

fn key(sequence: u64) -> Vec<u8> {
    [PREFIX, &sequence.to_be_bytes()].concat()
}

impl Fences {
    /// Reads what is stored.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn load(store: &Store) -> Result<Self, StoreError> {
        let mut inner = Inner::default();
        let read = |key: &[u8], record: &Record| Ok((sequence(key)?, value::<FenceRecord>(record, FENCE)?));
        for (_, (number, fence)) in load(store, PREFIX, read).await? {
            inner.next = number + 1;
            let replica = ReplicaId::from_bytes(fence.replica);
            inner.newest.insert(replica, Generation(fence.generation));
            inner.order.push_back((number, replica));
        }
        Ok(Self { inner: Mutex::new(inner) })
    }

    /// The newest generation of a replica that was deleted.
    pub(crate) fn newest(&self, replica: ReplicaId) -> Option<Generation> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).newest.get(&replica).copied()
    }

    /// Remembers a deleted replica and adds that to a batch. Generation 0 is none: it fences nothing.
    ///
    /// # Errors
    /// When the record cannot be encoded.
    pub(crate) fn add(
        &self,
        mut batch: Batch,
        replica: ReplicaId,
        generation: Generation,
    ) -> Result<Batch, StoreError> {
        if generation == Generation(0) {
            return Ok(batch);
        }
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let number = inner.next;
        inner.next += 1;
        let fence = FenceRecord { replica: *replica.as_bytes(), generation: generation.0 };
        batch = batch.put(key(number), record(FENCE, &fence)?);
        inner.newest.insert(replica, generation);
        inner.order.push_back((number, replica));
        while inner.order.len() > FENCES_MAX {
            let Some((old, replica)) = inner.order.pop_front() else { break };
            batch = batch.delete(key(old));
            if !inner.order.iter().any(|(_, other)| *other == replica) {
                inner.newest.remove(&replica);
            }
        }
        Ok(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn deleted_replicas_are_remembered_within_the_limit() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path(), nebula_store::Options::default()).expect("opens");
        let fences = Fences::default();
        let first = ReplicaId::random();
        let mut batch = fences.add(Batch::new(), first, Generation(1)).expect("encodes");
        batch = fences.add(batch, first, Generation(3)).expect("encodes");
        store.commit(batch).await.expect("commits");
        let fences = Fences::load(&store).await.expect("loads");
        assert_eq!(fences.newest(first), Some(Generation(3)));
        let mut batch = Batch::new();
        for _ in 0..FENCES_MAX {
            batch = fences.add(batch, ReplicaId::random(), Generation(1)).expect("encodes");
        }
        store.commit(batch).await.expect("commits");
        assert_eq!(fences.newest(first), None);
        assert_eq!(Fences::load(&store).await.expect("loads").newest(first), None);
    }

    #[test]
    fn no_generation_fences_nothing() {
        let fences = Fences::default();
        let replica = ReplicaId::random();
        assert!(fences.add(Batch::new(), replica, Generation(0)).expect("encodes").is_empty());
        assert_eq!(fences.newest(replica), None);
    }
}
