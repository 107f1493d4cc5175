//! A damaged log: the store refuses to open or fails. It never returns a wrong record, and never silently fewer.

#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test's helpers may fail the test"
)]

use std::{collections::BTreeMap, fs, path::Path};

use nebula_store::{Batch, OpenError, Options, Record, Store};

fn record(n: u32) -> Record {
    Record { kind: 3, schema: 1, payload: n.to_be_bytes().repeat(20) }
}

async fn filled(dir: &Path, snapshots: u32) -> BTreeMap<Vec<u8>, Record> {
    let store = Store::open(dir, Options::default()).unwrap();
    let mut wanted = BTreeMap::new();
    for n in 0..200_u32 {
        let key = format!("n/{n:04}").into_bytes();
        store.commit(Batch::new().put(key.clone(), record(n))).await.unwrap();
        wanted.insert(key, record(n));
    }
    store.close();
    // Opening again writes a snapshot, and what comes before it is read in another way.
    for _ in 0..snapshots {
        Store::open(dir, Options::default()).unwrap().close();
    }
    wanted
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in from.read_dir().unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Opens the store in `dir` and compares all it returns with what was written.
async fn look(dir: &Path, wanted: &BTreeMap<Vec<u8>, Record>) -> Outcome {
    let store = match Store::open(dir, Options::default()) {
        Ok(store) => store,
        Err(OpenError::Damaged { .. }) => return Outcome::Refused,
        Err(other) => panic!("damage is not {other}"),
    };
    let Ok(found) = store.scan(b"n/".to_vec()).await else {
        assert!(store.status().failed.is_some());
        return Outcome::Failed;
    };
    for (key, record) in &found {
        assert_eq!(wanted.get(key), Some(record), "wrong record under {}", key.escape_ascii());
    }
    if found.len() == wanted.len() { Outcome::Whole } else { Outcome::Fewer }
}

const FLIPS: usize = 60;

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
enum Outcome {
    Whole,
    Fewer,
    Failed,
    Refused,
}

/// Flips one bit at each of `FLIPS` places of the used part of the log.
async fn flip(snapshots: u32) -> BTreeMap<Outcome, u32> {
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("good");
    let wanted = filled(&good, snapshots).await;
    let log = fs::read(good.join("db/db")).unwrap();
    let control = dir.path().join("control");
    copy(&good, &control);
    assert_eq!(look(&control, &wanted).await, Outcome::Whole);
    let used = log.iter().rposition(|byte| *byte != 0).unwrap();
    let mut seen = BTreeMap::new();
    for turn in 0..FLIPS {
        let bad = dir.path().join(format!("bad{turn}"));
        copy(&good, &bad);
        let mut bytes = log.clone();
        bytes[used * turn / FLIPS] ^= 1 << (turn % 8);
        fs::write(bad.join("db/db"), bytes).unwrap();
        *seen.entry(look(&bad, &wanted).await).or_default() += 1;
    }
    seen
}

#[tokio::test]
async fn a_flipped_bit_in_a_fresh_log_is_noticed() {
    let seen = flip(0).await;
    assert!(!seen.contains_key(&Outcome::Fewer), "{seen:?}");
}

#[tokio::test]
async fn a_flipped_bit_before_a_snapshot_is_noticed() {
    let seen = flip(1).await;
    assert!(!seen.contains_key(&Outcome::Fewer), "{seen:?}");
}
