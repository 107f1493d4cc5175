//! The network between nebulad and the agents: late, lossy, repeating, cut.

use super::sim::{Event, Sim};

/// The way between nebulad and one node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Link {
    /// Nothing passes before this moment.
    pub(crate) cut_until: u64,
    /// So many messages of a thousand are lost before `bad_until`.
    pub(crate) loss: u64,
    /// So many of a thousand are seconds late.
    pub(crate) late: u64,
    /// So many of a thousand come twice.
    pub(crate) twice: u64,
    pub(crate) bad_until: u64,
}

impl Link {
    pub(crate) fn is_good(&self, now: u64) -> bool {
        self.cut_until <= now && self.bad_until <= now
    }
}

/// What becomes of a message: after how long it arrives, and after how long once more.
pub(crate) struct Fate {
    pub(crate) first: Option<u64>,
    pub(crate) again: Option<u64>,
}

impl Sim {
    /// Decides about a message between nebulad and a node.
    pub(crate) fn fate(&mut self, node: u16) -> Fate {
        let now = self.now;
        let quick = self.rng.between(1, 30);
        let Link { cut_until, loss, late, twice, bad_until } = self.links[usize::from(node)].clone();
        if cut_until > now {
            self.count("messages cut off", 1);
            return Fate { first: None, again: None };
        }
        if bad_until <= now {
            return Fate { first: Some(quick), again: None };
        }
        if self.rng.chance(loss) {
            self.count("messages lost", 1);
            return Fate { first: None, again: None };
        }
        let mut first = quick;
        if self.rng.chance(late) {
            self.count("messages late", 1);
            first = self.rng.between(500, 40_000);
        }
        let again = self.rng.chance(twice).then(|| self.rng.between(1, 60_000));
        self.count("messages repeated", u64::from(again.is_some()));
        Fate { first: Some(first), again }
    }

    /// Sends something on its way. Answers after how long it arrives, if it does.
    pub(crate) fn transmit(&mut self, node: u16, make: impl Fn() -> Event) -> Option<u64> {
        let Fate { first, again } = self.fate(node);
        for wait in [first, again].into_iter().flatten() {
            self.after(wait, make());
        }
        first
    }
}
