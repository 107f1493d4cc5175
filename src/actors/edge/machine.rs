//! When one edge is looked at and changed: on change, every so often, and again after a failure.
//!
//! One call at a time is under way, a round or a probe. A change begins a round, not sooner than a gap after the last one
//! began. A failed round is tried again after a pause that doubles; after [`OPEN_AFTER`] in a row the circuit is open:
//! changes begin no round any more. While the edge cannot even be read, a cheap probe tells when it is back, and the
//! round begins at once.

use std::time::Duration;

use nebula_core::clock::Tick;
use serde::Serialize;

use crate::domain::edge::{EdgeError, Round, Trouble};

mod left;

pub use self::left::Left;

/// An edge that is as it should be is looked at again this long after the last look began.
pub const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// The pause after a first failure; it doubles with each further one.
pub const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// The longest pause after a failure.
pub const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// After so many failed rounds in a row the circuit is open.
pub const OPEN_AFTER: u32 = 3;

/// How fast an edge may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// A round begins this long after the one before at the earliest.
    pub gap: Duration,
    /// How often an edge is probed that is away.
    pub probe_every: Duration,
    /// The longest pause when time may cure the trouble and no probe tells when.
    pub busy_max: Duration,
}

/// A number from 0 to 1, drawn outside: it spreads pauses, so that not all who wait come at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chance(pub f64);

/// What happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// Something else is wanted than before, or it is known for the first time what is wanted.
    Changed,
    /// A round has ended.
    Rounded(Result<Round, EdgeError>, Chance),
    /// A probe has ended.
    Probed(Result<(), EdgeError>, Chance),
    /// [`Machine::next_timer`] has come.
    Timer,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Begin a round with what is wanted now. Its end is told.
    Reconcile,
    /// Begin a probe. Its end is told.
    Probe,
    /// Tell the operator.
    Notice(Notice),
}

/// What the operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The edge is as it should be after so many objects were changed.
    InSync(usize),
    /// It begins to fail, or to refuse where it failed otherwise.
    Failing(EdgeError),
    /// It is well again after so many failed rounds.
    Well(u32),
    /// Something stands in the way of so many names; the first of them and why.
    Blocked(usize, String, String),
}

/// Where an edge stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is not used.
    #[default]
    Off,
    /// No round has ended yet.
    Starting,
    /// It is as it should be.
    InSync,
    /// Something is still to be done.
    Changing,
    /// A person must do something.
    Blocked,
    /// The last round failed.
    Failing,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Off, Self::Starting, Self::InSync, Self::Changing, Self::Blocked, Self::Failing];

    /// As the API names it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Starting => "starting",
            Self::InSync => "in_sync",
            Self::Changing => "changing",
            Self::Blocked => "blocked",
            Self::Failing => "failing",
        }
    }
}

/// What is known of an edge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    /// Where it stands.
    pub state: State,
    /// The last round was good.
    pub up: bool,
    /// How many objects of ours were there when it was seen last.
    pub observed: usize,
    /// What was left to do then.
    pub left: Left,
    /// Why the last round failed, and when.
    pub last_error: Option<(EdgeError, Tick)>,
    /// How many rounds have failed in a row.
    pub failures: u32,
    /// Changes begin no round.
    pub circuit_open: bool,
    /// When the last good round ended.
    pub last_success: Option<Tick>,
    /// Since when it is known to be other than it should be.
    pub differ_since: Option<Tick>,
    /// When the next round begins; none while one is under way.
    pub next_round: Option<Tick>,
    /// Rounds that have ended.
    pub rounds_total: u64,
    /// Those of them that failed.
    pub failed_rounds_total: u64,
    /// Objects that were changed.
    pub changes_total: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Round,
    Probe,
}

/// The state of an edge's reconciler.
#[derive(Debug)]
pub struct Machine {
    pace: Pace,
    /// No round begins before.
    not_before: Tick,
    /// What is under way, and since when.
    call: Option<(Call, Tick)>,
    /// When the next round is due. None while one is under way, and before it is known what is wanted.
    due: Option<Tick>,
    /// When the next probe is due.
    probe_due: Option<Tick>,
    /// The first change since the last round began.
    changed_since: Option<Tick>,
    /// Objects that were changed since the edge was last as it should be.
    changed: usize,
    picture: Picture,
}

impl Machine {
    /// An edge of which nothing is known. No round begins before `not_before`.
    #[must_use]
    pub fn new(pace: Pace, not_before: Tick) -> Self {
        let picture = Picture { state: State::Starting, ..Picture::default() };
        Self {
            pace,
            not_before,
            call: None,
            due: None,
            probe_due: None,
            changed_since: None,
            changed: 0,
            picture,
        }
    }

    /// Takes an event and decides.
    pub fn step(&mut self, event: Event, now: Tick) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Changed => self.change(now),
            Event::Rounded(result, chance) => {
                if let Some(began) = self.ended(Call::Round) {
                    effects.extend(match result {
                        Ok(round) => self.good(round, began, now),
                        Err(error) => self.failed(error, began, now, chance),
                    });
                }
            }
            Event::Probed(result, chance) => {
                if let Some(began) = self.ended(Call::Probe) {
                    self.probed(result.is_ok(), began, now, chance);
                }
            }
            Event::Timer => {}
        }
        effects.extend(self.begin(now));
        self.picture.state = self.state();
        self.picture.next_round = self.due;
        effects
    }

    /// When `Event::Timer` is due: always, once it is known what is wanted, unless a call is under way whose end is told.
    #[must_use]
    pub fn next_timer(&self) -> Option<Tick> {
        if self.call.is_some() {
            return None;
        }
        [self.due, self.probe_due].into_iter().flatten().min()
    }

    /// What is known.
    #[must_use]
    pub fn picture(&self) -> &Picture {
        &self.picture
    }

    /// Takes note that a call has ended. Answers when it began; none when nobody waits for it.
    fn ended(&mut self, call: Call) -> Option<Tick> {
        self.call.take_if(|(what, _)| *what == call).map(|(_, began)| began)
    }

    fn change(&mut self, now: Tick) {
        self.changed_since.get_or_insert(now);
        self.picture.differ_since.get_or_insert(now);
        if self.in_round() {
            return;
        }
        let soon = self.not_before.max(now);
        self.due = match self.due {
            None => Some(soon),
            Some(due) if self.picture.circuit_open => Some(due),
            Some(due) => Some(due.min(soon)),
        };
    }

    fn in_round(&self) -> bool {
        matches!(self.call, Some((Call::Round, _)))
    }

    fn good(&mut self, round: Round, began: Tick, now: Tick) -> Vec<Effect> {
        let Round { observed, changed, left } = round;
        let left = Left::of(&left);
        let mut notices = Vec::new();
        if self.picture.failures > 0 {
            notices.push(Notice::Well(self.picture.failures));
        }
        if left.blocked > 0
            && self.picture.left.blocked == 0
            && let Some(first) = left.first_blocked.first()
        {
            notices.push(Notice::Blocked(left.blocked, first.name.clone(), first.why.clone()));
        }
        self.changed += changed;
        if left.is_empty() && self.changed > 0 {
            notices.push(Notice::InSync(std::mem::take(&mut self.changed)));
        }
        // What cannot be got on with is not tried again and again.
        let goes_on = left.changes() > 0 && changed > 0;
        let soon = self.not_before.max(now);
        self.due = Some(if goes_on || self.changed_since.is_some() {
            soon
        } else {
            soon.max(began.plus(LOOK_AGAIN))
        });
        self.probe_due = None;
        let picture = &mut self.picture;
        picture.differ_since =
            if left.is_empty() { self.changed_since } else { picture.differ_since.or(Some(now)) };
        picture.up = true;
        picture.observed = observed;
        picture.left = left;
        picture.last_error = None;
        picture.failures = 0;
        picture.circuit_open = false;
        picture.last_success = Some(now);
        picture.rounds_total += 1;
        picture.changes_total += changed as u64;
        notices.into_iter().map(Effect::Notice).collect()
    }

    fn failed(&mut self, error: EdgeError, began: Tick, now: Tick, chance: Chance) -> Vec<Effect> {
        let picture = &mut self.picture;
        picture.up = false;
        picture.failures = picture.failures.saturating_add(1);
        picture.circuit_open = picture.failures >= OPEN_AFTER;
        picture.rounds_total += 1;
        picture.failed_rounds_total += 1;
        let first = picture.failures == 1;
        let most = match error.trouble {
            Trouble::Unreachable | Trouble::Refused => BACKOFF_MAX,
            Trouble::Busy => self.pace.busy_max,
        };
        let pause = BACKOFF_FIRST.saturating_mul(1 << (picture.failures - 1).min(6)).min(most);
        let pause = spread(pause, chance).clamp(BACKOFF_FIRST, BACKOFF_MAX);
        self.due = Some(self.not_before.max(now.plus(pause)));
        let away = picture.circuit_open && error.trouble == Trouble::Unreachable;
        self.probe_due = away.then(|| self.next_probe(began, now, chance));
        let turned = |(before, _): &(EdgeError, Tick)| {
            error.trouble == Trouble::Refused && before.trouble != Trouble::Refused
        };
        // That a person must do something is told even if it failed before because it was away.
        let is_news = first || self.picture.last_error.as_ref().is_some_and(turned);
        let notice = is_news.then(|| Effect::Notice(Notice::Failing(error.clone())));
        self.picture.last_error = Some((error, now));
        notice.into_iter().collect()
    }

    fn probed(&mut self, is_back: bool, began: Tick, now: Tick, chance: Chance) {
        if is_back {
            self.due = self.due.map(|due| due.min(self.not_before.max(now)));
        } else {
            self.probe_due = Some(self.next_probe(began, now, chance));
        }
    }

    /// Counted from the beginning of what found the edge away: a call that hangs takes no time from the next one.
    fn next_probe(&self, began: Tick, now: Tick, chance: Chance) -> Tick {
        began.plus(spread(self.pace.probe_every, chance)).max(now)
    }

    fn begin(&mut self, now: Tick) -> Option<Effect> {
        if self.call.is_some() {
            return None;
        }
        let is_due = |at: Option<Tick>| at.is_some_and(|at| at <= now);
        if is_due(self.due) {
            self.call = Some((Call::Round, now));
            (self.due, self.probe_due, self.changed_since) = (None, None, None);
            self.not_before = now.plus(self.pace.gap);
            Some(Effect::Reconcile)
        } else if is_due(self.probe_due) {
            self.call = Some((Call::Probe, now));
            self.probe_due = None;
            Some(Effect::Probe)
        } else {
            None
        }
    }

    fn state(&self) -> State {
        let picture = &self.picture;
        match &picture.last_error {
            Some((error, _)) if error.trouble == Trouble::Refused => State::Blocked,
            Some(_) => State::Failing,
            None if picture.rounds_total == 0 => State::Starting,
            None if picture.left.blocked > 0 => State::Blocked,
            None if picture.differ_since.is_some() => State::Changing,
            None => State::InSync,
        }
    }
}

/// A fifth more or less.
fn spread(pause: Duration, Chance(chance): Chance) -> Duration {
    pause.mul_f64(0.8 + 0.4 * chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod props;
#[cfg(test)]
mod tests;
