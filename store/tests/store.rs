//! The store on a real directory: what is kept, what is refused, what is set aside.

#![expect(clippy::disallowed_methods, reason = "damage is written behind the store's back")]
#![expect(clippy::unwrap_used, reason = "a test's helpers may fail the test")]

use std::{
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use nebula_core::exit::{Exit, Fatal};
use nebula_store::{
    Batch, CommitError, MAX_VALUE_BYTES, OnDamage, OpenError, Options, ReadError, Record, Store, codec,
};

fn open(dir: &Path) -> Store {
    Store::open(dir, Options::default()).unwrap()
}

fn refused(dir: &Path) -> OpenError {
    Store::open(dir, Options::default()).unwrap_err()
}

fn record(text: &str) -> Record {
    Record { kind: 1, schema: 1, payload: codec::encode(&text.to_owned()).unwrap() }
}

/// Writes bytes into a closed store, past all checks.
fn write_raw(dir: &Path, key: &[u8], bytes: &[u8]) {
    let db = sled::open(dir.join("db")).unwrap();
    db.insert(key, bytes).unwrap();
    db.flush().unwrap();
}

/// Removes all that could tell what was damaged.
fn forget_history(dir: &Path) {
    std::fs::remove_dir_all(dir.join("redo")).unwrap();
    if dir.join("exports").exists() {
        std::fs::remove_dir_all(dir.join("exports")).unwrap();
    }
}

#[tokio::test]
async fn what_was_acked_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("made/for/us");
    let store = open(&data);
    assert_eq!(data.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    store.commit(Batch::new().put("d/b", record("two")).put("d/a", record("one"))).await.unwrap();
    store
        .commit(Batch::new().put("n/a", record("node")).delete("d/b").put("d/c", record("three")))
        .await
        .unwrap();
    assert_eq!(store.status().commits, 2);
    assert!(store.status().size_bytes > 0);
    store.close();

    let store = open(&data);
    let found = store.scan(b"d/".to_vec()).await.unwrap();
    assert_eq!(found, [(b"d/a".to_vec(), record("one")), (b"d/c".to_vec(), record("three"))]);
    assert_eq!(store.get(b"n/a".to_vec()).await, Ok(Some(record("node"))));
    assert_eq!(store.get(b"d/b".to_vec()).await, Ok(None));
    store.close();
    assert_eq!(store.get(b"n/a".to_vec()).await, Err(ReadError::Closed));
}

#[tokio::test]
async fn the_last_handle_closes_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let pending = store.commit(Batch::new().put("n/a", record("node")));
    drop(store.clone());
    drop(store);
    assert_eq!(pending.await, Ok(()));
    assert_eq!(open(dir.path()).get(b"n/a".to_vec()).await, Ok(Some(record("node"))));
}

#[tokio::test]
async fn a_second_open_names_the_owner() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let error = refused(dir.path());
    let pid = std::process::id();
    assert!(matches!(error, OpenError::InUse { pid: Some(found), .. } if found == pid));
    let fatal = Fatal::from(error);
    assert_eq!(fatal.exit, Exit::InUse);
    assert_eq!(fatal.message, format!("data directory {} is in use by process {pid}", dir.path().display()));
    store.commit(Batch::new().put("n/a", record("unhurt"))).await.unwrap();
    store.close();
    assert_eq!(open(dir.path()).get(b"n/a".to_vec()).await, Ok(Some(record("unhurt"))));
}

#[tokio::test]
async fn a_torn_snapshot_is_removed_and_the_store_opens() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.commit(Batch::new().put("n/a", record("kept"))).await.unwrap();
    store.close();
    let torn = dir.path().join("db/snap.7FFFFFFFFFFFFFFF.generating");
    std::fs::write(&torn, b"torn").unwrap();
    assert!(sled::open(dir.path().join("db")).is_err(), "the engine itself must trip over it");

    let store = open(dir.path());
    assert!(!torn.exists());
    assert_eq!(store.get(b"n/a".to_vec()).await, Ok(Some(record("kept"))));
}

#[tokio::test]
async fn a_first_start_that_was_cut_short_is_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    let unfinished = dir.path().join("db.creating");
    std::fs::create_dir(&unfinished).unwrap();
    std::fs::write(unfinished.join("conf"), b"a configuration that lacks its checksum").unwrap();
    assert!(sled::open(&unfinished).is_err(), "the engine itself must trip over it");

    let store = open(dir.path());
    assert!(!unfinished.exists());
    store.commit(Batch::new().put("n/a", record("kept"))).await.unwrap();
    store.close();
    assert_eq!(open(dir.path()).get(b"n/a".to_vec()).await, Ok(Some(record("kept"))));
}

#[tokio::test]
async fn an_engine_that_lost_its_end_gets_it_back_or_is_refused_every_time() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).close();
    let engine = dir.path().join("db/db");
    let before = std::fs::read(&engine).unwrap();
    let store = open(dir.path());
    store.commit(Batch::new().put("n/a", record("acked"))).await.unwrap();
    store.close();
    std::fs::write(&engine, &before).unwrap();
    let store = open(dir.path());
    assert_eq!(store.get(b"n/a".to_vec()).await, Ok(Some(record("acked"))));
    assert_eq!(store.status().restored, None);
    store.close();

    std::fs::write(&engine, &before).unwrap();
    forget_history(dir.path());
    for _ in 0..2 {
        let error = refused(dir.path());
        assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("was durable"), "{error}");
    }
    let store =
        Store::open(dir.path(), Options { on_damage: OnDamage::StartEmpty, ..Options::default() }).unwrap();
    assert_eq!(store.scan(b"n/".to_vec()).await, Ok(Vec::new()));
    assert!(store.status().restored.is_some());
}

#[tokio::test]
async fn a_damaged_record_is_put_right_from_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.commit(Batch::new().put("n/a", record("a")).put("n/b", record("b"))).await.unwrap();
    store.close();
    write_raw(dir.path(), b"n/b", b"not a record");
    write_raw(dir.path(), b"m/schema", b"junk");

    let store = open(dir.path());
    assert_eq!(store.get(b"n/b".to_vec()).await, Ok(Some(record("b"))));
    assert_eq!(store.status().set_aside, 0);
    assert_eq!(store.status().restored, None);
}

#[tokio::test]
async fn a_damaged_record_is_set_aside_and_the_others_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store
        .commit(Batch::new().put("n/a", record("a")).put("n/b", record("b")).put("n/c", record("c")))
        .await
        .unwrap();
    store.close();
    write_raw(dir.path(), b"n/b", b"not a record");
    write_raw(dir.path(), b"n/c", b"");
    // Nothing is left that tells what they were.
    forget_history(dir.path());

    let store = open(dir.path());
    assert_eq!(store.status().set_aside, 0);
    assert_eq!(store.get(b"n/c".to_vec()).await, Ok(None));
    assert_eq!(store.scan(b"n/".to_vec()).await, Ok(vec![(b"n/a".to_vec(), record("a"))]));
    assert_eq!(store.status().set_aside, 2);
    assert_eq!(store.status().failed, None);
    store.commit(Batch::new().require_absent("n/b").put("n/b", record("again"))).await.unwrap();
    store.close();

    let store = open(dir.path());
    assert_eq!(store.status().set_aside, 2);
    let aside = store.scan(b"q/".to_vec()).await.unwrap();
    let kept = aside.iter().map(|(_, record)| record.payload.as_slice()).collect::<Vec<_>>();
    assert!(kept.iter().any(|payload| payload.ends_with(b"not a record")));
    assert_eq!(store.get(b"n/b".to_vec()).await, Ok(Some(record("again"))));
}

#[tokio::test]
async fn a_conflict_names_the_key_and_applies_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.commit(Batch::new().put("n/a", record("1"))).await.unwrap();
    let stale =
        Batch::new().require_value("n/a", record("0")).put("n/a", record("2")).put("n/b", record("2"));
    assert_eq!(store.commit(stale).await, Err(CommitError::Conflict { key: b"n/a".to_vec() }));
    assert_eq!(store.scan(b"n/".to_vec()).await, Ok(vec![(b"n/a".to_vec(), record("1"))]));
    let fresh = Batch::new().require_value("n/a", record("1")).require_absent("n/b").put("n/a", record("2"));
    assert_eq!(store.commit(fresh).await, Ok(()));
}

#[tokio::test]
async fn a_newer_store_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).close();
    // The envelope of `m/schema` with format 2: header, checksum, payload.
    let head = [0x4E, 0xF0, 0x00, 0x01, 0x01, 0x00];
    let mut crc = crc32fast::Hasher::new();
    [&head[..], b"m/schema", &[2]].iter().for_each(|part| crc.update(part));
    write_raw(dir.path(), b"m/schema", &[&head[..], &crc.finalize().to_be_bytes(), &[2]].concat());

    for _ in 0..2 {
        let error = refused(dir.path());
        assert!(matches!(error, OpenError::NewerSchema { found: 2, known: 1, .. }));
        assert_eq!(Fatal::from(error).exit, Exit::DataDir);
    }
    write_raw(dir.path(), b"m/schema", b"junk");
    forget_history(dir.path());
    assert!(matches!(refused(dir.path()), OpenError::Damaged { .. }));
}

#[test]
fn a_damaged_engine_is_named_and_nothing_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).close();
    let snapshot = dir.path().join("db/snap.7FFFFFFFFFFFFFFF");
    std::fs::write(&snapshot, b"torn after all").unwrap();
    let refuse = Options { on_damage: OnDamage::Refuse, ..Options::default() };
    let error = Store::open(dir.path(), refuse).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    let fatal = Fatal::from(error);
    assert_eq!(fatal.exit, Exit::Disk);
    let engine = dir.path().join("db").display().to_string();
    assert!(fatal.message.contains(&engine) && fatal.hint.unwrap().contains("store import --force"));
    assert!(snapshot.exists());
    assert!(dir.path().join("db/db").exists());
    // The lock is free again.
    std::fs::remove_file(snapshot).unwrap();
    open(dir.path()).close();
}

#[test]
fn a_path_that_cannot_be_a_directory_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = refused(&path);
        assert!(matches!(&error, OpenError::Unusable { path: named, .. } if *named == path), "{error}");
        let fatal = Fatal::from(error);
        assert_eq!(fatal.exit, Exit::DataDir);
        assert!(fatal.message.contains(&path.display().to_string()));
        assert!(fatal.hint.unwrap().contains("--data-dir"));
    }
}

#[tokio::test]
async fn large_records_stay_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let large = || Record { kind: 1, schema: 1, payload: vec![7; MAX_VALUE_BYTES] };
    let mut answers = Vec::new();
    for n in 0..400_u32 {
        let key = [b"d/".to_vec(), n.to_be_bytes().to_vec(), vec![b'k'; 500]].concat();
        answers.push(store.commit(Batch::new().put(key, large())));
    }
    for answer in answers {
        answer.await.unwrap();
    }
    assert_eq!(store.scan(b"d/".to_vec()).await.unwrap().len(), 400);
    store.close();
    // The engine writes a page that is too large for its log into a file that it never syncs.
    assert_eq!(dir.path().join("db/blobs").read_dir().unwrap().count(), 0);
    assert_eq!(dir.path().join("lock").metadata().unwrap().mode() & 0o777, 0o600);
}
