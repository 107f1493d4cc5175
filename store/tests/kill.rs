//! `kill -9` at random moments: whatever was acked is there afterwards, and a batch is never there in part.
//!
//! The test starts its own binary again as the victim, which commits in a loop and says each ack on its standard
//! output. The pipe is the journal: what was written to it before the kill can still be read. The victims export all
//! the time; before some of them the engine is damaged, so that they are killed while they rebuild it, and some compact
//! it at their start.
//!
//! 20 kills by default, 500 with `NEBULA_FULL=1`; `NEBULA_SEED` draws the same lives again.

#![expect(clippy::unwrap_used, reason = "a test's helpers may fail the test")]

#[path = "support/dice.rs"]
mod dice;

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use dice::Dice;
use nebula_store::{Batch, Options, Record, Store, codec, import, verify_store};

const VICTIM_DIR: &str = "NEBULA_STORE_VICTIM_DIR";
const VICTIM_COMPACTS: &str = "NEBULA_STORE_VICTIM_COMPACTS";
const SHORT: usize = 20;
const FULL: usize = 500;
/// Long enough to reach the middle of opening, of the first commits and of a long run.
const LONGEST_LIFE_MS: usize = 400;
/// Rebuilding and compacting take longer.
const LONGEST_REPAIR_MS: usize = 700;
/// Checking every export takes long without optimization.
const VERIFY_EVERY: usize = 10;
/// Commits that are in flight together, so that they share groups.
const TOGETHER: u64 = 8;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Before {
    Nothing,
    Damage,
    Removal,
    Compaction,
}

fn options() -> Options {
    Options { ballast_bytes: 0, export_every: None, ..Options::default() }
}

fn kills() -> usize {
    if dice::full() { FULL } else { SHORT }
}

#[tokio::test]
async fn acked_commits_survive_kill_9() {
    const THIS_TEST: &str = "acked_commits_survive_kill_9";
    if let Some(dir) = std::env::var_os(VICTIM_DIR) {
        commit_until_killed(Path::new(&dir)).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut dice = Dice::from_env();
    let mut acked = BTreeSet::new();
    let mut rebuilt = 0;
    for kill in 0..kills() {
        let before = match kill % 5 {
            2 => Before::Damage,
            3 => Before::Removal,
            4 => Before::Compaction,
            _ => Before::Nothing,
        };
        let longest = if before == Before::Nothing { LONGEST_LIFE_MS } else { LONGEST_REPAIR_MS };
        let life = Duration::from_millis(dice.below(longest) as u64);
        prepare(dir.path(), before, &mut dice);
        let compacts = (before == Before::Compaction).then_some((VICTIM_COMPACTS, "1"));
        acked.extend(said_before_kill(dir.path(), THIS_TEST, compacts, "ack", life));
        let what = format!("kill {kill} after {life:?}, {before:?}");
        let store = Store::open(dir.path(), options()).unwrap_or_else(|error| panic!("{what}: {error}"));
        let kept = numbers(&store, "a/").await;
        assert_eq!(kept, numbers(&store, "b/").await, "half a batch: {what}");
        let lost = acked.difference(&kept).collect::<Vec<_>>();
        assert!(lost.is_empty(), "{what} lost {lost:?} of {} acks", acked.len());
        assert_eq!((store.status().set_aside, store.status().restored), (0, None), "{what}");
        store.close();
        if kill % VERIFY_EVERY == 0 {
            verify_store(dir.path()).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        rebuilt += usize::from(forget_damaged(dir.path()) || (before == Before::Removal && kill > 0));
    }
    println!("{} kills, {} acks, {rebuilt} rebuilt", kills(), acked.len());
    assert!(acked.len() > 100, "too few commits to mean anything: {}", acked.len());
    assert!(rebuilt > 0, "no victim had to rebuild");
}

/// Does what the next victim is to find.
fn prepare(dir: &Path, before: Before, dice: &mut Dice) {
    let engine = dir.join("db");
    match before {
        Before::Damage if engine.exists() => {
            let mut bytes = fs::read(engine.join("db")).unwrap();
            let start = dice.below(bytes.len());
            let end = bytes.len().min(start + 4096);
            bytes.get_mut(start..end).unwrap().fill(0x55);
            fs::write(engine.join("db"), bytes).unwrap();
        }
        Before::Removal if engine.exists() => fs::remove_dir_all(engine).unwrap(),
        _ => {}
    }
}

/// Removes what was set aside, which the store itself never does, and says whether there was any.
fn forget_damaged(dir: &Path) -> bool {
    let paths = dir.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let corrupt = paths.filter(|path| path.to_str().unwrap().contains("db.corrupt-")).collect::<Vec<_>>();
    corrupt.iter().for_each(|path| fs::remove_dir_all(path).unwrap());
    !corrupt.is_empty()
}

/// Starts a victim, kills it after `life` and returns the numbers it had said behind `word`.
fn said_before_kill(
    dir: &Path,
    test: &str,
    env: Option<(&str, &str)>,
    word: &'static str,
    life: Duration,
) -> Vec<u64> {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(VICTIM_DIR, dir)
        .envs(env)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap());
    let said = kill_after(&mut victim, lines, word, life);
    assert!(!victim.wait().unwrap().success());
    said
}

fn kill_after(
    victim: &mut Child,
    lines: BufReader<ChildStdout>,
    word: &'static str,
    life: Duration,
) -> Vec<u64> {
    let (done, ended) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let numbers = lines.lines().map_while(Result::ok).filter_map(|line| number(&line, word));
        let numbers = numbers.collect::<Vec<_>>();
        let _ = done.send(());
        numbers
    });
    // A victim that ends before its time has failed, and its output ends with it.
    assert_eq!(ended.recv_timeout(life), Err(mpsc::RecvTimeoutError::Timeout), "the victim ended by itself");
    victim.kill().unwrap();
    reader.join().unwrap()
}

/// A line that the kill cut short has no end mark.
fn number(line: &str, word: &str) -> Option<u64> {
    line.strip_prefix(word)?.trim_start().strip_suffix('.')?.parse().ok()
}

async fn numbers(store: &Store, prefix: &str) -> BTreeSet<u64> {
    let records = store.scan(prefix.into()).await.unwrap();
    let number = |(key, record): &(Vec<u8>, Record)| {
        let number = codec::decode::<(u64, Vec<u8>)>(&record.payload).unwrap().0;
        assert!(key.ends_with(&number.to_be_bytes()));
        number
    };
    records.iter().map(number).collect()
}

async fn commit_until_killed(dir: &Path) {
    let compact_above_bytes =
        if std::env::var_os(VICTIM_COMPACTS).is_some() { 0 } else { options().compact_above_bytes };
    let store = Store::open(dir, Options { compact_above_bytes, ..options() }).unwrap();
    let first = numbers(&store, "a/").await.last().map_or(0, |last| last + 1);
    for start in (first..).step_by(TOGETHER as usize) {
        // Its end is waited for with the next group, so that commits go on while the disk is waited for.
        let export = store.export_now(None);
        let commits = (start..start + TOGETHER).map(|n| (n, store.commit(pair(n)))).collect::<Vec<_>>();
        for (n, commit) in commits {
            commit.await.unwrap();
            println!("ack {n}.");
        }
        export.await.unwrap();
    }
}

/// Two records of a size that differs from pair to pair.
fn pair(n: u64) -> Batch {
    let filler = vec![0x5A_u8; (n * 37 % 300) as usize];
    let record = Record { kind: 1, schema: 1, payload: codec::encode(&(n, filler)).unwrap() };
    let key = |prefix: &[u8]| [prefix, &n.to_be_bytes()].concat();
    Batch::new().require_absent(key(b"a/")).put(key(b"a/"), record.clone()).put(key(b"b/"), record)
}

/// The directory that imports take place in, and the files that are imported, side by side.
const TARGET: &str = "target";

#[tokio::test]
async fn an_import_is_whole_or_did_not_happen_after_kill_9() {
    const THIS_TEST: &str = "an_import_is_whole_or_did_not_happen_after_kill_9";
    if let Some(dir) = std::env::var_os(VICTIM_DIR) {
        import_until_killed(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    for file in 0..3 {
        let store = Store::open(&dir.path().join(format!("source{file}")), options()).unwrap();
        for n in 0..50 {
            let record = Record { kind: 1, schema: 1, payload: vec![file, n] };
            store.commit(Batch::new().put(vec![b'k', n], record)).await.unwrap();
        }
        store.export_now(Some(dir.path().join(format!("{file}.export")))).await.unwrap();
        store.close();
    }
    let target = dir.path().join(TARGET);
    import(&target, &dir.path().join("0.export"), false).unwrap();
    let mut dice = Dice::from_env();
    let mut turns = 0;
    for kill in 0..kills() / 2 {
        let life = Duration::from_millis(dice.below(2 * LONGEST_REPAIR_MS) as u64);
        let said = said_before_kill(dir.path(), THIS_TEST, None, "imported", life);
        let what = format!("kill {kill} after {life:?}");
        let store = Store::open(&target, options()).unwrap_or_else(|error| panic!("{what}: {error}"));
        let found = store.scan(b"k".to_vec()).await.unwrap();
        let file = found.first().map(|(_, record)| record.payload.first().copied().unwrap()).unwrap();
        let wanted = (0..50).map(|n| (vec![b'k', n], vec![file, n]));
        assert!(wanted.eq(found.into_iter().map(|(key, record)| (key, record.payload))), "{what}");
        // What was said last is there, or the one after it.
        let last = said.last().copied().unwrap_or(0) % 3;
        assert!(
            said.is_empty() || [last, (last + 1) % 3].contains(&u64::from(file)),
            "{what}: {file} after {last}"
        );
        assert!(store.status().restored.is_some(), "{what}: an import has to be accepted");
        store.close();
        turns += said.len();
        let paths = target.read_dir().unwrap().map(|entry| entry.unwrap().path());
        let aside = paths.filter(|path| path.to_str().unwrap().contains("db.")).collect::<Vec<_>>();
        aside.iter().for_each(|path| fs::remove_dir_all(path).unwrap());
    }
    println!("{} kills, {turns} imports", kills() / 2);
    assert!(turns > 0, "no import was ever completed");
}

/// Imports the files in turn, the first one first.
fn import_until_killed(dir: &Path) {
    for turn in 0_u64.. {
        import(&dir.join(TARGET), &dir.join(format!("{}.export", turn % 3)), true).unwrap();
        println!("imported {turn}.");
    }
}
