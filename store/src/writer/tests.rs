//! The writer's promises, with an engine that fails, panics or waits on demand.

use std::sync::{
    Mutex,
    mpsc::{Receiver as StdReceiver, sync_channel},
};

use tokio::sync::oneshot::{self, Receiver as Answered};

use super::*;
use crate::{handle::Store, lock};

#[derive(Default)]
struct State {
    map: Writes,
    applies: usize,
    syncs: usize,
    sync_fails: bool,
    read_panics: bool,
    /// `apply` waits for a message on it.
    gate: Option<StdReceiver<()>>,
}

/// A map in memory; the test keeps a clone.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<State>>);

impl Fake {
    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }
}

impl Engine for Fake {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        let (panics, value) = self.with(|state| (state.read_panics, state.map.get(key).cloned().flatten()));
        assert!(!panics, "as told");
        Ok(value)
    }

    fn scan(&self, prefix: &[u8]) -> Result<Entries, EngineError> {
        let entries = self.with(|state| state.map.clone());
        let wanted = entries.into_iter().filter(|(key, _)| key.starts_with(prefix));
        Ok(wanted.filter_map(|(key, value)| value.map(|value| (key, value))).collect())
    }

    fn apply(&mut self, writes: Writes) -> Result<(), EngineError> {
        let gate = self.with(|state| {
            state.applies += 1;
            state.map.extend(writes);
            state.gate.take()
        });
        if let Some(gate) = gate {
            let _ = gate.recv();
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), EngineError> {
        self.with(|state| {
            state.syncs += 1;
            if state.sync_fails {
                Err(EngineError("fdatasync: input/output error".to_owned()))
            } else {
                Ok(())
            }
        })
    }

    fn size_bytes(&self) -> u64 {
        4096
    }
}

fn record(n: u8) -> Record {
    Record { kind: 1, schema: 1, payload: vec![n] }
}

fn writer(fake: &Fake) -> Writer<Fake> {
    Writer::new(fake.clone(), Arc::default())
}

fn commit(group: &mut Group, batch: Batch) -> Answered<Result<(), CommitError>> {
    let (reply, answer) = oneshot::channel();
    group.add(Request::Commit { batch, reply });
    answer
}

fn get(group: &mut Group, key: &str) -> Answered<Result<Option<Record>, ReadError>> {
    let (reply, answer) = oneshot::channel();
    group.add(Request::Get { key: key.into(), reply });
    answer
}

fn scan(group: &mut Group, prefix: &str) -> Answered<Result<Records, ReadError>> {
    let (reply, answer) = oneshot::channel();
    group.add(Request::Scan { prefix: prefix.into(), reply });
    answer
}

/// What the caller sees: an unanswered request is a failed one.
fn committed(mut answer: Answered<Result<(), CommitError>>) -> Result<(), CommitError> {
    answer.try_recv().unwrap_or(Err(CommitError::Failed))
}

fn conflict(key: &str) -> Result<(), CommitError> {
    Err(CommitError::Conflict { key: key.into() })
}

#[test]
fn a_conflict_does_not_hurt_the_others_in_its_group() {
    let fake = Fake::default();
    let mut group = Group::default();
    let first = commit(&mut group, Batch::new().require_absent("n/1").put("n/1", record(1)));
    let second =
        commit(&mut group, Batch::new().require_absent("n/1").put("n/1", record(2)).put("n/2", record(2)));
    let third = commit(&mut group, Batch::new().require_value("n/1", record(1)).put("n/1", record(3)));
    let fourth = commit(&mut group, Batch::new().require_present("n/2").put("n/4", record(4)));
    let fifth = commit(&mut group, Batch::new().require_present("n/1").delete("n/1").put("n/5", record(5)));
    let sixth = commit(&mut group, Batch::new().require_absent("n/1").put("n/6", record(6)));
    let read = scan(&mut group, "n/");
    writer(&fake).serve(group);

    assert_eq!(committed(first), Ok(()));
    assert_eq!(committed(second), conflict("n/1"));
    assert_eq!(committed(third), Ok(()));
    assert_eq!(committed(fourth), conflict("n/2"));
    assert_eq!(committed(fifth), Ok(()));
    assert_eq!(committed(sixth), Ok(()));
    let records = read.blocking_recv().unwrap().unwrap();
    assert_eq!(records, [(b"n/5".to_vec(), record(5)), (b"n/6".to_vec(), record(6))]);
    assert_eq!(fake.with(|state| (state.applies, state.syncs)), (1, 1));
}

#[test]
fn a_failed_sync_fails_the_group_and_the_store_for_good() {
    let fake = Fake::default();
    fake.with(|state| state.sync_fails = true);
    let mut writer = writer(&fake);
    let mut group = Group::default();
    let one = commit(&mut group, Batch::new().put("n/1", record(1)));
    let two = commit(&mut group, Batch::new().require_present("n/9").put("n/2", record(2)));
    let read = get(&mut group, "n/1");
    writer.serve(group);
    assert_eq!(committed(one), Err(CommitError::Failed));
    assert_eq!(committed(two), Err(CommitError::Failed));
    assert!(read.blocking_recv().is_err());
    assert_eq!(writer.shared.status().failed.as_deref(), Some("fdatasync: input/output error"));

    fake.with(|state| state.sync_fails = false);
    let mut group = Group::default();
    let late = commit(&mut group, Batch::new().put("n/3", record(3)));
    let read = get(&mut group, "n/1");
    writer.serve(group);
    assert_eq!(committed(late), Err(CommitError::Failed));
    assert!(read.blocking_recv().is_err());
    assert_eq!(fake.with(|state| (state.applies, state.syncs)), (1, 1));
}

#[test]
fn a_panic_answers_everybody_and_fails_the_store() {
    let fake = Fake::default();
    fake.with(|state| state.read_panics = true);
    let mut writer = writer(&fake);
    let mut group = Group::default();
    let read = get(&mut group, "n/1");
    let also = commit(&mut group, Batch::new().require_absent("n/1").put("n/1", record(1)));
    writer.serve(group);
    assert!(read.blocking_recv().is_err());
    assert_eq!(committed(also), Err(CommitError::Failed));
    assert_eq!(writer.shared.status().failed.as_deref(), Some("panic: as told"));
}

#[test]
fn only_the_bad_record_is_set_aside() {
    let fake = Fake::default();
    let mut writer = writer(&fake);
    let mut group = Group::default();
    let put = commit(&mut group, Batch::new().put("n/1", record(1)).put("n/2", record(2)));
    writer.serve(group);
    assert_eq!(committed(put), Ok(()));
    fake.with(|state| state.map.insert(b"n/1".to_vec(), Some(b"junk".to_vec())));

    let mut group = Group::default();
    let absent = commit(&mut group, Batch::new().require_absent("n/1").put("n/3", record(3)));
    let present = commit(&mut group, Batch::new().require_present("n/1").put("n/3", record(3)));
    let one = get(&mut group, "n/1");
    let all = scan(&mut group, "n/");
    let aside = scan(&mut group, "q/");
    writer.serve(group);
    assert_eq!(committed(absent), conflict("n/1"));
    assert_eq!(committed(present), conflict("n/1"));
    assert_eq!(one.blocking_recv().unwrap(), Ok(None));
    assert_eq!(all.blocking_recv().unwrap(), Ok(vec![(b"n/2".to_vec(), record(2))]));
    let aside = aside.blocking_recv().unwrap().unwrap();
    assert_eq!(aside.len(), 1);
    assert!(aside[0].0.ends_with(b"/n/1"));
    assert_eq!(aside[0].1.payload, b"junk");
    assert_eq!(writer.shared.status().set_aside, 1);
}

#[test]
fn too_many_bad_records_change_nothing() {
    let fake = Fake::default();
    let junk = |n: u16| (format!("n/{n:03}").into_bytes(), Some(b"junk".to_vec()));
    fake.with(|state| state.map = (0..101).map(junk).collect());
    let before = fake.with(|state| state.map.clone());
    let mut writer = writer(&fake);
    let mut group = Group::default();
    let read = scan(&mut group, "n/");
    writer.serve(group);
    assert!(read.blocking_recv().is_err());
    assert_eq!(fake.with(|state| state.map.clone()), before);
    let reason = writer.shared.status().failed.unwrap();
    assert_eq!(reason, "101 bad records look like a codec bug, nothing changed");
}

#[test]
fn a_group_takes_no_more_than_its_share_and_loses_nothing() {
    let (queue, requests) = sync_channel(1024);
    for _ in 0..600 {
        queue.send(Request::Get { key: b"n/1".to_vec(), reply: oneshot::channel().0 }).unwrap();
    }
    queue.send(Request::Close).unwrap();
    let mut sizes = Vec::new();
    while let Ok(first) = requests.try_recv() {
        let group = collect(first, &requests);
        sizes.push((group.reads.len(), group.close));
    }
    assert_eq!(sizes, [(256, false), (256, false), (88, true)]);

    let large = || Record { kind: 1, schema: 1, payload: vec![0; 7000] };
    for n in 0..300_u16 {
        let batch = Batch::new().put(n.to_be_bytes(), large());
        queue.send(Request::Commit { batch, reply: oneshot::channel().0 }).unwrap();
    }
    let group = collect(requests.try_recv().unwrap(), &requests);
    assert_eq!(group.commits.len(), 150);
}

#[tokio::test]
async fn a_full_queue_is_said_at_once_and_what_was_queued_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::default();
    let (open_gate, gate) = sync_channel(1);
    fake.with(|state| state.gate = Some(gate));
    let store = Store::start(fake.clone(), Shared::default(), lock::acquire(dir.path()).unwrap()).unwrap();

    let mut accepted = Vec::new();
    let refused = loop {
        assert!(accepted.len() < 2000, "the queue has no bound");
        let n = u16::try_from(accepted.len()).unwrap();
        let mut answer = Box::pin(store.commit(Batch::new().put(n.to_be_bytes(), record(1))));
        // A refusal is there at the first poll; an accepted one waits for the gate.
        match futures_now(&mut answer) {
            Some(verdict) => break verdict,
            None => accepted.push(answer),
        }
    };
    assert_eq!(refused, Err(CommitError::Overloaded));
    assert!(accepted.len() >= 1024);
    let late = store.get(b"n/1".to_vec());
    assert_eq!(late.await, Err(ReadError::Overloaded));

    open_gate.send(()).unwrap();
    let count = accepted.len();
    for answer in accepted {
        assert_eq!(answer.await, Ok(()));
    }
    assert_eq!(store.status().commits, count as u64);
    assert_eq!(fake.with(|state| state.map.len()), count);
}

#[tokio::test]
async fn closing_finishes_what_is_queued_and_then_says_closed() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::default();
    let store = Store::start(fake, Shared::default(), lock::acquire(dir.path()).unwrap()).unwrap();
    let queued = store.commit(Batch::new().put("n/1", record(1)));
    let other = store.clone();
    store.close();
    other.close();
    assert_eq!(queued.await, Ok(()));
    assert_eq!(store.commit(Batch::new().put("n/2", record(2))).await, Err(CommitError::Closed));
    assert_eq!(other.scan(Vec::new()).await, Err(ReadError::Closed));
    assert!(lock::acquire(dir.path()).is_ok());
}

/// The future's value if it is there already.
fn futures_now<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::Pin::new(future).poll(&mut context) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}
