//! What tests let happen to an actor at the beginning of its next turn.

use std::sync::mpsc::Receiver;

use super::tree::Kind;

/// Strikes once.
pub(crate) struct Failpoint {
    kind: Kind,
    /// Which message, timer or future; any when empty.
    what: Strike,
}

enum Strike {
    Panic,
    /// Until the sender is dropped.
    Block(Receiver<()>),
}

impl Failpoint {
    /// The actor panics.
    pub(crate) fn panic(kind: Kind) -> Self {
        Self { kind, what: Strike::Panic }
    }

    /// The actor, and the thread it is on, stands still until the other end is dropped.
    pub(crate) fn block(kind: Kind, until: Receiver<()>) -> Self {
        Self { kind, what: Strike::Block(until) }
    }

    pub(super) fn is_at(&self, kind: Kind) -> bool {
        self.kind == kind
    }

    pub(super) fn strike(self, path: &str) {
        match self.what {
            Strike::Panic => panic!("failpoint in {path}"),
            Strike::Block(until) => drop(until.recv()),
        }
    }
}
