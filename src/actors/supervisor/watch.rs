//! The death watch: kept by an actor until its end, whatever that is.

use std::sync::Arc;

use nebula_core::clock::Tick;
use nebula_core::telemetry::last_panic;

use super::family::Family;
use super::machine::{Event, Exit};
use crate::actors::tree::{Cell, Life, Tree};

/// Tells whoever supervises when it is dropped, and why.
pub struct DeathWatch {
    above: Above,
    cell: Arc<Cell>,
    exit: Exit,
}

enum Above {
    /// The supervisor's family, the child's name there, and which incarnation this is.
    Family(Family, String, u64),
    /// The root has nobody above it: its end is the end.
    Nobody(Tree),
}

impl DeathWatch {
    pub(super) fn of_child(family: Family, id: String, incarnation: u64, cell: Arc<Cell>) -> Self {
        Self { above: Above::Family(family, id, incarnation), cell, exit: lost() }
    }

    pub(super) fn of_root(tree: Tree, cell: Arc<Cell>) -> Self {
        Self { above: Above::Nobody(tree), cell, exit: lost() }
    }

    /// The actor is about to end because of this; it is built again.
    pub fn ends_because(&mut self, cause: String) {
        self.exit = Exit::Fell(cause);
    }

    /// The actor has done its work and is about to end for good.
    pub fn finishes(&mut self) {
        self.exit = Exit::Finished;
    }

    /// The actor was asked to end.
    pub(crate) fn stops(&mut self) {
        self.exit = Exit::Stopped;
    }

    pub(crate) fn now(&self) -> Tick {
        match &self.above {
            Above::Family(family, ..) => family.tree().clock().now(),
            Above::Nobody(tree) => tree.clock().now(),
        }
    }
}

fn lost() -> Exit {
    Exit::Fell("ended without a reason".to_owned())
}

impl Drop for DeathWatch {
    fn drop(&mut self) {
        let exit = if std::thread::panicking() {
            let message = last_panic::take().unwrap_or_else(|| "no message".to_owned());
            Exit::Fell(match self.cell.blame() {
                Some(what) => format!("panicked in {what}: {message}"),
                None => format!("panicked: {message}"),
            })
        } else {
            std::mem::replace(&mut self.exit, Exit::Finished)
        };
        match &mut self.above {
            Above::Nobody(tree) => tree.escalate("the root of all actors fell".to_owned()),
            // One that never ran is reported by whoever built it, with the error, unless there was nothing to run for.
            Above::Family(_, _, incarnation)
                if exit != Exit::Finished
                    && self.cell.life() == Life::Starting
                    && self.cell.incarnation() == *incarnation => {}
            Above::Family(family, id, incarnation) => {
                family.report(Event::Exited { id: std::mem::take(id), incarnation: *incarnation, exit });
            }
        }
    }
}
