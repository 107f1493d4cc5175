//! The actor system: who decides what.
//!
//! Every actor is a thin shell around a pure machine (`x/machine.rs`). Messages become events, the machine
//! answers with effects, the shell performs them in order; what must be durable is committed first
//! ([`effects`]). Actors are children of a [`supervisor`] that builds them again from the store when they fall.
//! Nobody holds an address: messages go through a [`handle`], which finds the current one in the [`tree`].
//!
//! News between actors is level-triggered: whoever missed a message, or has just started again, gets the whole
//! picture with the next one.

pub mod catalog;
pub mod caution;
pub mod deployment;
mod dispatch;
pub mod drains;
pub mod edge;
pub mod effects;
#[cfg(test)]
pub(crate) mod failpoint;
pub mod handle;
pub mod journal;
pub mod keys;
pub mod letter;
pub mod poison;
pub mod queries;
pub mod registry;
pub mod reply;
pub mod route;
pub mod router;
pub mod scheduler;
pub mod session;
pub mod supervisor;
pub mod system;
pub mod traced;
pub mod tree;
pub mod upkeep;
pub mod usage;
pub mod watchdog;
