//! Which lines the journal holds: numbers, rings and the order in which readers see them. Pure.
//!
//! A line gets its number before it is durable, and commits end in any order. So a number is *pending* until its
//! commit has ended either way, and a line is shown to readers when no lower number is pending: whoever has read up
//! to a number never misses a line below it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::domain::event::{JournalEvent, Line, Ring};

/// How many of the newest lines are kept in memory, for followers and to spare the store.
pub(super) const RECENT_MAX: usize = 10_000;

/// The lines of one commit.
#[derive(Debug, Default)]
pub(super) struct Entry {
    /// All numbers that were handed out for it.
    numbers: Vec<u64>,
    /// What is to be written.
    pub(super) events: Vec<JournalEvent>,
    /// What is to be deleted, as its ring is full or its subject is gone.
    pub(super) dropped: Vec<(Ring, u64)>,
}

/// A line that is kept: its place and, if it is in memory, what it says.
pub(super) type Kept = (Ring, u64, Option<Arc<JournalEvent>>);

/// The state of the journal.
#[derive(Debug)]
pub(super) struct Ledger {
    next: u64,
    /// Numbers of the lines that are durable or being written, by ring.
    rings: BTreeMap<Ring, BTreeSet<u64>>,
    /// The durable ones.
    kept: BTreeMap<u64, Ring>,
    pending: BTreeSet<u64>,
    /// Pending ones that another commit has deleted.
    doomed: BTreeSet<u64>,
    /// Durable, and behind a pending one.
    ready: BTreeMap<u64, Arc<JournalEvent>>,
    /// The newest ones that readers may see, also those that have left the store since.
    recent: VecDeque<Arc<JournalEvent>>,
    /// Every line that readers may see and whose number is greater is in `recent`.
    floor: u64,
}

impl Ledger {
    /// The journal as it was stored.
    pub(super) fn load(mut stored: Vec<JournalEvent>) -> Self {
        stored.sort_by_key(|event| event.seq);
        let mut ledger = Self {
            next: stored.last().map_or(0, |event| event.seq) + 1,
            rings: BTreeMap::new(),
            kept: BTreeMap::new(),
            pending: BTreeSet::new(),
            doomed: BTreeSet::new(),
            ready: BTreeMap::new(),
            recent: VecDeque::new(),
            floor: 0,
        };
        for event in stored {
            ledger.rings.entry(event.ring()).or_default().insert(event.seq);
            ledger.kept.insert(event.seq, event.ring());
            ledger.show(Arc::new(event));
        }
        ledger
    }

    /// Numbers lines that go into one commit, and makes room for them. The rings in `ended` lose all their lines.
    pub(super) fn enter(&mut self, lines: Vec<Line>, ended: &[Ring]) -> Entry {
        let mut entry = Entry::default();
        for line in lines {
            let event = JournalEvent { seq: self.next, line };
            self.next += 1;
            self.pending.insert(event.seq);
            entry.numbers.push(event.seq);
            let ring = event.ring();
            let numbers = self.rings.entry(ring.clone()).or_default();
            numbers.insert(event.seq);
            while numbers.len() > ring.lines_max() {
                entry.dropped.extend(numbers.pop_first().map(|seq| (ring.clone(), seq)));
            }
            entry.events.push(event);
        }
        for ring in ended {
            let numbers = self.rings.remove(ring).unwrap_or_default();
            entry.dropped.extend(numbers.into_iter().map(|seq| (ring.clone(), seq)));
        }
        // What would leave in the commit with which it comes is not written at all.
        let gone: BTreeSet<u64> = entry.dropped.iter().map(|(_, seq)| *seq).collect();
        entry.events.retain(|event| !gone.contains(&event.seq));
        entry.dropped.retain(|(_, seq)| !entry.numbers.contains(seq));
        entry
    }

    /// The entry's commit has ended, well or not.
    pub(super) fn settle(&mut self, entry: Entry, durable: bool) {
        if durable {
            self.keep(entry.events);
            for (_, seq) in entry.dropped {
                // One that is still being written goes when it comes.
                if self.kept.remove(&seq).is_none() && self.pending.contains(&seq) {
                    self.doomed.insert(seq);
                }
            }
        } else {
            for event in &entry.events {
                self.strike(&event.ring(), event.seq);
            }
            for (ring, seq) in entry.dropped {
                if self.kept.contains_key(&seq) || self.pending.contains(&seq) {
                    self.rings.entry(ring).or_default().insert(seq);
                }
            }
        }
        for number in &entry.numbers {
            self.pending.remove(number);
        }
        let last = self.last();
        while let Some(first) = self.ready.first_entry().filter(|first| *first.key() <= last) {
            let event = first.remove();
            self.show(event);
        }
    }

    fn keep(&mut self, events: Vec<JournalEvent>) {
        for event in events {
            if !self.doomed.remove(&event.seq) {
                self.kept.insert(event.seq, event.ring());
            }
            self.ready.insert(event.seq, Arc::new(event));
        }
    }

    fn strike(&mut self, ring: &Ring, seq: u64) {
        self.doomed.remove(&seq);
        if let Some(numbers) = self.rings.get_mut(ring) {
            numbers.remove(&seq);
            if numbers.is_empty() {
                self.rings.remove(ring);
            }
        }
    }

    fn show(&mut self, event: Arc<JournalEvent>) {
        self.recent.push_back(event);
        if self.recent.len() > RECENT_MAX
            && let Some(oldest) = self.recent.pop_front()
        {
            self.floor = oldest.seq;
        }
    }

    /// The highest number up to which readers may read.
    pub(super) fn last(&self) -> u64 {
        self.pending.first().unwrap_or(&self.next) - 1
    }

    /// The highest number that was handed out.
    pub(super) fn newest(&self) -> u64 {
        self.next - 1
    }

    /// Whoever has read up to here or further misses nothing by reading on in memory.
    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    /// Up to `max` lines after `after` in memory.
    pub(super) fn recent(&self, after: u64, max: usize) -> impl Iterator<Item = &Arc<JournalEvent>> {
        let first = self.recent.partition_point(|event| event.seq <= after);
        self.recent.range(first..).take(max)
    }

    /// The lines in memory, newest first.
    pub(super) fn backwards(&self) -> impl Iterator<Item = &Arc<JournalEvent>> {
        self.recent.iter().rev()
    }

    /// Up to `max` lines that are kept after `after` and that readers may see, of these rings or of all.
    pub(super) fn kept(&self, after: u64, rings: Option<&[Ring]>, max: usize) -> Vec<Kept> {
        let (first, last) = (after.saturating_add(1), self.last());
        if first > last {
            return Vec::new();
        }
        let kept = |seq: &&u64| self.kept.contains_key(*seq);
        let mut numbers: Vec<u64> = match rings {
            None => self.kept.range(first..=last).take(max).map(|(seq, _)| *seq).collect(),
            Some(rings) => {
                let of_rings = rings.iter().filter_map(|ring| self.rings.get(ring));
                of_rings.flat_map(|all| all.range(first..=last).filter(kept).take(max).copied()).collect()
            }
        };
        numbers.sort_unstable();
        numbers.truncate(max);
        let place = |seq: u64| Some((self.kept.get(&seq)?.clone(), seq, self.in_memory(seq)));
        numbers.into_iter().filter_map(place).collect()
    }

    fn in_memory(&self, seq: u64) -> Option<Arc<JournalEvent>> {
        let at = self.recent.binary_search_by_key(&seq, |event| event.seq).ok()?;
        self.recent.get(at).cloned()
    }
}

#[cfg(test)]
mod tests;
