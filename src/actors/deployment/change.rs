//! A change that was worked out from the spec as it was seen: it is made only if that is still what is wanted, so that
//! two who change different things at once do not undo each other.

use actix::{Context, Handler, Message, ResponseFuture};

use super::machine::Intent;
use super::{DeploymentActor, Want};
use crate::domain::deployment::{Deployment, DeploymentSpec};
use crate::domain::error::Error;
use crate::domain::event::Origin;

/// From the API: want this instead of that. Repeated, it finds what is wanted already, or is refused.
#[derive(Debug, Message)]
#[rtype(result = "Result<Changed, Error>")]
pub struct Change {
    /// What was seen.
    pub seen: Box<DeploymentSpec>,
    /// What is wanted now.
    pub wanted: Box<DeploymentSpec>,
    /// Who.
    pub origin: Origin,
}

/// What came of it.
#[derive(Debug)]
pub enum Changed {
    /// It is wanted, durably.
    Done(Box<Deployment>),
    /// Something else was wanted meanwhile: this.
    Overtaken(Box<DeploymentSpec>),
}

impl Handler<Change> for DeploymentActor {
    type Result = ResponseFuture<Result<Changed, Error>>;

    fn handle(&mut self, Change { seen, wanted, origin }: Change, ctx: &mut Context<Self>) -> Self::Result {
        let present = &self.machine.deployment().spec;
        if *present != *seen {
            let present = Box::new(present.clone());
            return Box::pin(async move { Ok(Changed::Overtaken(present)) });
        }
        let want = Want { intent: Intent::Change(wanted), origin };
        let done = <Self as Handler<Want>>::handle(self, want, ctx);
        Box::pin(async move { done.await.map(|dep| Changed::Done(Box::new(dep))) })
    }
}
