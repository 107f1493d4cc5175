//! The book of sites: which host name leads where, by what the registry knows.
//!
//! The registry writes it, O(log n) for each node; the edges' actors read it when a round begins. A node is in it unless
//! it is offline: a late node, or one that is waited for after a start, keeps its name. It is filled as a whole when the
//! registry starts; before that nobody knows what is wanted. A registry that is built again replaces what is there at
//! once, so that there is no moment in which nothing is wanted.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nebula_core::address::HostPort;
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
}

#[derive(Debug, Default)]
struct Inner {
    sites: BTreeMap<String, HostPort>,
    by_node: HashMap<NodeId, String>,
    /// Both edges often ask for the same.
    copied: Option<(u64, Arc<Wanted>)>,
}

impl Default for SiteBook {
    fn default() -> Self {
        Self { inner: Mutex::default(), version: watch::Sender::new(0) }
    }
}

impl SiteBook {
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
        filled.copied = inner.copied.take();
        *inner = filled;
    }

    /// How a node stands now.
    pub(crate) fn note(&self, update: &NodeUpdate) {
        let mut inner = self.lock();
        if inner.note(update) {
            self.turn_page();
        }
    }

    /// A node was forgotten.
    pub(crate) fn forget(&self, node: &NodeId) {
        let mut inner = self.lock();
        if inner.remove(node) {
            self.turn_page();
        }
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
        let may_remove = may_remove && version > 0;
        if let Some((of, wanted)) = &inner.copied
            && (*of, wanted.may_remove) == (version, may_remove)
        {
            return Arc::clone(wanted);
        }
        let wanted = Arc::new(Wanted { sites: inner.sites.clone(), may_remove });
        inner.copied = Some((version, Arc::clone(&wanted)));
        wanted
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
            return self.remove(&update.node.id);
        }
        let to = update.node.proxy_address();
        let moved =
            self.by_node.get(&update.node.id).is_some_and(|old| *old != host) && self.remove(&update.node.id);
        self.by_node.insert(update.node.id.clone(), host.clone());
        let same = self.sites.get(&host) == Some(&to);
        self.sites.insert(host, to);
        moved || !same
    }

    fn remove(&mut self, node: &NodeId) -> bool {
        self.by_node.remove(node).is_some_and(|host| self.sites.remove(&host).is_some())
    }
}

#[cfg(test)]
mod tests;
