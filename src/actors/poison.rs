//! The messages that are set aside: refused by the handles, shown to operators, and kept in the store.
//!
//! The book is in memory; a task writes its changes to the store, as actors that have just fallen cannot wait for it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Notify;

use crate::domain::poison::{Poison, SET_ASIDE_MAX};
use crate::ports::{Store, Write};

/// The pause before changes are given to a store again that could not take them.
const KEEP_RETRY: Duration = Duration::from_secs(1);

type Key = (String, u64);

/// All messages that are set aside. Cheap to clone.
#[derive(Clone, Default)]
pub struct PoisonBook {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    /// How many there are, so that the usual case costs one load.
    count: AtomicUsize,
    pages: Mutex<Pages>,
    news: Notify,
}

#[derive(Default)]
struct Pages {
    held: BTreeMap<Key, Poison>,
    /// What the store does not know yet: at most one write for each key.
    unsaved: BTreeMap<Key, Write>,
}

/// A message that is set aside, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PoisonView {
    /// The actor that fell over it.
    pub path: String,
    /// Its type.
    pub message: String,
    /// What it says, cut and without secrets.
    pub text: String,
    /// How often the actor fell over it.
    pub kills: u32,
    /// RFC 3339.
    pub first_at: String,
    /// RFC 3339.
    pub last_at: String,
}

impl From<&Poison> for PoisonView {
    fn from(poison: &Poison) -> Self {
        Self {
            path: poison.path.clone(),
            message: poison.message.clone(),
            text: poison.text.clone(),
            kills: poison.kills,
            first_at: poison.first_at.rfc3339(),
            last_at: poison.last_at.rfc3339(),
        }
    }
}

impl PoisonBook {
    /// Takes what the store remembers.
    pub(crate) fn load(&self, stored: Vec<Poison>) {
        let mut pages = self.pages();
        pages
            .held
            .extend(stored.into_iter().map(|poison| ((poison.path.clone(), poison.fingerprint), poison)));
        self.inner.count.store(pages.held.len(), Ordering::Release);
    }

    /// Whether the actor at `path` is not to be given this message.
    pub(crate) fn refuses(&self, path: &str, fingerprint: u64) -> bool {
        self.any() && self.pages().held.contains_key(&(path.to_owned(), fingerprint))
    }

    /// Sets a message aside.
    pub(crate) fn hold(&self, poison: Poison) {
        let mut pages = self.pages();
        let key = (poison.path.clone(), poison.fingerprint);
        pages.unsaved.insert(key.clone(), Write::PutPoison(Box::new(poison.clone())));
        pages.held.insert(key, poison);
        while pages.held.len() > SET_ASIDE_MAX {
            let oldest = pages.held.values().min_by_key(|poison| poison.last_at);
            let Some((path, fingerprint)) = oldest.map(|p| (p.path.clone(), p.fingerprint)) else { break };
            pages.drop_page((path, fingerprint));
        }
        self.changed(pages);
    }

    /// The actor at `path` is given everything again. Answers how many messages were set aside.
    pub(crate) fn release(&self, path: &str) -> usize {
        if !self.any() {
            return 0;
        }
        let mut pages = self.pages();
        let keys: Vec<Key> = pages.held.keys().filter(|(of, _)| of == path).cloned().collect();
        let released = keys.len();
        keys.into_iter().for_each(|key| pages.drop_page(key));
        self.changed(pages);
        released
    }

    /// Those of one actor, or all of them.
    #[must_use]
    pub fn list(&self, path: Option<&str>) -> Vec<PoisonView> {
        if !self.any() {
            return Vec::new();
        }
        let pages = self.pages();
        let wanted = pages.held.values().filter(|poison| path.is_none_or(|path| poison.path == path));
        wanted.map(PoisonView::from).collect()
    }

    /// Writes changes to the store, for as long as this is polled.
    pub(crate) async fn keep(self, store: Arc<dyn Store>) {
        loop {
            let writes: Vec<(Key, Write)> = self.pages().unsaved.clone().into_iter().collect();
            if writes.is_empty() {
                self.inner.news.notified().await;
                continue;
            }
            let batch = writes.iter().map(|(_, write)| write.clone()).collect();
            match store.commit(batch).await {
                Ok(()) => {
                    let mut pages = self.pages();
                    for (key, write) in writes {
                        if pages.unsaved.get(&key) == Some(&write) {
                            pages.unsaved.remove(&key);
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "messages that were set aside are not stored yet");
                    tokio::time::sleep(KEEP_RETRY).await;
                }
            }
        }
    }

    fn any(&self) -> bool {
        self.inner.count.load(Ordering::Acquire) > 0
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.inner.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self, pages: MutexGuard<'_, Pages>) {
        self.inner.count.store(pages.held.len(), Ordering::Release);
        drop(pages);
        self.inner.news.notify_one();
    }
}

impl Pages {
    fn drop_page(&mut self, key: Key) {
        self.held.remove(&key);
        self.unsaved.insert(key.clone(), Write::DeletePoison(key.0, key.1));
    }
}

#[cfg(test)]
mod tests {
    use nebula_core::clock::WallTime;

    use super::*;

    fn poison(path: &str, fingerprint: u64) -> Poison {
        Poison {
            path: path.to_owned(),
            message: "test::Message".to_owned(),
            fingerprint,
            text: "Message".to_owned(),
            kills: 3,
            first_at: WallTime(1),
            last_at: WallTime(fingerprint),
        }
    }

    #[test]
    fn what_is_held_is_refused_until_it_is_released() {
        let book = PoisonBook::default();
        assert!(!book.refuses("/a", 1));
        book.load(vec![poison("/a", 1)]);
        book.hold(poison("/b", 1));
        assert!(book.refuses("/a", 1) && book.refuses("/b", 1) && !book.refuses("/a", 2));
        assert_eq!(book.list(Some("/a")).len(), 1);
        assert_eq!((book.release("/a"), book.release("/a")), (1, 0));
        assert!(!book.refuses("/a", 1) && book.refuses("/b", 1));
    }

    #[test]
    fn the_oldest_make_room() {
        let book = PoisonBook::default();
        (0..=SET_ASIDE_MAX as u64).for_each(|n| book.hold(poison("/a", n)));
        assert_eq!(book.list(None).len(), SET_ASIDE_MAX);
        assert!(!book.refuses("/a", 0) && book.refuses("/a", SET_ASIDE_MAX as u64));
    }
}
