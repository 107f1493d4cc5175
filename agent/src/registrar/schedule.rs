//! When the agent speaks to nebulad. Pure.

use std::time::Duration;

/// How long one call may take.
pub(crate) const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// The connection is tried this often while nothing else is sent, and given up after this long without an answer.
pub(crate) const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long making a connection may take.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two heartbeats, however much there is to report.
pub(crate) const GAP_MIN: Duration = Duration::from_millis(25);
/// Until nebulad says otherwise.
pub(crate) const INTERVAL_DEFAULT: Duration = Duration::from_secs(30);
/// What nebulad may ask for.
const INTERVAL_MAX_SECS: i32 = 3_600;
/// Waits after the first, second, … failure in a row.
const BACKOFF_SECS: [u64; 5] = [1, 2, 4, 8, 10];
/// A heartbeat comes up to a fifth earlier or later.
const HEARTBEAT_JITTER: f64 = 0.2;
/// A retry comes up to a half earlier or later.
const BACKOFF_JITTER: f64 = 0.5;

/// The wait after `failures` failures in a row, at least one. `chance` is from 0 to 1.
pub(crate) fn backoff(failures: u32, chance: f64) -> Duration {
    let step = usize::try_from(failures.saturating_sub(1)).unwrap_or(usize::MAX);
    let secs = BACKOFF_SECS.get(step).or(BACKOFF_SECS.last()).copied().unwrap_or(1);
    jittered(Duration::from_secs(secs), BACKOFF_JITTER, chance)
}

/// The wait before the next heartbeat. `chance` is from 0 to 1.
pub(crate) fn heartbeat(interval: Duration, chance: f64) -> Duration {
    jittered(interval, HEARTBEAT_JITTER, chance)
}

/// The interval that nebulad asks for; none when it asks for nothing sensible.
pub(crate) fn interval(seconds: i32) -> Option<Duration> {
    let seconds = u64::try_from(seconds.min(INTERVAL_MAX_SECS)).ok()?;
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

fn jittered(wait: Duration, spread: f64, chance: f64) -> Duration {
    wait.mul_f64(1.0 - spread + 2.0 * spread * chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_limit_and_scatter() {
        let middle: Vec<u64> = (1..=7).map(|failures| backoff(failures, 0.5).as_secs()).collect();
        assert_eq!(middle, [1, 2, 4, 8, 10, 10, 10]);
        assert_eq!(backoff(2, 0.0), Duration::from_secs(1));
        assert_eq!(backoff(2, 1.0), Duration::from_secs(3));
        assert_eq!(backoff(u32::MAX, 0.5), Duration::from_secs(10));
        assert_eq!(heartbeat(Duration::from_secs(30), 0.0), Duration::from_secs(24));
        assert_eq!(heartbeat(Duration::from_secs(30), 1.0), Duration::from_secs(36));
    }

    #[test]
    fn four_failures_in_a_row_do_not_make_a_node_offline() {
        let offline_after = Duration::from_secs(90);
        let mut gap = heartbeat(INTERVAL_DEFAULT, 1.0) + CALL_DEADLINE;
        for failures in 1..=4 {
            gap += backoff(failures, 1.0) + CALL_DEADLINE;
        }
        assert!(gap < offline_after, "{gap:?}");
    }

    #[test]
    fn a_senseless_interval_is_not_taken() {
        assert_eq!(interval(0), None);
        assert_eq!(interval(-5), None);
        assert_eq!(interval(5), Some(Duration::from_secs(5)));
        assert_eq!(interval(i32::MAX), Some(Duration::from_secs(3_600)));
    }
}
