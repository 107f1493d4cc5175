//! The desk on a store that is a fake and refuses when it is told to.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nebula_core::clock::WallTime;
use nebula_core::ids::{DeploymentId, KeyId, NodeId};

use super::*;
use crate::domain::alias::Alias;
use crate::domain::command::Command;
use crate::domain::deployment::Deployment;
use crate::domain::event::{JournalEvent, Ring};
use crate::domain::idempotency::UsedKey;
use crate::domain::key::ApiKey;
use crate::domain::node::Node;
use crate::domain::operation::Operation;
use crate::domain::poison::Poison;
use crate::domain::usage::{Block, Span, Sums, Tallies, UsageId};
use crate::ports::{BoxFuture, ExportReport, SetAsideReport, Store, StoreReport, Write};

/// 2024-02-29T13:45:00Z.
const NOW: u64 = 1_709_214_300_000;
const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;

/// Rows of usage in memory.
#[derive(Default)]
struct Memory {
    rows: Mutex<BTreeMap<UsageId, Sums>>,
    full: AtomicBool,
    /// What it does it does not tell.
    silent: AtomicBool,
}

impl Memory {
    fn rows(&self) -> Vec<UsageRow> {
        let rows = self.rows.lock().expect("a lock");
        rows.iter().map(|(id, sums)| UsageRow::new(id.clone(), *sums)).collect()
    }
}

fn ready<T: Send + 'static>(answer: T) -> BoxFuture<Result<T, StoreError>> {
    Box::pin(async { Ok(answer) })
}

impl Store for Memory {
    fn commit(&self, writes: Vec<Write>) -> BoxFuture<Result<(), StoreError>> {
        if self.full.load(Relaxed) {
            return Box::pin(async { Err(StoreError::Unavailable("the disk is full".to_owned())) });
        }
        let mut rows = self.rows.lock().expect("a lock");
        for write in writes {
            match write {
                Write::PutUsage(row) => drop(rows.insert(row.id(), row.sums)),
                Write::DeleteUsage(id) => assert!(rows.remove(&id).is_some(), "{id:?} is folded once"),
                other => panic!("not about usage: {other:?}"),
            }
        }
        if self.silent.load(Relaxed) {
            return Box::pin(async { Err(StoreError::Failed("no answer".to_owned())) });
        }
        ready(())
    }

    fn aliases(&self) -> BoxFuture<Result<Vec<Alias>, StoreError>> {
        ready(Vec::new())
    }

    fn usage(&self, block: Option<Block>) -> BoxFuture<Result<Vec<UsageRow>, StoreError>> {
        let wanted = |row: &UsageRow| block.is_none_or(|block| row.id().block() == block);
        ready(self.rows().into_iter().filter(wanted).collect())
    }

    fn usage_rows(&self, wanted: Vec<UsageId>) -> BoxFuture<Result<Vec<UsageRow>, StoreError>> {
        ready(self.rows().into_iter().filter(|row| wanted.contains(&row.id())).collect())
    }

    fn nodes(&self) -> BoxFuture<Result<Vec<Node>, StoreError>> {
        ready(Vec::new())
    }

    fn deployment_names(&self) -> BoxFuture<Result<Vec<(DeploymentId, String)>, StoreError>> {
        ready(Vec::new())
    }

    fn deployment(&self, _: DeploymentId) -> BoxFuture<Result<Option<Deployment>, StoreError>> {
        ready(None)
    }

    fn commands(&self, _: NodeId) -> BoxFuture<Result<Vec<Command>, StoreError>> {
        ready(Vec::new())
    }

    fn journal(&self) -> BoxFuture<Result<Vec<JournalEvent>, StoreError>> {
        ready(Vec::new())
    }

    fn lines(&self, _: Vec<(Ring, u64)>) -> BoxFuture<Result<Vec<JournalEvent>, StoreError>> {
        ready(Vec::new())
    }

    fn poison(&self) -> BoxFuture<Result<Vec<Poison>, StoreError>> {
        ready(Vec::new())
    }

    fn used_keys(&self) -> BoxFuture<Result<Vec<UsedKey>, StoreError>> {
        ready(Vec::new())
    }

    fn keys(&self) -> BoxFuture<Result<Vec<ApiKey>, StoreError>> {
        ready(Vec::new())
    }

    fn operations(&self) -> BoxFuture<Result<Vec<Operation>, StoreError>> {
        ready(Vec::new())
    }

    fn census(&self) -> BoxFuture<Result<BTreeMap<&'static str, usize>, StoreError>> {
        ready(BTreeMap::new())
    }

    fn set_aside(&self) -> BoxFuture<Result<Vec<SetAsideReport>, StoreError>> {
        ready(Vec::new())
    }

    fn export(&self) -> BoxFuture<Result<ExportReport, StoreError>> {
        Box::pin(async { Err(StoreError::Unavailable("nothing to export to".to_owned())) })
    }

    fn accept_restored(&self) -> BoxFuture<Result<(), StoreError>> {
        ready(())
    }

    fn report(&self) -> StoreReport {
        StoreReport::default()
    }
}

fn sums(requests: u64) -> Sums {
    Sums { requests, prompt_tokens: requests, ..Sums::default() }
}

fn key(n: u8) -> Option<KeyId> {
    Some(KeyId::from_bytes([n; 16]))
}

async fn desk() -> (Arc<Tallies>, Arc<Memory>, Desk) {
    let (tallies, store) = (Arc::<Tallies>::default(), Arc::<Memory>::default());
    let desk = Desk::new(tallies.clone(), store.clone());
    desk.open().await.expect("opened");
    (tallies, store, desk)
}

fn everything() -> UsageQuery {
    UsageQuery { from: WallTime(0), to: WallTime(u64::MAX), by_key: true, by_model: true }
}

#[tokio::test]
async fn what_was_used_waits_while_the_store_refuses_and_is_written_once() {
    let (tallies, store, desk) = desk().await;
    tallies.add(key(1), "m", WallTime(NOW), sums(1));
    assert_eq!(desk.deliver(None).await.written, 1);
    store.full.store(true, Relaxed);
    for n in 0..300_u64 {
        tallies.add(Some(KeyId::from_bytes(u128::from(n).to_be_bytes())), "m", WallTime(NOW), sums(2));
        tallies.add(key(1), "m", WallTime(NOW), sums(1));
        let progress = desk.deliver(None).await;
        assert!(matches!(progress.failure, Some(StoreError::Unavailable(_))), "{progress:?}");
        assert!(progress.undelivered <= 2, "the rest stays in the tallies: {progress:?}");
    }
    assert_eq!(store.rows().len(), 1);
    store.full.store(false, Relaxed);
    let progress = desk.deliver(None).await;
    assert_eq!((progress.failure, progress.undelivered, progress.rows), (None, 0, 301));
    let total: u64 = store.rows().iter().map(|row| row.sums.requests).sum();
    assert_eq!(total, 1 + 300 * 3);
    let of_one = store.rows().into_iter().find(|row| row.key == key(1)).expect("its row");
    assert_eq!((of_one.sums, of_one.from), (sums(301), Span::Hour.start(WallTime(NOW))));
}

#[tokio::test]
async fn a_reader_sees_what_was_used_until_now() {
    let (tallies, store, desk) = desk().await;
    tallies.add(key(1), "a", WallTime(NOW), sums(3));
    tallies.add(key(2), "a", WallTime(NOW), sums(4));
    assert_eq!(desk.read(everything()).await.expect("read").len(), 2);
    let together = UsageQuery { by_key: false, ..everything() };
    let rows = desk.read(together).await.expect("read");
    assert_eq!(rows.iter().map(|row| (row.key, row.sums)).collect::<Vec<_>>(), [(None, sums(7))]);
    // What cannot be written is not shown, what is written is.
    store.full.store(true, Relaxed);
    tallies.add(key(1), "a", WallTime(NOW), sums(1));
    assert_eq!(desk.read(together).await.expect("read"), rows);
    store.full.store(false, Relaxed);
    assert_eq!(desk.read(together).await.expect("read").first().map(|row| row.sums), Some(sums(8)));
}

#[tokio::test]
async fn old_rows_are_folded_one_block_after_the_other_and_late_ones_follow() {
    let (tallies, store, desk) = desk().await;
    for days in [0, 20, 40, 460] {
        for hour in 0..24_u64 {
            for n in 0..20 {
                let at = WallTime(NOW - days * DAY - NOW % DAY + hour * HOUR);
                tallies.add(key(n), "m", at, sums(1));
            }
        }
    }
    let all = 4 * 24 * 20;
    while desk.deliver(Some(WallTime(NOW))).await.folded > 0 {}
    // Today by the hour, two days, and one month of the year before last.
    let spans = |store: &Memory| {
        let count = |span| store.rows().iter().filter(|row| row.span == span).count();
        Span::ALL.map(count)
    };
    assert_eq!(spans(&store), [24 * 20, 2 * 20, 20, 0]);
    let total = |store: &Memory| store.rows().iter().map(|row| row.sums.requests).sum::<u64>();
    assert_eq!(total(&store), all);
    // Something of a day that is folded already.
    tallies.add(key(1), "m", WallTime(NOW - 20 * DAY), sums(5));
    while desk.deliver(Some(WallTime(NOW))).await.folded > 0 {}
    assert_eq!((spans(&store), total(&store)), ([24 * 20, 2 * 20, 20, 0], all + 5));
    let reopened = Desk::new(Arc::default(), store.clone());
    reopened.open().await.expect("opened");
    assert_eq!(reopened.deliver(None).await.rows, desk.deliver(None).await.rows, "the counts are right");
}

#[tokio::test]
async fn a_fold_that_the_store_refuses_is_done_later() {
    let (tallies, store, desk) = desk().await;
    tallies.add(key(1), "m", WallTime(NOW - 30 * DAY), sums(2));
    desk.deliver(None).await;
    store.full.store(true, Relaxed);
    let progress = desk.deliver(Some(WallTime(NOW))).await;
    assert!(progress.folded == 0 && progress.failure.is_some(), "{progress:?}");
    store.full.store(false, Relaxed);
    assert_eq!(desk.deliver(Some(WallTime(NOW))).await.folded, 1);
    let [row] = store.rows().try_into().expect("one row");
    assert_eq!((row.span, row.sums), (Span::Day, sums(2)));
}

#[tokio::test]
async fn nothing_is_lost_or_counted_twice_when_the_store_does_not_tell_what_it_did() {
    let (tallies, store, desk) = desk().await;
    tallies.add(key(1), "m", WallTime(NOW - 30 * DAY), sums(2));
    store.silent.store(true, Relaxed);
    assert!(desk.deliver(None).await.failure.is_some());
    store.silent.store(false, Relaxed);
    desk.deliver(None).await;
    store.silent.store(true, Relaxed);
    let progress = desk.deliver(Some(WallTime(NOW))).await;
    assert!(progress.folded == 0 && progress.failure.is_some(), "{progress:?}");
    store.silent.store(false, Relaxed);
    let [row] = desk.read(everything()).await.expect("read").try_into().expect("one row");
    assert_eq!((row.span, row.sums), (Span::Day, sums(2)));
    let progress = desk.deliver(Some(WallTime(NOW))).await;
    assert_eq!((progress.rows, progress.folded, progress.failure), (1, 0, None));
}
