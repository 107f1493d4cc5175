//! Made-up embedding vectors: of length one, the same for the same text, and nothing else.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::args::DIMENSIONS_MAX;
use super::error::ApiError;

/// The unit vector of `text` with `dimensions` components.
pub(crate) fn vector(text: &str, dimensions: u32) -> Vec<f32> {
    let mut seed = fnv1a(text.as_bytes());
    let raw: Vec<f64> = (0..dimensions).map(|_| next(&mut seed)).collect();
    let length = raw.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    raw.iter().map(|x| (x / length) as f32).collect()
}

/// Little-endian 32-bit floats in the standard base64 alphabet, as the OpenAI API has it.
pub(crate) fn base64(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    STANDARD.encode(bytes)
}

/// The length of the vectors: as wanted, if it can be had.
pub(crate) fn dimensions(wanted: Option<u64>, default: u32) -> Result<u32, ApiError> {
    let Some(wanted) = wanted else { return Ok(default) };
    u32::try_from(wanted).ok().filter(|wanted| (1..=DIMENSIONS_MAX).contains(wanted)).ok_or_else(|| {
        let message = format!("dimensions is {wanted}, give a number from 1 to {DIMENSIONS_MAX}");
        ApiError::invalid(Some("dimensions"), message)
    })
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The next of a row of numbers from -1 to 1 (splitmix64).
fn next(seed: &mut u64) -> f64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let z = z ^ (z >> 31);
    (z >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_repeatable_distinct_and_of_length_one() {
        let one = vector("a", 64);
        assert_eq!(one, vector("a", 64));
        assert_ne!(one, vector("b", 64));
        let length: f32 = one.iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-5, "{length}");
        assert!(one.iter().any(|x| *x < 0.0) && one.iter().any(|x| *x > 0.0));
        assert_eq!(vector("", 3).len(), 3);
    }

    #[test]
    fn base64_has_the_bytes_of_the_floats() {
        assert_eq!(base64(&[1.0, -2.0]), "AACAPwAAAMA=");
        let vector = vector("round", 5);
        let bytes = STANDARD.decode(base64(&vector)).expect("base64");
        let back: Vec<f32> =
            bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
        assert_eq!(back, vector);
    }
}
