//! What an edge's actor publishes. What is counted in seconds is worked out whenever somebody looks.

use std::time::Duration;

use nebula_core::clock::{Clock, Tick};
use serde_json::{Value, json};

use super::kind::Kind;
use super::machine::{Picture, State};
use crate::actors::tree::Status;

/// How one edge stands.
#[derive(Clone, Debug)]
pub struct EdgeStatus {
    /// `caddy` or `route53`.
    pub name: &'static str,
    /// Whether it is used at all.
    pub configured: bool,
    /// What it is and where, for people; empty when it is not used.
    pub target: String,
    /// How many host names it should have.
    pub wanted: usize,
    /// What its reconciler knows; none when it is not used.
    pub picture: Option<Picture>,
    clock: Clock,
}

impl EdgeStatus {
    pub(super) fn new(kind: Kind, target: String, clock: Clock) -> Self {
        Self { name: kind.name(), configured: false, target, wanted: 0, picture: None, clock }
    }

    pub(super) fn with(&self, picture: Picture, wanted: usize) -> Self {
        Self { configured: true, wanted, picture: Some(picture), ..self.clone() }
    }

    pub(super) fn shows(&self, picture: &Picture, wanted: usize) -> bool {
        self.wanted == wanted && self.picture.as_ref() == Some(picture)
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.picture.as_ref().map_or(State::Off, |picture| picture.state)
    }

    /// Whether the last round was good; not before one has ended.
    #[must_use]
    pub fn up(&self) -> bool {
        self.picture.as_ref().is_some_and(|picture| picture.up)
    }

    /// How many objects are still to be changed, by what was seen last.
    #[must_use]
    pub fn differences(&self) -> usize {
        self.picture.as_ref().map_or(0, |picture| picture.left.changes())
    }

    /// How many names cannot be as they should until a person does something.
    #[must_use]
    pub fn blocked(&self) -> usize {
        self.picture.as_ref().map_or(0, |picture| picture.left.blocked)
    }

    /// For how long the edge is known to be other than it should be.
    #[must_use]
    pub fn lag(&self) -> Duration {
        let since = self.picture.as_ref().and_then(|picture| picture.differ_since);
        since.map_or(Duration::ZERO, |since| self.clock.now().since(since))
    }

    /// Rounds that have ended since the actor was built.
    #[must_use]
    pub fn rounds_total(&self) -> u64 {
        self.picture.as_ref().map_or(0, |picture| picture.rounds_total)
    }

    /// Those of them that failed.
    #[must_use]
    pub fn failed_rounds_total(&self) -> u64 {
        self.picture.as_ref().map_or(0, |picture| picture.failed_rounds_total)
    }

    /// Objects that were changed since the actor was built.
    #[must_use]
    pub fn changes_total(&self) -> u64 {
        self.picture.as_ref().map_or(0, |picture| picture.changes_total)
    }

    /// As the API and operators see it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let idle = Picture::default();
        let picture = self.picture.as_ref().unwrap_or(&idle);
        let now = self.clock.now();
        let age = |at: Tick| now.since(at).as_secs();
        let left = &picture.left;
        let last_error = picture.last_error.as_ref().map(|(error, at)| {
            json!({
                "message": error.message,
                "hint": error.hint,
                "trouble": error.trouble,
                "age_seconds": age(*at),
            })
        });
        json!({
            "name": self.name,
            "configured": self.configured,
            "target": self.target,
            "state": self.state(),
            "wanted": self.wanted,
            "observed": picture.observed,
            "differences": {
                "add": left.add,
                "change": left.change,
                "remove": left.remove,
                "blocked": left.blocked,
                "first": left.first,
            },
            "blocked": left.first_blocked,
            "last_error": last_error,
            "failures": picture.failures,
            "circuit": if picture.circuit_open { "open" } else { "closed" },
            "last_success_age_seconds": picture.last_success.map(age),
            "lag_seconds": self.lag().as_secs(),
            "next_round_in_seconds": picture.next_round.map(|at| at.since(now).as_secs()),
            "rounds_total": picture.rounds_total,
            "failed_rounds_total": picture.failed_rounds_total,
            "changes_total": picture.changes_total,
        })
    }
}

impl Status for EdgeStatus {
    fn to_json(&self) -> Value {
        Self::to_json(self)
    }
}
