//! The last commands that were carried out, so that one that is delivered again has no effect again.

use std::collections::{HashSet, VecDeque};

use nebula_store::{Batch, Record, Store};

use super::records::COMMAND;
use super::{StoreError, load, record, sequence, value};

/// Ids remembered.
const IDS_MAX: usize = 1_024;
const PREFIX: &[u8] = b"c/";

/// The ids of commands that were carried out, oldest first.
#[derive(Debug)]
pub(crate) struct Done {
    store: Store,
    next: u64,
    order: VecDeque<(u64, String)>,
    ids: HashSet<String>,
}

fn key(sequence: u64) -> Vec<u8> {
    [PREFIX, &sequence.to_be_bytes()].concat()
}

impl Done {
    /// Reads what is stored.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn load(store: Store) -> Result<Self, StoreError> {
        let mut done = Self { store, next: 0, order: VecDeque::new(), ids: HashSet::new() };
        let read = |key: &[u8], record: &Record| Ok((sequence(key)?, value::<String>(record, COMMAND)?));
        for (_, (number, id)) in load(&done.store, PREFIX, read).await? {
            done.next = number + 1;
            done.ids.insert(id.clone());
            done.order.push_back((number, id));
        }
        Ok(done)
    }

    /// Whether it was carried out.
    pub(crate) fn contains(&self, id: &str) -> bool {
        self.ids.contains(id)
    }

    /// Remembers a command, durably.
    ///
    /// # Errors
    /// When the store fails; it is remembered in memory all the same.
    pub(crate) async fn insert(&mut self, id: &str) -> Result<(), StoreError> {
        let (number, id) = (self.next, id.to_owned());
        self.next += 1;
        let mut batch = Batch::new().put(key(number), record(COMMAND, &id)?);
        self.ids.insert(id.clone());
        self.order.push_back((number, id));
        while self.order.len() > IDS_MAX {
            if let Some((old, id)) = self.order.pop_front() {
                self.ids.remove(&id);
                batch = batch.delete(key(old));
            }
        }
        Ok(self.store.commit(batch).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_ids_are_remembered_across_starts() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path(), nebula_store::Options::default()).expect("opens");
        let mut done = Done::load(store.clone()).await.expect("loads");
        for number in 0..IDS_MAX + 2 {
            done.insert(&format!("command-{number}")).await.expect("commits");
        }
        let done = Done::load(store).await.expect("loads");
        assert!(!done.contains("command-1"));
        assert!(done.contains("command-2"));
        assert!(done.contains(&format!("command-{}", IDS_MAX + 1)));
        assert_eq!(done.order.len(), IDS_MAX);
    }
}
