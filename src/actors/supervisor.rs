//! Supervision in OTP's words. A child is built by its factory, from the store; when it falls it is built again
//! after a pause that grows from 100 ms to 30 s; after 5 restarts within 60 s it stays down, visibly crashed,
//! until an operator restarts it. One child's fall touches no other.
//!
//! actix's own supervisor is not used: it does not survive a panic. Here each actor holds a [`DeathWatch`] whose
//! drop tells the supervisor, whatever the reason.

#![expect(clippy::disallowed_methods, reason = "a death is told without waiting, and mailboxes take it")]

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, ResponseFuture, WrapFuture,
};
use nebula_core::clock::Tick;
use nebula_core::telemetry::last_panic;
use tokio::sync::oneshot;

use super::tree::{Cell, Life, Tree};
use crate::domain::error::{Error, ErrorClass};

/// The pause before the first restart; doubled for each further one within the window.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// How many restarts are tried within the window.
const INTENSITY: usize = 5;
/// The window in which restarts are counted.
const INTENSITY_WINDOW: Duration = Duration::from_secs(60);

/// When a child is built again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Always.
    Permanent,
    /// Unless it ended in order.
    Transient,
}

/// What a factory is given: the child's cell and its death watch.
pub struct Birth {
    /// The child's place in the tree.
    pub cell: Arc<Cell>,
    /// To be kept by the actor until it ends.
    pub watch: DeathWatch,
}

type Started = Pin<Box<dyn Future<Output = Result<(), Error>>>>;

/// Builds a child from the store and starts it.
pub type Factory = Arc<dyn Fn(Birth) -> Started + Send + Sync>;

/// How a child is built and when it is built again.
#[derive(Clone)]
pub struct ChildSpec {
    /// Its name below the supervisor's path.
    pub id: String,
    /// For operators.
    pub kind: &'static str,
    /// When it is built again.
    pub restart: Restart,
    /// Builds it.
    pub factory: Factory,
}

impl ChildSpec {
    /// A spec from an async function.
    pub fn new<F, Fut>(id: impl Into<String>, kind: &'static str, restart: Restart, factory: F) -> Self
    where
        F: Fn(Birth) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Error>> + 'static,
    {
        Self { id: id.into(), kind, restart, factory: Arc::new(move |birth| Box::pin(factory(birth))) }
    }
}

/// Tells the supervisor when it is dropped, and why.
pub struct DeathWatch {
    parent: Addr<Supervisor>,
    child: String,
    incarnation: u64,
    reason: Reason,
}

#[derive(Clone, Debug)]
enum Reason {
    Lost,
    Finished,
    Failed(String),
}

impl DeathWatch {
    /// The actor is about to end because of this; it is built again.
    pub fn ends_because(&mut self, cause: String) {
        self.reason = Reason::Failed(cause);
    }

    /// The actor has done its work and is about to end for good.
    pub fn finishes(&mut self) {
        self.reason = Reason::Finished;
    }
}

impl Drop for DeathWatch {
    fn drop(&mut self) {
        let reason = if std::thread::panicking() {
            Reason::Failed(format!(
                "panicked: {}",
                last_panic::take().unwrap_or_else(|| "no message".to_owned())
            ))
        } else {
            self.reason.clone()
        };
        let child = std::mem::take(&mut self.child);
        self.parent.do_send(Exited { child, incarnation: self.incarnation, reason });
    }
}

struct Child {
    spec: ChildSpec,
    cell: Arc<Cell>,
    restarts: VecDeque<Tick>,
}

/// A supervisor: one for each family of actors.
pub struct Supervisor {
    path: String,
    tree: Tree,
    children: BTreeMap<String, Child>,
}

impl Supervisor {
    /// Starts a supervisor whose children live below `path` (empty for the root).
    pub fn start_at(path: &str, tree: Tree) -> Addr<Self> {
        let own = if path.is_empty() { "/" } else { path };
        let cell = tree.plant(own, "supervisor");
        cell.begin_incarnation();
        let supervisor = Self { path: path.to_owned(), tree, children: BTreeMap::new() }.start();
        cell.running(supervisor.clone());
        supervisor
    }

    fn build(
        &mut self,
        id: &str,
        first: Option<oneshot::Sender<Result<(), Error>>>,
        ctx: &mut Context<Self>,
    ) {
        let Some(child) = self.children.get(id) else { return };
        let incarnation = child.cell.begin_incarnation();
        let watch =
            DeathWatch { parent: ctx.address(), child: id.to_owned(), incarnation, reason: Reason::Lost };
        // In a task of its own: a factory that panics is a child that cannot start, not a supervisor that falls.
        let factory = child.spec.factory.clone();
        let birth = Birth { cell: child.cell.clone(), watch };
        let started = actix_rt::spawn(async move { factory(birth).await });
        let started = async move {
            let panicked = |_| Err(Error::new(ErrorClass::Internal, "building it panicked"));
            started.await.unwrap_or_else(panicked)
        };
        let id = id.to_owned();
        ctx.spawn(started.into_actor(self).map(move |result, supervisor, ctx| {
            if let Err(error) = &result {
                // The factory's drop of the watch reports the fall as well; this names the cause.
                supervisor.fell(&id, incarnation, format!("could not start: {error}"), ctx);
            }
            if let Some(first) = first {
                let _ = first.send(result);
            }
        }));
    }

    fn fell(&mut self, id: &str, incarnation: u64, cause: String, ctx: &mut Context<Self>) {
        let now = self.tree.clock().now();
        let Some(child) = self.children.get_mut(id) else { return };
        let already = matches!(child.cell.life(), Life::Restarting | Life::Crashed);
        if child.cell.incarnation() != incarnation || already {
            return;
        }
        child.cell.gone(cause.clone(), self.tree.clock().wall());
        while child.restarts.front().is_some_and(|at| now.since(*at) > INTENSITY_WINDOW) {
            child.restarts.pop_front();
        }
        let path = child.cell.path();
        if child.restarts.len() >= INTENSITY {
            child.cell.set_life(Life::Crashed);
            tracing::error!(path, cause, "actor crashed and stays down");
            return;
        }
        let exponent = u32::try_from(child.restarts.len()).unwrap_or(u32::MAX);
        let pause = BACKOFF_FIRST.saturating_mul(2_u32.saturating_pow(exponent)).min(BACKOFF_MAX);
        child.restarts.push_back(now);
        child.cell.set_life(Life::Restarting);
        child.cell.count_restart();
        tracing::warn!(path, cause, pause_ms = pause.as_millis() as u64, "actor fell and is built again");
        let id = id.to_owned();
        ctx.run_later(pause, move |supervisor, ctx| {
            let waits = |child: &Child| child.cell.life() == Life::Restarting;
            if supervisor.children.get(&id).is_some_and(waits) {
                supervisor.build(&id, None, ctx);
            }
        });
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;
}

/// Builds a child. Answers when it runs; a child that is there already is left alone.
#[derive(Message)]
#[rtype(result = "Result<(), Error>")]
pub struct StartChild(pub ChildSpec);

impl Handler<StartChild> for Supervisor {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, StartChild(spec): StartChild, ctx: &mut Self::Context) -> Self::Result {
        if self.children.contains_key(&spec.id) {
            return Box::pin(async { Ok(()) });
        }
        let id = spec.id.clone();
        let cell = self.tree.plant(&format!("{}/{id}", self.path), spec.kind);
        self.children.insert(id.clone(), Child { spec, cell, restarts: VecDeque::new() });
        let (first, started) = oneshot::channel();
        self.build(&id, Some(first), ctx);
        Box::pin(async move { started.await.unwrap_or_else(|_| Err(Error::restarting())) })
    }
}

/// Brings back a child that is down. Answers whether it did: none when there is no such child, false when it runs.
#[derive(Message)]
#[rtype(result = "Option<bool>")]
pub struct RestartChild(pub String);

impl Handler<RestartChild> for Supervisor {
    type Result = Option<bool>;

    fn handle(&mut self, RestartChild(id): RestartChild, ctx: &mut Self::Context) -> Option<bool> {
        let child = self.children.get_mut(&id)?;
        let down = matches!(child.cell.life(), Life::Crashed | Life::Restarting);
        if down {
            child.restarts.clear();
            self.build(&id, None, ctx);
        }
        Some(down)
    }
}

/// A child's death watch was dropped.
#[derive(Message)]
#[rtype(result = "()")]
struct Exited {
    child: String,
    incarnation: u64,
    reason: Reason,
}

impl Handler<Exited> for Supervisor {
    type Result = ();

    fn handle(&mut self, exited: Exited, ctx: &mut Self::Context) {
        let Some(child) = self.children.get(&exited.child) else { return };
        let done = matches!(exited.reason, Reason::Finished) && child.spec.restart != Restart::Permanent;
        if done && child.cell.incarnation() == exited.incarnation {
            self.tree.uproot(child.cell.path());
            self.children.remove(&exited.child);
            return;
        }
        let cause = match exited.reason {
            Reason::Failed(cause) => cause,
            Reason::Finished => "ended".to_owned(),
            Reason::Lost => "ended without a reason".to_owned(),
        };
        self.fell(&exited.child, exited.incarnation, cause, ctx);
    }
}

#[cfg(test)]
mod tests;
