//! Supervision in OTP's words. A child is built by its factory, from the store; when it falls it is built again
//! ([`machine`] says when, and who must end first). Children are kept in a [`family`], which outlives the supervisor's
//! actor: a supervisor that falls is built again by the one above it and takes its living children over.
//!
//! actix's own supervisor is not used: it does not survive a panic. Here each actor holds a [`DeathWatch`] whose
//! drop tells the family, whatever the reason.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, SpawnHandle};

use super::letter::{Member, opens_letters};
use super::traced::Traced;
use super::tree::{Cell, Tree};

pub mod family;
pub mod machine;
mod spec;
mod watch;

pub use self::family::Family;
pub use self::spec::{Birth, ChildSpec, Factory, Restart, SHUTDOWN, Strategy};
pub use self::watch::DeathWatch;

/// Timers fire this much late at least, so that what they are for is surely due.
const TIMER_SLACK: Duration = Duration::from_millis(1);

/// A supervisor's actor.
pub struct Supervisor {
    family: Family,
    cell: Arc<Cell>,
    timer: Option<SpawnHandle>,
    watch: DeathWatch,
}

impl Supervisor {
    fn start_in(family: Family, birth: Birth) {
        let Birth { cell, watch } = birth;
        let supervisor = Self { family, cell: cell.clone(), timer: None, watch };
        cell.running(supervisor.start());
    }

    /// Starts the one supervisor that has nobody above it. If it falls, the process is to end.
    pub fn start_root(family: &Family) {
        let tree: &Tree = family.tree();
        let cell = tree.plant(family.path(), "supervisor");
        cell.begin_incarnation(1);
        let watch = DeathWatch::of_root(tree.clone(), cell.clone());
        Self::start_in(family.clone(), Birth { cell, watch });
    }

    fn attend(&mut self, ctx: &mut Context<Self>) {
        if let Some(old) = self.timer.take() {
            ctx.cancel_future(old);
        }
        if let Some(wait) = self.family.attend() {
            self.timer = Some(ctx.run_later(wait + TIMER_SLACK, |supervisor, ctx| {
                let _turn = supervisor.cell.timer_turn("timer: a child is due");
                supervisor.timer = None;
                supervisor.attend(ctx);
            }));
        }
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.attend(ctx);
    }
}

impl Member for Supervisor {
    fn cell(&self) -> &Arc<Cell> {
        &self.cell
    }

    fn watch(&mut self) -> &mut DeathWatch {
        &mut self.watch
    }
}

opens_letters!(Supervisor);

/// From the family: something has happened to a child.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Attend;

impl Traced for Attend {
    // It is the same whatever has happened, and without it nothing would be built again.
    const SET_ASIDE: bool = false;
}

impl Handler<Attend> for Supervisor {
    type Result = ();

    fn handle(&mut self, _: Attend, ctx: &mut Context<Self>) {
        self.attend(ctx);
    }
}

#[cfg(test)]
mod tests;
