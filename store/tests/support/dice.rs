//! Random numbers from a seed that is printed: `NEBULA_SEED` runs the same again.

/// SplitMix64.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// From `NEBULA_SEED`, or from what a fresh hasher of the standard library starts with.
    pub(crate) fn from_env() -> Self {
        use std::hash::{BuildHasher, Hasher};
        let seed = std::env::var("NEBULA_SEED").ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or_else(|| std::hash::RandomState::new().build_hasher().finish());
        println!("seed: NEBULA_SEED={seed}");
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// Whether the slow suites run in full, and not in their short form.
pub(crate) fn full() -> bool {
    std::env::var_os("NEBULA_FULL").is_some_and(|value| value == "1")
}
