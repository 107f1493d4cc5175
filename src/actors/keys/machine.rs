//! The decisions about API keys: which names are taken, what a change makes of a key. Pure.
//!
//! A change has two halves: it is planned, which takes the name or the key for itself, and when it is durable it is
//! done. Between the two nobody sees anything of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use nebula_core::clock::{Tick, WallTime};
use nebula_core::ids::KeyId;
use nebula_core::token::TokenHash;

use crate::domain::error::{Error, ErrorClass};
use crate::domain::key::{ApiKey, KEYS_MAX, KeyTable, LiveKey};
use crate::ports::Write;

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This key is to be made.
    Create(Box<ApiKey>),
    /// This key is to go.
    Revoke(KeyId),
    /// This key is to have another secret.
    Rotate {
        /// The key.
        id: KeyId,
        /// The new secret's.
        hash: TokenHash,
        /// How long the old secret stays valid.
        overlap: Duration,
    },
}

/// A change that may be made durable.
#[derive(Debug)]
pub struct Plan {
    verb: Verb,
    /// As the key is to be, or was.
    key: ApiKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Create,
    Revoke,
    Rotate,
}

impl Plan {
    /// What is to be stored.
    #[must_use]
    pub fn write(&self) -> Write {
        match self.verb {
            Verb::Create | Verb::Rotate => Write::PutKey(Box::new(self.key.clone())),
            Verb::Revoke => Write::DeleteKey(self.key.id),
        }
    }

    /// The type of its line in the audit.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.verb {
            Verb::Create => "key.create",
            Verb::Revoke => "key.revoke",
            Verb::Rotate => "key.rotate",
        }
    }
}

/// What its line in the audit says.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key \"{}\" ({})", self.key.name, self.key.id)?;
        match (self.verb, &self.key.models) {
            (Verb::Create, None) => f.write_str(": all models"),
            (Verb::Create, Some(models)) if models.len() == 1 => f.write_str(": one model"),
            (Verb::Create, Some(models)) => write!(f, ": {} models", models.len()),
            (Verb::Rotate, _) => match self.key.secrets.iter().find_map(|secret| secret.until) {
                Some(until) => write!(f, ": the old secret is valid until {}", until.rfc3339()),
                None => f.write_str(": the old secret is not valid any more"),
            },
            (Verb::Revoke, _) => Ok(()),
        }
    }
}

/// The keys.
#[derive(Debug, Default)]
pub struct Machine {
    table: KeyTable,
    /// Also those of keys that are being made.
    names: HashMap<String, KeyId>,
    /// Keys of which a change is being made durable.
    busy: BTreeSet<KeyId>,
}

impl Machine {
    /// The keys as they were stored. One that was in the table `before` goes on with what it has used; of the others
    /// `spent` says what of the budget's running period is spent.
    #[must_use]
    pub fn load(
        stored: Vec<ApiKey>,
        before: &KeyTable,
        spent: &BTreeMap<KeyId, u64>,
        now: Tick,
        wall: WallTime,
    ) -> Self {
        let mut machine = Self::default();
        for key in stored {
            machine.names.insert(key.name.clone(), key.id);
            let live = match before.get(key.id) {
                Some(live) => live.changed(key, now),
                None => {
                    let spent = spent.get(&key.id).copied().unwrap_or_default();
                    LiveKey::new(key, spent, now, wall)
                }
            };
            machine.table.put(Arc::new(live));
        }
        machine
    }

    /// The keys as the gateway is to see them.
    #[must_use]
    pub fn table(&self) -> &KeyTable {
        &self.table
    }

    /// Plans a change.
    ///
    /// # Errors
    /// `NotFound`, or `Conflict` when the name is taken, the key is being changed, a key that is to have another secret
    /// has expired, or there are too many.
    pub fn begin(&mut self, change: Change, at: WallTime) -> Result<Plan, Error> {
        let plan = match change {
            Change::Create(key) => self.create(*key)?,
            Change::Revoke(id) => Plan { verb: Verb::Revoke, key: self.free(id)?.key.clone() },
            Change::Rotate { id, hash, overlap } => {
                let key = &self.free(id)?.key;
                if key.is_expired(at) {
                    let why = format!("key \"{}\" has expired; revoke it and make another one", key.name);
                    return Err(Error::new(ErrorClass::Conflict, why));
                }
                Plan { verb: Verb::Rotate, key: key.rotated(hash, overlap, at) }
            }
        };
        self.busy.insert(plan.key.id);
        Ok(plan)
    }

    fn create(&mut self, key: ApiKey) -> Result<Plan, Error> {
        if self.names.len() >= KEYS_MAX {
            let why = format!("there are {KEYS_MAX} keys already; revoke those that nobody needs");
            return Err(Error::new(ErrorClass::Conflict, why));
        }
        if self.names.contains_key(&key.name) {
            return Err(Error::new(ErrorClass::Conflict, format!("the name \"{}\" is taken", key.name)));
        }
        self.names.insert(key.name.clone(), key.id);
        Ok(Plan { verb: Verb::Create, key })
    }

    /// A key that nobody is changing.
    fn free(&self, id: KeyId) -> Result<&LiveKey, Error> {
        let none = || Error::new(ErrorClass::NotFound, format!("there is no key \"{id}\""));
        let live = self.table.get(id).ok_or_else(none)?;
        if self.busy.contains(&id) {
            let why = format!("key \"{id}\" is just being changed, try again in a moment");
            return Err(Error::new(ErrorClass::Conflict, why));
        }
        Ok(live)
    }

    /// The plan is durable. Answers the key as it is now, or was.
    pub fn done(&mut self, plan: Plan, now: Tick, wall: WallTime) -> ApiKey {
        let Plan { verb, key } = plan;
        self.busy.remove(&key.id);
        match verb {
            Verb::Create => self.table.put(Arc::new(LiveKey::new(key.clone(), 0, now, wall))),
            Verb::Rotate => {
                if let Some(changed) = self.table.get(key.id).map(|live| live.changed(key.clone(), now)) {
                    self.table.put(Arc::new(changed));
                }
            }
            Verb::Revoke => {
                self.names.remove(&key.name);
                self.table.remove(key.id);
            }
        }
        key
    }

    /// The plan has come to nothing.
    pub fn given_up(&mut self, plan: &Plan) {
        self.busy.remove(&plan.key.id);
        if plan.verb == Verb::Create {
            self.names.remove(&plan.key.name);
        }
    }
}

#[cfg(test)]
mod tests;
