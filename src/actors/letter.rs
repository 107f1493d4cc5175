//! How a message travels: in a letter that its actor opens.
//!
//! The letter holds the message's place in the mailbox and begins its turn, so that every message is counted, bounded
//! and seen by supervision, and no handler has to do anything for it. It goes by `do_send`, which never refuses: the
//! bound is in the [`super::handle`]. Nobody takes a letter back.

#![expect(clippy::disallowed_methods, reason = "letters are bounded before they are sent")]

use std::sync::Arc;
use std::time::Duration;

use actix::dev::MessageResponse;
use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, Message};
use nebula_core::clock::Tick;
use tokio::sync::oneshot;

use super::supervisor::DeathWatch;
use super::traced::{Subject, Traced, text_of};
use super::tree::{Cell, Ticket};
use crate::domain::error::{Error, ErrorClass};

/// How soon an actor that winds up looks again whether it is done.
const WIND_UP_LOOK: Duration = Duration::from_millis(5);

type Contents<A> = Box<dyn FnOnce(&mut A, &mut Context<A>) + Send>;

/// A message on its way to an actor.
pub struct Letter<A: Actor<Context = Context<A>>>(Contents<A>);

impl<A: Actor<Context = Context<A>>> Message for Letter<A> {
    type Result = ();
}

impl<A: Actor<Context = Context<A>>> Letter<A> {
    /// Hands the message to its actor.
    pub fn open(self, actor: &mut A, ctx: &mut Context<A>) {
        (self.0)(actor, ctx);
    }
}

/// An actor that lives in the tree.
pub trait Member: Actor<Context = Context<Self>> + Handler<Letter<Self>> {
    /// Its place there.
    fn cell(&self) -> &Arc<Cell>;
    /// What tells its supervisor when it ends.
    fn watch(&mut self) -> &mut DeathWatch;
    /// Whether something that it was asked for is still under way.
    fn busy(&self) -> bool {
        false
    }
}

/// Makes an actor one that opens letters.
macro_rules! opens_letters {
    ($actor:ty) => {
        impl ::actix::Handler<$crate::actors::letter::Letter<Self>> for $actor {
            type Result = ();

            fn handle(
                &mut self,
                letter: $crate::actors::letter::Letter<Self>,
                ctx: &mut ::actix::Context<Self>,
            ) {
                letter.open(self, ctx);
            }
        }
    };
}
pub(crate) use opens_letters;

/// Sends a message. The answer comes on the channel; it closes without one when the actor falls.
///
/// # Errors
/// `Unprocessable` when this message is set aside for this actor.
pub(crate) fn ask<A, M>(
    addr: &Addr<A>,
    cell: &Arc<Cell>,
    ticket: Option<Ticket>,
    message: M,
) -> Result<oneshot::Receiver<M::Result>, Error>
where
    A: Member + Handler<M>,
    M: Message + Traced + Send + 'static,
    M::Result: Send,
{
    let (sender, answer) = oneshot::channel();
    send(addr, cell, ticket, message, Some(sender))?;
    Ok(answer)
}

/// Sends a message that nobody waits for.
///
/// # Errors
/// As for [`ask`].
pub(crate) fn tell<A, M>(
    addr: &Addr<A>,
    cell: &Arc<Cell>,
    ticket: Option<Ticket>,
    message: M,
) -> Result<(), Error>
where
    A: Member + Handler<M>,
    M: Message + Traced + Send + 'static,
    M::Result: Send,
{
    send(addr, cell, ticket, message, None)
}

fn send<A, M>(
    addr: &Addr<A>,
    cell: &Arc<Cell>,
    ticket: Option<Ticket>,
    message: M,
    answer: Option<oneshot::Sender<M::Result>>,
) -> Result<(), Error>
where
    A: Member + Handler<M>,
    M: Message + Traced + Send + 'static,
    M::Result: Send,
{
    let subject = Subject::of(&message);
    if subject.fingerprint.is_some_and(|fingerprint| cell.refuses(fingerprint)) {
        return Err(set_aside(cell.path()));
    }
    let suspect = subject.fingerprint.is_some_and(|fingerprint| cell.suspects(fingerprint));
    let text = suspect.then(|| text_of(&message));
    let cell = cell.clone();
    addr.do_send(Letter(Box::new(move |actor: &mut A, ctx: &mut Context<A>| {
        drop(ticket);
        cell.count_message();
        let _turn = cell.message_turn(subject, text);
        <A as Handler<M>>::handle(actor, message, ctx).handle(ctx, answer);
    })));
    Ok(())
}

/// Repeating the request is of no use, so it is no `Restarting`.
fn set_aside(path: &str) -> Error {
    let what = format!(
        "this request is set aside: the part of the control plane that carries it out failed over it each time; an \
         operator can release it by restarting {path} under /admin/actors"
    );
    Error::new(ErrorClass::Unprocessable, what)
}

/// Lets the actor finish what it has, until then at most, and end.
pub(super) fn wind_up_later<A: Member>(addr: &Addr<A>, until: Tick) {
    addr.do_send(Letter(Box::new(move |actor: &mut A, ctx: &mut Context<A>| wind_up(actor, ctx, until))));
}

fn wind_up<A: Member>(actor: &mut A, ctx: &mut Context<A>, until: Tick) {
    let done = !actor.busy() && actor.cell().waiting() == 0;
    if done || actor.watch().now() >= until {
        if !done {
            tracing::warn!(
                path = actor.cell().path(),
                "actor ends with work left: its shutdown time is over"
            );
        }
        actor.watch().stops();
        ctx.stop();
    } else {
        ctx.run_later(WIND_UP_LOOK, move |actor, ctx| wind_up(actor, ctx, until));
    }
}
