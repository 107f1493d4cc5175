//! What is still to be written down, and what the rows that are written down come to. Pure.
//!
//! Sums are written as they are after adding, so that a commit may be repeated. What was drained goes through in steps:
//! ask the store for the rows ([`Book::next`]), add ([`Book::known`]), write them ([`Book::writes`]) until that has
//! succeeded ([`Book::written`]).

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::domain::usage::{Block, ROWS_PER_DAY_MAX, Sums, UsageId, UsageRow};
use crate::ports::Write;

/// How many rows go into one commit.
const ROWS_PER_COMMIT: usize = 256;

/// The state between the tallies and the store.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// Drained, to be added to what is stored.
    waiting: VecDeque<UsageRow>,
    /// Added up, to be written until that succeeds.
    unsaved: Vec<UsageRow>,
    /// How many rows the store holds, by block.
    counts: BTreeMap<Block, usize>,
    /// A fold has begun and not ended well: how much of it is stored, the counts do not tell.
    folding: bool,
}

impl Book {
    /// A store that holds these rows.
    pub(super) fn load(stored: &[UsageRow]) -> Self {
        let mut book = Self::default();
        stored.iter().for_each(|row| book.count(row.id().block()));
        book
    }

    fn count(&mut self, block: Block) {
        *self.counts.entry(block).or_default() += 1;
    }

    /// The rows that the store holds, by block.
    pub(super) fn counts(&self) -> &BTreeMap<Block, usize> {
        &self.counts
    }

    /// How many rows wait to be written.
    pub(super) fn undelivered(&self) -> usize {
        self.waiting.len() + self.unsaved.len()
    }

    /// What was drained.
    pub(super) fn take(&mut self, rows: Vec<UsageRow>) {
        self.waiting.extend(rows);
    }

    /// The rows that the next step needs to know; none when nothing waits.
    pub(super) fn next(&self) -> Vec<UsageId> {
        self.waiting.iter().take(ROWS_PER_COMMIT).map(UsageRow::id).collect()
    }

    /// Adds what waits to `stored`, which are those rows of `asked` that there are. A row too many of a day is counted
    /// under no key and no model. Answers how many were.
    pub(super) fn known(&mut self, asked: &[UsageId], stored: Vec<UsageRow>) -> usize {
        let mut sums: HashMap<UsageId, Sums> = stored.into_iter().map(|row| (row.id(), row.sums)).collect();
        let (mut changed, mut too_many) = (BTreeMap::new(), 0);
        for row in self.waiting.drain(..asked.len().min(self.waiting.len())).collect::<Vec<_>>() {
            let id = row.id();
            let rest = UsageId { key: None, model: String::new(), ..id.clone() };
            let known = sums.contains_key(&id);
            let crowded = self.counts.get(&id.block()).is_some_and(|count| *count >= ROWS_PER_DAY_MAX);
            if !known && crowded && id != rest {
                too_many += 1;
                self.waiting.push_back(UsageRow::new(rest, row.sums));
                continue;
            }
            if !known {
                self.count(id.block());
            }
            let total = sums.entry(id.clone()).or_default();
            total.add(row.sums);
            changed.insert(id, *total);
        }
        self.unsaved = changed.into_iter().map(|(id, sums)| UsageRow::new(id, sums)).collect();
        too_many
    }

    /// What is to be committed; nothing when a step is to come first.
    pub(super) fn writes(&self) -> Vec<Write> {
        self.unsaved.iter().map(|row| Write::PutUsage(Box::new(row.clone()))).collect()
    }

    /// It is durable. Answers how many rows it was.
    pub(super) fn written(&mut self) -> usize {
        std::mem::take(&mut self.unsaved).len()
    }

    /// A block is about to be folded.
    pub(super) fn fold_begins(&mut self) {
        self.folding = true;
    }

    /// All of it is folded, and counted.
    pub(super) fn fold_ended(&mut self) {
        self.folding = false;
    }

    /// Whether the rows are to be counted again, when nothing waits any more.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.folding
    }

    /// The store holds these rows.
    pub(super) fn recount(&mut self, stored: &[UsageRow]) {
        self.counts = Self::load(stored).counts;
        self.folding = false;
    }

    /// A part of a block was folded into one row.
    pub(super) fn folded(&mut self, parts: &[UsageId], into: &UsageId, into_is_new: bool) {
        for part in parts {
            let block = part.block();
            if let Some(count) = self.counts.get_mut(&block) {
                *count = count.saturating_sub(1);
            }
        }
        if into_is_new {
            self.count(into.block());
        }
        self.counts.retain(|_, count| *count > 0);
    }

    /// A block of which the store has nothing to show: what was counted there was set aside as it could not be read.
    pub(super) fn forget(&mut self, block: Block) {
        self.counts.remove(&block);
    }
}

#[cfg(test)]
mod tests;
