//! How long calls took: counts in buckets that are at most a sixteenth wide, so that any number of calls takes the
//! same memory.

use std::time::Duration;

/// Buckets within each power of two.
const FINE: u32 = 16;
/// Powers of two, in microseconds: up to 67 s.
const POWERS: u32 = 26;

/// The times of many calls.
#[derive(Clone, Debug)]
pub(crate) struct Latency {
    buckets: Vec<u64>,
    count: u64,
}

impl Default for Latency {
    fn default() -> Self {
        Self { buckets: vec![0; (FINE * (POWERS + 1)) as usize], count: 0 }
    }
}

impl Latency {
    /// One more call.
    pub(crate) fn add(&mut self, took: Duration) {
        let bucket = bucket(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        let last = self.buckets.len() - 1;
        if let Some(count) = self.buckets.get_mut(bucket.min(last)) {
            *count += 1;
            self.count += 1;
        }
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

/// The first sixteen microseconds have a bucket each, then each power of two has sixteen.
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
    fn quantiles_are_right_to_a_sixteenth() {
        let mut latency = Latency::default();
        assert_eq!(latency.quantile_ms(0.5), 0.0);
        for micros in 1..=100_000_u64 {
            latency.add(Duration::from_micros(micros));
        }
        for part in [0.01, 0.5, 0.99, 1.0] {
            let (found, exact) = (latency.quantile_ms(part), part * 100.0);
            assert!(found >= exact && found <= exact * (1.0 + 1.0 / 16.0), "{part}: {found}");
        }
    }

    #[test]
    fn a_very_long_call_counts_as_the_longest() {
        let mut latency = Latency::default();
        latency.add(Duration::from_secs(10_000));
        assert!(latency.quantile_ms(0.5) >= 60_000.0);
    }
}
