//! What was used: sums per key, model and span of time, in UTC.
//!
//! The gateway adds to [`Tallies`] in memory; the usage actor writes them down every second as rows of one hour. Rows
//! that have become old are folded: hours into days, days into months, months into years. Sums are never lost by that,
//! only told less apart.

use std::collections::BTreeMap;
use std::time::Duration;

use nebula_core::clock::WallTime;
use nebula_core::ids::KeyId;

mod tallies;

pub use self::tallies::{TALLIES_MAX, Tallies};

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// How long hours are kept after their day has ended; then they are folded into the day.
pub const HOURS_KEPT: Duration = Duration::from_millis(8 * DAY_MS);
/// How long days are kept after their month has ended.
pub const DAYS_KEPT: Duration = Duration::from_millis(400 * DAY_MS);
/// How long months are kept after their year has ended.
pub const MONTHS_KEPT: Duration = Duration::from_millis(3_660 * DAY_MS);
/// With more rows than this the oldest are folded early.
pub const ROWS_MAX: usize = 200_000;
/// So many rows of one day are told apart. What is beyond it is counted under no key and no model.
pub const ROWS_PER_DAY_MAX: usize = 50_000;

/// How much time a row sums up. Every span is a part of the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Span {
    /// One hour.
    Hour,
    /// One day.
    Day,
    /// One month.
    Month,
    /// One year.
    Year,
}

impl Span {
    /// All of them, in the order of their stored numbers.
    pub const ALL: [Self; 4] = [Self::Hour, Self::Day, Self::Month, Self::Year];

    /// Its place among all of them, as it is stored.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Hour => 0,
            Self::Day => 1,
            Self::Month => 2,
            Self::Year => 3,
        }
    }

    /// As the API spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
            Self::Year => "year",
        }
    }

    /// When the hour, day, month or year began that `at` belongs to.
    #[must_use]
    pub fn start(self, at: WallTime) -> WallTime {
        let day = at.0 - at.0 % DAY_MS;
        match self {
            Self::Hour => WallTime(at.0 - at.0 % HOUR_MS),
            Self::Day => WallTime(day),
            Self::Month => {
                let (_, _, days) = at.date();
                WallTime(day.saturating_sub(days.saturating_sub(1) * DAY_MS))
            }
            Self::Year => {
                let mut start = Self::Month.start(at);
                // At most eleven steps, each to the month before.
                while start.date().1 > 1 {
                    start = Self::Month.start(WallTime(start.0.saturating_sub(1)));
                }
                start
            }
        }
    }

    /// When the span ends that `at` belongs to.
    #[must_use]
    pub fn end(self, at: WallTime) -> WallTime {
        let longest = match self {
            Self::Hour => HOUR_MS,
            Self::Day => DAY_MS,
            Self::Month => 31 * DAY_MS,
            Self::Year => 366 * DAY_MS,
        };
        // The longest span leads into the next one, whose beginning is the end of this.
        let start = self.start(at);
        match self {
            Self::Hour | Self::Day => WallTime(start.0.saturating_add(longest)),
            Self::Month | Self::Year => self.start(WallTime(start.0.saturating_add(longest))),
        }
    }

    /// What it is folded into; nothing for years.
    #[must_use]
    pub fn coarser(self) -> Option<Self> {
        match self {
            Self::Hour => Some(Self::Day),
            Self::Day => Some(Self::Month),
            Self::Month => Some(Self::Year),
            Self::Year => None,
        }
    }

    /// How long rows of this span are kept after what they are a part of has ended.
    fn kept_for(self) -> Option<Duration> {
        match self {
            Self::Hour => Some(HOURS_KEPT),
            Self::Day => Some(DAYS_KEPT),
            Self::Month => Some(MONTHS_KEPT),
            Self::Year => None,
        }
    }
}

/// What is added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Requests.
    pub requests: u64,
    /// Tokens that were sent to the models.
    pub prompt_tokens: u64,
    /// Tokens that came back.
    pub completion_tokens: u64,
    /// Requests whose answer did not reach its end; their tokens are counted as far as they were sent.
    pub aborted: u64,
}

impl Sums {
    /// Adds to them; what does not fit stays at the most there can be.
    pub fn add(&mut self, other: Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.prompt_tokens = self.prompt_tokens.saturating_add(other.prompt_tokens);
        self.completion_tokens = self.completion_tokens.saturating_add(other.completion_tokens);
        self.aborted = self.aborted.saturating_add(other.aborted);
    }

    /// Prompt and completion.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }
}

/// What a row is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UsageId {
    /// How much time.
    pub span: Span,
    /// When it began.
    pub from: WallTime,
    /// The key; none for deployment tokens, the administrator and everybody.
    pub key: Option<KeyId>,
    /// The model's name; empty when it is not told apart.
    pub model: String,
}

impl UsageId {
    /// Where it is stored.
    #[must_use]
    pub fn block(&self) -> Block {
        Block::of(self.span, self.from)
    }

    /// What it is folded into; a year stays itself.
    #[must_use]
    pub fn folded(&self) -> Self {
        let span = self.span.coarser().unwrap_or(self.span);
        Self { span, from: span.start(self.from), ..self.clone() }
    }
}

/// What one key used of one model in one span of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRow {
    /// The key; none for deployment tokens, the administrator and everybody, or when keys are not told apart.
    pub key: Option<KeyId>,
    /// The model's name; empty when models are not told apart.
    pub model: String,
    /// When the span began, UTC.
    pub from: WallTime,
    /// How much time it sums up.
    pub span: Span,
    /// What was used.
    pub sums: Sums,
}

impl UsageRow {
    /// A row of these sums.
    #[must_use]
    pub fn new(id: UsageId, sums: Sums) -> Self {
        Self { key: id.key, model: id.model, from: id.from, span: id.span, sums }
    }

    /// What it is about.
    #[must_use]
    pub fn id(&self) -> UsageId {
        UsageId { span: self.span, from: self.from, key: self.key, model: self.model.clone() }
    }
}

/// Rows that are stored and folded together: all of one span within one of the next coarser span. The hours of a day,
/// the days of a month, the months of a year; all years.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// The rows' span.
    pub span: Span,
    /// When the day, month or year began; zero for years.
    pub start: WallTime,
}

impl Block {
    /// The block of a row of `span` that begins at `from`.
    #[must_use]
    pub fn of(span: Span, from: WallTime) -> Self {
        Self { span, start: span.coarser().map_or(WallTime(0), |whole| whole.start(from)) }
    }

    /// When nothing more belongs to it.
    #[must_use]
    pub fn end(&self) -> WallTime {
        self.span.coarser().map_or(WallTime(u64::MAX), |whole| whole.end(self.start))
    }

    /// Whether its rows are old enough to be folded.
    #[must_use]
    pub fn is_old(&self, now: WallTime) -> bool {
        let kept = self.span.kept_for().and_then(|kept| u64::try_from(kept.as_millis()).ok());
        kept.is_some_and(|kept| self.end().0.saturating_add(kept) <= now.0)
    }

    /// Whether its rows may be folded early. An hour after its end nothing comes late any more.
    fn is_over(&self, now: WallTime) -> bool {
        self.span.coarser().is_some() && self.end().0.saturating_add(HOUR_MS) <= now.0
    }
}

/// The block that is to be folded next: one that is old, else, when there are more than `most` rows in all, the oldest
/// that is over, hours before days.
#[must_use]
pub fn next_fold(counts: &BTreeMap<Block, usize>, most: usize, now: WallTime) -> Option<Block> {
    let old = counts.keys().find(|block| block.is_old(now));
    let crowded = || counts.values().sum::<usize>() > most;
    let early = || counts.keys().find(|block| crowded() && block.is_over(now));
    old.or_else(early).copied()
}

/// The rows of a block added up to what they are folded into, each with the rows that it is made of.
#[must_use]
pub fn fold(rows: Vec<UsageRow>) -> Vec<(UsageRow, Vec<UsageId>)> {
    let mut folded: BTreeMap<UsageId, (Sums, Vec<UsageId>)> = BTreeMap::new();
    for row in rows {
        let (sums, parts) = folded.entry(row.id().folded()).or_default();
        sums.add(row.sums);
        parts.push(row.id());
    }
    folded.into_iter().map(|(id, (sums, parts))| (UsageRow::new(id, sums), parts)).collect()
}

/// Which rows are wanted, and what they are to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsageQuery {
    /// Rows that begin at this moment or later.
    pub from: WallTime,
    /// Rows that begin before this moment.
    pub to: WallTime,
    /// Tell keys apart; else all keys are added up.
    pub by_key: bool,
    /// Tell models apart; else all models are added up.
    pub by_model: bool,
}

impl UsageQuery {
    /// Whether some of a block's rows may be wanted.
    #[must_use]
    pub fn wants(&self, block: Block) -> bool {
        block.start < self.to && self.from < block.end()
    }

    /// Adds a row where it belongs, if it is wanted.
    pub fn gather(&self, row: UsageRow, into: &mut BTreeMap<UsageId, Sums>) {
        if row.from < self.from || row.from >= self.to {
            return;
        }
        let key = row.key.filter(|_| self.by_key);
        let model = if self.by_model { row.model } else { String::new() };
        into.entry(UsageId { span: row.span, from: row.from, key, model }).or_default().add(row.sums);
    }
}

#[cfg(test)]
mod tests;
