//! How messages reach actors: the current address is looked up for each one, admission is bounded, and what
//! goes wrong comes back as an error of the domain.
//!
//! actix mailboxes refuse nothing in practice, so the bound is here. A message that was admitted is handled whether
//! its caller waits for the answer or not: a client that hangs up takes back nothing.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use actix::{Addr, Handler, Message};

use super::letter::{self, Member};
use super::traced::Traced;
use super::tree::{Cell, Life, Ticket, Tree};
use crate::domain::error::{Error, ErrorClass};

/// How many messages may wait for one actor. Callers beyond that are refused, or wait for room.
pub const WAITING_MAX: usize = 4_096;

/// How many messages may wait for one actor when one more is told to it. It is more than callers get: each of many
/// thousands of deployments may have something to say at the same moment, and nobody would say it again.
pub const TOLD_MAX: usize = 65_536;

/// How long a caller waits for an answer.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a read waits for an actor that is being built again.
pub const READ_WAIT: Duration = Duration::from_secs(2);

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

impl<A: Member> Handle<A> {
    /// Sends a message and waits for its answer. It is sent once, whatever happens.
    ///
    /// # Errors
    /// `NotFound` when there is no such actor, `Restarting` when it is down or fell while answering (a mutation
    /// may have happened), `Overloaded` when too many wait for it, `Unprocessable` when the message is set aside,
    /// `Timeout` after [`ASK_TIMEOUT`].
    ///
    /// # Cancel safety
    /// Dropping the future does not take the message back.
    pub async fn ask<M>(&self, path: &str, message: M) -> Result<M::Result, Error>
    where
        M: Message + Traced + Send + 'static,
        M::Result: Send,
        A: Handler<M>,
    {
        self.asked(path, message, ASK_TIMEOUT).await
    }

    /// The same, and where too many wait for the actor, it waits for room first. The answer may take so long in all.
    ///
    /// # Errors
    /// As for [`Handle::ask`], `Overloaded` when there was no room in time.
    ///
    /// # Cancel safety
    /// Dropping the future does not take the message back once it is sent.
    pub async fn ask_in_turn<M>(&self, path: &str, message: M, patience: Duration) -> Result<M::Result, Error>
    where
        M: Message + Traced + Send + 'static,
        M::Result: Send,
        A: Handler<M>,
    {
        let began = self.tree.clock().now();
        if let Some(cell) = self.tree.cell(path) {
            let room = tokio::time::timeout(patience, cell.room(WAITING_MAX));
            room.await.map_err(|_| Error::overloaded())?;
        }
        let left = patience.saturating_sub(self.tree.clock().now().since(began));
        self.asked(path, message, left).await
    }

    async fn asked<M>(&self, path: &str, message: M, patience: Duration) -> Result<M::Result, Error>
    where
        M: Message + Traced + Send + 'static,
        M::Result: Send,
        A: Handler<M>,
    {
        let (cell, addr, ticket) = self.admit(path, WAITING_MAX)?;
        let answer = letter::ask(&addr, &cell, Some(ticket), message)?;
        match tokio::time::timeout(patience, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(Error::restarting()),
            Err(_) => {
                Err(Error::new(ErrorClass::Timeout, "no answer in time; whether it happened is unknown"))
            }
        }
    }

    /// Asks for something that changes nothing. When the actor is down or falls, it is asked once more as soon as it
    /// is back, which is waited for up to [`READ_WAIT`].
    ///
    /// # Errors
    /// As for [`Handle::ask`].
    pub async fn read<M>(&self, path: &str, message: impl Fn() -> M) -> Result<M::Result, Error>
    where
        M: Message + Traced + Send + 'static,
        M::Result: Send,
        A: Handler<M>,
    {
        match self.ask(path, message()).await {
            Err(error) if error.class == ErrorClass::Restarting => {
                let cell = self.tree.cell(path).ok_or_else(Error::restarting)?;
                let _ = tokio::time::timeout(READ_WAIT, cell.up()).await;
                self.ask(path, message()).await
            }
            other => other,
        }
    }

    /// Sends a message and does not wait. What cannot be delivered is dropped: whoever needs it asks again.
    pub fn tell<M>(&self, path: &str, message: M)
    where
        M: Message + Traced + Send + 'static,
        M::Result: Send,
        A: Handler<M>,
    {
        let told = self
            .admit(path, TOLD_MAX)
            .and_then(|(cell, addr, ticket)| letter::tell(&addr, &cell, Some(ticket), message));
        if let Err(error) = told {
            tracing::debug!(path, %error, "message not delivered");
        }
    }

    fn admit(&self, path: &str, most: usize) -> Result<(Arc<Cell>, Addr<A>, Ticket), Error> {
        let cell = self
            .tree
            .cell(path)
            .ok_or_else(|| Error::new(ErrorClass::NotFound, "there is no such part of the control plane"))?;
        if cell.waiting() >= most {
            return Err(Error::overloaded());
        }
        match (cell.door(), cell.life()) {
            (Some((addr, ticket)), _) => Ok((cell, addr, ticket)),
            (None, Life::Crashed) => Err(Error::new(
                ErrorClass::Restarting,
                "this part of the control plane has crashed; an operator can restart it under /admin/actors",
            )),
            (None, Life::Starting | Life::Running | Life::Stopping | Life::Restarting) => {
                Err(Error::restarting())
            }
        }
    }
}
