//! A disk that is full for real: a small tmpfs, filled by another file. Skipped where mounting is not permitted.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test's helpers may fail the test")]

use std::{
    collections::BTreeSet,
    fs::File,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nebula_core::clock::Clock;
use nebula_store::{
    Batch, CommitError, DiskLevel, MAX_VALUE_BYTES, Options, ReadError, Record, Store, StoreState,
};

const VOLUME_BYTES: u64 = 32 * 1024 * 1024;
const DEADLINE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// A mounted tmpfs, unmounted at the end of the test.
struct Volume {
    dir: tempfile::TempDir,
}

impl Volume {
    /// None, with the reason on the standard error, where it cannot be mounted.
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={VOLUME_BYTES}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path());
        match mount.output() {
            Ok(output) if output.status.success() => Some(Self { dir }),
            Ok(output) => {
                eprintln!("skipped: tmpfs not mounted: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                eprintln!("skipped: `mount` cannot be run: {error}");
                None
            }
        }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn free_bytes(&self) -> u64 {
        let volume = rustix::fs::statvfs(self.dir.path()).unwrap();
        volume.f_bavail * volume.f_frsize
    }

    /// Takes all space but `rest` bytes.
    fn fill(&self, rest: u64) -> Filler {
        let path = self.dir.path().join("filler");
        let mut file = File::create(&path).unwrap();
        while self.free_bytes() > rest {
            match file.write(&[1; 16 * 1024]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("volume not filled: {error}"),
            }
        }
        Filler { path }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(self.dir.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

/// What takes the space, until it is dropped.
struct Filler {
    path: PathBuf,
}

impl Drop for Filler {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).unwrap();
    }
}

fn open(dir: &Path) -> Store {
    Store::open(dir, Options::default()).unwrap()
}

fn key(n: u32) -> Vec<u8> {
    [b"n/", &n.to_be_bytes()[..]].concat()
}

fn record(n: u32) -> Record {
    Record { kind: 1, schema: 1, payload: n.to_be_bytes().repeat(100) }
}

async fn pause(clock: &Clock, what: &str) {
    assert!(clock.elapsed() < DEADLINE, "{what}");
    tokio::time::sleep(POLL).await;
}

/// Commits record after record from `next` on, noting those that were acknowledged, until one ends as `wanted`.
async fn commit_until(
    store: &Store,
    acked: &mut BTreeSet<u32>,
    next: &mut u32,
    wanted: &Result<(), CommitError>,
) {
    let clock = Clock::start();
    loop {
        *next += 1;
        let answer = store.commit(Batch::new().put(key(*next), record(*next))).await;
        if answer.is_ok() {
            acked.insert(*next);
        }
        if answer == *wanted {
            return;
        }
        let passing =
            [Ok(()), Err(CommitError::Failed), Err(CommitError::Unavailable), Err(CommitError::DiskFull)];
        assert!(passing.contains(&answer), "{answer:?}");
        pause(&clock, &format!("no {wanted:?} but {answer:?}: {:?}", store.status())).await;
    }
}

/// All records, each checked; waits while the store opens its engine again.
async fn numbers(store: &Store) -> BTreeSet<u32> {
    let clock = Clock::start();
    loop {
        match store.scan(b"n/".to_vec()).await {
            Err(ReadError::Unavailable) => pause(&clock, "still reopening").await,
            found => {
                let number = |(key, found): (Vec<u8>, Record)| {
                    let number = u32::from_be_bytes(*key.last_chunk().unwrap());
                    assert_eq!(found, record(number));
                    number
                };
                return found.unwrap().into_iter().map(number).collect();
            }
        }
    }
}

async fn eventually(store: &Store, what: &str, holds: impl Fn(&Store) -> bool) {
    let clock = Clock::start();
    while !holds(store) {
        pause(&clock, &format!("not {what}: {:?}", store.status())).await;
    }
}

#[tokio::test]
async fn a_full_disk_is_refused_clearly_read_all_the_same_and_recovers_by_itself() {
    let Some(volume) = Volume::mount() else { return };
    let store = open(&volume.data());
    let (mut acked, mut next) = (BTreeSet::new(), 0);
    for _ in 0..50 {
        commit_until(&store, &mut acked, &mut next, &Ok(())).await;
    }
    assert_eq!(store.status().disk.ballast_bytes, VOLUME_BYTES / 100 * 5);

    let filler = volume.fill(0);
    commit_until(&store, &mut acked, &mut next, &Err(CommitError::DiskFull)).await;
    let status = store.status();
    assert_eq!((status.state, status.failed), (StoreState::Ok, None));
    assert_eq!((status.disk.level, status.disk.ballast_bytes), (DiskLevel::Full, 0));
    assert!(numbers(&store).await.is_superset(&acked));
    // What the reserve gave back is for this.
    let gone = acked.pop_first().unwrap();
    assert_eq!(store.commit(Batch::new().delete(key(gone)).freeing()).await, Ok(()));

    drop(filler);
    commit_until(&store, &mut acked, &mut next, &Ok(())).await;
    eventually(&store, "with a reserve again", |store| store.status().disk.ballast_bytes > 0).await;
    store.close();
    let kept = numbers(&open(&volume.data())).await;
    assert!(kept.is_superset(&acked) && !kept.contains(&gone));
}

#[tokio::test]
async fn a_store_on_a_full_disk_opens_with_the_space_it_kept_in_reserve() {
    let Some(volume) = Volume::mount() else { return };
    let store = open(&volume.data());
    let (mut acked, mut next) = (BTreeSet::new(), 0);
    for _ in 0..50 {
        commit_until(&store, &mut acked, &mut next, &Ok(())).await;
    }
    store.close();
    let filler = volume.fill(0);
    let store = open(&volume.data());
    assert!(numbers(&store).await.is_superset(&acked));
    assert_eq!(store.status().disk.level, DiskLevel::Full);
    let begun = Batch::new().put(key(0), record(0));
    assert_eq!(store.commit(begun).await, Err(CommitError::DiskFull));
    let gone = acked.pop_first().unwrap();
    assert_eq!(store.commit(Batch::new().delete(key(gone)).freeing()).await, Ok(()));
    drop(filler);
    commit_until(&store, &mut acked, &mut next, &Ok(())).await;
    store.close();
}

#[tokio::test]
async fn a_disk_that_fills_up_in_the_middle_of_a_write_loses_nothing_acknowledged() {
    let Some(volume) = Volume::mount() else { return };
    let options = Options { ballast_bytes: 0, ..Options::default() };
    let store = Store::open(&volume.data(), options).unwrap();
    let (mut acked, mut next) = (BTreeSet::new(), 0);
    for _ in 0..50 {
        commit_until(&store, &mut acked, &mut next, &Ok(())).await;
    }
    // More than two percent, so nothing is refused beforehand, and less than one batch takes.
    let filler = volume.fill(VOLUME_BYTES / 100 * 2 + 64 * 1024);
    let mut large = Batch::new();
    for n in 0..140_u8 {
        large = large.put([b'x', n], Record { kind: 1, schema: 1, payload: vec![n; MAX_VALUE_BYTES] });
    }
    assert_eq!(store.commit(large).await, Err(CommitError::Failed));
    eventually(&store, "open again or waiting for space", |store| {
        store.status().failed.is_none() && store.status().disk.level == DiskLevel::Full
    })
    .await;

    drop(filler);
    commit_until(&store, &mut acked, &mut next, &Ok(())).await;
    eventually(&store, "well", |store| {
        store.status().state == StoreState::Ok && store.status().disk.level < DiskLevel::Scarce
    })
    .await;
    assert!(numbers(&store).await.is_superset(&acked));
    let half = store.scan(b"x".to_vec()).await.unwrap().len();
    assert!(half == 0 || half == 140, "{half} of 140 records of one batch");
    store.close();
    assert!(numbers(&open(&volume.data())).await.is_superset(&acked));
}
