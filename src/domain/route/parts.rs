//! A map in parts that its copies share: copying it is cheap, and a change of the copy copies one small part.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

/// Into how many parts a map is divided.
const PARTS: usize = 256;
/// Which bits of the hash choose the part: not those by which the map within it goes.
const SHIFT: u32 = 32;

/// The map.
#[derive(Clone, Debug)]
pub(super) struct Parts<K, V> {
    parts: Vec<Arc<HashMap<K, V>>>,
    hasher: RandomState,
}

impl<K, V> Default for Parts<K, V> {
    fn default() -> Self {
        Self { parts: vec![Arc::default(); PARTS], hasher: RandomState::new() }
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Parts<K, V> {
    fn part<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        (self.hasher.hash_one(key) >> SHIFT) as usize % PARTS
    }

    pub(super) fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.parts.get(self.part(key))?.get(key)
    }

    pub(super) fn get_key_value<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        self.parts.get(self.part(key))?.get_key_value(key)
    }

    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let part = self.part(&key);
        Arc::make_mut(self.parts.get_mut(part)?).insert(key, value)
    }

    pub(super) fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let part = self.part(key);
        Arc::make_mut(self.parts.get_mut(part)?).remove(key)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.parts.iter().flat_map(|part| part.values())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_holds_what_a_plain_map_holds_and_a_copy_stays_as_it_was(
            first in proptest::collection::vec((0_u16..600, any::<Option<u8>>()), 0..400),
            second in proptest::collection::vec((0_u16..600, any::<Option<u8>>()), 0..40),
        ) {
            let (mut parts, mut plain) = (Parts::default(), BTreeMap::new());
            let change = |(key, value): (u16, Option<u8>), parts: &mut Parts<_, _>, plain: &mut BTreeMap<_, _>| {
                let before = match value {
                    Some(value) => (parts.insert(key, value), plain.insert(key, value)),
                    None => (parts.remove(&key), plain.remove(&key)),
                };
                assert_eq!(before.0, before.1);
            };
            let is = |parts: &Parts<u16, u8>, plain: &BTreeMap<u16, u8>| {
                parts.values().count() == plain.len() && plain.iter().all(|(key, value)| parts.get(key) == Some(value))
            };
            first.into_iter().for_each(|act| change(act, &mut parts, &mut plain));
            let (copy, plain_copy) = (parts.clone(), plain.clone());
            second.into_iter().for_each(|act| change(act, &mut parts, &mut plain));
            prop_assert!(is(&parts, &plain) && is(&copy, &plain_copy));
        }
    }
}
