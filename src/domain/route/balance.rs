//! Which replica gets the next request.
//!
//! Gates decide first: replicas that are open, else those that are limited, else, rather than refusing, those that are
//! shut. Among these the route's [`Balance`] decides, and chance among equals. The load of a replica counts from the
//! choice on, before anything is sent, so that requests that come together do not all see the same idle replica.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use nebula_core::ids::ReplicaId;
use serde::Serialize;

use super::{Endpoint, GateState, InflightGuard, Route};

/// How a route spreads requests over its replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// To the replica with the fewest requests in flight.
    #[default]
    LeastOutstanding,
    /// In turns.
    RoundRobin,
    /// Prompts that begin alike go to the same replica, whose cache knows the beginning, as long as that replica does
    /// not have over 1.25 times its share of the load.
    ///
    /// Each replica draws a number for each prefix, and the highest number wins ("rendezvous" hashing): all of nebulad
    /// come to the same order without a table, each replica has its even share, and when one leaves only its own share
    /// moves, in even parts to all others. A replica with its full load is passed over for the next in the order.
    Prefix,
}

/// What the choice is made by, besides loads and gates.
#[derive(Clone, Copy, Debug)]
pub struct Pick {
    /// Breaks ties.
    pub random: u32,
    /// A hash of the prompt's beginning, for [`Balance::Prefix`]; without it the load alone decides.
    pub affinity: Option<u64>,
}

/// How often a choice is made anew because another thread was faster.
const CHOICES_MAX: u32 = 4;
/// The load that a replica may have under [`Balance::Prefix`], in parts of the mean: 5/4.
const BOUND: (u64, u64) = (5, 4);

impl Balance {
    /// All of them, in the order of their stored numbers.
    pub const ALL: [Self; 3] = [Self::LeastOutstanding, Self::RoundRobin, Self::Prefix];

    /// The word that people and the API use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LeastOutstanding => "least_outstanding",
            Self::RoundRobin => "round_robin",
            Self::Prefix => "prefix",
        }
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no [`Balance`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("routing \"{0}\" is none of least_outstanding, round_robin and prefix")]
pub struct UnknownBalance(String);

impl FromStr for Balance {
    type Err = UnknownBalance;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|balance| balance.as_str() == text);
        found.ok_or_else(|| UnknownBalance(text.chars().take(64).collect()))
    }
}

/// An endpoint as it was when the choice was made.
#[derive(Clone, Copy)]
struct Seen<'a> {
    endpoint: &'a Arc<Endpoint>,
    /// What its gate says: the lowest class is asked.
    class: u8,
    inflight: u32,
}

impl Route {
    /// Takes a place at the endpoint that should get the next request; none when all were `tried`. The cost grows with
    /// the replicas of this route and with nothing else.
    #[must_use]
    pub fn take(&self, tried: &[ReplicaId], pick: Pick) -> Option<InflightGuard> {
        let mut choices = 0;
        loop {
            let chosen = self.choose(tried, pick)?;
            choices += 1;
            let place = match choices {
                CHOICES_MAX => Some(chosen.endpoint.enter()),
                _ => chosen.endpoint.enter_at(chosen.inflight),
            };
            if place.is_some() {
                if self.balance == Balance::RoundRobin {
                    let last = self.endpoints.iter().map(|endpoint| endpoint.turn()).max();
                    chosen.endpoint.set_turn(last.unwrap_or(0) + 1);
                }
                return place;
            }
        }
    }

    fn choose(&self, tried: &[ReplicaId], pick: Pick) -> Option<Seen<'_>> {
        let untried = self.endpoints.iter().filter(|endpoint| !tried.contains(&endpoint.replica_id));
        let seen = untried.map(Seen::of);
        match (self.balance, pick.affinity) {
            (Balance::Prefix, Some(affinity)) => {
                by_prefix(seen.clone(), affinity).or_else(|| least_outstanding(seen, pick.random))
            }
            (Balance::LeastOutstanding | Balance::Prefix, _) => least_outstanding(seen, pick.random),
            (Balance::RoundRobin, _) => {
                seen.min_by_key(|seen| (seen.class, seen.endpoint.turn(), seen.lot(u64::from(pick.random))))
            }
        }
    }
}

fn least_outstanding<'a>(seen: impl Iterator<Item = Seen<'a>>, random: u32) -> Option<Seen<'a>> {
    seen.min_by_key(|seen| (seen.class, seen.inflight, seen.lot(u64::from(random))))
}

/// The first in the prefix's own order that has room. None only if loads change meanwhile.
fn by_prefix<'a>(seen: impl Iterator<Item = Seen<'a>> + Clone, affinity: u64) -> Option<Seen<'a>> {
    let class = seen.clone().map(|seen| seen.class).min()?;
    let asked = seen.filter(|seen| seen.class == class);
    let (count, load) =
        asked.clone().fold((0, 0), |(count, load), seen| (count + 1, load + u64::from(seen.inflight)));
    let most = most_in_flight(load + 1, count);
    asked.filter(|seen| u64::from(seen.inflight) < most).max_by_key(|seen| seen.lot(affinity))
}

/// The most requests that one of `count` replicas may have when there are `load` of them.
fn most_in_flight(load: u64, count: u64) -> u64 {
    let (numerator, denominator) = BOUND;
    load.saturating_mul(numerator).div_ceil(count.max(1).saturating_mul(denominator))
}

impl<'a> Seen<'a> {
    fn of(endpoint: &'a Arc<Endpoint>) -> Self {
        let inflight = endpoint.inflight();
        let class = match endpoint.gate.state() {
            GateState::Open | GateState::Doubted => 0,
            GateState::Limited if inflight == 0 => 0,
            GateState::Limited => 1,
            GateState::Shut => 2,
        };
        Self { endpoint, class, inflight }
    }

    /// The number that the replica draws for this seed.
    fn lot(&self, seed: u64) -> u64 {
        let id = u128::from_be_bytes(*self.endpoint.replica_id.as_bytes());
        mixed(mixed(seed ^ (id >> 64) as u64) ^ id as u64)
    }
}

/// A number in which each bit depends on every bit of `x` (the finish of SplitMix64).
fn mixed(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod props;
#[cfg(test)]
mod tests;
