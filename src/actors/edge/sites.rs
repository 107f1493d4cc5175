//! The book of sites: which host name leads where, by what the registry knows.
//!
//! The registry writes it, O(log n) for each node; the edges' actors read it when a round begins. A node is in it unless
//! it is offline: a late node, or one that is waited for after a start, keeps its name. It is filled as a whole when the
//! registry starts; before that nobody knows what is wanted. A registry that is built again replaces what is there at
//! once, so that there is no moment in which nothing is wanted.
//!
//! A store can be new or old without anybody having said so (a lost disk, a wrong folder). Its nodes live on and register
//! again within the grace after a start; until then only names are given up whose nodes are known to be gone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nebula_core::address::HostPort;
use nebula_core::clock::{Clock, Tick};
use nebula_core::ids::NodeId;
use tokio::sync::watch;

use crate::actors::registry::machine::NodeUpdate;
use crate::domain::edge::Wanted;
use crate::domain::node::Availability;

/// The host names that should be reachable.
#[derive(Debug)]
pub struct SiteBook {
    inner: Mutex<Inner>,
    /// Which version of the book is there; 0: it was never filled.
    version: watch::Sender<u64>,
    clock: Clock,
    /// From then on every node that lives has had the time to register.
    settled_at: Tick,
}

#[derive(Debug, Default)]
struct Inner {
    sites: BTreeMap<String, HostPort>,
    by_node: HashMap<NodeId, String>,
    /// Names whose nodes are gone; kept as long as other names may not be given up.
    gone: BTreeSet<String>,
    /// Both edges often ask for the same.
    copied: Option<(u64, Leave, Arc<Wanted>)>,
}

/// Which names that are not wanted may be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    None,
    Gone,
    All,
}

impl SiteBook {
    /// A book that was never filled. All nodes that live have registered at `settled_at`.
    pub(crate) fn new(clock: Clock, settled_at: Tick) -> Self {
        Self { inner: Mutex::default(), version: watch::Sender::new(0), clock, settled_at }
    }

    /// The registry has just started, and these are all nodes.
    pub(crate) fn fill<'a>(&self, nodes: impl IntoIterator<Item = &'a NodeUpdate>) {
        let mut filled = Inner::default();
        nodes.into_iter().for_each(|update| {
            filled.note(update);
        });
        let mut inner = self.lock();
        if *self.version.borrow() == 0 || filled.sites != inner.sites {
            self.turn_page();
        }
        if filled.gone == inner.gone {
            filled.copied = inner.copied.take();
        }
        *inner = filled;
    }

    /// How a node stands now.
    pub(crate) fn note(&self, update: &NodeUpdate) {
        let mut inner = self.lock();
        if inner.note(update) {
            self.turn_page();
        }
        self.forget_gone(&mut inner);
    }

    /// A node was forgotten.
    pub(crate) fn forget(&self, node: &NodeId) {
        let mut inner = self.lock();
        if inner.remove(node) {
            self.turn_page();
        }
        self.forget_gone(&mut inner);
    }

    /// Wakes whenever something else is wanted; 0 while nobody knows what.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Whether it is known what is wanted.
    pub(super) fn is_filled(&self) -> bool {
        *self.version.borrow() > 0
    }

    /// How many sites there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().sites.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is wanted now. As long as the book was never filled nothing may be removed.
    pub(super) fn wanted(&self, may_remove: bool) -> Arc<Wanted> {
        let mut inner = self.lock();
        let version = *self.version.borrow();
        let leave = match may_remove && version > 0 {
            false => Leave::None,
            true if self.is_settled() => Leave::All,
            true => Leave::Gone,
        };
        if let Some((_, _, wanted)) =
            inner.copied.as_ref().filter(|(of, by, _)| (*of, *by) == (version, leave))
        {
            return Arc::clone(wanted);
        }
        let gone = if leave == Leave::Gone { inner.gone.clone() } else { BTreeSet::new() };
        let wanted = Arc::new(Wanted { sites: inner.sites.clone(), may_remove: leave == Leave::All, gone });
        inner.copied = Some((version, leave, Arc::clone(&wanted)));
        wanted
    }

    fn is_settled(&self) -> bool {
        self.settles_in().is_zero()
    }

    /// How long it takes until every node that lives has had the time to register.
    pub(super) fn settles_in(&self) -> Duration {
        self.settled_at.since(self.clock.now())
    }

    /// Once every name may be given up there is no need to know which.
    fn forget_gone(&self, inner: &mut Inner) {
        if !inner.gone.is_empty() && self.is_settled() {
            inner.gone.clear();
        }
    }

    /// Readers that wake find what was written: they wait for the lock.
    fn turn_page(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Answers whether anything is other than before.
    fn note(&mut self, update: &NodeUpdate) -> bool {
        let host = update.node.subdomain.trim_end_matches('.').to_ascii_lowercase();
        if update.availability == Availability::Offline || host.is_empty() {
            let was_there = self.remove(&update.node.id);
            self.give_up(host);
            return was_there;
        }
        let to = update.node.proxy_address();
        let moved =
            self.by_node.get(&update.node.id).is_some_and(|old| *old != host) && self.remove(&update.node.id);
        self.by_node.insert(update.node.id.clone(), host.clone());
        let same = self.sites.get(&host) == Some(&to);
        self.gone.remove(&host);
        self.sites.insert(host, to);
        moved || !same
    }

    fn remove(&mut self, node: &NodeId) -> bool {
        let Some(host) = self.by_node.remove(node) else { return false };
        let was_there = self.sites.remove(&host).is_some();
        self.give_up(host);
        was_there
    }

    fn give_up(&mut self, host: String) {
        if !host.is_empty() && self.gone.insert(host) {
            self.copied = None;
        }
    }
}

#[cfg(test)]
mod tests;
