//! The tree of actors: one cell for each, found by path, that outlives the actor's incarnations. It holds the
//! current address, the published status and the counters that operators see. Looking something up never
//! touches a mailbox.

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use actix::{Actor, Addr};
use arc_swap::ArcSwapOption;
use nebula_core::clock::{Clock, Tick, WallTime};
use serde::Serialize;
use tokio::sync::watch;

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

/// Where an actor stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Life {
    /// Being built from the store.
    Starting,
    /// It takes messages.
    Running,
    /// It fell and is built again after a pause.
    Restarting,
    /// It fell too often and stays down until an operator restarts it.
    Crashed,
}

/// How an incarnation ended.
#[derive(Clone, Debug, Serialize)]
pub struct LastExit {
    /// In words.
    pub cause: String,
    /// RFC 3339.
    pub at: String,
}

/// One actor's place in the tree.
pub struct Cell {
    path: String,
    kind: &'static str,
    clock: Clock,
    life: AtomicU8,
    incarnation: AtomicU64,
    restarts: AtomicU64,
    waiting: AtomicUsize,
    messages: AtomicU64,
    started_at: AtomicU64,
    last_exit: Mutex<Option<LastExit>>,
    addr: ArcSwapOption<Box<dyn Any + Send + Sync>>,
    status: watch::Sender<Option<Arc<dyn Status>>>,
}

impl Cell {
    fn new(path: String, kind: &'static str, clock: Clock) -> Self {
        Self {
            path,
            kind,
            clock,
            life: AtomicU8::new(Life::Starting as u8),
            incarnation: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            messages: AtomicU64::new(0),
            started_at: AtomicU64::new(0),
            last_exit: Mutex::new(None),
            addr: ArcSwapOption::empty(),
            status: watch::Sender::new(None),
        }
    }

    /// The actor's path.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What kind of actor it is.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Where it stands.
    #[must_use]
    pub fn life(&self) -> Life {
        match self.life.load(Ordering::Acquire) {
            0 => Life::Starting,
            1 => Life::Running,
            2 => Life::Restarting,
            _ => Life::Crashed,
        }
    }

    /// Which incarnation runs, or ran last.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation.load(Ordering::Acquire)
    }

    pub(crate) fn begin_incarnation(&self) -> u64 {
        self.set_life(Life::Starting);
        self.incarnation.fetch_add(1, Ordering::AcqRel) + 1
    }

    pub(crate) fn set_life(&self, life: Life) {
        self.life.store(life as u8, Ordering::Release);
    }

    pub(crate) fn count_restart(&self) {
        self.restarts.fetch_add(1, Ordering::AcqRel);
    }

    /// The actor runs and can be found from now on.
    pub(crate) fn running<A: Actor>(&self, addr: Addr<A>)
    where
        Addr<A>: Send + Sync,
    {
        self.started_at.store(self.clock.now().0, Ordering::Release);
        self.waiting.store(0, Ordering::Release);
        self.addr.store(Some(Arc::new(Box::new(addr))));
        self.set_life(Life::Running);
    }

    pub(crate) fn gone(&self, cause: String, at: WallTime) {
        self.addr.store(None);
        *self.last_exit.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(LastExit { cause, at: at.rfc3339() });
    }

    pub(crate) fn addr<A: Actor>(&self) -> Option<Addr<A>>
    where
        Addr<A>: Send + Sync,
    {
        self.addr.load().as_ref().and_then(|any| any.downcast_ref::<Addr<A>>()).cloned()
    }

    /// A message is on its way to the mailbox.
    pub(crate) fn sent(&self) {
        self.waiting.fetch_add(1, Ordering::AcqRel);
    }

    /// The actor takes a message from its mailbox.
    pub(crate) fn received(&self) {
        let _ = self.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1));
        self.messages.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// Replaces the published status.
    pub(crate) fn publish(&self, status: Arc<dyn Status>) {
        self.status.send_replace(Some(status));
    }

    /// The published status, if it is of this type.
    #[must_use]
    pub fn status<S: Status>(&self) -> Option<Arc<S>> {
        let status: Arc<dyn Any + Send + Sync> = self.status.borrow().clone()?;
        status.downcast().ok()
    }

    /// Wakes whenever a status is published.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<Arc<dyn Status>>> {
        self.status.subscribe()
    }

    /// As operators see it, without its children.
    #[must_use]
    pub fn view(&self) -> CellView {
        let last_exit = self.last_exit.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let age = self.clock.now().since(Tick(self.started_at.load(Ordering::Acquire)));
        let running = self.life() == Life::Running;
        CellView {
            path: self.path.clone(),
            kind: self.kind,
            state: self.life(),
            incarnation: self.incarnation(),
            restarts: self.restarts.load(Ordering::Acquire),
            last_exit,
            mailbox_depth: self.waiting(),
            messages_total: self.messages.load(Ordering::Acquire),
            age_seconds: if running { age.as_secs() } else { 0 },
            status: self.status.borrow().as_ref().map_or(serde_json::Value::Null, |status| status.to_json()),
            children: Vec::new(),
        }
    }
}

/// One actor as `/admin/actors` shows it.
#[derive(Debug, Serialize)]
pub struct CellView {
    path: String,
    kind: &'static str,
    state: Life,
    incarnation: u64,
    restarts: u64,
    last_exit: Option<LastExit>,
    mailbox_depth: usize,
    messages_total: u64,
    age_seconds: u64,
    status: serde_json::Value,
    children: Vec<CellView>,
}

/// All cells. Cheap to clone.
#[derive(Clone)]
pub struct Tree {
    cells: Arc<RwLock<BTreeMap<String, Arc<Cell>>>>,
    clock: Clock,
}

impl Tree {
    /// An empty tree.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { cells: Arc::default(), clock }
    }

    /// The clock that the actors go by.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
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
            .or_insert_with(|| Arc::new(Cell::new(path.to_owned(), kind, self.clock)));
        cell.clone()
    }

    pub(crate) fn uproot(&self, path: &str) {
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

    /// The cells at and below `path` as operators see them; `/` is everything.
    #[must_use]
    pub fn view(&self, path: &str) -> Vec<CellView> {
        let below = format!("{}/", path.trim_end_matches('/'));
        let cells: Vec<Arc<Cell>> = {
            let cells = self.cells.read().unwrap_or_else(PoisonError::into_inner);
            cells
                .values()
                .filter(|cell| cell.path == path || cell.path.starts_with(&below))
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
