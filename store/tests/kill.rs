//! `kill -9` at random moments: whatever was acked is there afterwards, and a batch is never there in part.
//!
//! The test starts its own binary again as the victim, which commits in a loop and says each ack on its standard
//! output. The pipe is the journal: what was written to it before the kill can still be read.

#![expect(clippy::unwrap_used, reason = "a test's helpers may fail the test")]

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use nebula_store::{Batch, Options, Record, Store, codec};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

const VICTIM_DIR: &str = "NEBULA_STORE_VICTIM_DIR";
const THIS_TEST: &str = "acked_commits_survive_kill_9";
const KILLS: u32 = 20;
/// Long enough to reach the middle of opening, of the first commits and of a long run.
const LONGEST_LIFE_MS: u64 = 250;
/// Commits that are in flight together, so that they share groups.
const TOGETHER: u64 = 8;

#[tokio::test]
async fn acked_commits_survive_kill_9() {
    if let Some(dir) = std::env::var_os(VICTIM_DIR) {
        commit_until_killed(Path::new(&dir)).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut lives = random_lives();
    let mut acked = BTreeSet::new();
    for kill in 0..KILLS {
        let life = lives.next().unwrap();
        acked.extend(acks_before_kill(dir.path(), life));
        let store = Store::open(dir.path(), Options::default()).unwrap();
        let kept = numbers(&store, "a/").await;
        assert_eq!(kept, numbers(&store, "b/").await, "half a batch after kill {kill}");
        let lost = acked.difference(&kept).collect::<Vec<_>>();
        assert!(lost.is_empty(), "kill {kill} after {life:?} lost {lost:?} of {} acks", acked.len());
        assert_eq!(store.status().set_aside, 0);
        store.close();
    }
    assert!(acked.len() > 100, "too few commits to mean anything: {}", acked.len());
}

/// How long each victim lives.
fn random_lives() -> impl Iterator<Item = Duration> {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    std::iter::repeat_with(move || {
        Duration::from_millis((0..LONGEST_LIFE_MS).new_tree(&mut runner).unwrap().current())
    })
}

/// Starts a victim, kills it after `life` and returns what it had acked.
fn acks_before_kill(dir: &Path, life: Duration) -> Vec<u64> {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", THIS_TEST, "--nocapture"])
        .env(VICTIM_DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap());
    let acks = kill_after(&mut victim, lines, life);
    assert!(!victim.wait().unwrap().success());
    acks
}

fn kill_after(victim: &mut Child, lines: BufReader<ChildStdout>, life: Duration) -> Vec<u64> {
    let (done, ended) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let acks = lines.lines().map_while(Result::ok).filter_map(|line| ack(&line)).collect::<Vec<_>>();
        let _ = done.send(());
        acks
    });
    // A victim that ends before its time has failed, and its output ends with it.
    assert_eq!(ended.recv_timeout(life), Err(mpsc::RecvTimeoutError::Timeout), "the victim ended by itself");
    victim.kill().unwrap();
    reader.join().unwrap()
}

/// A line that the kill cut short has no end mark.
fn ack(line: &str) -> Option<u64> {
    line.strip_prefix("ack ")?.strip_suffix('.')?.parse().ok()
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
    let store = Store::open(dir, Options::default()).unwrap();
    let first = numbers(&store, "a/").await.last().map_or(0, |last| last + 1);
    for start in (first..).step_by(TOGETHER as usize) {
        let commits = (start..start + TOGETHER).map(|n| (n, store.commit(pair(n)))).collect::<Vec<_>>();
        for (n, commit) in commits {
            commit.await.unwrap();
            println!("ack {n}.");
        }
    }
}

/// Two records of a size that differs from pair to pair.
fn pair(n: u64) -> Batch {
    let filler = vec![0x5A_u8; (n * 37 % 2000) as usize];
    let record = Record { kind: 1, schema: 1, payload: codec::encode(&(n, filler)).unwrap() };
    let key = |prefix: &[u8]| [prefix, &n.to_be_bytes()].concat();
    Batch::new().require_absent(key(b"a/")).put(key(b"a/"), record.clone()).put(key(b"b/"), record)
}
