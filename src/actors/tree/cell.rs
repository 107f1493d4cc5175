//! One actor's place in the tree, over all its incarnations.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix::Addr;
use arc_swap::{ArcSwap, ArcSwapOption};
use nebula_core::clock::{Clock, Tick, WallTime};
use serde::Serialize;
use tokio::sync::watch;

use super::Status;
use super::turn::{Handling, Mailbox, Stuck, Suspects, Ticket};
use crate::actors::letter::{Member, wind_up_later};
use crate::actors::poison::{PoisonBook, PoisonView};

/// An actor that has been at the same thing for this long is stuck.
pub const STUCK_AFTER: Duration = Duration::from_secs(5);

/// Where an actor stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Life {
    /// Being built from the store.
    Starting,
    /// It takes messages.
    Running,
    /// It finishes what it has and takes nothing more.
    Stopping,
    /// It is down and is built again.
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

/// How to reach an incarnation.
struct Door {
    addr: Box<dyn Any + Send + Sync>,
    mailbox: Arc<Mailbox>,
    connected: Box<dyn Fn() -> bool + Send + Sync>,
    wind_up: Box<dyn Fn(Tick) + Send + Sync>,
}

/// What all cells share.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) clock: Clock,
    pub(super) poison: PoisonBook,
    /// Nobody is stuck on account of what was before: this process itself stood still.
    pub(super) blameless: Arc<AtomicU64>,
}

/// One actor's place in the tree.
pub struct Cell {
    path: String,
    kind: &'static str,
    common: Common,
    life: watch::Sender<Life>,
    incarnation: AtomicU64,
    restarts: AtomicU64,
    messages: AtomicU64,
    stuck: AtomicU64,
    started_at: AtomicU64,
    last_exit: Mutex<Option<LastExit>>,
    door: ArcSwapOption<Door>,
    mailbox: ArcSwap<Mailbox>,
    handling: Mutex<Option<Handling>>,
    suspects: Mutex<Suspects>,
    status: watch::Sender<Option<Arc<dyn Status>>>,
    #[cfg(test)]
    failpoint: Mutex<Option<crate::actors::failpoint::Failpoint>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cell {
    pub(super) fn new(path: String, kind: &'static str, common: Common) -> Self {
        Self {
            path,
            kind,
            common,
            life: watch::Sender::new(Life::Starting),
            incarnation: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            stuck: AtomicU64::new(0),
            started_at: AtomicU64::new(0),
            last_exit: Mutex::new(None),
            door: ArcSwapOption::empty(),
            mailbox: ArcSwap::default(),
            handling: Mutex::new(None),
            suspects: Mutex::default(),
            status: watch::Sender::new(None),
            #[cfg(test)]
            failpoint: Mutex::new(None),
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
        *self.life.borrow()
    }

    /// Which incarnation runs, or ran last.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation.load(Ordering::Acquire)
    }

    pub(super) fn clock(&self) -> Clock {
        self.common.clock
    }

    pub(crate) fn begin_incarnation(&self, incarnation: u64) {
        self.incarnation.store(incarnation, Ordering::Release);
        self.set_life(Life::Starting);
    }

    pub(crate) fn set_life(&self, life: Life) {
        self.life.send_replace(life);
    }

    pub(crate) fn count_restart(&self) {
        self.restarts.fetch_add(1, Ordering::AcqRel);
    }

    /// The actor runs and can be found from now on.
    pub(crate) fn running<A: Member>(&self, addr: Addr<A>) {
        let mailbox = Arc::new(Mailbox::default());
        self.started_at.store(self.common.clock.now().0, Ordering::Release);
        self.set_handling(None);
        self.mailbox.store(mailbox.clone());
        let (connected, stopped) = (addr.clone(), addr.clone());
        self.door.store(Some(Arc::new(Door {
            addr: Box::new(addr),
            mailbox,
            connected: Box::new(move || connected.connected()),
            wind_up: Box::new(move |until| wind_up_later(&stopped, until)),
        })));
        self.set_life(Life::Running);
    }

    /// It takes no more messages, finishes those it has until then at most, and ends.
    pub(crate) fn wind_up(&self, until: Tick) {
        self.set_life(Life::Stopping);
        if let Some(door) = self.door.swap(None) {
            (door.wind_up)(until);
        }
    }

    pub(crate) fn gone(&self, cause: String, at: WallTime) {
        self.door.store(None);
        self.set_handling(None);
        *lock(&self.last_exit) = Some(LastExit { cause, at: at.rfc3339() });
    }

    pub(crate) fn addr<A: Member>(&self) -> Option<Addr<A>> {
        self.door.load().as_ref().and_then(|door| door.addr.downcast_ref::<Addr<A>>()).cloned()
    }

    /// The address, and a place in the mailbox.
    pub(crate) fn door<A: Member>(&self) -> Option<(Addr<A>, Ticket)> {
        let door = self.door.load();
        let door = door.as_ref()?;
        let addr = door.addr.downcast_ref::<Addr<A>>()?.clone();
        Some((addr, Ticket::take(door.mailbox.clone(), self.common.clock)))
    }

    /// Waits until an incarnation takes messages, or it is known that none will.
    pub(crate) async fn up(&self) {
        let mut lives = self.life.subscribe();
        let reachable = || self.door.load().as_ref().is_some_and(|door| (door.connected)());
        let settled = |life: &Life| *life == Life::Crashed || *life == Life::Running && reachable();
        // The sender is this cell's own.
        let _ = lives.wait_for(settled).await;
    }

    /// How many messages wait for the actor.
    pub(crate) fn waiting(&self) -> usize {
        self.mailbox.load().waiting()
    }

    /// Waits until fewer than so many messages wait for the actor. Those who wait go on in their order.
    pub(crate) async fn room(&self, most: usize) {
        loop {
            let mailbox = self.mailbox.load_full();
            if mailbox.waiting() < most {
                return;
            }
            // One that is taken meanwhile is remembered.
            mailbox.taken().await;
        }
    }

    pub(crate) fn count_message(&self) {
        self.messages.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether the actor is not to be given this message any more.
    pub(crate) fn refuses(&self, fingerprint: u64) -> bool {
        self.common.poison.refuses(&self.path, fingerprint)
    }

    /// Whether the actor has fallen over this message before.
    pub(crate) fn suspects(&self, fingerprint: u64) -> bool {
        lock(&self.suspects).knows(fingerprint)
    }

    pub(super) fn set_handling(&self, handling: Option<Handling>) {
        *lock(&self.handling) = handling;
    }

    pub(super) fn end_turn(&self) {
        self.set_handling(None);
    }

    /// The actor is falling: what it is at counts as the cause. Answers in words what that is.
    pub(crate) fn blame(&self) -> Option<String> {
        let fallen = lock(&self.handling).take()?;
        let counted = lock(&self.suspects).count(&self.path, &fallen, self.common.clock.wall());
        if let Some(poison) = counted {
            tracing::error!(
                path = self.path,
                message = poison.message,
                kills = poison.kills,
                "message set aside: its actor fell over it each time"
            );
            self.common.poison.hold(poison);
        }
        Some(fallen.what.to_owned())
    }

    /// Everything is delivered again. Answers how many messages were set aside.
    pub(crate) fn release(&self) -> usize {
        lock(&self.suspects).forget();
        self.common.poison.release(&self.path)
    }

    /// Whether the actor has not moved for [`STUCK_AFTER`].
    #[must_use]
    pub fn stuck(&self) -> Option<Stuck> {
        let now = self.common.clock.now();
        let from = Tick(self.common.blameless.load(Ordering::Acquire));
        let lasts = |since: Tick| now.since(since.max(from));
        let handling = lock(&self.handling).as_ref().map(|handling| (handling.what, handling.since));
        let stuck = match handling {
            Some((what, since)) => Stuck { what, inside: true, lasts: lasts(since) },
            None => {
                let mailbox = self.mailbox.load();
                if mailbox.waiting() == 0 || self.life() != Life::Running {
                    return None;
                }
                Stuck { what: "its mailbox", inside: false, lasts: lasts(mailbox.moved()) }
            }
        };
        (stuck.lasts >= STUCK_AFTER).then_some(stuck)
    }

    /// It was found stuck once more.
    pub(crate) fn count_stuck(&self) {
        self.stuck.fetch_add(1, Ordering::AcqRel);
    }

    /// Replaces the published status.
    pub(crate) fn publish(&self, status: Arc<dyn Status>) {
        self.status.send_replace(Some(status));
    }

    /// The same without waking those who follow it: for what changes often and matters to whoever looks only.
    pub(crate) fn publish_quietly(&self, status: Arc<dyn Status>) {
        self.status.send_if_modified(|published| {
            *published = Some(status);
            false
        });
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
        let age = self.common.clock.now().since(Tick(self.started_at.load(Ordering::Acquire)));
        let running = self.life() == Life::Running;
        let stuck = self.stuck();
        CellView {
            path: self.path.clone(),
            kind: self.kind,
            state: self.life(),
            incarnation: self.incarnation(),
            restarts: self.restarts.load(Ordering::Acquire),
            last_exit: lock(&self.last_exit).clone(),
            mailbox_depth: self.waiting(),
            messages_total: self.messages.load(Ordering::Acquire),
            age_seconds: if running { age.as_secs() } else { 0 },
            stuck_seconds: stuck.as_ref().map_or(0, |stuck| stuck.lasts.as_secs()),
            stuck_in: stuck.map(|stuck| stuck.what),
            stuck_total: self.stuck.load(Ordering::Acquire),
            set_aside: self.common.poison.list(Some(&self.path)),
            status: self.status.borrow().as_ref().map_or(serde_json::Value::Null, |status| status.to_json()),
            children: Vec::new(),
        }
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "tests let an actor fall or stand still here")]
    pub(super) fn at_failpoint(&self, _: super::turn::Kind) {}

    /// Lets the actor fall or stand still, if a test wants it.
    #[cfg(test)]
    pub(super) fn at_failpoint(&self, kind: super::turn::Kind) {
        let due = lock(&self.failpoint).take_if(|failpoint| failpoint.is_at(kind));
        if let Some(failpoint) = due {
            failpoint.strike(&self.path);
        }
    }

    /// The next turn that fits ends differently.
    #[cfg(test)]
    pub(crate) fn set_failpoint(&self, failpoint: crate::actors::failpoint::Failpoint) {
        *lock(&self.failpoint) = Some(failpoint);
    }

    #[cfg(test)]
    pub(crate) fn failpoint_is_set(&self) -> bool {
        lock(&self.failpoint).is_some()
    }
}

/// One actor as `/admin/actors` shows it.
#[derive(Debug, Serialize)]
pub struct CellView {
    pub(super) path: String,
    kind: &'static str,
    state: Life,
    incarnation: u64,
    restarts: u64,
    last_exit: Option<LastExit>,
    mailbox_depth: usize,
    messages_total: u64,
    age_seconds: u64,
    /// For how long it has not moved; 0: it moves.
    stuck_seconds: u64,
    /// What it is at, when it is stuck.
    stuck_in: Option<&'static str>,
    /// How often it was found stuck.
    stuck_total: u64,
    /// Messages that are not delivered to it any more.
    set_aside: Vec<PoisonView>,
    status: serde_json::Value,
    pub(super) children: Vec<CellView>,
}
