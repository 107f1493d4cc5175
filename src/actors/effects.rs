//! How a shell performs what its machine decided: in order, and nothing before it is durable.
//!
//! Effects are queued. When the queue holds writes, all of them go into one commit, and everything that was
//! queued with them waits until it is on the disk. If the commit fails, the actor ends without performing the
//! rest: its callers hear that it restarts, and the next incarnation starts from what the store really holds.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, WrapFuture};
use tokio::sync::oneshot;

use super::supervisor::DeathWatch;
use super::system::patiently;
use crate::ports::{Store, Write};

/// An actor that performs effects.
pub(crate) trait Performer: Actor<Context = Context<Self>> {
    /// What its machine decides.
    type Effect: 'static;

    /// Its queue of effects.
    fn effects(&mut self) -> &mut Effects<Self::Effect>;
    /// Told when the actor must end because of the store.
    fn watch(&mut self) -> &mut DeathWatch;
    /// Takes the writes out of an effect that has any.
    fn writes(&mut self, effect: Self::Effect) -> Split<Self::Effect>;
    /// Does what needs no store.
    fn perform(&mut self, effect: Self::Effect, ctx: &mut Context<Self>);
    /// Everything decided so far is durable and done.
    fn settled(&mut self);
}

/// An effect, looked at for writes.
pub(crate) enum Split<E> {
    /// These writes.
    Writes(Vec<Write>),
    /// No writes.
    Other(E),
}

/// The effects that wait to be performed.
pub(crate) struct Effects<E> {
    store: Arc<dyn Store>,
    queue: VecDeque<E>,
    committing: bool,
}

impl<E> Effects<E> {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, queue: VecDeque::new(), committing: false }
    }
}

/// Queues `effects` and performs what can be performed.
pub(crate) fn perform_all<P: Performer>(
    actor: &mut P,
    effects: impl IntoIterator<Item = P::Effect>,
    ctx: &mut Context<P>,
) {
    actor.effects().queue.extend(effects);
    pump(actor, ctx);
}

fn pump<P: Performer>(actor: &mut P, ctx: &mut Context<P>) {
    while !actor.effects().committing {
        let queue = std::mem::take(&mut actor.effects().queue);
        if queue.is_empty() {
            actor.settled();
            return;
        }
        let mut writes = Vec::new();
        let mut rest = Vec::new();
        for effect in queue {
            match actor.writes(effect) {
                Split::Writes(more) => writes.extend(more),
                Split::Other(effect) => rest.push(effect),
            }
        }
        if writes.is_empty() {
            rest.into_iter().for_each(|effect| actor.perform(effect, ctx));
            continue;
        }
        actor.effects().committing = true;
        let store = actor.effects().store.clone();
        let commit = async move { patiently(|| store.commit(writes.clone())).await };
        ctx.spawn(commit.into_actor(actor).map(move |result, actor: &mut P, ctx| {
            actor.effects().committing = false;
            match result {
                Ok(()) => {
                    rest.into_iter().for_each(|effect| actor.perform(effect, ctx));
                    pump(actor, ctx);
                }
                Err(error) => {
                    actor.watch().ends_because(format!("its state could not be stored: {error}"));
                    ctx.stop();
                }
            }
        }));
    }
}

/// A caller who waits for a reply; the machine names it, the shell knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReplyTo(pub(crate) u64);

/// The callers who wait. When the actor ends they hear that it restarts.
pub(crate) struct Replies<R> {
    next: u64,
    waiting: HashMap<u64, oneshot::Sender<R>>,
}

impl<R> Replies<R> {
    pub(crate) fn new() -> Self {
        Self { next: 0, waiting: HashMap::new() }
    }

    pub(crate) fn open(&mut self) -> (ReplyTo, oneshot::Receiver<R>) {
        let (sender, receiver) = oneshot::channel();
        self.next += 1;
        self.waiting.insert(self.next, sender);
        (ReplyTo(self.next), receiver)
    }

    /// Answers; a caller who has gone away is no error.
    pub(crate) fn answer(&mut self, to: ReplyTo, reply: R) {
        if let Some(sender) = self.waiting.remove(&to.0) {
            let _ = sender.send(reply);
        }
    }
}
