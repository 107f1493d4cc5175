//! All replicas of this node: makes their tasks, passes commands on, and knows where each stands.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use nebula_core::clock::{Clock, Tick};
use nebula_core::ids::{DeploymentId, Generation, ReplicaId};
use nebula_store::Store;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::declined::{Declined, DeclinedStarts};
use super::look;
use super::machine::{Effect, Event, Machine, Policy, Refusal, Status};
use super::spec::{Access, Instance, Spec};
use super::task::{Ask, Refused, Snapshot, Task};
use crate::driver::logs::Logs;
use crate::driver::{Drivers, process};
use crate::gpu::Gpus;
use crate::models::Models;
use crate::ports::Ports;
use crate::proxy::table::Routes;
use crate::runtimes::{NodeDriver, Tools};
use crate::store::fences::Fences;
use crate::store::journal::Journal;
use crate::store::{self, StoreError};

/// Commands that may wait for one replica.
const ASKS: usize = 64;
/// How long a command may wait for its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Replicas on one node; more are refused.
pub(crate) const REPLICAS_MAX: usize = 1_000;
/// Replicas that are looked for at the same time when an agent starts: one that the Engine is slow about delays no other.
const LOOKS_AT_ONCE: usize = 16;
/// Between two reports to nebulad for nothing but progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);
/// Beyond the grace, for the last writes of tasks that end.
const HALT_EXTRA: Duration = Duration::from_secs(5);

/// What all replicas share.
pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) journal: Journal,
    pub(crate) fences: Fences,
    pub(crate) ports: Ports,
    pub(crate) routes: Arc<Routes>,
    /// Told whenever something changed that nebulad should hear of at once.
    pub(crate) changed: Arc<Notify>,
    pub(crate) tools: Tools,
    pub(crate) drivers: Drivers,
    pub(crate) models: Models,
    pub(crate) gpus: Gpus,
    /// How runtimes are run unless a deployment says otherwise.
    pub(crate) node_driver: NodeDriver,
    /// Each replica has a directory here.
    pub(crate) dir: PathBuf,
    pub(crate) clock: Clock,
    pub(crate) policy: Policy,
    /// When nebulad was last told of progress.
    progress_told: Mutex<Option<Tick>>,
    /// Set when the store has failed for good.
    pub(crate) broken: watch::Sender<bool>,
    live: Mutex<BTreeMap<ReplicaId, Handle>>,
    declined: DeclinedStarts,
    /// Held while a task is looked for and made, so that no replica has two.
    making: Mutex<()>,
    pub(super) halting: AtomicBool,
    /// All processes were killed: one that was just being made follows them.
    pub(super) killed: AtomicBool,
}

/// One replica's task, from outside.
#[derive(Clone)]
pub(super) struct Handle {
    deployment: DeploymentId,
    asks: mpsc::Sender<Ask>,
    pub(super) seen: watch::Receiver<Option<Arc<Snapshot>>>,
    logs: Arc<Logs>,
    task: Arc<JoinHandle<()>>,
}

/// What is needed to run replicas.
pub(crate) struct Parts {
    pub(crate) store: Store,
    pub(crate) routes: Arc<Routes>,
    pub(crate) changed: Arc<Notify>,
    pub(crate) ports: Ports,
    pub(crate) tools: Tools,
    pub(crate) drivers: Drivers,
    pub(crate) models: Models,
    pub(crate) gpus: Gpus,
    pub(crate) node_driver: NodeDriver,
    pub(crate) dir: PathBuf,
    pub(crate) clock: Clock,
    pub(crate) policy: Policy,
}

/// All replicas of this node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Replicas(pub(super) Arc<Inner>);

/// A request to run a replica.
pub(crate) struct Start {
    pub(crate) deployment: DeploymentId,
    pub(crate) replica: ReplicaId,
    pub(crate) generation: Generation,
    pub(crate) spec: Spec,
    pub(crate) access: Access,
    /// 0: any.
    pub(crate) port: u16,
    /// How long requests in flight may take at what runs before.
    pub(crate) drain: Duration,
}

/// Which replicas a request is about: all of a deployment here, or one of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Selector {
    pub(crate) deployment: DeploymentId,
    pub(crate) replica: Option<ReplicaId>,
}

impl Inner {
    /// The directory of a replica's logs and of `work`, where it runs.
    pub(super) fn dir_of(&self, replica: ReplicaId) -> PathBuf {
        self.dir.join(replica.to_string())
    }

    pub(super) fn work_dir_of(&self, replica: ReplicaId) -> PathBuf {
        self.dir_of(replica).join(process::WORK_DIR)
    }

    /// Called by the task of a replica that is gone, after it closed its mailbox. One that ended because the agent
    /// stops stays: nebulad is to hear of it until the end.
    pub(super) fn forget(&self, replica: ReplicaId) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if live.get(&replica).is_some_and(|handle| handle.asks.is_closed()) {
            live.remove(&replica);
        }
    }

    /// Notes that the store has failed for good, if it has: an error alone may pass, as the store opens its engine
    /// again after a full disk.
    pub(crate) fn store_refused(&self) {
        if self.store.status().failed.is_some() {
            self.broken.send_replace(true);
        }
    }

    /// Has nebulad hear of progress, now and then; a change of state is told at once, and takes the newest word along.
    pub(super) fn tell_progress(&self) {
        let now = self.clock.now();
        let mut told = self.progress_told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|at| now.since(at) >= PROGRESS_EVERY) {
            *told = Some(now);
            self.changed.notify_one();
        }
    }

    pub(super) fn handle(&self, replica: ReplicaId) -> Option<Handle> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.get(&replica).filter(|handle| !handle.asks.is_closed()).cloned()
    }

    fn handles(&self) -> Vec<(ReplicaId, Handle)> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.iter().map(|(replica, handle)| (*replica, handle.clone())).collect()
    }
}

impl Replicas {
    /// Takes up what an earlier agent left: processes that still run are kept, others are handled as ended.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn load(parts: Parts) -> Result<Self, StoreError> {
        let Parts {
            store,
            routes,
            changed,
            ports,
            tools,
            drivers,
            models,
            gpus,
            node_driver,
            dir,
            clock,
            policy,
        } = parts;
        let stored = store::replicas::all(&store).await?;
        let inner = Inner {
            journal: Journal::load(&store).await?,
            fences: Fences::load(&store).await?,
            store,
            ports,
            routes,
            changed,
            tools,
            drivers,
            models,
            gpus,
            node_driver,
            dir,
            clock,
            policy,
            progress_told: Mutex::default(),
            broken: watch::Sender::new(false),
            live: Mutex::default(),
            declined: DeclinedStarts::default(),
            making: Mutex::default(),
            halting: AtomicBool::new(false),
            killed: AtomicBool::new(false),
        };
        let replicas = Self(Arc::new(inner));
        let known: Vec<ReplicaId> = stored.iter().map(|(_, state)| state.replica).collect();
        replicas.remove_strays(known).await;
        for (_, state) in &stored {
            replicas.0.ports.keep(state.replica, state.port);
        }
        let inner = Arc::clone(&replicas.0);
        let looks = stored.into_iter().map(|(spec, state)| {
            let inner = Arc::clone(&inner);
            async move {
                let logs = Arc::new(Logs::open(inner.dir_of(state.replica)));
                let found = look::look(&inner.drivers, &state, &spec, &logs).await;
                (spec, state, logs, found)
            }
        });
        let mut looks = stream::iter(looks).buffer_unordered(LOOKS_AT_ONCE);
        let mut begun = Vec::new();
        while let Some((spec, state, logs, found)) = looks.next().await {
            tracing::info!(replica_id = %state.replica, phase = state.phase.as_str(), ?found, "replica taken up");
            let now = clock.now();
            let (machine, effects) = Machine::load(policy, state, Arc::new(spec), found, now);
            begun.push(replicas.begin(machine, effects, logs).1);
        }
        // Before anybody can call, the proxy knows who may.
        for begun in begun {
            let _ = begun.await;
        }
        replicas.look_for_strays();
        Ok(replicas)
    }

    fn begin(
        &self,
        machine: Machine,
        first: Vec<Effect>,
        logs: Arc<Logs>,
    ) -> (Handle, oneshot::Receiver<()>) {
        let (asks, mailbox) = mpsc::channel(ASKS);
        let (seen, view) = watch::channel(None);
        let (deployment, replica) = (machine.state().deployment, machine.state().replica);
        let task = Task::new(Arc::clone(&self.0), machine, Arc::clone(&logs), mailbox, seen);
        task.publish();
        let (done, begun) = oneshot::channel();
        let task = Arc::new(tokio::spawn(task.run(first, done)));
        let handle = Handle { deployment, asks, seen: view, logs, task };
        let mut live = self.0.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.insert(replica, handle.clone());
        (handle, begun)
    }

    /// Starts a replica, or starts it anew with a newer generation. Resolves when that is durable, with its port.
    ///
    /// # Errors
    /// When the generation is stale, the spec too large, no port free, or the store refuses.
    pub(crate) async fn start(&self, start: Start) -> Result<u16, Refused> {
        let Start { deployment, replica, generation, spec, access, port, drain } = start;
        store::replicas::spec_record(&spec)
            .map_err(|error| Refused::Invalid(format!("command, args and env are too large: {error}")))?;
        if let Some(newest) = self.0.fences.newest(replica).filter(|newest| generation < *newest) {
            return Err(Refusal::Stale { given: generation, newest }.into());
        }
        let spec = Arc::new(spec);
        // A task that has just ended is replaced by a new one; twice in a row is possible, thrice is not worth it.
        for _ in 0..3 {
            let handle = self.handle_for(deployment, replica, &spec)?;
            if handle.deployment != deployment {
                return Err(Refused::Invalid(format!(
                    "replica {replica} belongs to deployment {}",
                    handle.deployment
                )));
            }
            let port =
                self.0.ports.reserve(replica, port).map_err(|error| Refused::Exhausted(error.to_string()))?;
            let (spec, access) = (Arc::clone(&spec), access.clone());
            match self.ask(&handle, Event::Start { generation, spec, access, port, drain }).await {
                Some(answer) => {
                    answer?;
                    let meant = Selector { deployment, replica: Some(replica) };
                    self.0.declined.delete(meant, Some(generation));
                    let known = handle.seen.borrow().as_ref().map(|snapshot| snapshot.view.port);
                    return Ok(known.unwrap_or(port));
                }
                None => tracing::debug!(replica_id = %replica, "replica ended while it was asked"),
            }
        }
        Err(Refused::Unavailable("the replica is just being removed".to_owned()))
    }

    fn handle_for(
        &self,
        deployment: DeploymentId,
        replica: ReplicaId,
        spec: &Arc<Spec>,
    ) -> Result<Handle, Refused> {
        if self.0.halting.load(Ordering::Acquire) {
            return Err(Refusal::Halting.into());
        }
        let _turn = self.0.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = self.0.handle(replica) {
            return Ok(handle);
        }
        if self.0.handles().len() >= REPLICAS_MAX {
            return Err(Refused::Exhausted(format!("this node has {REPLICAS_MAX} replicas already")));
        }
        let machine = Machine::new(self.0.policy, deployment, replica, Arc::clone(spec));
        let logs = Arc::new(Logs::open(self.0.dir_of(replica)));
        Ok(self.begin(machine, Vec::new(), logs).0)
    }

    /// Sends an event to a replica and waits until its outcome is durable. None: its task has ended.
    async fn ask(&self, handle: &Handle, event: Event) -> Option<Result<(), Refused>> {
        let (reply, answer) = oneshot::channel();
        let asking = async {
            handle.asks.send(Ask { event, reply: Some(reply) }).await.ok()?;
            answer.await.ok()
        };
        let late = || Err(Refused::Unavailable("the replica did not answer in time".to_owned()));
        tokio::time::timeout(ANSWER_TIMEOUT, asking).await.unwrap_or_else(|_| Some(late()))
    }

    /// Sends an event to each replica that is meant. The first refusal is the answer; a replica that is not there
    /// any more counts as unknown.
    ///
    /// # Errors
    /// When there is none, or one refuses.
    pub(crate) async fn tell(&self, meant: Selector, event: &Event) -> Result<(), Refused> {
        match event {
            Event::Delete { generation, .. } => self.0.declined.delete(meant, *generation),
            Event::Stop { generation, .. } | Event::Restart { generation } => {
                self.0.declined.replace(meant, generation.or(Some(Generation(0))));
            }
            _ => {}
        }
        let mut answers = Vec::new();
        for handle in self.matching(meant) {
            answers.extend(self.ask(&handle, event.clone()).await);
        }
        if answers.is_empty() {
            return Err(Refusal::Unknown.into());
        }
        answers.into_iter().collect()
    }

    fn matching(&self, meant: Selector) -> Vec<Handle> {
        let all = self.0.handles().into_iter();
        all.filter(|(replica, handle)| {
            handle.deployment == meant.deployment && meant.replica.is_none_or(|wanted| wanted == *replica)
        })
        .map(|(_, handle)| handle)
        .collect()
    }

    /// Where each replica stands.
    pub(crate) fn list(&self) -> Vec<Arc<Snapshot>> {
        let handles = self.0.handles();
        handles.iter().filter_map(|(_, handle)| handle.seen.borrow().clone()).collect()
    }

    /// Remembers a start that can never be carried out here.
    pub(crate) fn decline(&self, declined: Declined) {
        self.0.declined.add(declined);
    }

    /// The starts that were declined and that nothing has replaced.
    pub(crate) fn declined(&self) -> Vec<Declined> {
        self.0.declined.list()
    }

    /// The replicas that are meant, with their logs.
    pub(crate) fn find(&self, meant: Selector) -> Vec<(Arc<Snapshot>, Arc<Logs>)> {
        let handles = self.matching(meant).into_iter();
        handles.filter_map(|handle| Some((handle.seen.borrow().clone()?, handle.logs))).collect()
    }

    /// Changes of one replica, for those who follow it.
    pub(crate) fn follow(&self, replica: ReplicaId) -> Option<watch::Receiver<Option<Arc<Snapshot>>>> {
        self.0.handle(replica).map(|handle| handle.seen)
    }

    /// How many replicas are in each state.
    pub(crate) fn count(&self) -> BTreeMap<Status, usize> {
        let mut counts: BTreeMap<Status, usize> = Status::ALL.into_iter().map(|status| (status, 0)).collect();
        for snapshot in self.list() {
            *counts.entry(snapshot.view.status).or_default() += 1;
        }
        counts
    }

    /// What the replicas share.
    pub(crate) fn shared(&self) -> &Arc<Inner> {
        &self.0
    }

    /// The directory in which a replica's commands run.
    pub(crate) fn work_dir(&self, replica: ReplicaId) -> PathBuf {
        self.0.work_dir_of(replica)
    }

    /// Kills every process of every replica and lets no task begin another. Blocks for some milliseconds.
    pub(crate) fn kill_now(&self) {
        self.0.halting.store(true, Ordering::Release);
        self.0.killed.store(true, Ordering::Release);
        let handles = self.0.handles();
        let mut instances: Vec<Instance> = Vec::new();
        for (_, handle) in &handles {
            handle.task.abort();
            instances.extend(handle.seen.borrow().as_ref().and_then(|snapshot| snapshot.view.instance));
        }
        let replicas: Vec<ReplicaId> = handles.into_iter().map(|(replica, _)| replica).collect();
        self.0.drivers.kill_now(&instances, &replicas);
    }

    /// Ends all tasks: their processes too, or with `leave` without them. Bounded by the grace.
    pub(crate) async fn halt(&self, leave: bool) {
        self.0.halting.store(true, Ordering::Release);
        let handles = self.0.handles();
        for (_, handle) in &handles {
            // A mailbox that is full or closed: the task is told by the end of the wait below.
            let _ = handle.asks.try_send(Ask { event: Event::Halt { leave }, reply: None });
        }
        let until_closed = async {
            for (_, handle) in &handles {
                handle.asks.closed().await;
            }
        };
        let limit = self.0.policy.grace + HALT_EXTRA;
        if tokio::time::timeout(limit, until_closed).await.is_err() {
            tracing::warn!(leave_runtimes = leave, "some replicas did not end in time");
            if !leave {
                let replicas = self.clone();
                // A panic in there has been logged.
                let _ = tokio::task::spawn_blocking(move || replicas.kill_now()).await;
            }
        }
        for (_, handle) in handles {
            handle.task.abort();
        }
    }
}
