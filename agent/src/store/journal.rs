//! The journal of each deployment: its last 200 lines, in memory and in the store.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use nebula_core::clock::WallTime;
use nebula_core::ids::DeploymentId;
use nebula_store::{Batch, Record, Store};

use super::records::{JOURNAL, JournalLine};
use super::{StoreError, load, record, sequence, value};
use crate::replica::machine::Entry;
use crate::text;

/// Lines kept of each deployment.
const LINES_MAX: usize = 200;
/// The longest message of a line, in bytes.
const MESSAGE_MAX: usize = 5 * 1024;
const PREFIX: &[u8] = b"e/";

/// All journals.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    rings: Mutex<HashMap<DeploymentId, Ring>>,
}

#[derive(Debug, Default)]
struct Ring {
    next: u64,
    lines: VecDeque<(u64, JournalLine)>,
}

fn key(deployment: DeploymentId, sequence: u64) -> Vec<u8> {
    [PREFIX, deployment.as_bytes(), &sequence.to_be_bytes()].concat()
}

impl Journal {
    /// Reads what is stored.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn load(store: &Store) -> Result<Self, StoreError> {
        let mut rings: HashMap<DeploymentId, Ring> = HashMap::new();
        let read = |key: &[u8], record: &Record| {
            let id = key.strip_prefix(PREFIX).and_then(|rest| rest.first_chunk::<16>());
            let id = id.ok_or("its key names no deployment")?;
            Ok((DeploymentId::from_bytes(*id), sequence(key)?, value(record, JOURNAL)?))
        };
        for (_, (id, number, line)) in load(store, PREFIX, read).await? {
            let ring = rings.entry(id).or_default();
            ring.next = number + 1;
            ring.lines.push_back((number, line));
        }
        Ok(Self { rings: Mutex::new(rings) })
    }

    /// Adds lines to a deployment's journal and their writing to a batch. Lines beyond the limit leave both.
    ///
    /// # Errors
    /// When a line cannot be encoded.
    pub(crate) fn append(
        &self,
        mut batch: Batch,
        deployment: DeploymentId,
        entries: Vec<Entry>,
        at: WallTime,
    ) -> Result<Batch, StoreError> {
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = rings.entry(deployment).or_default();
        for Entry { kind, message } in entries {
            let message = text::clip(message, MESSAGE_MAX);
            let line = JournalLine { kind: kind.to_owned(), message, at: at.unix_secs() };
            batch = batch.put(key(deployment, ring.next), record(JOURNAL, &line)?);
            ring.lines.push_back((ring.next, line));
            ring.next += 1;
        }
        while ring.lines.len() > LINES_MAX {
            if let Some((old, _)) = ring.lines.pop_front() {
                batch = batch.delete(key(deployment, old));
            }
        }
        Ok(batch)
    }

    /// Forgets a deployment and adds that to a batch.
    pub(crate) fn forget(&self, mut batch: Batch, deployment: DeploymentId) -> Batch {
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        for (number, _) in rings.remove(&deployment).unwrap_or_default().lines {
            batch = batch.delete(key(deployment, number));
        }
        batch
    }

    /// The newest lines of a deployment, oldest first. None when it has no journal.
    pub(crate) fn lines(&self, deployment: DeploymentId, limit: usize) -> Option<Vec<JournalLine>> {
        let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = &rings.get(&deployment)?.lines;
        let skip = lines.len().saturating_sub(limit);
        Some(lines.iter().skip(skip).map(|(_, line)| line.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: usize) -> Vec<Entry> {
        vec![Entry { kind: "started", message: number.to_string() }]
    }

    #[tokio::test]
    async fn the_last_lines_are_kept_and_come_back_and_nothing_stays_of_a_forgotten_deployment() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path(), nebula_store::Options::default()).expect("opens");
        let (one, two) = (DeploymentId::random(), DeploymentId::random());
        let journal = Journal::default();
        let mut batch = Batch::new();
        for number in 0..LINES_MAX + 5 {
            batch = journal.append(batch, one, entry(number), WallTime(1_000)).expect("encodes");
        }
        batch = journal.append(batch, two, entry(7), WallTime(2_000)).expect("encodes");
        store.commit(batch).await.expect("commits");

        let journal = Journal::load(&store).await.expect("loads");
        let lines = journal.lines(one, usize::MAX).expect("a journal");
        assert_eq!(lines.len(), LINES_MAX);
        assert_eq!(lines.first().map(|line| line.message.as_str()), Some("5"));
        assert_eq!(journal.lines(two, 10).expect("a journal").len(), 1);

        let batch = journal.append(Batch::new(), one, entry(999), WallTime(3_000)).expect("encodes");
        store.commit(journal.forget(batch, one)).await.expect("commits");
        assert!(journal.lines(one, 10).is_none());
        let journal = Journal::load(&store).await.expect("loads");
        assert!(journal.lines(one, 10).is_none());
        assert!(journal.lines(two, 10).is_some());
    }
}
