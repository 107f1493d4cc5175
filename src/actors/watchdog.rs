//! The watchdog: a thread of its own that looks at the actors from outside, so that it sees them even when their
//! thread stands still. An actor that has not moved for 5 s is named; after [`END_AFTER`] the process ends,
//! as only a new one helps then, and whoever runs it starts it again.
//!
//! It looks at the tree only: what an actor is at and since when, and whether messages wait that it does not take.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use nebula_core::exit::{Exit, Fatal};

use self::machine::{Effect, Machine, Seen};
use super::tree::Tree;

pub mod machine;

/// How often it looks.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// An actor that is stuck for this long ends the process.
pub const END_AFTER: Duration = Duration::from_secs(30);
/// When the watchdog itself is later than this, the process was stopped or the machine asleep: nobody is blamed.
pub const GAP_MAX: Duration = Duration::from_secs(3);

/// What happens when an actor is stuck for good.
pub type End = Box<dyn Fn(&Fatal) + Send>;

/// Watches until it is dropped.
pub struct Watchdog {
    _stop: Sender<()>,
}

impl Watchdog {
    /// Starts it. After [`END_AFTER`] it calls `end`, on its own thread: the one that actors are on may be stuck.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(tree: Tree, end: End) -> Result<Self, Fatal> {
        let (stop, stopped) = channel::<()>();
        let watch = move || {
            let mut machine = Machine::default();
            while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                look(&mut machine, &tree, &end);
            }
        };
        let thread = std::thread::Builder::new().name("watchdog".to_owned()).spawn(watch);
        thread.map_err(|error| Fatal::new(Exit::Failed, format!("cannot start the watchdog: {error}")))?;
        Ok(Self { _stop: stop })
    }
}

fn look(machine: &mut Machine, tree: &Tree, end: &End) {
    let seen = tree.culprits().into_iter().map(|(cell, stuck)| Seen {
        path: cell.path().to_owned(),
        what: stuck.what,
        lasts: stuck.lasts,
    });
    for effect in machine.look(seen.collect(), tree.clock().now(), END_AFTER, GAP_MAX) {
        match effect {
            Effect::Forgive(gap) => {
                tree.forgive();
                tracing::warn!(gap_ms = gap.as_millis() as u64, "the watchdog was late: no actor is blamed");
            }
            Effect::Name(seen) => {
                if let Some(cell) = tree.cell(&seen.path) {
                    cell.count_stuck();
                }
                let seconds = seen.lasts.as_secs();
                tracing::error!(path = seen.path, message = seen.what, seconds, "actor is stuck");
            }
            Effect::Moved(path) => tracing::warn!(path, "actor moves again"),
            Effect::End(seen) => {
                let (path, what, seconds) = (seen.path, seen.what, seen.lasts.as_secs());
                let fatal =
                    Fatal::new(Exit::Failed, format!("actor {path} is stuck in {what} for {seconds} s"));
                end(&fatal
                    .hint("this is a fault of nebulad, please report it; it starts again from its store"));
            }
        }
    }
}

#[cfg(test)]
mod tests;
