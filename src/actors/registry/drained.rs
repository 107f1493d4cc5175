//! What the drains ask of the registry.

use std::collections::BTreeMap;

use actix::{Context, Handler, Message, MessageResult};
use nebula_core::ids::NodeId;

use super::Registry;
use super::machine::Event;
use crate::actors::drains::machine::Wish;
use crate::domain::node::Scheduling;

/// From the drains: this node is being drained, or is it no longer. Idempotent; nobody waits for an answer.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Become(pub NodeId, pub Scheduling);

impl Handler<Become> for Registry {
    type Result = ();

    fn handle(&mut self, Become(id, scheduling): Become, ctx: &mut Context<Self>) {
        // What is refused because too many wait is said again at the next look.
        drop(self.ask(ctx, None, |reply| Event::Drain(reply, id, scheduling)));
    }
}

/// A read: what the operator wants of each node.
#[derive(Debug, Message)]
#[rtype(result = "BTreeMap<NodeId, Wish>")]
pub struct GetWishes;

impl Handler<GetWishes> for Registry {
    type Result = MessageResult<GetWishes>;

    fn handle(&mut self, _: GetWishes, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.machine.wishes().collect())
    }
}
