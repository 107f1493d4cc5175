//! How a shell performs what its machine decided: in order, and nothing before it is durable.
//!
//! Effects are queued step by step. When the queue holds writes, those of many steps go into one commit, with the
//! journal's lines about them, and everything that was queued with them waits until it is on the disk. A step is never
//! torn apart. If the commit fails, the actor ends without performing the rest: its callers hear that it restarts, and
//! the next incarnation starts from what the store really holds.

use std::collections::{HashMap, VecDeque};

use actix::{ActorContext, ActorFutureExt, AsyncContext, Context, SpawnHandle, WrapFuture};
use tokio::sync::oneshot;

use super::journal::Journal;
use super::letter::Member;
use super::reply::ReplyTo;
use super::system::{OVERLOADED_PAUSE, UNAVAILABLE_PAUSE};
use crate::domain::error::Error;
use crate::domain::event::Line;
use crate::ports::{StoreError, Write};

/// With this many writes and lines a commit is full and no further step joins it, so that what waited behind a slow
/// disk does not become too large for one.
const WRITES_PER_COMMIT: usize = 64;

/// What the store could not take is offered again with what has been decided since, up to so many writes and lines: what
/// makes room must not wait behind what needs some.
const WRITES_HELD: usize = 512;

/// So many steps may wait for the store. Callers are refused long before ([`REPLIES_MAX`]); what reaches this comes
/// from within, and the actor ends rather than grows.
const STEPS_MAX: usize = 4_096;

/// So many callers may wait for one actor's store.
pub const REPLIES_MAX: usize = 1_024;

/// An actor that performs effects.
pub(crate) trait Performer: Member {
    /// What its machine decides.
    type Effect: 'static;

    /// Its queue of effects.
    fn effects(&mut self) -> &mut Effects<Self::Effect>;
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

/// What one step decided.
struct Step<E> {
    effects: Vec<E>,
    lines: Vec<Line>,
}

/// Steps that go into one commit, taken apart.
struct Load<E> {
    writes: Vec<Write>,
    lines: Vec<Line>,
    /// What waits for the commit.
    rest: Vec<E>,
}

impl<E> Default for Load<E> {
    fn default() -> Self {
        Self { writes: Vec::new(), lines: Vec::new(), rest: Vec::new() }
    }
}

impl<E> Load<E> {
    fn is_full(&self, limit: usize) -> bool {
        self.writes.len() + self.lines.len() >= limit
    }
}

/// The effects that wait to be performed.
pub(crate) struct Effects<E> {
    journal: Journal,
    queue: VecDeque<Step<E>>,
    lines: Vec<Line>,
    committing: bool,
    /// What the store could not take just now. It is offered again, with what has been decided since: a full disk
    /// takes a stop or a deletion, and with it what waits before it.
    held: Option<Load<E>>,
    /// When it is offered again if nothing is decided before.
    retry: Option<SpawnHandle>,
}

impl<E> Effects<E> {
    pub(crate) fn new(journal: Journal) -> Self {
        Self {
            journal,
            queue: VecDeque::new(),
            lines: Vec::new(),
            committing: false,
            held: None,
            retry: None,
        }
    }

    /// Whether something that was decided is not done yet.
    pub(crate) fn busy(&self) -> bool {
        self.committing || self.held.is_some() || !self.queue.is_empty()
    }

    /// Adds lines of the journal to the step that is queued next, or to the one whose writes are being taken out.
    pub(crate) fn note(&mut self, lines: impl IntoIterator<Item = Line>) {
        self.lines.extend(lines);
    }
}

/// Queues `effects` and performs what can be performed.
pub(crate) fn perform_all<P: Performer>(
    actor: &mut P,
    effects: impl IntoIterator<Item = P::Effect>,
    ctx: &mut Context<P>,
) {
    let effects: Vec<P::Effect> = effects.into_iter().collect();
    let queue = actor.effects();
    let lines = std::mem::take(&mut queue.lines);
    if queue.committing && effects.is_empty() && lines.is_empty() {
        return;
    }
    queue.queue.push_back(Step { effects, lines });
    if queue.queue.len() > STEPS_MAX {
        actor.watch().ends_because("too much waits for the store".to_owned());
        ctx.stop();
        return;
    }
    pump(actor, ctx);
}

fn pump<P: Performer>(actor: &mut P, ctx: &mut Context<P>) {
    while !actor.effects().committing {
        let Some(load) = next_load(actor) else {
            actor.settled();
            return;
        };
        if load.writes.is_empty() && load.lines.is_empty() {
            load.rest.into_iter().for_each(|effect| actor.perform(effect, ctx));
            continue;
        }
        actor.effects().committing = true;
        let commit = actor.effects().journal.commit(load.writes.clone(), load.lines.clone());
        ctx.spawn(commit.into_actor(actor).map(move |result, actor: &mut P, ctx| {
            let _turn = actor.cell().future_turn("future: committed");
            actor.effects().committing = false;
            committed(actor, load, result, ctx);
        }));
    }
}

/// What is held and what is queued, as far as it fits into one commit.
fn next_load<P: Performer>(actor: &mut P) -> Option<Load<P::Effect>> {
    let held = actor.effects().held.take();
    if held.is_none() && actor.effects().queue.is_empty() {
        return None;
    }
    let limit = if held.is_some() { WRITES_HELD } else { WRITES_PER_COMMIT };
    let mut load = held.unwrap_or_default();
    while !load.is_full(limit) {
        let Some(step) = actor.effects().queue.pop_front() else { break };
        for effect in step.effects {
            match actor.writes(effect) {
                Split::Writes(more) => load.writes.extend(more),
                Split::Other(effect) => load.rest.push(effect),
            }
        }
        load.lines.extend(step.lines);
        // What was noted while the writes were taken out belongs to them.
        load.lines.append(&mut actor.effects().lines);
    }
    Some(load)
}

fn committed<P: Performer>(
    actor: &mut P,
    load: Load<P::Effect>,
    result: Result<(), StoreError>,
    ctx: &mut Context<P>,
) {
    let pause = match result {
        Ok(()) => {
            load.rest.into_iter().for_each(|effect| actor.perform(effect, ctx));
            return pump(actor, ctx);
        }
        Err(StoreError::Overloaded) => OVERLOADED_PAUSE,
        Err(StoreError::Unavailable(_)) => UNAVAILABLE_PAUSE,
        Err(error @ (StoreError::TooLarge(_) | StoreError::Failed(_))) => {
            actor.watch().ends_because(format!("its state could not be stored: {error}"));
            return ctx.stop();
        }
    };
    let retry = ctx.run_later(pause, |actor, ctx| {
        let _turn = actor.cell().future_turn("timer: offered to the store again");
        pump(actor, ctx);
    });
    actor.effects().held = Some(load);
    if let Some(old) = actor.effects().retry.replace(retry) {
        ctx.cancel_future(old);
    }
}

/// The callers who wait. When the actor ends they hear that it restarts.
pub(crate) struct Replies<R> {
    next: u64,
    waiting: HashMap<u64, oneshot::Sender<R>>,
}

impl<R> Replies<R> {
    pub(crate) fn new() -> Self {
        Self { next: 0, waiting: HashMap::new() }
    }

    /// Takes in a caller.
    ///
    /// # Errors
    /// `Overloaded` when [`REPLIES_MAX`] wait already.
    pub(crate) fn open(&mut self) -> Result<(ReplyTo, oneshot::Receiver<R>), Error> {
        if self.waiting.len() >= REPLIES_MAX {
            return Err(Error::overloaded());
        }
        let (sender, receiver) = oneshot::channel();
        self.next += 1;
        self.waiting.insert(self.next, sender);
        Ok((ReplyTo(self.next), receiver))
    }

    /// Answers; a caller who has gone away is no error.
    pub(crate) fn answer(&mut self, to: ReplyTo, reply: R) {
        if let Some(sender) = self.waiting.remove(&to.0) {
            let _ = sender.send(reply);
        }
    }
}
