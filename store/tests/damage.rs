//! Copies of a store with damaged files. With one damaged file everything is still there and right; with more, what is
//! missing is said: nothing panics, and no value is served that was not committed under its key.
//!
//! 60 copies by default, 1,000 with `NEBULA_FULL=1`; `NEBULA_SEED` damages the same bytes again.

#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test's helpers may fail the test"
)]

#[path = "support/dice.rs"]
mod dice;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use dice::Dice;
use nebula_store::{Batch, OpenError, Options, Record, Store, verify_store};

type Entries = BTreeMap<Vec<u8>, Record>;

const SHORT: usize = 60;
const FULL: usize = 1000;
/// Every so many copies get a second damaged file.
const TWO_FILES: usize = 5;

/// What a store holds, and everything it ever held.
#[derive(Default)]
struct Wanted {
    now: Entries,
    ever: BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
enum Outcome {
    /// All is there; the engine's files were good, or good enough to be healed.
    Healed,
    /// All is there; the engine was rebuilt.
    Rebuilt,
    /// Something is missing, and the store says so.
    Lost,
    /// It does not open.
    Refused,
}

fn options() -> Options {
    Options { ballast_bytes: 0, export_every: None, ..Options::default() }
}

fn record(n: usize) -> Record {
    Record { kind: 3, schema: 1, payload: n.to_be_bytes().repeat(1 + n % 40) }
}

/// Writes over and removes keys, with exports and restarts in between, so that every kind of file is there.
async fn filled(dir: &Path) -> Wanted {
    let mut wanted = Wanted::default();
    for round in 0..4 {
        let store = Store::open(dir, options()).unwrap();
        for n in 0..60 {
            let key = format!("n/{:03}", (round * 40 + n * 7) % 150).into_bytes();
            if n % 10 == 9 {
                store.commit(Batch::new().delete(key.clone())).await.unwrap();
                wanted.now.remove(&key);
                continue;
            }
            let record = record(round * 60 + n);
            store.commit(Batch::new().put(key.clone(), record.clone())).await.unwrap();
            wanted.ever.entry(key.clone()).or_default().insert(record.payload.clone());
            wanted.now.insert(key, record);
            if n == 30 && round < 3 {
                store.export_now(None).await.unwrap();
            }
        }
        store.close();
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

/// All files below `dir` but the lock, which holds nothing.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in dir.read_dir().unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else if entry.file_name() != "lock" {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

/// Flips 1 to 8 bits, cuts the end off, or zeroes a range of `file`, and says what it did.
fn damage(file: &Path, dice: &mut Dice) -> String {
    let mut bytes = fs::read(file).unwrap();
    // The engine's log ends in unused space: damage there means nothing.
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    if used == 0 {
        return "nothing to damage".to_owned();
    }
    let text = match dice.below(3) {
        0 => {
            let count = 1 + dice.below(8);
            for _ in 0..count {
                bytes[dice.below(used)] ^= 1 << dice.below(8);
            }
            format!("{count} flipped bits")
        }
        1 => {
            bytes.truncate(dice.below(used));
            format!("cut to {} of {used} bytes", bytes.len())
        }
        _ => {
            let start = dice.below(used);
            let end = used.min(start + 1 + dice.below(used));
            bytes[start..end].fill(0);
            format!("zeroes in {start}..{end} of {used}")
        }
    };
    fs::write(file, bytes).unwrap();
    text
}

/// Opens the damaged copy in `dir` and compares all it returns with what was written.
async fn look(dir: &Path, wanted: &Wanted, what: &str) -> Outcome {
    let store = match Store::open(dir, options()) {
        Ok(store) => store,
        Err(OpenError::Damaged { .. }) => return Outcome::Refused,
        Err(other) => panic!("{what}: damage is not {other}"),
    };
    let found = store.scan(b"n/".to_vec()).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    for (key, record) in &found {
        let known = wanted.ever.get(key).is_some_and(|ever| ever.contains(&record.payload));
        assert!(known, "{what}: wrong record under {}", key.escape_ascii());
    }
    let status = store.status();
    let whole = found.into_iter().collect::<Entries>() == wanted.now;
    let said = status.restored.is_some() || status.set_aside > 0;
    assert!(whole || said, "{what}: something is missing, and the store does not say so");
    // It goes on.
    store
        .commit(Batch::new().put("n/after", record(1)))
        .await
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    store.close();
    let store = Store::open(dir, options()).unwrap_or_else(|error| panic!("{what}, opened again: {error}"));
    assert_eq!(store.get(b"n/after".to_vec()).await, Ok(Some(record(1))), "{what}");
    assert_eq!(store.status().restored, status.restored, "{what}");
    store.close();
    let rebuilt = dir
        .read_dir()
        .unwrap()
        .any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with("db.corrupt-"));
    match (whole, rebuilt) {
        (false, _) => Outcome::Lost,
        (true, true) => Outcome::Rebuilt,
        (true, false) => Outcome::Healed,
    }
}

#[tokio::test]
async fn one_damaged_file_loses_nothing_and_more_are_noticed() {
    let copies = if dice::full() { FULL } else { SHORT };
    let mut dice = Dice::from_env();
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("good");
    let wanted = filled(&good).await;
    let control = dir.path().join("control");
    copy(&good, &control);
    assert_eq!(look(&control, &wanted, "no damage").await, Outcome::Healed);
    let names = files(&good);
    for part in ["db/db", "db/conf", "db/mark", "db/snap.", "redo/", "exports/"] {
        let is_part = |name: &PathBuf| name.strip_prefix(&good).unwrap().to_str().unwrap().starts_with(part);
        assert!(names.iter().any(is_part), "no {part} among {names:?}");
    }

    let mut seen = BTreeMap::<(bool, Outcome), u32>::new();
    for turn in 0..copies {
        let bad = dir.path().join("bad");
        copy(&good, &bad);
        let two = turn % TWO_FILES == TWO_FILES - 1;
        let mut what = format!("copy {turn}");
        for _ in 0..=usize::from(two) {
            let name = names[dice.below(names.len())].strip_prefix(&good).unwrap();
            what = format!("{what}, {}: {}", name.display(), damage(&bad.join(name), &mut dice));
        }
        let outcome = look(&bad, &wanted, &what).await;
        if !two {
            assert!(outcome <= Outcome::Rebuilt, "{what}: {outcome:?}");
            // The first start put everything right, except for old exports that it did not need.
            let verified = verify_store(&bad);
            assert!(verified.is_ok() || what.contains("exports/"), "{what}: {verified:?}");
        }
        *seen.entry((two, outcome)).or_default() += 1;
        fs::remove_dir_all(&bad).unwrap();
    }
    for ((two, outcome), count) in &seen {
        println!("{} damaged: {outcome:?} {count}", if *two { "two files" } else { "one file" });
    }
    assert!(seen.contains_key(&(false, Outcome::Rebuilt)), "no copy was damaged enough: {seen:?}");
}
