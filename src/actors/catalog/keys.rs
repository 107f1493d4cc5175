//! Idempotency keys: which were used for what, and which are being used at the moment.

use std::collections::{BTreeMap, BTreeSet};

use nebula_core::clock::WallTime;
use nebula_core::ids::DeploymentId;

use crate::domain::error::{Error, ErrorClass};
use crate::domain::idempotency::{KEYS_MAX, UsedKey};

/// The keys of the last day.
pub(super) struct Keys {
    used: BTreeMap<String, UsedKey>,
    by_age: BTreeSet<(WallTime, String)>,
    /// Keys whose deployment is being made durable.
    busy: BTreeSet<String>,
}

impl Keys {
    pub(super) fn load(stored: Vec<UsedKey>) -> Self {
        let mut keys = Self { used: BTreeMap::new(), by_age: BTreeSet::new(), busy: BTreeSet::new() };
        stored.into_iter().for_each(|used| keys.remember(used));
        keys
    }

    /// Takes a key for a new request; answers what an earlier request with the same body made.
    ///
    /// # Errors
    /// When the key was used with another body, or a request with it is under way.
    pub(super) fn begin(
        &mut self,
        key: &str,
        body: &[u8; 32],
        now: WallTime,
    ) -> Result<Option<DeploymentId>, Error> {
        match self.used.get(key).filter(|used| !used.is_over(now)) {
            Some(used) if used.body == *body => Ok(Some(used.deployment)),
            Some(_) => Err(Error::new(
                ErrorClass::Unprocessable,
                "this Idempotency-Key was used for another request",
            )),
            None if self.busy.insert(key.to_owned()) => Ok(None),
            None => Err(Error::new(ErrorClass::Conflict, "a request with this Idempotency-Key is under way")),
        }
    }

    /// The request has come to nothing: the key is free again.
    pub(super) fn abandon(&mut self, key: Option<&str>) {
        if let Some(key) = key {
            self.busy.remove(key);
        }
    }

    /// The request is durable.
    pub(super) fn finish(&mut self, used: Option<UsedKey>) {
        if let Some(used) = used {
            self.busy.remove(&used.key);
            self.remember(used);
        }
    }

    /// Forgets keys that are too old or too many, and says which.
    pub(super) fn outdated(&mut self, now: WallTime) -> Vec<String> {
        let mut gone = Vec::new();
        while let Some((at, key)) = self.by_age.first().cloned() {
            let over = self.used.get(&key).is_none_or(|used| used.is_over(now));
            if !over && self.used.len() < KEYS_MAX {
                break;
            }
            self.by_age.remove(&(at, key.clone()));
            self.used.remove(&key);
            gone.push(key);
        }
        gone
    }

    /// What was made is gone: its keys may be used again. Says which.
    pub(super) fn forget(&mut self, deployment: DeploymentId) -> Vec<String> {
        let of_it = self.used.values().filter(|used| used.deployment == deployment);
        let gone: Vec<UsedKey> = of_it.cloned().collect();
        for used in &gone {
            self.used.remove(&used.key);
            self.by_age.remove(&(used.at, used.key.clone()));
        }
        gone.into_iter().map(|used| used.key).collect()
    }

    fn remember(&mut self, used: UsedKey) {
        if let Some(old) = self.used.get(&used.key) {
            self.by_age.remove(&(old.at, old.key.clone()));
        }
        self.by_age.insert((used.at, used.key.clone()));
        self.used.insert(used.key.clone(), used);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::idempotency::KEPT_FOR;

    fn used(key: &str, at: u64) -> UsedKey {
        UsedKey {
            key: key.to_owned(),
            body: [1; 32],
            deployment: DeploymentId::from_bytes([9; 16]),
            at: WallTime(at),
        }
    }

    #[test]
    fn a_key_makes_one_deployment() {
        let mut keys = Keys::load(Vec::new());
        assert_eq!(keys.begin("a", &[1; 32], WallTime(1)), Ok(None));
        assert_eq!(
            keys.begin("a", &[1; 32], WallTime(1)).expect_err("under way").class,
            ErrorClass::Conflict
        );
        keys.finish(Some(used("a", 1)));
        assert_eq!(keys.begin("a", &[1; 32], WallTime(1)), Ok(Some(DeploymentId::from_bytes([9; 16]))));
        assert_eq!(
            keys.begin("a", &[2; 32], WallTime(1)).expect_err("another body").class,
            ErrorClass::Unprocessable
        );
    }

    #[test]
    fn a_key_whose_request_failed_is_free_again() {
        let mut keys = Keys::load(Vec::new());
        assert_eq!(keys.begin("a", &[1; 32], WallTime(1)), Ok(None));
        keys.abandon(Some("a"));
        assert_eq!(keys.begin("a", &[2; 32], WallTime(1)), Ok(None));
    }

    #[test]
    fn keys_are_forgotten_after_a_day_and_when_there_are_too_many() {
        let day = u64::try_from(KEPT_FOR.as_millis()).expect("fits");
        let mut keys = Keys::load(vec![used("old", 0), used("new", 2)]);
        assert_eq!(keys.outdated(WallTime(day + 1)), ["old"]);
        assert_eq!(keys.begin("old", &[7; 32], WallTime(day + 1)), Ok(None));
        let mut keys = Keys::load((0..KEYS_MAX as u64).map(|n| used(&format!("k{n}"), n)).collect());
        assert_eq!(keys.outdated(WallTime(1)), ["k0"]);
    }
}
