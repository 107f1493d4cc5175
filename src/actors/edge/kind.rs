//! Which edges there are, and how fast each may be changed.

use std::time::Duration;

use super::machine::Pace;

/// One of the things in front of the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The reverse proxy.
    Caddy,
    /// The DNS zone.
    Route53,
}

/// Of the reverse proxy: each write makes it load its whole configuration again.
const CADDY: Pace = Pace {
    gap: Duration::from_secs(1),
    probe_every: Duration::from_secs(5),
    // With what jitter adds it is less than the 10 s within which routes are right again.
    busy_max: Duration::from_secs(8),
};

/// Of the DNS zone: few calls a second are let through, for the whole account.
const ROUTE53: Pace = Pace {
    gap: Duration::from_secs(5),
    probe_every: Duration::from_secs(15),
    // With what jitter adds it is less than the minute within which records are right again.
    busy_max: Duration::from_secs(45),
};

impl Kind {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 2] = [Self::Caddy, Self::Route53];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Caddy => "caddy",
            Self::Route53 => "route53",
        }
    }

    /// The edge of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Where its actor is in the tree.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Caddy => "/edge/caddy",
            Self::Route53 => "/edge/route53",
        }
    }

    /// The flag without which it is not used.
    #[must_use]
    pub fn flag(self) -> &'static str {
        match self {
            Self::Caddy => "--caddy-admin-url",
            Self::Route53 => "--route53-hosted-zone-id",
        }
    }

    pub(super) fn pace(self) -> Pace {
        match self {
            Self::Caddy => CADDY,
            Self::Route53 => ROUTE53,
        }
    }
}
