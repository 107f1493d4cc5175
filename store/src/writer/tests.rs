//! The writer's promises, with an engine that fails, panics or waits on demand.

use std::sync::mpsc::sync_channel;

use tokio::sync::oneshot;

use super::*;
use crate::{
    batch::Batch,
    error::CommitError,
    lock,
    quarantine::{SetAside, Unreadable},
    record::Record,
};

mod fake;
mod recovery;

use fake::*;

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
    let found = scan(&mut group, "n/");
    writer(&fake).serve(group);

    assert_eq!(committed(first), Ok(()));
    assert_eq!(committed(second), conflict("n/1"));
    assert_eq!(committed(third), Ok(()));
    assert_eq!(committed(fourth), conflict("n/2"));
    assert_eq!(committed(fifth), Ok(()));
    assert_eq!(committed(sixth), Ok(()));
    let records = read(found).unwrap();
    assert_eq!(records, [(b"n/5".to_vec(), record(5)), (b"n/6".to_vec(), record(6))]);
    assert_eq!(fake.with(|state| (state.applies, state.syncs)), (1, 1));
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
    writer.serve(group);
    assert_eq!(committed(absent), conflict("n/1"));
    assert_eq!(committed(present), conflict("n/1"));
    assert_eq!(one.blocking_recv().unwrap(), Ok(None));
    assert_eq!(all.blocking_recv().unwrap(), Ok(vec![(b"n/2".to_vec(), record(2))]));
    assert_eq!(writer.shared.status().set_aside, 1);

    let mut group = Group::default();
    let kept = scan(&mut group, "q/");
    let aside = list(&mut group);
    writer.serve(group);
    assert!(read(kept).unwrap()[0].1.payload.ends_with(b"junk"));
    let aside = read(aside).unwrap();
    let [SetAside { key, reason, bytes: 4, .. }] = &aside[..] else { panic!("{aside:?}") };
    assert_eq!((key.as_slice(), reason.as_str()), (&b"n/1"[..], "shorter than its header"));
}

#[test]
fn a_record_that_nobody_can_read_is_set_aside_unless_it_was_replaced() {
    let fake = Fake::default();
    let mut writer = writer(&fake);
    commit_now(&mut writer, Batch::new().put("n/1", record(1)).put("n/2", record(2))).unwrap();
    let unreadable = |key: &str, n| Unreadable {
        key: key.into(),
        record: record(n),
        reason: "bytes cannot be decoded".to_owned(),
    };
    let mut group = Group::default();
    let replaced = commit(&mut group, Batch::new().put("n/2", record(9)));
    let records = vec![unreadable("n/1", 1), unreadable("n/2", 2), unreadable("n/3", 3)];
    let (reply, mut count) = oneshot::channel();
    group.add(Request::Read(Read::SetAside { records, reply }));
    let left = scan(&mut group, "n/");
    let aside = list(&mut group);
    writer.serve(group);
    assert_eq!(committed(replaced), Ok(()));
    assert_eq!(count.try_recv(), Ok(Ok(1)));
    assert_eq!(read(left), Ok(vec![(b"n/2".to_vec(), record(9))]));
    let aside = read(aside).unwrap();
    assert_eq!(aside.len(), 1);
    assert_eq!((aside[0].key.as_slice(), aside[0].reason.as_str()), (&b"n/1"[..], "bytes cannot be decoded"));
    assert_eq!(writer.shared.status().set_aside, 1);
    assert!(fake.with(|state| state.map == state.durable));
}

fn list(group: &mut Group) -> oneshot::Receiver<Result<Vec<SetAside>, ReadError>> {
    let (reply, answer) = oneshot::channel();
    group.add(Request::Read(Read::ListSetAside { reply }));
    answer
}

#[test]
fn a_few_bad_records_are_no_bug_and_more_than_one_in_a_hundred_are() {
    let entry = |n: u16, junk: bool| {
        let key = format!("n/{n:05}");
        let good = crate::envelope::seal(key.as_bytes(), crate::envelope::Codec::Bincode, &record(1));
        (key.into_bytes(), Some(if junk { b"junk".to_vec() } else { good }))
    };
    for (records, bad, fails) in [(10, 10, false), (500, 11, true), (1200, 11, false), (1200, 13, true)] {
        let fake = Fake::default();
        fake.with(|state| state.map = (0..records).map(|n| entry(n, n < bad)).collect());
        let mut writer = writer(&fake);
        let mut group = Group::default();
        let all = scan(&mut group, "n/");
        writer.serve(group);
        assert_eq!(read(all).is_err(), fails, "{bad} of {records}");
        assert_eq!(writer.shared.state() == StoreState::Failed, fails, "{bad} of {records}");
    }
}

#[test]
fn too_many_bad_records_change_nothing() {
    let fake = Fake::default();
    let junk = |n: u16| (format!("n/{n:03}").into_bytes(), Some(b"junk".to_vec()));
    fake.with(|state| state.map = (0..101).map(junk).collect());
    let before = fake.with(|state| state.map.clone());
    let mut writer = writer(&fake);
    let mut group = Group::default();
    let found = scan(&mut group, "n/");
    writer.serve(group);
    assert_eq!(read(found), Err(ReadError::Failed));
    assert_eq!(fake.with(|state| state.map.clone()), before);
    let reason = writer.shared.status().failed.unwrap();
    assert_eq!(reason, "101 bad records look like a codec bug, nothing changed");
}

#[test]
fn a_group_takes_no_more_than_its_share_and_loses_nothing() {
    let (queue, requests) = sync_channel(1024);
    for _ in 0..600 {
        let read = Read::Get { key: b"n/1".to_vec(), reply: oneshot::channel().0 };
        queue.send(Request::Read(read)).unwrap();
    }
    queue.send(Request::Close).unwrap();
    let mut sizes = Vec::new();
    while let Ok(first) = requests.try_recv() {
        let group = Group::collect(first, &requests);
        sizes.push((group.reads.len(), group.close));
    }
    assert_eq!(sizes, [(256, false), (256, false), (88, true)]);

    let large = || Record { kind: 1, schema: 1, payload: vec![0; 7000] };
    for n in 0..300_u16 {
        let batch = Batch::new().put(n.to_be_bytes(), large());
        queue.send(Request::Commit { batch, reply: oneshot::channel().0 }).unwrap();
    }
    let group = Group::collect(requests.try_recv().unwrap(), &requests);
    assert_eq!(group.commits.len(), 150);
}

#[tokio::test]
async fn a_full_queue_is_said_at_once_and_what_was_queued_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::default();
    let (open_gate, gate) = sync_channel(1);
    fake.with(|state| state.gate = Some(gate));
    let store = store(start(&fake), dir.path());

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
    let store = store(start(&fake), dir.path());
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
