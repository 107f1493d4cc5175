//! The task of one replica: takes events, lets the machine decide, and does what it says, in that order.

mod drain;
mod guard;
mod prepare;
mod spawn;
mod tail;
mod watch;

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use nebula_core::ids::{DeploymentId, Generation, ReplicaId};
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot, watch as watched};
use tokio::task::AbortHandle;
use tokio::time::Sleep;

use self::prepare::Ready;
use super::look;
use super::machine::{Effect, Entry, Event, Machine, Phase, Refusal, Signal};
use super::manager::Inner;
use super::spec::Spec;
use crate::driver::logs::Logs;
use crate::progress::{Progress, Reporter};
use crate::proxy::gate::Gate;
use crate::proxy::table::Route;
use crate::store::{self, StoreError};

/// Events of the task's own helpers that may wait.
const OWN_EVENTS: usize = 16;
/// Waits before the state is read again after the store refused; doubles up to the second.
const RELOAD_FIRST: Duration = Duration::from_secs(1);
const RELOAD_MAX: Duration = Duration::from_secs(30);
/// Tries when the store's queue is full, and the wait between them.
const OVERLOAD_TRIES: u32 = 20;
const OVERLOAD_WAIT: Duration = Duration::from_millis(50);

/// A command for the task.
pub(crate) struct Ask {
    pub(crate) event: Event,
    /// Answered when the outcome is durable.
    pub(crate) reply: Option<oneshot::Sender<Result<(), Refused>>>,
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// The machine says so, and would again.
    #[error(transparent)]
    Machine(#[from] Refusal),
    /// The request itself is wrong.
    #[error("{0}")]
    Invalid(String),
    /// There is no room: no port, too many replicas.
    #[error("{0}")]
    Exhausted(String),
    /// It may work later.
    #[error("{0}")]
    Unavailable(String),
}

/// What others see of a replica.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) deployment: DeploymentId,
    pub(crate) replica: ReplicaId,
    pub(crate) spec: Arc<Spec>,
    pub(crate) view: super::machine::View,
    /// How far it has got with what it does now.
    pub(crate) progress: Progress,
    /// How many requests the proxy has passed to it.
    pub(crate) gate: Gate,
}

/// What the task's own helpers tell it.
#[derive(Debug)]
enum News {
    Event(Event),
    /// An attempt is prepared.
    Ready(Ready),
}

/// The task of one replica.
pub(super) struct Task {
    pub(super) shared: Arc<Inner>,
    pub(super) machine: Machine,
    pub(super) logs: Arc<Logs>,
    pub(super) asks: mpsc::Receiver<Ask>,
    pub(super) seen: watched::Sender<Option<Arc<Snapshot>>>,
    /// Events of watchers, probes and preparations.
    own: (mpsc::Sender<News>, mpsc::Receiver<News>),
    timer: Option<(u64, Pin<Box<Sleep>>)>,
    preparing: Option<AbortHandle>,
    probe: Option<AbortHandle>,
    watcher: Option<AbortHandle>,
    /// Waits for the last request in flight.
    drainer: Option<AbortHandle>,
    /// Before the runtime, in the proxy.
    gate: Gate,
    /// Tells who makes a container that it is not wanted any more.
    unwanted: Option<watched::Sender<bool>>,
    /// What the newest attempt needs, once it is prepared.
    ready: Option<Ready>,
    /// A child between its making and its watch.
    child: Option<Child>,
    /// How far it has got.
    reporter: Reporter,
    told: watched::Receiver<Progress>,
    /// The store knows nothing of it.
    unknown: bool,
}

/// Who waits for an answer.
type Reply = Option<oneshot::Sender<Result<(), Refused>>>;

/// Why a step ended before its last effect.
enum Stop {
    /// The machine is done.
    Done,
    /// The store did not take the state: what is in memory counts no more.
    Reload,
}

impl Task {
    pub(super) fn new(
        shared: Arc<Inner>,
        machine: Machine,
        logs: Arc<Logs>,
        asks: mpsc::Receiver<Ask>,
        seen: watched::Sender<Option<Arc<Snapshot>>>,
    ) -> Self {
        let reporter = Reporter::default();
        let told = reporter.subscribe();
        Self {
            shared,
            machine,
            logs,
            asks,
            seen,
            own: mpsc::channel(OWN_EVENTS),
            timer: None,
            preparing: None,
            probe: None,
            watcher: None,
            drainer: None,
            gate: Gate::default(),
            unwanted: None,
            ready: None,
            child: None,
            reporter,
            told,
            unknown: false,
        }
    }

    /// Carries out `first`, says so, and then does whatever comes, until the machine is done.
    pub(super) async fn run(mut self, first: Vec<Effect>, begun: oneshot::Sender<()>) {
        let mut flow = self.carry_out(first, &mut None).await;
        // Only who takes up replicas at the start waits for it.
        let _ = begun.send(());
        loop {
            flow = match flow {
                ControlFlow::Break(Stop::Done) => break,
                ControlFlow::Break(Stop::Reload) => match self.reload().await {
                    Some(effects) => self.carry_out(effects, &mut None).await,
                    None => break,
                },
                ControlFlow::Continue(()) => {
                    let (event, mut reply) = self.next().await;
                    self.take(event, &mut reply).await
                }
            };
        }
        self.abort_probe();
        self.abort_preparation();
        self.abort_drain();
        self.asks.close();
        let state = self.machine.state();
        if self.unknown || matches!(state.phase, Phase::New | Phase::Removed) {
            self.shared.ports.release(state.replica);
            self.shared.routes.remove(state.deployment, state.replica);
            self.seen.send_replace(None);
            self.shared.forget(state.replica);
        }
    }

    async fn next(&mut self) -> (Event, Reply) {
        loop {
            if let Some(next) = self.next_or_progress().await {
                return next;
            }
            self.publish();
            self.shared.tell_progress();
        }
    }

    /// None: nothing has happened but progress.
    async fn next_or_progress(&mut self) -> Option<(Event, Reply)> {
        let timer = async {
            match &mut self.timer {
                Some((fence, sleep)) => {
                    sleep.await;
                    *fence
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(news) = self.own.1.recv() => Some((self.hear(news), None)),
            ask = self.asks.recv() => match ask {
                Some(Ask { event, reply }) => Some((event, reply)),
                // All handles are gone: the agent is going down without having asked.
                None => Some((Event::Halt { leave: true }, None)),
            },
            fence = timer => {
                self.timer = None;
                Some((Event::Timer { fence }, None))
            }
            Ok(()) = self.told.changed() => None,
        }
    }

    /// Keeps what came with an event.
    fn hear(&mut self, news: News) -> Event {
        match news {
            News::Event(event) => event,
            News::Ready(ready) => {
                let (attempt, port) = (ready.attempt, ready.port);
                self.ready = Some(ready);
                Event::Prepared { attempt, port }
            }
        }
    }

    async fn take(&mut self, event: Event, reply: &mut Reply) -> ControlFlow<Stop> {
        let effects = self.step(event);
        self.carry_out(effects, reply).await
    }

    fn step(&mut self, event: Event) -> Vec<Effect> {
        let from = self.machine.state().phase.as_str();
        let effects = self.machine.step(event, self.shared.clock.now());
        let state = self.machine.state();
        if from != state.phase.as_str() {
            let error = match &state.phase {
                Phase::Failed(failure) => failure.message.as_str(),
                _ => "",
            };
            tracing::info!(
                deployment_id = %state.deployment, replica_id = %state.replica, generation = %state.generation,
                runtime = %self.machine.spec().runtime, from, to = state.phase.as_str(), error,
                "replica changed"
            );
        }
        self.give_up();
        effects
    }

    /// Ends what was begun for a phase that is over.
    fn give_up(&mut self) {
        let (preparing, unwanted, busy) = match self.machine.state().phase {
            Phase::Draining { .. } => (false, true, true),
            Phase::Preparing => (true, false, true),
            Phase::Spawning { stale } => (false, stale, true),
            Phase::Starting { .. } => (false, false, true),
            Phase::New
            | Phase::Running { .. }
            | Phase::Hung { .. }
            | Phase::BackingOff
            | Phase::Killing { .. }
            | Phase::Stopped
            | Phase::Failed(_)
            | Phase::Removed
            | Phase::Halted => (false, true, false),
        };
        if !preparing {
            self.abort_preparation();
        }
        if !matches!(self.machine.state().phase, Phase::Draining { .. }) {
            self.abort_drain();
        }
        if let Some(making) = self.unwanted.as_ref().filter(|_| unwanted) {
            making.send_replace(true);
        }
        if !busy {
            self.reporter.clear();
        }
    }

    /// Does what the machine said, and what it says to what comes of that at once.
    async fn carry_out(&mut self, effects: Vec<Effect>, reply: &mut Reply) -> ControlFlow<Stop> {
        let mut waiting = VecDeque::from(effects);
        while let Some(effect) = waiting.pop_front() {
            if let Some(event) = self.perform(effect, reply).await? {
                waiting.extend(self.step(event));
            }
        }
        self.publish();
        ControlFlow::Continue(())
    }

    async fn perform(&mut self, effect: Effect, reply: &mut Reply) -> ControlFlow<Stop, Option<Event>> {
        let replica = self.machine.state().replica;
        match effect {
            Effect::Persist(journal) => self.durably(self.persist(journal).await, reply)?,
            Effect::Remove(generation) => self.durably(self.remove(generation).await, reply)?,
            Effect::Reply(answer) => {
                if let Some(reply) = reply.take() {
                    // Whoever asked may have stopped waiting.
                    let _ = reply.send(answer.map_err(Refused::Machine));
                }
                if self.machine.state().phase == Phase::New {
                    return ControlFlow::Break(Stop::Done);
                }
            }
            Effect::Route { ready } => {
                self.gate.set(ready);
                self.shared.routes.set(self.route());
            }
            Effect::Prepare { attempt } => self.prepare(attempt),
            Effect::Spawn { attempt } => return ControlFlow::Continue(self.spawn(attempt).await),
            Effect::Watch { attempt, instance } => self.watch(attempt, instance),
            Effect::Probe { attempt } => self.probe(attempt),
            Effect::Guard { attempt } => self.guard(attempt),
            Effect::StopProbe => self.abort_probe(),
            Effect::Drain { attempt } => self.drain(attempt),
            Effect::Signal { instance, signal } => {
                tracing::info!(
                    replica_id = %replica, %instance, hard = signal == Signal::Kill, "runtime told to end"
                );
                self.shared.drivers.signal(instance, signal);
            }
            Effect::SetTimer { fence, after } => {
                self.timer = Some((fence, Box::pin(tokio::time::sleep(after))));
            }
            Effect::CancelTimer => self.timer = None,
            Effect::Report => {
                self.publish();
                self.shared.changed.notify_one();
            }
            Effect::Done => return ControlFlow::Break(Stop::Done),
        }
        ControlFlow::Continue(None)
    }

    /// What follows from a write: the view is published, or the state in memory is given up.
    fn durably(&mut self, written: Result<(), StoreError>, reply: &mut Reply) -> ControlFlow<Stop> {
        let Err(error) = written else {
            self.publish();
            return ControlFlow::Continue(());
        };
        let state = self.machine.state();
        tracing::error!(replica_id = %state.replica, %error, "state of a replica not stored");
        if let Some(reply) = reply.take() {
            let _ =
                reply.send(Err(Refused::Unavailable(format!("the agent's store did not take it: {error}"))));
        }
        self.shared.store_refused();
        ControlFlow::Break(Stop::Reload)
    }

    async fn persist(&self, journal: Vec<Entry>) -> Result<(), StoreError> {
        let state = self.machine.state();
        let shared = &self.shared;
        let batch = store::replicas::put(nebula_store::Batch::new(), self.machine.spec(), state)?;
        let batch = shared.journal.append(batch, state.deployment, journal, shared.clock.wall())?;
        self.commit(batch).await
    }

    /// Files first: when the agent dies in between, the record still says what is to be done.
    async fn remove(&self, generation: Generation) -> Result<(), StoreError> {
        let (state, shared) = (self.machine.state(), &self.shared);
        let (replica, deployment) = (state.replica, state.deployment);
        let dir = shared.dir_of(replica);
        shared.drivers.sweep(replica).await;
        let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(dir));
        if let Ok(Err(error)) = removed.await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(replica_id = %replica, %error, "files of a deleted replica stay");
        }
        let mut batch = store::replicas::delete(nebula_store::Batch::new().freeing(), replica);
        batch = shared.fences.add(batch, replica, generation)?;
        if !shared.routes.table().has_other(deployment, replica) {
            batch = shared.journal.forget(batch, deployment);
        }
        self.commit(batch).await?;
        shared.ports.release(replica);
        shared.routes.remove(deployment, replica);
        Ok(())
    }

    async fn commit(&self, batch: nebula_store::Batch) -> Result<(), StoreError> {
        let mut tries = 0;
        loop {
            match self.shared.store.commit(batch.clone()).await {
                Err(nebula_store::CommitError::Overloaded) if tries < OVERLOAD_TRIES => {
                    tries += 1;
                    tokio::time::sleep(OVERLOAD_WAIT).await;
                }
                other => return Ok(other?),
            }
        }
    }

    /// Reads the state again after a write of which nobody knows whether it happened. None: there is nothing.
    async fn reload(&mut self) -> Option<Vec<Effect>> {
        self.abort_probe();
        self.abort_preparation();
        self.abort_drain();
        self.unwanted = None;
        // Whatever is found then gets a watcher of its own.
        if let Some(watcher) = self.watcher.take() {
            watcher.abort();
        }
        self.timer = None;
        let replica = self.machine.state().replica;
        let mut wait = RELOAD_FIRST;
        loop {
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RELOAD_MAX);
            match store::replicas::one(&self.shared.store, replica).await {
                Ok(None) => {
                    self.unknown = true;
                    return None;
                }
                Ok(Some((spec, state))) => {
                    let found = look::look(&self.shared.drivers, &state, &spec, &self.logs).await;
                    let now = self.shared.clock.now();
                    let (machine, effects) =
                        Machine::load(self.shared.policy, state, Arc::new(spec), found, now);
                    self.machine = machine;
                    return Some(effects);
                }
                Err(StoreError::Read(nebula_store::ReadError::Closed)) => return None,
                Err(error) => {
                    tracing::warn!(replica_id = %replica, %error, "state of a replica not read");
                    self.shared.store_refused();
                }
            }
        }
    }

    fn route(&self) -> Route {
        let state = self.machine.state();
        Route {
            deployment: state.deployment,
            replica: state.replica,
            name: self.machine.spec().served_name.clone(),
            access: state.access.clone(),
            port: state.port,
            gate: self.gate.clone(),
        }
    }

    pub(super) fn publish(&self) {
        let state = self.machine.state();
        let (deployment, replica) = (state.deployment, state.replica);
        let spec = Arc::clone(self.machine.spec());
        let progress = self.reporter.newest();
        let gate = self.gate.clone();
        let snapshot = |view| Arc::new(Snapshot { deployment, replica, spec, view, progress, gate });
        let snapshot = self.machine.view().map(snapshot);
        self.seen.send_replace(snapshot);
    }

    /// Sends an event of a helper to the task. A helper of a task that has ended talks to nobody.
    fn tell(&self, news: impl Future<Output = News> + Send + 'static) -> AbortHandle {
        let own = self.own.0.clone();
        let helper = tokio::spawn(async move {
            let _ = own.send(news.await).await;
        });
        helper.abort_handle()
    }
}
