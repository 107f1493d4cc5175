//! How much a key may ask for: pure counting, told what time it is.
//!
//! A rate is a bucket that holds one minute's worth and is filled again evenly: 60 a minute is one each second, after
//! at most 60 at once. So no window of any length sees more than the limit and what was filled again in it.

use std::time::Duration;

use nebula_core::clock::{Tick, WallTime};

use super::usage::Span;

/// When to come again if too many requests are under way: nobody knows when one of them ends.
pub const CONCURRENT_RETRY: Duration = Duration::from_secs(1);

/// The limits of a key; none: as much as it likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyLimits {
    /// Requests per minute.
    pub rpm: Option<u32>,
    /// Tokens per minute, prompt and completion.
    pub tpm: Option<u64>,
    /// Requests under way at a time.
    pub max_concurrent: Option<u32>,
    /// Tokens in all.
    pub budget: Option<Budget>,
}

/// So many tokens, prompt and completion, in each period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// How many.
    pub tokens: u64,
    /// Until when they are counted.
    pub period: Period,
}

/// When a budget begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// At midnight, UTC.
    Day,
    /// With the month, UTC.
    Month,
    /// Never.
    Total,
}

impl Period {
    /// All of them, in the order of their stored numbers.
    pub const ALL: [Self; 3] = [Self::Day, Self::Month, Self::Total];

    /// As the API spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
            Self::Total => "total",
        }
    }

    /// When the period began that `at` belongs to.
    #[must_use]
    pub fn start(self, at: WallTime) -> WallTime {
        match self {
            Self::Day => Span::Day.start(at),
            Self::Month => Span::Month.start(at),
            Self::Total => WallTime(0),
        }
    }
}

/// How a rate stands: what the `x-ratelimit-*` headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// How many a minute.
    pub limit: u64,
    /// How many at this moment.
    pub remaining: u64,
    /// How long until all of the limit is there again.
    pub reset: Duration,
}

/// How a key's rates stand; none for what is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Requests.
    pub requests: Option<Window>,
    /// Tokens.
    pub tokens: Option<Window>,
}

/// What a request ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limited {
    /// Too much at once.
    Rate {
        /// Of what.
        what: RateKind,
        /// When it is worth asking again; exact unless others ask meanwhile.
        retry_after: Duration,
        /// How the rates stand.
        standing: Standing,
    },
    /// The budget is spent.
    Budget,
}

/// What there was too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateKind {
    /// Requests per minute.
    Requests,
    /// Tokens per minute.
    Tokens,
    /// Requests under way.
    Concurrent,
}

impl RateKind {
    /// For metrics and messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::Concurrent => "concurrent",
        }
    }
}

/// Levels are counted in parts of this size, so that a millisecond brings exactly `limit` parts and nothing is ever
/// rounded.
const PARTS: i128 = 60_000;

/// A bucket of `limit` per minute. It begins full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    limit: u64,
    /// In parts; below zero when more was spent than there was.
    level: i128,
    at: Tick,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn full(limit: u64, now: Tick) -> Self {
        let limit = limit.max(1);
        Self { limit, level: capacity(limit), at: now }
    }

    /// How many may be asked for now. A clock that goes back brings nothing and takes nothing.
    fn fill(&mut self, now: Tick) {
        let passed = i128::from(now.0.saturating_sub(self.at.0));
        self.at = self.at.max(now);
        let more = passed.saturating_mul(i128::from(self.limit));
        self.level = self.level.saturating_add(more).min(capacity(self.limit));
    }

    /// How long until the level is at least `level`.
    fn wait_for(&self, level: i128) -> Duration {
        let missing = (level - self.level).max(0);
        let limit = i128::from(self.limit);
        Duration::from_millis(u64::try_from((missing + limit - 1) / limit).unwrap_or(u64::MAX))
    }

    /// How long until one can be taken; zero: now.
    pub fn until_one(&mut self, now: Tick) -> Duration {
        self.fill(now);
        self.wait_for(PARTS)
    }

    /// How long until the level is above zero; zero: it is.
    pub fn until_open(&mut self, now: Tick) -> Duration {
        self.fill(now);
        self.wait_for(1)
    }

    /// Takes so many, below zero if need be.
    pub fn spend(&mut self, count: u64, now: Tick) {
        self.fill(now);
        self.level = self.level.saturating_sub(i128::from(count).saturating_mul(PARTS));
    }

    /// How it stands.
    pub fn window(&mut self, now: Tick) -> Window {
        self.fill(now);
        Window {
            limit: self.limit,
            remaining: u64::try_from(self.level / PARTS).unwrap_or(0),
            reset: self.wait_for(capacity(self.limit)),
        }
    }

    /// Another limit from now on: what was there stays, as far as it fits.
    fn change(&mut self, limit: u64, now: Tick) {
        self.fill(now);
        self.limit = limit.max(1);
        self.level = self.level.min(capacity(self.limit));
    }
}

fn capacity(limit: u64) -> i128 {
    i128::from(limit) * PARTS
}

/// What a key has used of its limits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    max_concurrent: Option<u32>,
    budget: Option<Budget>,
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    under_way: u32,
    /// Tokens of the budget's period that began at `since`.
    spent: u64,
    since: WallTime,
}

impl Meter {
    /// Nothing is used but, of the budget's period that is running, `spent` tokens.
    #[must_use]
    pub fn new(limits: &KeyLimits, spent: u64, now: Tick, wall: WallTime) -> Self {
        let mut meter = Self::default();
        meter.set(limits, now);
        meter.spent = spent;
        meter.since = limits.budget.map_or(WallTime(0), |budget| budget.period.start(wall));
        meter
    }

    /// These limits count from now on; what is used stays used.
    pub fn set(&mut self, limits: &KeyLimits, now: Tick) {
        self.max_concurrent = limits.max_concurrent;
        self.budget = limits.budget;
        set_bucket(&mut self.requests, limits.rpm.map(u64::from), now);
        set_bucket(&mut self.tokens, limits.tpm, now);
    }

    /// Lets one request in, or says what it ran into; then nothing is taken. Each that was let in must `leave`.
    ///
    /// # Errors
    /// The budget if it is spent, else the limit that keeps it waiting longest.
    pub fn admit(&mut self, now: Tick, wall: WallTime) -> Result<(), Limited> {
        self.turn_period(wall);
        if self.budget.is_some_and(|budget| self.spent >= budget.tokens) {
            return Err(Limited::Budget);
        }
        let requests = self.requests.as_mut().map_or(Duration::ZERO, |bucket| bucket.until_one(now));
        let tokens = self.tokens.as_mut().map_or(Duration::ZERO, |bucket| bucket.until_open(now));
        let full = self.max_concurrent.is_some_and(|most| self.under_way >= most);
        let concurrent = if full { CONCURRENT_RETRY } else { Duration::ZERO };
        let waits =
            [(concurrent, RateKind::Concurrent), (tokens, RateKind::Tokens), (requests, RateKind::Requests)];
        match waits.into_iter().max_by_key(|(wait, _)| *wait) {
            Some((retry_after, what)) if !retry_after.is_zero() => {
                Err(Limited::Rate { what, retry_after, standing: self.standing(now) })
            }
            _ => {
                if let Some(bucket) = &mut self.requests {
                    bucket.spend(1, now);
                }
                self.under_way = self.under_way.saturating_add(1);
                Ok(())
            }
        }
    }

    /// A request that was let in has ended.
    pub fn leave(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// A request has cost so many tokens.
    pub fn spend(&mut self, tokens: u64, now: Tick, wall: WallTime) {
        self.turn_period(wall);
        self.spent = self.spent.saturating_add(tokens);
        if let Some(bucket) = &mut self.tokens {
            bucket.spend(tokens, now);
        }
    }

    /// How the rates stand.
    pub fn standing(&mut self, now: Tick) -> Standing {
        Standing {
            requests: self.requests.as_mut().map(|bucket| bucket.window(now)),
            tokens: self.tokens.as_mut().map(|bucket| bucket.window(now)),
        }
    }

    /// How many requests are under way.
    #[must_use]
    pub fn under_way(&self) -> u32 {
        self.under_way
    }

    /// How many tokens the budget's running period has seen; none without a budget.
    pub fn spent(&mut self, wall: WallTime) -> Option<u64> {
        self.turn_period(wall);
        self.budget.map(|_| self.spent)
    }

    /// A period that has begun since begins with nothing. One that is over does not come back, whatever the clock says.
    fn turn_period(&mut self, wall: WallTime) {
        let Some(budget) = self.budget else { return };
        let start = budget.period.start(wall);
        if start > self.since {
            self.since = start;
            self.spent = 0;
        }
    }
}

fn set_bucket(bucket: &mut Option<Bucket>, limit: Option<u64>, now: Tick) {
    match (bucket.as_mut(), limit) {
        (Some(bucket), Some(limit)) => bucket.change(limit, now),
        (None, Some(limit)) => *bucket = Some(Bucket::full(limit, now)),
        (_, None) => *bucket = None,
    }
}

#[cfg(test)]
mod tests;
