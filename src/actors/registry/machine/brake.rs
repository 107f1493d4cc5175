//! The brake against mass failure: when most nodes are missing together, the fault is likely the control plane's own
//! or its network's. While it is closed nobody is declared offline, so routes stay and nothing is moved.

use nebula_core::clock::Tick;
use nebula_core::timing::{BRAKE_CLOSES_ABOVE, BRAKE_NODES_MIN, BRAKE_OPENS_BELOW};

/// How many of the nodes that should be heard are missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Nodes that fell silent lately.
    pub missing: usize,
    /// These and the nodes that are heard.
    pub expected: usize,
}

impl Share {
    fn is_above(self, percent: usize) -> bool {
        self.expected >= BRAKE_NODES_MIN && self.missing * 100 > self.expected * percent
    }

    fn is_below(self, percent: usize) -> bool {
        self.expected < BRAKE_NODES_MIN || self.missing * 100 < self.expected * percent
    }
}

/// Whether the brake holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Brake {
    /// Nodes are declared offline at their deadline.
    #[default]
    Open,
    /// Since then nobody is declared offline.
    Closed(Tick),
    /// An operator says that the missing nodes are really gone. It is open, and ready again when few are missing.
    Overruled,
}

/// How the brake moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// It closed.
    Closed,
    /// It opened because enough nodes are back.
    Opened,
}

impl Brake {
    /// Whether nobody may be declared offline.
    #[must_use]
    pub fn is_closed(self) -> bool {
        match self {
            Self::Closed(_) => true,
            Self::Open | Self::Overruled => false,
        }
    }

    /// Looks at the nodes again. Between the two limits it stays as it is.
    pub(super) fn weigh(&mut self, share: Share, now: Tick) -> Option<Moved> {
        match *self {
            Self::Open if share.is_above(BRAKE_CLOSES_ABOVE) => {
                *self = Self::Closed(now);
                Some(Moved::Closed)
            }
            Self::Closed(_) if share.is_below(BRAKE_OPENS_BELOW) => {
                *self = Self::Open;
                Some(Moved::Opened)
            }
            Self::Overruled if share.is_below(BRAKE_OPENS_BELOW) => {
                *self = Self::Open;
                None
            }
            Self::Open | Self::Closed(_) | Self::Overruled => None,
        }
    }

    /// An operator opens it. Whether it was closed.
    pub(super) fn overrule(&mut self) -> bool {
        let was_closed = self.is_closed();
        if was_closed {
            *self = Self::Overruled;
        }
        was_closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weigh(brake: &mut Brake, missing: usize, expected: usize) -> Option<Moved> {
        brake.weigh(Share { missing, expected }, Tick(7))
    }

    #[test]
    fn it_closes_above_half_and_opens_below_two_fifths() {
        let mut brake = Brake::Open;
        for (missing, expected, moved, closed) in [
            (2, 2, None, false),
            (2, 4, None, false),
            (3, 5, Some(Moved::Closed), true),
            (5, 10, None, true),
            (2, 5, None, true),
            (3, 10, Some(Moved::Opened), false),
            (5, 10, None, false),
            (3, 3, Some(Moved::Closed), true),
            (0, 2, Some(Moved::Opened), false),
        ] {
            assert_eq!(weigh(&mut brake, missing, expected), moved, "{missing} of {expected}");
            assert_eq!(brake.is_closed(), closed, "{missing} of {expected}");
        }
    }

    #[test]
    fn an_operator_opens_it_until_few_are_missing_again() {
        let mut brake = Brake::Open;
        assert!(!brake.overrule(), "it is open");
        weigh(&mut brake, 6, 10);
        assert!(brake.overrule());
        assert_eq!(weigh(&mut brake, 9, 10), None);
        assert!(!brake.is_closed());
        weigh(&mut brake, 3, 10);
        assert_eq!(weigh(&mut brake, 6, 10), Some(Moved::Closed));
    }
}
