//! The tree of actors: one cell for each, found by path, that outlives the actor's incarnations. It holds the
//! current address, the published status and the counters that operators see. Looking something up never
//! touches a mailbox.

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use nebula_core::clock::Clock;
use serde::Serialize;
use tokio::sync::watch;

use self::cell::Common;
use super::poison::PoisonBook;

mod cell;
mod turn;

pub use self::cell::{Cell, CellView, LastExit, Life, STUCK_AFTER};
#[cfg(test)]
pub(crate) use self::turn::Kind;
pub use self::turn::Stuck;
pub(crate) use self::turn::Ticket;

/// What an actor publishes of itself: serialisable, and readable as its own type by those who know it.
pub trait Status: Any + Send + Sync {
    /// As operators see it.
    fn to_json(&self) -> serde_json::Value;
}

impl<T: Serialize + Send + Sync + 'static> Status for T {
    fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or(serde_json::Value::Null)
    }
}

/// All cells. Cheap to clone.
#[derive(Clone)]
pub struct Tree {
    cells: Arc<RwLock<BTreeMap<String, Arc<Cell>>>>,
    common: Common,
    /// Why the whole process must end, once it must.
    fallen: watch::Sender<Option<String>>,
}

impl Tree {
    /// An empty tree.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        let common = Common { clock, poison: PoisonBook::default(), blameless: Arc::new(AtomicU64::new(0)) };
        Self { cells: Arc::default(), common, fallen: watch::Sender::new(None) }
    }

    /// The clock that the actors go by.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.common.clock
    }

    /// The messages that are set aside.
    #[must_use]
    pub fn poison(&self) -> &PoisonBook {
        &self.common.poison
    }

    /// This process stood still: what actors have not done until now is not their fault.
    pub(crate) fn forgive(&self) {
        self.common.blameless.store(self.common.clock.now().0, Ordering::Release);
    }

    /// A part without which nothing works is down for good.
    pub(crate) fn escalate(&self, cause: String) {
        self.fallen.send_if_modified(|fallen| {
            let first = fallen.is_none();
            fallen.get_or_insert(cause);
            first
        });
    }

    /// Resolves with the cause when a part is down for good without which nothing works.
    pub async fn fallen(&self) -> String {
        let mut fallen = self.fallen.subscribe();
        let cause = fallen.wait_for(Option::is_some).await;
        // The sender is this tree's own.
        cause.ok().and_then(|cause| cause.clone()).unwrap_or_default()
    }

    /// The actors that do not go on. Actors share a thread: while one of them is inside a handler, those behind it
    /// are left out.
    #[must_use]
    pub fn culprits(&self) -> Vec<(Arc<Cell>, Stuck)> {
        let cells: Vec<Arc<Cell>> =
            self.cells.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let stuck: Vec<_> =
            cells.into_iter().filter_map(|cell| Some((cell.clone(), cell.stuck()?))).collect();
        let somebody_inside = stuck.iter().any(|(_, stuck)| stuck.inside);
        stuck.into_iter().filter(|(_, stuck)| stuck.inside || !somebody_inside).collect()
    }

    /// The cell at `path`.
    #[must_use]
    pub fn cell(&self, path: &str) -> Option<Arc<Cell>> {
        self.cells.read().unwrap_or_else(PoisonError::into_inner).get(path).cloned()
    }

    /// The cell at `path`, made when missing.
    pub(crate) fn plant(&self, path: &str, kind: &'static str) -> Arc<Cell> {
        let mut cells = self.cells.write().unwrap_or_else(PoisonError::into_inner);
        let cell = cells
            .entry(path.to_owned())
            .or_insert_with(|| Arc::new(Cell::new(path.to_owned(), kind, self.common.clone())));
        cell.clone()
    }

    pub(crate) fn uproot(&self, path: &str) {
        self.common.poison.release(path);
        self.cells.write().unwrap_or_else(PoisonError::into_inner).remove(path);
    }

    /// Up to `limit` cells directly below `parent`, in the order of their paths, after the child `after`.
    #[must_use]
    pub fn children(&self, parent: &str, after: Option<&str>, limit: usize) -> Vec<Arc<Cell>> {
        let prefix = format!("{parent}/");
        let first = match after {
            Some(child) => Bound::Excluded(format!("{prefix}{child}")),
            None => Bound::Excluded(prefix.clone()),
        };
        let cells = self.cells.read().unwrap_or_else(PoisonError::into_inner);
        cells
            .range((first, Bound::Unbounded))
            .take_while(|(path, _)| path.starts_with(&prefix))
            .map(|(_, cell)| cell.clone())
            .take(limit)
            .collect()
    }

    /// Where each actor stands.
    #[must_use]
    pub fn lives(&self) -> Vec<Life> {
        let cells = self.cells.read().unwrap_or_else(PoisonError::into_inner);
        cells.values().map(|cell| cell.life()).collect()
    }

    /// The cells at and below `path` as operators see them; `/` is everything.
    #[must_use]
    pub fn view(&self, path: &str) -> Vec<CellView> {
        let below = format!("{}/", path.trim_end_matches('/'));
        let cells: Vec<Arc<Cell>> = {
            let cells = self.cells.read().unwrap_or_else(PoisonError::into_inner);
            cells
                .values()
                .filter(|cell| cell.path() == path || cell.path().starts_with(&below))
                .cloned()
                .collect()
        };
        nest(cells.iter().map(|cell| cell.view()).collect())
    }
}

/// Puts each view under the nearest view whose path leads to it. The views are sorted by path.
fn nest(views: Vec<CellView>) -> Vec<CellView> {
    let mut roots = Vec::new();
    let mut open: Vec<CellView> = Vec::new();
    let close = |open: &mut Vec<CellView>, roots: &mut Vec<CellView>| {
        if let Some(done) = open.pop() {
            match open.last_mut() {
                Some(parent) => parent.children.push(done),
                None => roots.push(done),
            }
        }
    };
    let mut views = views;
    views.sort_by(|a, b| a.path.split('/').cmp(b.path.split('/')));
    for view in views {
        let below =
            |parent: &CellView| view.path.starts_with(&format!("{}/", parent.path.trim_end_matches('/')));
        while open.last().is_some_and(|parent| !below(parent)) {
            close(&mut open, &mut roots);
        }
        open.push(view);
    }
    while !open.is_empty() {
        close(&mut open, &mut roots);
    }
    roots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn cells_nest_by_path_and_are_listed_in_pages() {
        let tree = Tree::new(Clock::start());
        for path in ["/registry", "/registry-x", "/registry/sessions", "/registry/sessions/a", "/router"] {
            tree.plant(path, "test");
        }
        let roots = tree.view("/");
        assert_eq!(
            roots.iter().map(|r| r.path.as_str()).collect::<Vec<_>>(),
            ["/registry", "/registry-x", "/router"]
        );
        assert_eq!(roots[0].children[0].children[0].path, "/registry/sessions/a");
        assert_eq!(tree.view("/registry/sessions").len(), 1);
        tree.plant("/", "test");
        let [root] = tree.view("/").try_into().expect("one root");
        assert_eq!(root.children.len(), 3);
        for child in ["b", "c"] {
            tree.plant(&format!("/registry/sessions/{child}"), "test");
        }
        let page = tree.children("/registry/sessions", Some("a"), 1);
        assert_eq!(page.iter().map(|c| c.path()).collect::<Vec<_>>(), ["/registry/sessions/b"]);
    }

    #[tokio::test]
    async fn a_status_is_read_as_its_own_type_only() {
        let tree = Tree::new(Clock::start());
        let cell = tree.plant("/x", "test");
        cell.publish(Arc::new(7_u32));
        assert_eq!(cell.status::<u32>().as_deref(), Some(&7));
        assert!(cell.status::<String>().is_none());
    }
}
