//! The GPUs of this machine: what they are, how busy, and which of them can be used.
//!
//! NVIDIA's management library (NVML) is only called by threads of its own (`sampler`, `nvml`), because a call into a
//! sick driver may never come back. A task takes what they say, notices a call that does not return, asks a pure
//! machine what follows, and publishes it. Whoever asks here reads what was last known and never waits.
//!
//! Physical GPUs are listed; parts of one (MIG) are not.

pub(crate) mod inventory;
pub(crate) mod machine;
mod nvml;
mod owners;
mod sampler;
#[cfg(test)]
mod tests;
mod xid;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nebula_core::clock::{Clock, Tick};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub(crate) use self::inventory::{Gpu, Inventory};
use self::machine::{Closed, Effect, Event, Machine};
pub(crate) use self::owners::ours;
use self::sampler::{Call, Message, Pace, Sampler};
use self::xid::Meaning;

/// How often the GPUs are looked at, and the library is tried again.
const PACE: Pace = Pace { sample_every: Duration::from_secs(5), open_every: Duration::from_secs(30) };
/// How long a call about a GPU may take.
const CALL_DEADLINE: Duration = Duration::from_secs(2);
/// How long a call may take that may bring up a GPU.
const OPEN_DEADLINE: Duration = Duration::from_secs(30);

/// Of some processes those that belong to replicas of this node. It may read `/proc`, and take long.
type Ours = Box<dyn Fn(&BTreeSet<u32>) -> BTreeSet<u32> + Send + Sync>;

/// The GPUs of this machine. Cheap to clone; its reads never block.
#[derive(Clone)]
pub(crate) struct Gpus {
    inventory: watch::Receiver<Arc<Inventory>>,
    changes: watch::Receiver<u64>,
    /// Whether all GPUs have been looked at once, or it is clear that there are none.
    looked: watch::Receiver<bool>,
    ours: Arc<OnceLock<Ours>>,
}

impl Gpus {
    /// Looks for GPUs, now and for as long as the runtime that this is called on runs. `lib` is the library; none: the
    /// one that the system finds.
    pub(crate) fn start(lib: Option<PathBuf>) -> Self {
        Self::start_at(lib, PACE)
    }

    fn start_at(lib: Option<PathBuf>, pace: Pace) -> Self {
        let named = lib.is_some();
        let (inventory, seen) = watch::channel(Arc::default());
        let (changes, changed) = watch::channel(0);
        let (looked, has_looked) = watch::channel(false);
        let ours = Arc::new(OnceLock::new());
        match Sampler::start(lib, pace) {
            Ok((said, wake)) => {
                let machine = Machine::default();
                let clock = Clock::start();
                let follower = Follower {
                    machine,
                    clock,
                    inventory,
                    changes,
                    looked,
                    ours: Arc::clone(&ours),
                    named,
                    said: None,
                    opened: 0,
                    pending: None,
                    wake,
                    asking: None,
                };
                tokio::spawn(follower.run(said));
            }
            Err(error) => tracing::warn!(%error, "this node offers no GPUs: no thread to look for them"),
        }
        Self { inventory: seen, changes: changed, looked: has_looked, ours }
    }

    /// Says how to tell this node's own processes; before that nothing is said of others' memory. Only the first time
    /// counts.
    pub(crate) fn set_ours(&self, ours: impl Fn(&BTreeSet<u32>) -> BTreeSet<u32> + Send + Sync + 'static) {
        let _ = self.ours.set(Box::new(ours));
    }

    /// Resolves when the GPUs were looked at once or it is clear that there are none, and after `limit` in any case.
    pub(crate) async fn first_look(&self, limit: Duration) {
        let mut looked = self.looked.clone();
        // Whether it was in time or not: what is known is known.
        let _ = tokio::time::timeout(limit, looked.wait_for(|looked| *looked)).await;
    }

    /// All GPUs that are known, also those that cannot be used.
    pub(crate) fn inventory(&self) -> Arc<Inventory> {
        Arc::clone(&self.inventory.borrow())
    }

    /// The UUIDs of GPUs.
    ///
    /// # Errors
    /// One line that begins with `gpu:` and names the GPU that is missing or cannot be used.
    pub(crate) fn resolve(&self, indices: &[u32]) -> Result<Vec<String>, String> {
        self.inventory().resolve(indices)
    }

    /// Ticks when the set of usable GPUs or what is wrong with one has changed.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }
}

/// Takes what the threads say.
struct Follower {
    machine: Machine,
    clock: Clock,
    inventory: watch::Sender<Arc<Inventory>>,
    changes: watch::Sender<u64>,
    looked: watch::Sender<bool>,
    ours: Arc<OnceLock<Ours>>,
    /// The library was named by a person.
    named: bool,
    /// What was last said of the whole: how often the library was opened, or why it is not.
    said: Option<(u64, String)>,
    /// How often the library was opened.
    opened: u64,
    /// The call that has not returned, and when it is overdue.
    pending: Option<(Call, Tick)>,
    wake: SyncSender<()>,
    /// Finds out which processes are ours; one at a time, as it may hang.
    asking: Option<JoinHandle<BTreeSet<u32>>>,
}

impl Follower {
    async fn run(mut self, mut said: mpsc::Receiver<Message>) {
        loop {
            let left = self.pending.map(|(_, overdue)| overdue.since(self.clock.now()));
            tokio::select! {
                message = said.recv() => match message {
                    Some(message) => self.take(message),
                    None => break,
                },
                () = sleep(left) => self.overdue(),
                found = answered(&mut self.asking) => {
                    self.asking = None;
                    self.step(Event::Ours(found));
                }
            }
        }
        tracing::error!("the GPUs are not looked at any more: a thread has ended");
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Begins(call) => {
                let limit = if matches!(call, Call::Sample(_)) { CALL_DEADLINE } else { OPEN_DEADLINE };
                self.pending = Some((call, self.clock.now().plus(limit)));
            }
            Message::Returned(event) => {
                self.pending = None;
                if matches!(event, Event::Opened { .. }) {
                    self.opened += 1;
                }
                self.say_of(&event);
                self.step(event);
            }
            Message::Round => {
                self.looked.send_replace(true);
                self.ask_whose();
            }
            Message::Reported(opened, event) if opened == self.opened => self.step(event),
            // Positions have another meaning by now.
            Message::Reported(..) => {}
        }
    }

    fn overdue(&mut self) {
        let Some((call, _)) = self.pending.take() else { return };
        let position = match call {
            Call::Open => None,
            Call::Find(position) | Call::Sample(position) => Some(position),
        };
        tracing::warn!(?call, "the NVIDIA driver does not answer in time");
        self.step(Event::Overdue { position });
    }

    fn step(&mut self, event: Event) {
        for effect in self.machine.step(event, self.clock.now()) {
            match effect {
                Effect::Changed => self.changes.send_modify(|ticks| *ticks += 1),
                Effect::Unusable { gpu, problem } => tracing::warn!(gpu, problem, "GPU takes no replicas"),
                Effect::Usable { gpu } => tracing::info!(gpu, "GPU takes replicas again"),
                Effect::Noted { gpu, xid, meaning: Meaning::Application } => {
                    tracing::info!(gpu, xid, "an application has made an error on a GPU");
                }
                Effect::Noted { gpu, xid, .. } => {
                    tracing::warn!(gpu, xid, "the driver reports an error of a GPU")
                }
                // When it is full, it is about to be woken.
                Effect::SampleNow => drop(self.wake.try_send(())),
            }
        }
        let known = self.machine.inventory();
        self.inventory.send_if_modified(|seen| {
            let differs = **seen != *known;
            if differs {
                *seen = Arc::new(known.clone());
            }
            differs
        });
    }

    /// Says which GPUs there are, or that there are none: once, for as long as that stays so.
    fn say_of(&mut self, event: &Event) {
        let now = match event {
            Event::Listed => Some((self.opened, String::new())),
            Event::Closed { why: Closed::Absent | Closed::Failed, error } => Some((0, error.clone())),
            _ => return,
        };
        if std::mem::replace(&mut self.said, now.clone()) == now {
            return;
        }
        let known = self.machine.inventory();
        match event {
            Event::Closed { why: Closed::Absent, error } if !self.named => {
                tracing::info!(error, "this node offers no GPUs");
            }
            Event::Closed { error, .. } => tracing::warn!(error, "this node offers no GPUs"),
            _ => tracing::info!(
                gpus = known.gpus.len(),
                driver_version = known.driver_version,
                cuda_version = known.cuda_version,
                "GPUs found"
            ),
        }
    }

    /// Begins to find out which processes are ours, unless that is still under way.
    fn ask_whose(&mut self) {
        let pids = self.machine.pids();
        if self.asking.is_some() || self.ours.get().is_none() {
            return;
        }
        let ours = Arc::clone(&self.ours);
        self.asking = Some(tokio::task::spawn_blocking(move || {
            ours.get().map_or_else(BTreeSet::new, |ours| ours(&pids))
        }));
    }
}

/// Resolves after this; never when there is nothing to wait for.
async fn sleep(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// What was found out; never when nothing is asked.
async fn answered(asking: &mut Option<JoinHandle<BTreeSet<u32>>>) -> BTreeSet<u32> {
    match asking {
        Some(asking) => asking.await.unwrap_or_default(),
        None => std::future::pending().await,
    }
}
