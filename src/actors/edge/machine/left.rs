//! What is left to do at an edge, counted, with the first few of each: it may be thousands.

use crate::domain::edge::{Blocked, Change, Differences, Verb};

/// So many of each are shown.
const FIRST_MAX: usize = 10;

/// What is left to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Objects that are missing.
    pub add: usize,
    /// Objects that are not as they should be.
    pub change: usize,
    /// Objects that should not be there.
    pub remove: usize,
    /// Names that cannot be as they should until a person does something.
    pub blocked: usize,
    /// The first of what is to be changed.
    pub first: Vec<Change>,
    /// The first of what cannot be.
    pub first_blocked: Vec<Blocked>,
}

impl Left {
    /// Counts.
    #[must_use]
    pub fn of(differences: &Differences) -> Self {
        let count = |verb| differences.changes.iter().filter(|change| change.verb == verb).count();
        Self {
            add: count(Verb::Add),
            change: count(Verb::Change),
            remove: count(Verb::Remove),
            blocked: differences.blocked.len(),
            first: differences.changes.iter().take(FIRST_MAX).cloned().collect(),
            first_blocked: differences.blocked.iter().take(FIRST_MAX).cloned().collect(),
        }
    }

    /// How many objects are to be changed.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.add + self.change + self.remove
    }

    /// Nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes() == 0 && self.blocked == 0
    }
}
