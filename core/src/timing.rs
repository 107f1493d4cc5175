//! The times that fit together: how often agents report, how they retry, and after which silence the control plane
//! gives a node up. Agent, control plane and simulated fleet take them from here, so that one proof holds for all.
//!
//! | what | value |
//! |---|---|
//! | heartbeat | 30 s ± 20 % |
//! | one call | 5 s |
//! | HTTP/2 ping, also while idle | 10 s, answered within 5 s |
//! | wait after the 1st, 2nd, … failure | 1, 2, 4, 8, 16, 20, 20 … s ± 50 %, and what is left of the call's 5 s |
//! | suspect, offline | 45 s, 90 s |
//! | grace after a restart | 120 s |
//!
//! Two things follow, and are proved below. A node whose calls fail four times in a row is still heard before it
//! would be offline. And a fleet that finds the control plane again after it was away calls at most 1.5 times as
//! often as it always does: no wait is shorter on average than two thirds of the interval once the first ones are
//! used up, and the first ones are scattered over the time that their calls did not need.

use std::time::Duration;

/// How often an agent reports, until the control plane says otherwise.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(30);
/// The longest interval that an agent takes.
pub const HEARTBEAT_INTERVAL_MAX: Duration = Duration::from_secs(3_600);
/// A heartbeat comes up to this part of the interval earlier or later.
pub const HEARTBEAT_JITTER: f64 = 0.2;
/// Silent for this long: offline.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(90);
/// How long known nodes are waited for after the control plane starts.
pub const RESTART_GRACE: Duration = Duration::from_secs(120);
/// What the grace needs beyond two intervals: for agents that wait after failures.
pub const RESTART_GRACE_MARGIN: Duration = Duration::from_secs(30);

/// How long one call of an agent may take.
pub const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// How long making a connection may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection is tried this often while nothing else is sent.
pub const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
/// It is given up when the try is not answered within this time.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two heartbeats of an agent, however much there is to report.
pub const HEARTBEAT_GAP_MIN: Duration = Duration::from_millis(25);

/// The wait after the first failure; it doubles with each further one.
pub const RETRY_FIRST: Duration = Duration::from_secs(1);
/// A retry comes up to this part of its wait earlier or later.
pub const RETRY_JITTER: f64 = 0.5;
/// Failures in a row that a node must survive.
pub const FAILURES_SURVIVED: u32 = 4;

/// How often the registry looks at the time although nothing is due.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A look that comes this late, and not only a busy moment, means that the whole process stood still.
pub const PAUSE_MIN: Duration = Duration::from_secs(3);

/// The fewest nodes at which the brake against mass failure works.
pub const BRAKE_NODES_MIN: usize = 3;
/// More than this part of the nodes is missing: the brake closes. In percent.
pub const BRAKE_CLOSES_ABOVE: usize = 50;
/// Less than this part is missing: the brake opens. In percent.
pub const BRAKE_OPENS_BELOW: usize = 40;

/// The wait before the next heartbeat. `chance` is from 0 to 1.
#[must_use]
pub fn heartbeat(interval: Duration, chance: f64) -> Duration {
    scattered(interval, HEARTBEAT_JITTER, chance)
}

/// The wait after `failures` failures in a row, at least one, the last of which took `spent`. `chance` is from 0 to 1.
///
/// A call that failed at once leaves the rest of its deadline: the wait is scattered over that too (up to a sixth of
/// the interval), so that agents that lost one control plane at one moment do not come back at one moment. The worst
/// case stays what it is when each call takes all its time.
#[must_use]
pub fn retry(interval: Duration, failures: u32, spent: Duration, chance: f64) -> Duration {
    let spare = CALL_DEADLINE.saturating_sub(spent).min(interval / 6);
    scattered(retry_step(interval, failures), RETRY_JITTER, chance) + spare.mul_f64(chance.clamp(0.0, 1.0))
}

/// The middle of the wait after `failures` failures in a row: it doubles up to two thirds of the interval.
fn retry_step(interval: Duration, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    RETRY_FIRST.saturating_mul(1 << doublings).min(interval * 2 / 3)
}

/// `wait`, or up to the part `spread` of it less or more. `chance` is from 0 to 1.
#[must_use]
pub fn scattered(wait: Duration, spread: f64, chance: f64) -> Duration {
    wait.mul_f64(1.0 - spread + 2.0 * spread * chance.clamp(0.0, 1.0))
}

/// The interval that the control plane asks for; none when it asks for nothing sensible.
#[must_use]
pub fn asked_interval(seconds: i32) -> Option<Duration> {
    let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0)?;
    Some(Duration::from_secs(seconds).min(HEARTBEAT_INTERVAL_MAX))
}

/// How long after its last heartbeat a node is suspect.
#[must_use]
pub fn suspect_after(timeout: Duration) -> Duration {
    timeout / 2
}

/// The longest time between two heartbeats as the control plane hears them, when an honest agent's calls fail
/// [`FAILURES_SURVIVED`] times in a row.
///
/// The first one is heard as soon as it is sent and answered at its deadline; then come the longest wait, the calls
/// that fail at their deadline with the longest wait after each, and a call that arrives at its deadline.
#[must_use]
pub fn worst_honest_gap(interval: Duration) -> Duration {
    let failed: Duration = (1..=FAILURES_SURVIVED)
        .map(|failures| CALL_DEADLINE + retry(interval, failures, CALL_DEADLINE, 1.0))
        .sum();
    CALL_DEADLINE + heartbeat(interval, 1.0) + failed + CALL_DEADLINE
}

/// The shortest grace after a restart within which all agents come back.
#[must_use]
pub fn restart_grace_min(interval: Duration) -> Duration {
    interval * 2 + RESTART_GRACE_MARGIN
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVALS_SECS: [u64; 6] = [1, 5, 10, 30, 60, 3_600];

    fn intervals() -> impl Iterator<Item = Duration> {
        INTERVALS_SECS.into_iter().map(Duration::from_secs)
    }

    #[test]
    fn the_worst_honest_gap_is_under_the_timeout() {
        let gap = worst_honest_gap(HEARTBEAT_INTERVAL);
        assert_eq!(gap, Duration::from_millis(88_500));
        assert!(gap < HEARTBEAT_TIMEOUT, "{gap:?}");
    }

    #[test]
    fn no_call_that_fails_early_makes_the_gap_worse() {
        for interval in intervals() {
            for failures in 1..=20 {
                let late = CALL_DEADLINE + retry(interval, failures, CALL_DEADLINE, 1.0);
                for spent in [Duration::ZERO, Duration::from_millis(1), CALL_DEADLINE / 2, CALL_DEADLINE] {
                    assert!(spent + retry(interval, failures, spent, 1.0) <= late);
                }
            }
        }
    }

    #[test]
    fn the_grace_covers_two_intervals_and_the_longest_wait_after_a_failure() {
        assert!(RESTART_GRACE >= restart_grace_min(HEARTBEAT_INTERVAL));
        let longest = retry(HEARTBEAT_INTERVAL, u32::MAX, CALL_DEADLINE, 1.0) + CALL_DEADLINE * 2;
        assert!(longest < RESTART_GRACE, "{longest:?}");
    }

    #[test]
    fn a_node_in_good_health_is_never_suspect() {
        let gap = CALL_DEADLINE + heartbeat(HEARTBEAT_INTERVAL, 1.0);
        assert!(gap < suspect_after(HEARTBEAT_TIMEOUT), "{gap:?}");
    }

    #[test]
    fn a_dead_connection_is_noticed_before_it_costs_more_than_one_call() {
        assert!(KEEPALIVE_EVERY + KEEPALIVE_TIMEOUT < heartbeat(HEARTBEAT_INTERVAL, 0.0));
    }

    #[test]
    fn agents_that_cannot_reach_the_control_plane_call_hardly_oftener_than_those_that_can() {
        for interval in intervals() {
            let often = |chance| retry(interval, u32::MAX, Duration::ZERO, chance).as_secs_f64();
            let mean: f64 = (0..=100).map(|percent| often(f64::from(percent) / 100.0)).sum::<f64>() / 101.0;
            let times_steady = interval.as_secs_f64() / mean;
            assert!(times_steady <= 1.5, "{interval:?}: {times_steady}");
        }
    }

    #[test]
    fn waits_grow_to_their_limit_and_scatter() {
        let middle = |failures| retry(HEARTBEAT_INTERVAL, failures, CALL_DEADLINE, 0.5).as_secs();
        assert_eq!((1..=8).map(middle).collect::<Vec<_>>(), [1, 2, 4, 8, 16, 20, 20, 20]);
        let second = |spent, chance| retry(HEARTBEAT_INTERVAL, 2, spent, chance);
        assert_eq!(second(CALL_DEADLINE, 0.0), Duration::from_secs(1));
        assert_eq!(second(CALL_DEADLINE, 1.0), Duration::from_secs(3));
        assert_eq!(second(Duration::ZERO, 0.0), Duration::from_secs(1));
        assert_eq!(second(Duration::ZERO, 1.0), Duration::from_secs(8));
        assert_eq!(retry(Duration::from_secs(3), u32::MAX, CALL_DEADLINE, 0.5), Duration::from_secs(2));
        assert_eq!(heartbeat(HEARTBEAT_INTERVAL, 0.0), Duration::from_secs(24));
        assert_eq!(heartbeat(HEARTBEAT_INTERVAL, 1.0), Duration::from_secs(36));
    }

    #[test]
    fn a_senseless_interval_is_not_taken() {
        assert_eq!(asked_interval(0), None);
        assert_eq!(asked_interval(-5), None);
        assert_eq!(asked_interval(5), Some(Duration::from_secs(5)));
        assert_eq!(asked_interval(i32::MAX), Some(HEARTBEAT_INTERVAL_MAX));
    }
}
