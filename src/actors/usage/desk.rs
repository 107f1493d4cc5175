//! Writing usage down: what stands between the tallies and the store. It outlives the actor, so that nothing that was
//! drained is lost when that falls.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use nebula_core::clock::WallTime;
use tokio::sync::Mutex;

use super::ANSWER_ROWS_MAX;
use super::machine::Book;
use crate::actors::system::store_error;
use crate::domain::error::{Error, ErrorClass};
use crate::domain::usage::{Block, ROWS_MAX, Sums, Tallies, UsageId, UsageQuery, UsageRow, fold, next_fold};
use crate::ports::{Store, StoreError, Write};

/// How many writes of a fold go into one commit, and a few more.
const FOLD_WRITES: usize = 256;

/// How things stand after an attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Rows that were written.
    pub(super) written: usize,
    /// Rows that were folded into others.
    pub(super) folded: usize,
    /// Rows that still wait, those in the tallies aside.
    pub(super) undelivered: usize,
    /// How many rows the store holds.
    pub(super) rows: usize,
    /// Why something waits.
    pub(super) failure: Option<StoreError>,
}

/// One desk; whoever writes waits for his turn.
pub(super) struct Desk {
    tallies: Arc<Tallies>,
    store: Arc<dyn Store>,
    book: Mutex<Option<Book>>,
}

impl Desk {
    pub(super) fn new(tallies: Arc<Tallies>, store: Arc<dyn Store>) -> Self {
        Self { tallies, store, book: Mutex::new(None) }
    }

    /// Counts what the store holds, the first time.
    pub(super) async fn open(&self) -> Result<(), StoreError> {
        let mut book = self.book.lock().await;
        if book.is_none() {
            *book = Some(Book::load(&self.store.usage(None).await?));
        }
        Ok(())
    }

    /// Writes down what was used until now. With `now` it also folds a block if one is due.
    pub(super) async fn deliver(&self, now: Option<WallTime>) -> Progress {
        let mut guard = self.book.lock().await;
        let book = guard.get_or_insert_default();
        let mut progress = Progress::default();
        let mut result = self.write(book, &mut progress).await;
        if let (Ok(()), Some(now)) = (&result, now)
            && let Some(block) = next_fold(book.counts(), ROWS_MAX, now)
        {
            result = self.fold(book, block, &mut progress).await;
        }
        progress.failure = result.err();
        progress.undelivered = book.undelivered();
        progress.rows = book.counts().values().sum();
        progress
    }

    /// The rows that are wanted, added up, in no order. Nothing is folded meanwhile, so that nothing is counted twice.
    ///
    /// # Errors
    /// `Unprocessable` when there are more than [`ANSWER_ROWS_MAX`]; what the store says.
    pub(super) async fn read(&self, query: UsageQuery) -> Result<Vec<UsageRow>, Error> {
        let mut guard = self.book.lock().await;
        let book = guard.get_or_insert_default();
        if let Err(error) = self.write(book, &mut Progress::default()).await {
            tracing::warn!(%error, "the newest usage is not shown, as it waits to be written down");
        }
        let mut rows = BTreeMap::new();
        for block in book.counts().keys().filter(|block| query.wants(**block)) {
            let stored = self.store.usage(Some(*block)).await.map_err(store_error)?;
            stored.into_iter().for_each(|row| query.gather(row, &mut rows));
            if rows.len() > ANSWER_ROWS_MAX {
                let why = format!(
                    "this is more than {ANSWER_ROWS_MAX} rows of usage; ask for a shorter time, or tell less apart"
                );
                return Err(Error::new(ErrorClass::Unprocessable, why));
            }
        }
        Ok(rows.into_iter().map(|(id, sums)| UsageRow::new(id, sums)).collect())
    }

    async fn write(&self, book: &mut Book, progress: &mut Progress) -> Result<(), StoreError> {
        // What is left of the last time first: while the store refuses, the rest stays in the tallies, which are bounded.
        self.finish(book, progress).await?;
        book.take(self.tallies.drain());
        self.finish(book, progress).await?;
        if book.is_in_doubt() {
            book.recount(&self.store.usage(None).await?);
        }
        Ok(())
    }

    async fn finish(&self, book: &mut Book, progress: &mut Progress) -> Result<(), StoreError> {
        loop {
            let writes = book.writes();
            if !writes.is_empty() {
                self.store.commit(writes).await?;
                progress.written += book.written();
            }
            let wanted = book.next();
            if wanted.is_empty() {
                return Ok(());
            }
            let stored = self.store.usage_rows(wanted.clone()).await?;
            let too_many = book.known(&wanted, stored);
            if too_many > 0 {
                tracing::warn!(
                    rows = too_many,
                    "too many rows of usage in a day: counted under no key and no model"
                );
            }
        }
    }

    /// Folds all rows of a block, some at a time; each goes in the commit that adds it to where it belongs.
    async fn fold(&self, book: &mut Book, block: Block, progress: &mut Progress) -> Result<(), StoreError> {
        let rows = self.store.usage(Some(block)).await?;
        if rows.is_empty() {
            book.forget(block);
        }
        let mut groups = fold(rows).into_iter().peekable();
        book.fold_begins();
        while groups.peek().is_some() {
            let (mut few, mut writes) = (Vec::new(), 0);
            while let Some((row, parts)) = groups.next_if(|_| writes < FOLD_WRITES) {
                writes += parts.len() + 1;
                few.push((row, parts));
            }
            progress.folded += self.fold_some(book, few).await?;
        }
        book.fold_ended();
        tracing::info!(
            span = block.span.as_str(),
            from = block.start.rfc3339(),
            rows = progress.folded,
            "usage folded"
        );
        Ok(())
    }

    async fn fold_some(
        &self,
        book: &mut Book,
        groups: Vec<(UsageRow, Vec<UsageId>)>,
    ) -> Result<usize, StoreError> {
        let into = groups.iter().map(|(row, _)| row.id()).collect();
        let there = self.store.usage_rows(into).await?.into_iter().map(|row| (row.id(), row.sums));
        let there: HashMap<UsageId, Sums> = there.collect();
        let mut writes = Vec::new();
        for (row, parts) in &groups {
            let mut row = row.clone();
            row.sums.add(there.get(&row.id()).copied().unwrap_or_default());
            writes.push(Write::PutUsage(Box::new(row)));
            writes.extend(parts.iter().map(|part| Write::DeleteUsage(Box::new(part.clone()))));
        }
        self.store.commit(writes).await?;
        let mut folded = 0;
        for (row, parts) in groups {
            let id = row.id();
            book.folded(&parts, &id, !there.contains_key(&id));
            folded += parts.len();
        }
        Ok(folded)
    }
}
