//! How long calls took: counts in buckets that are at most a sixty-fourth wide, so that any number of calls takes
//! the same memory.

use std::time::Duration;

/// Buckets within each power of two.
const FINE: u32 = 64;
/// Powers of two, in microseconds: up to 67 s.
const POWERS: u32 = 26;

/// The times of many calls.
#[derive(Clone, Debug)]
pub(crate) struct Latency {
    buckets: Vec<u64>,
    count: u64,
    longest: Duration,
}

impl Default for Latency {
    fn default() -> Self {
        Self { buckets: vec![0; (FINE * (POWERS + 1)) as usize], count: 0, longest: Duration::ZERO }
    }
}

impl Latency {
    /// One more call.
    pub(crate) fn add(&mut self, took: Duration) {
        self.longest = self.longest.max(took);
        let bucket = bucket(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        let last = self.buckets.len() - 1;
        if let Some(count) = self.buckets.get_mut(bucket.min(last)) {
            *count += 1;
            self.count += 1;
        }
    }

    /// The calls of another count too.
    pub(crate) fn join(&mut self, other: &Self) {
        for (count, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *count += more;
        }
        self.count += other.count;
        self.longest = self.longest.max(other.longest);
    }

    /// How many calls there were.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The longest call, in milliseconds, exactly.
    pub(crate) fn longest_ms(&self) -> f64 {
        self.longest.as_secs_f64() * 1_000.0
    }

    /// The time within which this part of all calls ended, in milliseconds; 0 without calls.
    pub(crate) fn quantile_ms(&self, part: f64) -> f64 {
        let wanted = (self.count as f64 * part).ceil().max(1.0);
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen as f64 >= wanted {
                return upper_micros(bucket) / 1_000.0;
            }
        }
        0.0
    }
}

/// The first microseconds have a bucket each, then each power of two has as many.
fn bucket(micros: u32) -> usize {
    if micros < FINE {
        return micros as usize;
    }
    let power = micros.ilog2();
    let within = (micros >> (power - FINE.ilog2())) - FINE;
    (FINE * (power - FINE.ilog2() + 1) + within) as usize
}

/// The longest time of a bucket.
fn upper_micros(bucket: usize) -> f64 {
    let (power, within) = (bucket / FINE as usize, bucket % FINE as usize);
    match power {
        0 => within as f64,
        _ => (FINE as usize + within + 1) as f64 * 2_f64.powi(power as i32 - 1) - 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_a_sixty_fourth() {
        let mut latency = Latency::default();
        assert_eq!(latency.quantile_ms(0.5), 0.0);
        for micros in 1..=100_000_u64 {
            latency.add(Duration::from_micros(micros));
        }
        for part in [0.01, 0.5, 0.99, 1.0] {
            let (found, exact) = (latency.quantile_ms(part), part * 100.0);
            assert!(found >= exact && found <= exact * (1.0 + 1.0 / 64.0), "{part}: {found}");
        }
    }

    #[test]
    fn a_very_long_call_counts_as_the_longest() {
        let mut latency = Latency::default();
        latency.add(Duration::from_secs(10_000));
        assert!(latency.quantile_ms(0.5) >= 60_000.0);
    }
}
