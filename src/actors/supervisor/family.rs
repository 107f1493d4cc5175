//! A family: a supervisor's children and what has happened to them. It is kept outside the supervisor's actor, so that
//! one that falls finds its children, and what it has not seen yet, when it is built again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, oneshot};

use super::machine::{Effect, Event, Machine};
use super::spec::{Birth, ChildSpec, Restart, Strategy};
use super::watch::DeathWatch;
use super::{Attend, Supervisor};
use crate::actors::letter;
use crate::actors::tree::{Cell, Life, Tree};
use crate::domain::error::Error;
use crate::metrics;

/// How many children of one family are built at a time; the others wait their turn. Building reads the store, which
/// refuses what comes in thousands.
const BUILDING_MAX: usize = 64;

/// What became of the first attempt to build a child.
type First = oneshot::Sender<Result<(), Error>>;

/// A supervisor's family. Cheap to clone.
#[derive(Clone)]
pub struct Family {
    inner: Arc<Inner>,
}

struct Inner {
    /// The supervisor's own path.
    path: String,
    /// Children are below this path.
    below: String,
    /// One that crashes takes the process with it.
    vital: bool,
    tree: Tree,
    state: Mutex<State>,
    /// Taken by those that are being built.
    building: Arc<Semaphore>,
}

struct State {
    machine: Machine,
    specs: BTreeMap<String, ChildSpec>,
    first: BTreeMap<String, First>,
    /// What the supervisor has not looked at. A child has at most a few events here at a time.
    inbox: VecDeque<Event>,
}

impl Family {
    /// The family of the supervisor at `path`, whose children's paths begin with `below`.
    #[must_use]
    pub fn new(path: &str, below: &str, strategy: Strategy, tree: Tree) -> Self {
        Self::make(path, below, strategy, false, tree)
    }

    /// The same, and when one of its children is down for good the process ends.
    #[must_use]
    pub fn vital(path: &str, below: &str, strategy: Strategy, tree: Tree) -> Self {
        Self::make(path, below, strategy, true, tree)
    }

    fn make(path: &str, below: &str, strategy: Strategy, vital: bool, tree: Tree) -> Self {
        let state = State {
            machine: Machine::new(strategy),
            specs: BTreeMap::new(),
            first: BTreeMap::new(),
            inbox: VecDeque::new(),
        };
        let inner = Inner {
            path: path.to_owned(),
            below: below.to_owned(),
            vital,
            tree,
            state: Mutex::new(state),
            building: Arc::new(Semaphore::new(BUILDING_MAX)),
        };
        Self { inner: Arc::new(inner) }
    }

    pub(super) fn tree(&self) -> &Tree {
        &self.inner.tree
    }

    pub(super) fn path(&self) -> &str {
        &self.inner.path
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The supervisor, as a child of the one above.
    #[must_use]
    pub fn spec(&self, id: &str) -> ChildSpec {
        let family = self.clone();
        ChildSpec::new(id, "supervisor", Restart::Permanent, move |birth| {
            let family = family.clone();
            async move {
                Supervisor::start_in(family, birth);
                Ok(())
            }
        })
    }

    /// Adds a child and waits until it runs; one that is there already is left alone. It is built as soon as the
    /// supervisor can.
    ///
    /// # Errors
    /// Why it could not be built at once. It is tried again all the same.
    pub async fn start(&self, spec: ChildSpec) -> Result<(), Error> {
        let started = {
            let mut state = self.state();
            if state.specs.contains_key(&spec.id) {
                return Ok(());
            }
            let (first, started) = oneshot::channel();
            self.inner.tree.plant(&self.child_path(&spec.id), spec.kind);
            state.inbox.push_back(Event::Add(spec.id.clone(), spec.restart));
            state.first.insert(spec.id.clone(), first);
            state.specs.insert(spec.id.clone(), spec);
            started
        };
        self.nudge();
        started.await.unwrap_or_else(|_| Err(Error::restarting()))
    }

    /// Adds a child; what goes wrong is the supervisor's to handle and to show.
    pub fn start_later(&self, spec: ChildSpec) {
        let family = self.clone();
        actix_rt::spawn(async move {
            if let Err(error) = family.start(spec).await {
                tracing::warn!(%error, "actor not started yet");
            }
        });
    }

    /// Whether there is a reason to build a child anew: it is down, or messages are set aside for it. None when there
    /// is no such child.
    #[must_use]
    pub fn may_renew(&self, id: &str) -> Option<bool> {
        let down = self.state().machine.is_down(id)?;
        Some(down || !self.inner.tree.poison().list(Some(&self.child_path(id))).is_empty())
    }

    /// Builds a child anew that is down, or for which messages are set aside; these are delivered again. Answers
    /// whether it does: none when there is no such child, false when there is no reason to.
    pub fn renew(&self, id: &str) -> Option<bool> {
        let down = self.state().machine.is_down(id)?;
        let released = self.cell(id).is_some_and(|cell| cell.release() > 0);
        if down || released {
            self.report(Event::Renew(id.to_owned()));
        }
        Some(down || released)
    }

    /// Something happened to a child.
    pub(super) fn report(&self, event: Event) {
        self.state().inbox.push_back(event);
        self.nudge();
    }

    /// A supervisor that is down looks by itself when it is built again.
    pub(crate) fn nudge(&self) {
        let cell = self.inner.tree.cell(&self.inner.path);
        if let Some((cell, addr)) = cell.and_then(|cell| Some((cell.clone(), cell.addr::<Supervisor>()?))) {
            // This message is never refused, and one to a supervisor that has just fallen is not missed.
            let _ = letter::tell(&addr, &cell, None, Attend);
        }
    }

    /// Carries out what follows from everything that has happened. Answers when to look again, in so much time.
    pub(super) fn attend(&self) -> Option<std::time::Duration> {
        let now = self.inner.tree.clock().now();
        let effects = {
            let mut state = self.state();
            let mut effects = Vec::new();
            while let Some(event) = state.inbox.pop_front() {
                if let Event::Built { id, result, .. } = &event {
                    answer_first(&mut state, id, result);
                }
                effects.extend(state.machine.step(event, now));
            }
            effects.extend(state.machine.step(Event::Look, now));
            effects
        };
        effects.into_iter().for_each(|effect| self.perform(effect));
        self.state().machine.next_deadline(now).map(|at| at.since(now))
    }

    fn perform(&self, effect: Effect) {
        let wall = self.inner.tree.clock().wall();
        match effect {
            Effect::Build(id, incarnation) => self.build(&id, incarnation),
            Effect::Stop(id) => {
                let shutdown = self.state().specs.get(&id).map(|spec| spec.shutdown).unwrap_or_default();
                if let Some(cell) = self.cell(&id) {
                    cell.wind_up(self.inner.tree.clock().now().plus(shutdown));
                }
            }
            Effect::Fell(id, cause, pause) => {
                let Some(cell) = self.cell(&id) else { return };
                let (path, pause_ms) = (cell.path(), pause.as_millis() as u64);
                tracing::warn!(path, cause, pause_ms, "actor fell and is built again");
                cell.gone(cause, wall);
                rise_again(&cell);
            }
            Effect::Ended(id) => {
                let Some(cell) = self.cell(&id) else { return };
                tracing::info!(path = cell.path(), "actor ended and is built again in its turn");
                cell.gone("ended to be built anew".to_owned(), wall);
                rise_again(&cell);
            }
            Effect::Crashed(id, cause) => {
                let Some(cell) = self.cell(&id) else { return };
                tracing::error!(path = cell.path(), cause, "actor crashed and stays down");
                if self.inner.vital {
                    self.inner.tree.escalate(format!("{} crashed and stays down: {cause}", cell.path()));
                }
                cell.gone(cause, wall);
                cell.set_life(Life::Crashed);
            }
            Effect::Forget(id) => {
                self.state().specs.remove(&id);
                self.inner.tree.uproot(&self.child_path(&id));
            }
        }
    }

    /// In a task of its own: a factory that panics is a child that cannot start, not a supervisor that falls.
    fn build(&self, id: &str, incarnation: u64) {
        let Some(spec) = self.state().specs.get(id).cloned() else { return };
        let cell = self.inner.tree.plant(&self.child_path(id), spec.kind);
        cell.begin_incarnation(incarnation);
        metrics::actor_kind(spec.kind);
        let (family, id) = (self.clone(), id.to_owned());
        let watch = DeathWatch::of_child(self.clone(), id.clone(), incarnation, cell.clone());
        let birth = Birth { cell: cell.clone(), watch };
        let building = Arc::clone(&self.inner.building);
        let built = actix_rt::spawn(async move {
            // It is never closed.
            let _turn = building.acquire_owned().await;
            (spec.factory)(birth).await
        });
        actix_rt::spawn(async move {
            let result = match built.await {
                Err(_) => Err("building it panicked".to_owned()),
                Ok(Err(error)) => Err(format!("could not start: {error}")),
                Ok(Ok(())) if cell.life() == Life::Starting => {
                    Err("it was built and does not run".to_owned())
                }
                Ok(Ok(())) => Ok(()),
            };
            family.report(Event::Built { id, incarnation, result });
        });
    }

    fn child_path(&self, id: &str) -> String {
        format!("{}/{id}", self.inner.below)
    }

    fn cell(&self, id: &str) -> Option<Arc<Cell>> {
        self.inner.tree.cell(&self.child_path(id))
    }
}

/// An incarnation is gone, and there will be another.
fn rise_again(cell: &Cell) {
    cell.set_life(Life::Restarting);
    cell.count_restart();
    metrics::actor_restarted(cell.kind());
}

fn answer_first(state: &mut State, id: &str, result: &Result<(), String>) {
    if let Some(first) = state.first.remove(id) {
        let class = crate::domain::error::ErrorClass::Restarting;
        let _ = first.send(result.clone().map_err(|cause| Error::new(class, cause)));
    }
}
