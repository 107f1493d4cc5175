//! What becomes of the store when its engine fails, and what a disk that fills up still takes.

use std::sync::{atomic::AtomicU64, mpsc::sync_channel};

use super::*;
use crate::{ballast::Ballast, disk::DiskLevel, error::ExportFailed, handle::Store};

fn put(n: u8) -> Batch {
    Batch::new().put(vec![b'n', n], record(n))
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_passes_and_nothing_acknowledged_is_lost() {
    let fake = Fake::default();
    let mut writer = writer(&fake);
    assert_eq!(commit_now(&mut writer, put(1)), Ok(()));

    fake.with(|state| {
        state.sync_fails = Some(Trouble::NoSpace);
        state.full_opens = 2;
    });
    let mut group = Group::default();
    let begun = commit(&mut group, put(2));
    let with_it = get(&mut group, "n");
    writer.serve(group);
    assert_eq!(committed(begun), Err(CommitError::Failed), "nobody knows");
    assert_eq!(read(with_it), Err(ReadError::Unavailable));
    let status = writer.shared.status();
    assert_eq!((status.state, status.failed), (StoreState::Reopening, None));
    assert_eq!(status.reopening.as_deref(), Some("fdatasync: NoSpace"));
    assert_eq!(status.disk.level, DiskLevel::Full);

    for (wait, opens) in [(0, 1), (4_999, 1), (1, 2), (4_999, 2)] {
        tokio::time::advance(Duration::from_millis(wait)).await;
        writer.tend();
        assert_eq!(fake.with(|state| state.opens), opens);
        assert_eq!(commit_now(&mut writer, put(3)), Err(CommitError::Unavailable));
    }
    tokio::time::advance(Duration::from_millis(1)).await;
    writer.tend();
    assert_eq!(writer.shared.status().state, StoreState::Ok);
    assert_eq!(commit_now(&mut writer, put(4)), Ok(()));
    let mut group = Group::default();
    let all = scan(&mut group, "n");
    writer.serve(group);
    assert_eq!(read(all).unwrap().iter().map(|(key, _)| key[1]).collect::<Vec<_>>(), [1, 4]);
}

#[test]
fn any_other_failed_sync_fails_the_group_and_the_store_for_good() {
    let fake = Fake::default();
    fake.with(|state| state.sync_fails = Some(Trouble::Other));
    let mut writer = writer(&fake);
    let mut group = Group::default();
    let one = commit(&mut group, Batch::new().put("n/1", record(1)));
    let two = commit(&mut group, Batch::new().require_present("n/9").put("n/2", record(2)));
    let found = get(&mut group, "n/1");
    writer.serve(group);
    assert_eq!(committed(one), Err(CommitError::Failed));
    assert_eq!(committed(two), Err(CommitError::Failed));
    assert_eq!(read(found), Err(ReadError::Failed));
    assert_eq!(writer.shared.status().failed.as_deref(), Some("fdatasync: Other"));

    writer.tend();
    let mut group = Group::default();
    let late = commit(&mut group, Batch::new().put("n/3", record(3)));
    let found = get(&mut group, "n/1");
    writer.serve(group);
    assert_eq!(committed(late), Err(CommitError::Failed));
    assert_eq!(read(found), Err(ReadError::Failed));
    assert_eq!(fake.with(|state| (state.applies, state.syncs, state.opens)), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_panic_opens_the_engine_again_and_a_second_one_ends_the_store() {
    let fake = Fake::default();
    let mut writer = writer(&fake);
    assert_eq!(commit_now(&mut writer, put(1)), Ok(()));
    let panics = |writer: &mut Writer<Fake>| {
        fake.with(|state| state.read_panics = true);
        let mut group = Group::default();
        let also = commit(&mut group, put(2).require_absent("n"));
        let found = get(&mut group, "n");
        writer.serve(group);
        (committed(also), read(found))
    };
    assert_eq!(panics(&mut writer), (Err(CommitError::Failed), Err(ReadError::Unavailable)));
    assert_eq!(writer.shared.status().reopening.as_deref(), Some("panic: as told"));
    writer.tend();
    assert_eq!(writer.shared.status().state, StoreState::Ok);
    assert_eq!(commit_now(&mut writer, put(3)), Ok(()));

    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(panics(&mut writer), (Err(CommitError::Failed), Err(ReadError::Unavailable)), "long after");
    writer.tend();
    assert_eq!(panics(&mut writer), (Err(CommitError::Failed), Err(ReadError::Failed)));
    assert_eq!(writer.shared.status().failed.as_deref(), Some("panic: as told"));
    assert_eq!(fake.with(|state| state.opens), 2);
}

#[test]
fn an_engine_that_does_not_open_again_ends_the_store() {
    let fake = Fake::default();
    fake.with(|state| {
        state.sync_fails = Some(Trouble::NoSpace);
        state.open_fails = true;
    });
    let mut writer = writer(&fake);
    assert_eq!(commit_now(&mut writer, put(1)), Err(CommitError::Failed));
    writer.tend();
    let failed = writer.shared.status().failed;
    assert_eq!(failed.as_deref(), Some("store in /fake is damaged: as told"));
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fills_up_takes_less_and_less() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::default();
    let free = Arc::new(AtomicU64::new(500 * GIB));
    let ballast = Ballast::find(dir.path(), 4096, 1000 * GIB);
    let mut writer = Writer::new(start_on(&fake, free.clone(), ballast), Arc::default()).unwrap();
    let (ok, full) = (Ok(()), Err(CommitError::DiskFull));
    for (bytes, level, expected) in [
        (500 * GIB, DiskLevel::Ample, [ok.clone(), ok.clone(), ok.clone()]),
        (GIB, DiskLevel::Low, [ok.clone(), ok.clone(), ok.clone()]),
        (GIB / 4, DiskLevel::Scarce, [full.clone(), ok.clone(), ok.clone()]),
        (GIB / 16, DiskLevel::Full, [full.clone(), full, ok.clone()]),
        (500 * GIB, DiskLevel::Ample, [ok.clone(), ok.clone(), ok]),
    ] {
        free.store(bytes, Relaxed);
        tokio::time::advance(Duration::from_secs(1)).await;
        writer.tend();
        let status = writer.shared.status();
        assert_eq!((status.state, status.disk.level, status.disk.free_bytes), (StoreState::Ok, level, bytes));
        assert_eq!(status.disk.ballast_bytes, if level == DiskLevel::Full { 0 } else { 4096 });
        let mut group = Group::default();
        let growing = commit(&mut group, put(1).growing());
        let keeping = commit(&mut group, put(2));
        let freeing = commit(&mut group, Batch::new().delete(vec![b'n', 1]).freeing());
        let found = get(&mut group, "n");
        writer.serve(group);
        assert_eq!([committed(growing), committed(keeping), committed(freeing)], expected, "{level:?}");
        assert_eq!(read(found), Ok(None), "{level:?}");
    }
}

#[tokio::test]
async fn a_store_that_reopens_says_so_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::default();
    fake.with(|state| {
        state.sync_fails = Some(Trouble::NoSpace);
        state.full_opens = 1;
    });
    let store = store(start(&fake), dir.path());
    assert_eq!(store.commit(put(1)).await, Err(CommitError::Failed));
    // The first try to open finds the disk full, and the next is five seconds away.
    assert_eq!(store.commit(put(2)).await, Err(CommitError::Unavailable));
    assert_eq!(store.get(b"n".to_vec()).await, Err(ReadError::Unavailable));
    assert_eq!(store.export_now(None).await, Err(ExportFailed::Unavailable));
    assert_eq!(store.status().queue_depth, 0);
    store.close();
}

#[tokio::test]
async fn what_was_restored_stays_so_until_it_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::default();
    let restored = crate::Restored {
        at: nebula_core::clock::wall_now(),
        export: None,
        export_at: None,
        why: "as told".to_owned(),
    };
    fake.with(|state| {
        state.restored = Some(restored.clone());
        state.map.insert(b"m/restored".to_vec(), Some(b"as told".to_vec()));
    });
    let store = store(start(&fake), dir.path());
    assert_eq!(store.status().restored, Some(restored));
    store.accept_restored().await.unwrap();
    assert_eq!(store.status().restored, None);
    assert_eq!(fake.with(|state| state.durable.get(&b"m/restored"[..]).cloned()), Some(None));
}

#[tokio::test]
async fn commits_go_on_while_an_export_waits_for_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::default();
    let (open_gate, gate) = sync_channel(1);
    fake.with(|state| state.export_gate = Some(gate));
    let store = store(start(&fake), dir.path());
    let export = store.export_now(None);
    assert_eq!(store.commit(put(1)).await, Ok(()));
    let other = store.export_now(Some("/elsewhere".into()));
    assert_eq!(store.commit(put(2)).await, Ok(()));
    assert_eq!(store.status().last_export, None);
    open_gate.send(()).unwrap();
    let export = export.await.unwrap();
    assert_eq!(store.status().last_export, Some(export));
    assert_eq!(other.await.unwrap().path.to_str(), Some("/elsewhere"));
    assert_eq!(fake.with(|state| (state.exports, state.exported)), (2, 1));
    let status = store.status();
    assert_eq!((status.commits, status.groups, status.queue_depth), (2, 2, 0));
    assert!(status.latency.max_us > 0 && status.latency.p50_us <= status.latency.p99_us);
}

#[tokio::test(start_paused = true)]
async fn exports_are_made_when_due_and_when_something_was_written() {
    let fake = Fake::default();
    let every = Duration::from_secs(300);
    let start = Start { export_every: Some(every), ..start(&fake) };
    let mut writer = Writer::new(start, Arc::default()).unwrap();
    let exports = async |writer: &mut Writer<Fake>, wait: u64| {
        tokio::time::advance(Duration::from_secs(wait)).await;
        writer.tend();
        if let Some(ended) = writer.exporting.wait() {
            writer.end_export(ended);
        }
        fake.with(|state| (state.exports, state.exported))
    };
    commit_now(&mut writer, put(1)).unwrap();
    assert_eq!(exports(&mut writer, 0).await, (1, 1), "there is none");
    commit_now(&mut writer, put(2)).unwrap();
    assert_eq!(exports(&mut writer, 299).await, (1, 1), "too early");
    assert_eq!(exports(&mut writer, 1).await, (2, 2));
    assert_eq!(exports(&mut writer, 300).await, (2, 2), "nothing was written");

    commit_now(&mut writer, put(3)).unwrap();
    fake.with(|state| state.export_fails = true);
    assert_eq!(exports(&mut writer, 300).await, (3, 2));
    assert_eq!(writer.shared.status().export_failed.as_deref(), Some("as told"));
    assert_eq!(writer.shared.status().state, StoreState::Ok);
    fake.with(|state| state.export_fails = false);
    assert_eq!(exports(&mut writer, 59).await, (3, 2), "not at once again");
    assert_eq!(exports(&mut writer, 1).await, (4, 3));
    assert_eq!(writer.shared.status().export_failed, None);
}

#[test]
fn exports_that_wait_are_bounded_and_told_when_the_engine_goes() {
    let fake = Fake::default();
    let mut writer = writer(&fake);
    let mut group = Group::default();
    let mut answers = (0..10).map(|_| export(&mut group, None)).collect::<Vec<_>>();
    writer.serve(group);
    let refused = answers.iter_mut().filter_map(|answer| answer.try_recv().ok()).collect::<Vec<_>>();
    assert_eq!(refused, [Err(ExportFailed::Overloaded), Err(ExportFailed::Overloaded)]);
    fake.with(|state| state.sync_fails = Some(Trouble::NoSpace));
    assert_eq!(commit_now(&mut writer, put(1)), Err(CommitError::Failed));
    for answer in &mut answers[..8] {
        assert_eq!(answer.try_recv(), Ok(Err(ExportFailed::Unavailable)));
    }
}

#[tokio::test]
async fn nobody_waits_for_an_engine_that_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::default();
    let (open_gate, gate) = sync_channel(1);
    fake.with(|state| state.gate = Some(gate));
    let shared = Arc::<Shared>::default();
    let writer = Writer::new(start(&fake), shared.clone()).unwrap();
    let store = Store::spawn(writer, shared.clone(), lock::acquire(dir.path()).unwrap()).unwrap();
    let begun = store.commit(put(1));
    let queued = store.get(b"n".to_vec());
    tokio::time::timeout(Duration::from_secs(30), async {
        while fake.with(|state| state.applies) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(shared.step() % 2, 1, "under way");

    shared.stalled("as told".to_owned());
    assert_eq!(begun.await, Err(CommitError::Failed));
    assert_eq!(queued.await, Err(ReadError::Failed));
    assert_eq!(store.commit(put(2)).await, Err(CommitError::Failed));
    assert_eq!(store.status().failed.as_deref(), Some("as told"));
    // The thread is still in the engine.
    store.close();
    open_gate.send(()).unwrap();
}

#[tokio::test]
async fn an_export_ends_before_the_next_engine_is_opened() {
    let fake = Fake::default();
    let mut writer = writer(&fake);
    let (open_gate, gate) = sync_channel(1);
    fake.with(|state| state.export_gate = Some(gate));
    let mut group = Group::default();
    let mut export = export(&mut group, None);
    writer.serve(group);
    writer.tend();
    fake.with(|state| state.sync_fails = Some(Trouble::NoSpace));
    assert_eq!(commit_now(&mut writer, put(1)), Err(CommitError::Failed));
    let shared = writer.shared.clone();
    let reopens = std::thread::spawn(move || writer.tend());
    tokio::time::timeout(Duration::from_secs(30), async {
        while shared.step().is_multiple_of(2) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("waiting for the export is watched like any other step");
    assert_eq!((fake.with(|state| state.opens), export.try_recv().is_err()), (0, true));
    open_gate.send(()).unwrap();
    reopens.join().unwrap();
    assert_eq!((shared.state(), fake.with(|state| state.opens)), (StoreState::Ok, 1));
    assert!(export.await.unwrap().is_ok());
    assert_eq!(fake.with(|state| state.exported), 0, "it was of the engine before");
}

#[tokio::test]
async fn a_panic_of_the_thread_itself_ends_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::default();
    let ballast = Ballast::find(dir.path(), 0, 0);
    let mut looks = 0;
    let probe = Box::new(move || {
        looks += 1;
        assert!(looks == 1, "as told");
        Ok(crate::disk::Space { free: 500 * GIB, total: 1000 * GIB })
    });
    let start = Start { disk: crate::disk::Disk::new(probe, ballast), ..start(&fake) };
    let store = store(start, dir.path());
    tokio::time::timeout(Duration::from_secs(30), async {
        while store.status().state != StoreState::Failed {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(store.status().failed.as_deref(), Some("panic: as told"));
    assert_eq!(store.commit(put(1)).await, Err(CommitError::Failed));
    store.close();
}
