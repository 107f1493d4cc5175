//! How a node stands, finer than its availability, and how many stand how: counted as it changes, never by looking
//! through all nodes.

use super::brake::Share;
use crate::domain::node::Availability;

/// How a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Heard in time.
    Online,
    /// Not heard since nebulad started, and waited for.
    Awaited,
    /// Silent for half the timeout.
    Late,
    /// Silent for all of it, and still to be declared offline: the brake holds it, or others come first.
    Overdue,
    /// Declared offline lately.
    Lost,
    /// Offline for long, or gone with leave.
    Gone,
}

impl Standing {
    const ALL: [Self; 6] = [Self::Online, Self::Awaited, Self::Late, Self::Overdue, Self::Lost, Self::Gone];

    /// As others see it.
    pub(super) fn availability(self) -> Availability {
        match self {
            Self::Online => Availability::Online,
            Self::Awaited | Self::Late | Self::Overdue => Availability::Suspect,
            Self::Lost | Self::Gone => Availability::Offline,
        }
    }

    /// What the brake makes of it: missing, or heard, or neither. A node that is waited for after a start says
    /// nothing about the network yet.
    fn is_missing(self) -> Option<bool> {
        match self {
            Self::Online => Some(false),
            Self::Late | Self::Overdue | Self::Lost => Some(true),
            Self::Awaited | Self::Gone => None,
        }
    }
}

/// How many nodes stand how.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally([usize; Standing::ALL.len()]);

impl Tally {
    pub(super) fn add(&mut self, standing: Standing) {
        if let Some(count) = self.0.get_mut(standing as usize) {
            *count += 1;
        }
    }

    pub(super) fn remove(&mut self, standing: Standing) {
        if let Some(count) = self.0.get_mut(standing as usize) {
            *count = count.saturating_sub(1);
        }
    }

    /// How many nodes others see so.
    pub(super) fn count(&self, availability: Availability) -> usize {
        self.sum(|standing| standing.availability() == availability)
    }

    /// What the brake weighs.
    pub(super) fn share(&self) -> Share {
        Share {
            missing: self.sum(|standing| standing.is_missing() == Some(true)),
            expected: self.sum(|standing| standing.is_missing().is_some()),
        }
    }

    fn sum(&self, which: impl Fn(Standing) -> bool) -> usize {
        Standing::ALL.iter().zip(self.0).filter(|(standing, _)| which(**standing)).map(|(_, n)| n).sum()
    }
}
