//! API keys: who may call which models, how much, until when. The keys actor publishes an immutable [`KeyTable`]; the
//! gateway reads it without asking anybody.
//!
//! What a key has used is shared between successive tables, so that it survives a publication.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nebula_core::clock::{Tick, WallTime};
use nebula_core::ids::{DeploymentId, KeyId};
use nebula_core::token::TokenHash;

use super::error::{Error, ErrorClass};
use super::limit::Meter;
pub use super::limit::{Budget, KeyLimits, Limited, Period, RateKind, Standing, Window};

mod table;

pub use self::table::KeyTable;

/// How many keys there may be.
pub const KEYS_MAX: usize = 100_000;
/// The longest name, in characters.
pub const NAME_CHARS_MAX: usize = 128;
/// How many models a key may list.
pub const MODELS_MAX: usize = 64;
/// How long the names of these models may be in all, in bytes: a key is one record.
pub const MODELS_BYTES_MAX: usize = 4_096;
/// How long an old secret may stay valid beside the new one.
pub const OVERLAP_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// An API key as it is stored: never its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Stays when the secret is rotated.
    pub id: KeyId,
    /// For people; no two keys have the same.
    pub name: String,
    /// The secrets that are valid, the newest last; two while a rotation overlaps.
    pub secrets: Vec<KeySecret>,
    /// The models it may call, by name or deployment id; none: all of them, also later ones.
    pub models: Option<BTreeSet<String>>,
    /// From then on it is not valid.
    pub expires_at: Option<WallTime>,
    /// How much it may ask for.
    pub limits: KeyLimits,
    /// When it was made.
    pub created_at: WallTime,
}

/// One of a key's secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySecret {
    /// What is known of it.
    pub hash: TokenHash,
    /// From then on it is not valid: the overlap's end. None for the newest.
    pub until: Option<WallTime>,
}

/// What an operator says of a key that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// 1-128 printable characters that no other key has.
    pub name: String,
    /// The models it may call, by name or deployment id, also ones that there are not yet; none: all.
    pub models: Option<BTreeSet<String>>,
    /// From then on it is not valid.
    pub expires_at: Option<WallTime>,
    /// How much it may ask for.
    pub limits: KeyLimits,
}

impl NewKey {
    /// Looks for what can never be right.
    ///
    /// # Errors
    /// `Unprocessable`, naming the field.
    pub fn check(&self, now: WallTime) -> Result<(), Error> {
        let printable = !self.name.chars().any(char::is_control) && self.name.trim() == self.name;
        // In a path these two are steps and no names.
        let step = matches!(self.name.as_str(), "." | "..");
        let models = self.models.iter().flatten();
        let listed = self.models.as_ref().map_or(0, BTreeSet::len);
        let limits = &self.limits;
        let wrong = [
            (
                self.name.is_empty() || self.name.chars().count() > NAME_CHARS_MAX || !printable || step,
                "name is to be 1-128 printable characters, no space at either end, and not \".\" or \"..\"",
            ),
            (
                self.models.is_some() && listed == 0,
                "models is empty; leave it out for a key that may use all",
            ),
            (listed > MODELS_MAX, "models names more than 64; leave it out for a key that may use all"),
            (models.clone().any(String::is_empty), "models holds an empty name"),
            (models.map(String::len).sum::<usize>() > MODELS_BYTES_MAX, "models is over 4096 bytes in all"),
            (self.expires_at.is_some_and(|at| at <= now), "the key would have expired already"),
            (limits.rpm == Some(0), "rpm is to be at least 1"),
            (limits.tpm == Some(0), "tpm is to be at least 1"),
            (limits.max_concurrent == Some(0), "max_concurrent is to be at least 1"),
            (limits.budget.is_some_and(|budget| budget.tokens == 0), "budget.tokens is to be at least 1"),
        ];
        match wrong.into_iter().find(|(is_wrong, _)| *is_wrong) {
            Some((_, why)) => Err(Error::new(ErrorClass::Unprocessable, why)),
            None => Ok(()),
        }
    }
}

impl ApiKey {
    /// A key that was just wanted.
    #[must_use]
    pub fn new(wanted: NewKey, hash: TokenHash, now: WallTime) -> Self {
        Self {
            id: KeyId::random(),
            name: wanted.name,
            secrets: vec![KeySecret { hash, until: None }],
            models: wanted.models,
            expires_at: wanted.expires_at,
            limits: wanted.limits,
            created_at: now,
        }
    }

    /// Whether it is not valid any more.
    #[must_use]
    pub fn is_expired(&self, now: WallTime) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// The key with another secret. The one that was the newest stays valid for `overlap`; older ones end, so that
    /// there are never more than two.
    #[must_use]
    pub fn rotated(&self, hash: TokenHash, overlap: Duration, now: WallTime) -> Self {
        let until = now.0.saturating_add(u64::try_from(overlap.as_millis()).unwrap_or(u64::MAX));
        let old = self.secrets.iter().find(|secret| secret.until.is_none()).filter(|_| !overlap.is_zero());
        let mut secrets: Vec<KeySecret> =
            old.map(|old| KeySecret { hash: old.hash, until: Some(WallTime(until)) }).into_iter().collect();
        secrets.push(KeySecret { hash, until: None });
        Self { secrets, ..self.clone() }
    }

    /// Whether it may call a model, by the deployment's name or id.
    #[must_use]
    pub fn allows(&self, model: &str, deployment: DeploymentId) -> bool {
        let Some(models) = &self.models else { return true };
        models.contains(model) || models.contains(&deployment.to_string())
    }
}

/// A key with what it has used, shared by all threads. What it uses goes through one short lock of its own, or through
/// none if it has no limits.
pub struct LiveKey {
    /// The key.
    pub key: ApiKey,
    meter: Arc<Mutex<Meter>>,
}

impl LiveKey {
    /// A key that has used nothing but, of its budget's running period, `spent` tokens.
    #[must_use]
    pub fn new(key: ApiKey, spent: u64, now: Tick, wall: WallTime) -> Self {
        let meter = Meter::new(&key.limits, spent, now, wall);
        Self { key, meter: Arc::new(Mutex::new(meter)) }
    }

    /// The same key, changed. What it has used stays used.
    #[must_use]
    pub fn changed(&self, key: ApiKey, now: Tick) -> Self {
        if key.limits != self.key.limits {
            self.meter().set(&key.limits, now);
        }
        Self { key, meter: self.meter.clone() }
    }

    /// Whether it may call a model, by the deployment's name or id.
    #[must_use]
    pub fn allows(&self, model: &str, deployment: DeploymentId) -> bool {
        self.key.allows(model, deployment)
    }

    /// Lets one request in. The tokens it costs are told to the permit when they are known.
    ///
    /// # Errors
    /// What it ran into; then nothing is counted.
    pub fn admit(self: &Arc<Self>, now: Tick, wall: WallTime) -> Result<Permit, Limited> {
        if self.is_limited() {
            self.meter().admit(now, wall)?;
        }
        Ok(Permit { key: Arc::clone(self) })
    }

    /// How many tokens of its budget are spent in the period that is running; none without a budget.
    #[must_use]
    pub fn spent(&self, wall: WallTime) -> Option<u64> {
        self.meter().spent(wall)
    }

    fn is_limited(&self) -> bool {
        self.key.limits != KeyLimits::default()
    }

    fn meter(&self) -> MutexGuard<'_, Meter> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for LiveKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveKey").field("key", &self.key).finish_non_exhaustive()
    }
}

/// One request under a key. When it is dropped its place is free again.
#[derive(Debug)]
pub struct Permit {
    key: Arc<LiveKey>,
}

impl Permit {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &LiveKey {
        &self.key
    }

    /// How the key's rates stand.
    #[must_use]
    pub fn standing(&self, now: Tick) -> Standing {
        if self.key.is_limited() { self.key.meter().standing(now) } else { Standing::default() }
    }

    /// The request has cost so many tokens, prompt and completion.
    pub fn spend(&self, tokens: u64, now: Tick, wall: WallTime) {
        if self.key.is_limited() {
            self.key.meter().spend(tokens, now, wall);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.key.is_limited() {
            self.key.meter().leave();
        }
    }
}

#[cfg(test)]
mod tests;
