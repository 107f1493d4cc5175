//! What was used and is not written down yet.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use nebula_core::clock::WallTime;
use nebula_core::ids::KeyId;

use super::{Span, Sums, UsageId, UsageRow};

/// Each thread adds to a part of its own, as long as there are no more threads than parts.
const PARTS: usize = 32;
/// So many rows a part tells apart until it is drained.
const ROWS_PER_PART_MAX: usize = 4_096;
/// So many rows are told apart until they are drained. What is beyond it is counted under no key and no model.
pub const TALLIES_MAX: usize = PARTS * ROWS_PER_PART_MAX;
/// The longest name of a model, in bytes; longer ones are counted under no model.
const MODEL_BYTES_MAX: usize = 512;

static NEXT_THREAD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static PART: Cell<usize> = Cell::new(NEXT_THREAD.fetch_add(1, Ordering::Relaxed) % PARTS);
}

/// Sums that were added since they were last drained, shared by all threads.
#[derive(Debug)]
pub struct Tallies {
    parts: Vec<Mutex<Part>>,
}

type ByKeyAndHour = HashMap<(Option<KeyId>, WallTime), Sums>;

#[derive(Debug, Default)]
struct Part {
    by_model: HashMap<String, ByKeyAndHour>,
    rows: usize,
    /// What did not find a row of its own, counted to the hour of the first of it.
    rest: Option<(WallTime, Sums)>,
}

impl Default for Tallies {
    fn default() -> Self {
        Self { parts: (0..PARTS).map(|_| Mutex::default()).collect() }
    }
}

impl Tallies {
    /// Adds what a request used that ended at this time.
    pub fn add(&self, key: Option<KeyId>, model: &str, at: WallTime, sums: Sums) {
        let model = if model.len() > MODEL_BYTES_MAX { "" } else { model };
        let Some(part) = self.parts.get(PART.with(Cell::get)) else { return };
        let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
        part.add(key, model, Span::Hour.start(at), sums);
    }

    /// Takes out everything, as rows of hours.
    #[must_use]
    pub fn drain(&self) -> Vec<UsageRow> {
        let mut rows: BTreeMap<UsageId, Sums> = BTreeMap::new();
        let mut gather = |key, model: &str, from, sums| {
            let id = UsageId { span: Span::Hour, from, key, model: model.to_owned() };
            rows.entry(id).or_default().add(sums);
        };
        for part in &self.parts {
            let part = std::mem::take(&mut *part.lock().unwrap_or_else(PoisonError::into_inner));
            for (model, sums) in &part.by_model {
                sums.iter().for_each(|((key, from), sums)| gather(*key, model, *from, *sums));
            }
            if let Some((from, sums)) = part.rest {
                gather(None, "", from, sums);
            }
        }
        rows.into_iter().map(|(id, sums)| UsageRow::new(id, sums)).collect()
    }

    /// How many rows there are to drain.
    #[must_use]
    pub fn len(&self) -> usize {
        let len = |part: &Mutex<Part>| {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            part.rows + usize::from(part.rest.is_some())
        };
        self.parts.iter().map(len).sum()
    }

    /// Whether nothing was added since the last drain.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Part {
    fn add(&mut self, key: Option<KeyId>, model: &str, hour: WallTime, sums: Sums) {
        if let Some(known) = self.by_model.get_mut(model).and_then(|rows| rows.get_mut(&(key, hour))) {
            known.add(sums);
        } else if self.rows < ROWS_PER_PART_MAX {
            self.rows += 1;
            self.by_model.entry(model.to_owned()).or_default().insert((key, hour), sums);
        } else {
            self.rest.get_or_insert((hour, Sums::default())).1.add(sums);
        }
    }
}
