//! Reading the journal page by page.

use std::sync::Arc;

use nebula_core::ids::{DeploymentId, NodeId};

use super::{Journal, SETTLE_TIMEOUT};
use crate::actors::system::store_error;
use crate::domain::error::Error;
use crate::domain::event::{DEPLOYMENT_DELETED, JournalEvent, Ring};

/// How many lines are looked at in one step.
const STEP_LINES: usize = 500;
/// How many lines are looked at for one page, matching or not.
const EXAMINED_MAX: usize = 5_000;

/// Which lines are wanted.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Those about this deployment, with what was done to it.
    pub deployment: Option<DeploymentId>,
    /// Those about this node.
    pub node: Option<NodeId>,
    /// Those whose type begins with this.
    pub kind: String,
    /// Of a deployment only what it tells itself, and that it is gone.
    pub own: bool,
}

impl Filter {
    /// What a deployment tells of itself.
    #[must_use]
    pub fn of_deployment(id: DeploymentId) -> Self {
        Self { deployment: Some(id), own: true, ..Self::default() }
    }

    /// Whether a line is wanted.
    #[must_use]
    pub fn matches(&self, event: &JournalEvent) -> bool {
        let line = &event.line;
        if self.ends_with(event) {
            return true;
        }
        self.deployment.is_none_or(|id| event.deployment() == Some(id))
            && self.node.as_ref().is_none_or(|id| line.node.as_ref() == Some(id))
            && line.kind.starts_with(&self.kind)
            && !(self.own && event.ring() == Ring::Audit)
    }

    /// Whether a line is the last that is ever wanted.
    #[must_use]
    pub fn ends_with(&self, event: &JournalEvent) -> bool {
        self.own && event.line.kind == DEPLOYMENT_DELETED && event.deployment() == self.deployment
    }

    /// The rings in which such lines are; none when they may be anywhere.
    fn rings(&self) -> Option<Vec<Ring>> {
        let id = self.deployment?;
        Some(if self.own { vec![Ring::Deployment(id)] } else { vec![Ring::Deployment(id), Ring::Audit] })
    }
}

/// A part of the journal, oldest line first.
#[derive(Debug)]
pub struct Page {
    /// The lines.
    pub events: Vec<Arc<JournalEvent>>,
    /// The number from which to read on.
    pub reached: u64,
    /// Whether there is more.
    pub more: bool,
}

impl Journal {
    /// Up to `limit` lines after the number `after`. What was acknowledged before the call is there.
    ///
    /// # Errors
    /// What the store says.
    pub async fn page(&self, after: u64, limit: usize, filter: &Filter) -> Result<Page, Error> {
        self.settled().await;
        let rings = filter.rings();
        let mut page = Page { events: Vec::new(), reached: after, more: true };
        let mut examined = 0;
        while page.more && page.events.len() <= limit && examined < EXAMINED_MAX {
            let (last, kept) = {
                let ledger = self.ledger();
                (ledger.last(), ledger.kept(page.reached, rings.as_deref(), STEP_LINES))
            };
            examined += kept.len();
            page.more = kept.len() == STEP_LINES;
            let end = kept.last().map(|(_, seq, _)| *seq).filter(|_| page.more);
            page.reached = page.reached.max(end.unwrap_or(last));
            let events = self.fetch(kept).await?;
            page.events.extend(events.into_iter().filter(|event| filter.matches(event)));
        }
        if page.events.len() > limit {
            page.events.truncate(limit);
            page.reached = page.events.last().map_or(after, |event| event.seq);
            page.more = true;
        }
        Ok(page)
    }

    /// The number after which the newest `count` lines follow, as far as they are in memory.
    #[must_use]
    pub fn before_last(&self, count: usize, filter: &Filter) -> u64 {
        let ledger = self.ledger();
        if count == 0 {
            return ledger.last();
        }
        let mut wanted = ledger.backwards().filter(|event| filter.matches(event));
        wanted.nth(count - 1).map_or_else(|| ledger.floor(), |event| event.seq - 1)
    }

    /// Waits until the lines that are being written now have been, for a moment.
    async fn settled(&self) {
        let newest = self.ledger().newest();
        let mut progress = self.shared.progress.subscribe();
        let settled = progress.wait_for(|progress| progress.last >= newest || progress.closed);
        // Lines that take longer are shown to the next reader.
        let _ = tokio::time::timeout(SETTLE_TIMEOUT, settled).await;
    }

    /// What the lines say: from memory, else from the store.
    async fn fetch(&self, kept: Vec<super::ledger::Kept>) -> Result<Vec<Arc<JournalEvent>>, Error> {
        let (mut events, mut elsewhere) = (Vec::new(), Vec::new());
        for (ring, seq, event) in kept {
            match event {
                Some(event) => events.push(event),
                None => elsewhere.push((ring, seq)),
            }
        }
        if !elsewhere.is_empty() {
            let found = self.shared.store.lines(elsewhere).await.map_err(store_error)?;
            events.extend(found.into_iter().map(Arc::new));
            events.sort_by_key(|event| event.seq);
        }
        Ok(events)
    }
}
