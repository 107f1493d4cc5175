//! All keys at one moment. A change copies a small part of the table only, so that it costs little however many keys
//! there are.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use nebula_core::clock::WallTime;
use nebula_core::ids::KeyId;
use nebula_core::token::TokenHash;

use super::LiveKey;

/// Into how many parts the table is divided, by a byte of the hash or the id.
const PARTS: usize = 256;

type BySecret = HashMap<TokenHash, Arc<LiveKey>>;
type ById = BTreeMap<KeyId, Arc<LiveKey>>;

/// All keys. Cheap to clone: the parts are shared.
#[derive(Clone, Debug)]
pub struct KeyTable {
    by_secret: Vec<Arc<BySecret>>,
    by_id: Vec<Arc<ById>>,
    count: usize,
}

impl Default for KeyTable {
    fn default() -> Self {
        Self { by_secret: vec![Arc::default(); PARTS], by_id: vec![Arc::default(); PARTS], count: 0 }
    }
}

impl KeyTable {
    /// The key to which a secret belongs that is valid now. The cost does not depend on how many there are, and as
    /// the table's key is a hash, the time it takes says nothing about any secret.
    #[must_use]
    pub fn find(&self, hash: &TokenHash, now: WallTime) -> Option<&Arc<LiveKey>> {
        let live = self.by_secret.get(part(hash.as_bytes()))?.get(hash)?;
        let secret = live.key.secrets.iter().find(|secret| secret.hash.same(hash))?;
        let over = live.key.is_expired(now) || secret.until.is_some_and(|until| until <= now);
        (!over).then_some(live)
    }

    /// A key by its id, expired or not.
    #[must_use]
    pub fn get(&self, id: KeyId) -> Option<&Arc<LiveKey>> {
        self.by_id.get(part(id.as_bytes()))?.get(&id)
    }

    /// All keys, expired or not, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<LiveKey>> {
        self.by_id.iter().flat_map(|part| part.values())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a key, or puts it in the place of what it was before.
    pub fn put(&mut self, live: Arc<LiveKey>) {
        self.remove(live.key.id);
        for secret in &live.key.secrets {
            if let Some(part) = self.by_secret.get_mut(part(secret.hash.as_bytes())) {
                Arc::make_mut(part).insert(secret.hash, live.clone());
            }
        }
        if let Some(part) = self.by_id.get_mut(part(live.key.id.as_bytes())) {
            Arc::make_mut(part).insert(live.key.id, live);
            self.count += 1;
        }
    }

    /// Takes a key away with all its secrets.
    pub fn remove(&mut self, id: KeyId) {
        let Some(part_of_id) = self.by_id.get_mut(part(id.as_bytes())) else { return };
        if !part_of_id.contains_key(&id) {
            return;
        }
        let Some(gone) = Arc::make_mut(part_of_id).remove(&id) else { return };
        self.count -= 1;
        for secret in &gone.key.secrets {
            if let Some(part) = self.by_secret.get_mut(part(secret.hash.as_bytes())) {
                Arc::make_mut(part).remove(&secret.hash);
            }
        }
    }
}

fn part(bytes: &[u8]) -> usize {
    bytes.first().map_or(0, |byte| usize::from(*byte))
}
