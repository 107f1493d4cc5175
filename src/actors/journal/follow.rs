//! Following the journal.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, watch};

use super::{FOLLOWERS_MAX, Filter, Journal, Progress};
use crate::domain::error::{Error, ErrorClass};
use crate::domain::event::JournalEvent;

/// How many lines a follower gets at once.
const BATCH_LINES: usize = 100;

/// What a follower hears.
#[derive(Debug)]
pub enum News {
    /// Lines, oldest first.
    Lines(Vec<Arc<JournalEvent>>),
    /// Lines that came after this number may be missing: they left the journal before they could be handed over.
    Skipped(u64),
    /// Nothing comes any more.
    End,
}

/// Somebody who follows the journal; one of at most [`FOLLOWERS_MAX`].
pub struct Follower {
    journal: Journal,
    filter: Filter,
    cursor: u64,
    /// Reads what is kept, up to where it began; after that what is in memory, which misses nothing.
    catching_up: bool,
    ended: bool,
    progress: watch::Receiver<Progress>,
    _place: OwnedSemaphorePermit,
}

impl Journal {
    /// Follows the journal: from its beginning, or after the number up to which somebody has read it.
    ///
    /// # Errors
    /// `Overloaded` when too many follow it.
    pub fn follow(&self, after: Option<u64>, filter: Filter) -> Result<Follower, Error> {
        let place = self.shared.followers.clone().try_acquire_owned().map_err(|_| {
            let what = format!("{FOLLOWERS_MAX} clients follow the journal, more are not served");
            Error::new(ErrorClass::Overloaded, what)
        })?;
        // A number beyond the last one is of a journal that was longer: of a store that was rebuilt since.
        let newest = self.ledger().newest();
        Ok(Follower {
            journal: self.clone(),
            filter,
            cursor: after.unwrap_or(0).min(newest),
            catching_up: after.is_none(),
            ended: false,
            progress: self.shared.progress.subscribe(),
            _place: place,
        })
    }
}

impl Follower {
    /// The next news. Waits for it.
    ///
    /// # Errors
    /// What the store says.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<News, Error> {
        loop {
            let Progress { last, closed } = *self.progress.borrow_and_update();
            if closed || self.ended {
                return Ok(News::End);
            }
            if !self.catching_up && self.cursor < self.journal.ledger().floor() {
                self.catching_up = true;
                return Ok(News::Skipped(self.cursor));
            }
            let events = if self.catching_up { self.kept().await? } else { self.recent() };
            if !events.is_empty() {
                self.ended = events.iter().any(|event| self.filter.ends_with(event));
                return Ok(News::Lines(events));
            }
            if !self.catching_up && self.cursor >= last && self.progress.changed().await.is_err() {
                return Ok(News::End);
            }
        }
    }

    async fn kept(&mut self) -> Result<Vec<Arc<JournalEvent>>, Error> {
        let page = self.journal.page(self.cursor, BATCH_LINES, &self.filter).await?;
        self.cursor = page.reached;
        self.catching_up = page.more;
        Ok(page.events)
    }

    fn recent(&mut self) -> Vec<Arc<JournalEvent>> {
        let ledger = self.journal.ledger();
        let events: Vec<_> = ledger.recent(self.cursor, BATCH_LINES).cloned().collect();
        self.cursor = match events.last() {
            Some(event) if events.len() == BATCH_LINES => event.seq,
            _ => ledger.last().max(self.cursor),
        };
        drop(ledger);
        events.into_iter().filter(|event| self.filter.matches(event)).collect()
    }
}
