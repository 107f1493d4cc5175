//! How messages reach actors: the current address is looked up for each one, admission is bounded, and what
//! goes wrong comes back as an error of the domain.
//!
//! actix mailboxes refuse nothing in practice, so the bound is here. A `send` whose future is dropped before the
//! message is handled silently skips it, so every message travels in a task of its own: a caller that goes away
//! takes back nothing.

#![expect(clippy::disallowed_methods, reason = "this is the one place that sends")]

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Handler, Message};

use super::tree::{Cell, Life, Tree};
use crate::domain::error::{Error, ErrorClass};

/// How many messages may wait for one actor.
const WAITING_MAX: usize = 4_096;

/// How long a caller waits for an answer.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// Reaches the actors of one kind by path.
pub struct Handle<A> {
    tree: Tree,
    actor: PhantomData<fn() -> A>,
}

impl<A> Clone for Handle<A> {
    fn clone(&self) -> Self {
        Self::new(self.tree.clone())
    }
}

impl<A> Handle<A> {
    /// A handle on the actors of `tree`.
    #[must_use]
    pub fn new(tree: Tree) -> Self {
        Self { tree, actor: PhantomData }
    }

    /// The tree that it looks into.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }
}

impl<A: Actor> Handle<A>
where
    Addr<A>: Send + Sync,
{
    /// Sends a message and waits for its answer.
    ///
    /// # Errors
    /// `NotFound` when there is no such actor, `Restarting` when it is down or fell while answering (a mutation
    /// may have happened), `Overloaded` when too many wait for it, `Timeout` after [`ASK_TIMEOUT`].
    ///
    /// # Cancel safety
    /// Dropping the future does not take the message back.
    pub async fn ask<M>(&self, path: &str, message: M) -> Result<M::Result, Error>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        let (_, addr) = self.admit(path)?;
        let answer = tokio::spawn(async move { addr.send(message).await });
        match tokio::time::timeout(ASK_TIMEOUT, answer).await {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(_)) | Err(_)) => Err(Error::restarting()),
            Err(_) => {
                Err(Error::new(ErrorClass::Timeout, "no answer in time; whether it happened is unknown"))
            }
        }
    }

    /// Sends a message and does not wait. What cannot be delivered is dropped: whoever needs it asks again.
    pub fn tell<M>(&self, path: &str, message: M)
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        match self.admit(path) {
            Ok((_, addr)) => addr.do_send(message),
            Err(error) => tracing::debug!(path, %error, "message not delivered"),
        }
    }

    fn admit(&self, path: &str) -> Result<(Arc<Cell>, Addr<A>), Error> {
        let cell = self
            .tree
            .cell(path)
            .ok_or_else(|| Error::new(ErrorClass::NotFound, "there is no such part of the control plane"))?;
        if cell.waiting() >= WAITING_MAX {
            return Err(Error::new(ErrorClass::Overloaded, "too many requests wait here, try again later"));
        }
        match (cell.addr(), cell.life()) {
            (Some(addr), _) => {
                cell.sent();
                Ok((cell, addr))
            }
            (None, Life::Crashed) => Err(Error::new(
                ErrorClass::Restarting,
                "this part of the control plane has crashed; an operator can restart it under /admin/actors",
            )),
            (None, Life::Starting | Life::Running | Life::Restarting) => Err(Error::restarting()),
        }
    }
}
