//! Nodes by what they have: so that a choice among all of them compares no texts.

use std::collections::BTreeMap;

/// Nodes under each text that is theirs: their slots, ascending, so that many are read fast.
#[derive(Debug, Default)]
pub(super) struct Index(BTreeMap<String, Vec<u32>>);

impl Index {
    pub(super) fn add(&mut self, text: &str, slot: u32) {
        match self.0.get_mut(text) {
            Some(slots) => {
                if let Err(at) = slots.binary_search(&slot) {
                    slots.insert(at, slot);
                }
            }
            None => {
                self.0.insert(text.to_owned(), vec![slot]);
            }
        }
    }

    pub(super) fn remove(&mut self, text: &str, slot: u32) {
        if let Some(slots) = self.0.get_mut(text) {
            if let Ok(at) = slots.binary_search(&slot) {
                slots.remove(at);
            }
            if slots.is_empty() {
                self.0.remove(text);
            }
        }
    }

    /// Those under exactly this text.
    pub(super) fn mask(&self, text: &str, size: usize) -> Mask {
        Mask::of(self.0.get(text).into_iter().flatten(), size)
    }

    /// Those under any text with this part.
    pub(super) fn mask_of_part(&self, part: &str, size: usize) -> Mask {
        let matching = self.0.iter().filter(|(text, _)| text.contains(part));
        Mask::of(matching.flat_map(|(_, slots)| slots), size)
    }
}

/// Some of all nodes.
#[derive(Debug)]
pub(super) enum Mask {
    All,
    Nobody,
    /// One bit a slot.
    Some(Vec<u64>),
}

impl Mask {
    pub(super) fn of<'a>(slots: impl Iterator<Item = &'a u32>, size: usize) -> Self {
        let mut words = vec![0_u64; size.div_ceil(64)];
        for slot in slots {
            if let Some(word) = words.get_mut(*slot as usize / 64) {
                *word |= 1 << (slot % 64);
            }
        }
        Self::Some(words)
    }

    /// For questions about one node only.
    pub(super) fn either(all: bool) -> Self {
        if all { Self::All } else { Self::Nobody }
    }

    #[inline]
    pub(super) fn has(&self, slot: u32) -> bool {
        match self {
            Self::All => true,
            Self::Nobody => false,
            Self::Some(words) => {
                words.get(slot as usize / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
            }
        }
    }

    /// Those in both.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nobody, _) | (_, Self::Nobody) => Self::Nobody,
            (Self::All, mask) | (mask, Self::All) => mask,
            (Self::Some(one), Self::Some(two)) => {
                Self::Some(one.into_iter().zip(two).map(|(one, two)| one & two).collect())
            }
        }
    }

    /// Those in any.
    pub(super) fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::All, _) | (_, Self::All) => Self::All,
            (Self::Nobody, mask) | (mask, Self::Nobody) => mask,
            (Self::Some(one), Self::Some(two)) => {
                Self::Some(one.into_iter().zip(two).map(|(one, two)| one | two).collect())
            }
        }
    }
}
