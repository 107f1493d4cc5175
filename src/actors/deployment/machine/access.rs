//! Deployment tokens: which are valid, until when, and who is told.

use std::time::Duration;

use nebula_core::clock::WallTime;
use nebula_core::token::TokenHash;

use super::{Effect, Machine, Now};
use crate::domain::command::Action;
use crate::domain::deployment::OldToken;

/// A token that was rotated this short before the actor started may not have reached the agents, in milliseconds.
const ACCESS_DOUBT_MS: u64 = 10 * 60 * 1_000;

impl Machine {
    /// Another token. The one before is valid beside it for `overlap`; without one it ends at once, and so does one that
    /// was on its way out already.
    pub(super) fn rotate(
        &mut self,
        token: TokenHash,
        overlap: Duration,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        // Told twice it is done once.
        if token == self.dep.token {
            return;
        }
        let millis = u64::try_from(overlap.as_millis()).unwrap_or(u64::MAX);
        let old = OldToken { hash: self.dep.token, until: WallTime(now.wall.0.saturating_add(millis)) };
        self.dep.old_token = (millis > 0).then_some(old);
        self.dep.token = token;
        self.watch_old_token(now);
        let message = match self.dep.old_token {
            Some(old) => format!("the old deployment token is valid until {}", old.until.rfc3339()),
            None => "the old deployment token is no longer valid".to_owned(),
        };
        self.note("token_rotated", message);
        effects.extend(self.tell_access());
    }

    /// After a start of the actor: what may not have arrived before is told again.
    pub(super) fn recall_access(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.watch_old_token(now);
        if now.wall.0.saturating_sub(self.dep.updated_at.0) < ACCESS_DOUBT_MS {
            effects.extend(self.tell_access());
        }
    }

    /// From here on the old token's end goes by the monotonic clock: no jump of the other one ends it early.
    fn watch_old_token(&mut self, now: Now) {
        let left = |old: OldToken| Duration::from_millis(old.until.0.saturating_sub(now.wall.0));
        self.token_ends = self.dep.old_token.map(|old| now.tick.plus(left(old)));
    }

    /// Ends the old token when its time is over.
    pub(super) fn end_old_token(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.token_ends.is_none_or(|ends| ends > now.tick) {
            return;
        }
        self.token_ends = None;
        self.dep.old_token = None;
        self.dep.updated_at = now.wall;
        self.note("token_ended", "the old deployment token is no longer valid".to_owned());
        effects.extend(self.tell_access());
    }

    /// Tells every agent that runs a replica which credentials are valid.
    pub(super) fn tell_access(&self) -> Vec<Effect> {
        let access = self.access();
        let told = self.dep.replicas.iter().filter(|replica| !replica.leaving);
        told.filter_map(|replica| {
            let place = replica.placement.as_ref()?;
            Some(Effect::Send(place.node_id.clone(), replica.id, replica.generation, access.clone()))
        })
        .collect()
    }

    pub(super) fn access(&self) -> Action {
        Action::Access { tokens: self.dep.tokens(), public: self.dep.spec.public }
    }
}
