//! How fast we may ask: Route 53 gives an account a few requests per second, for everybody in it together.

use std::time::Duration;

use nebula_core::clock::Tick;

/// Time between two requests in the long run.
pub(super) const INTERVAL: Duration = Duration::from_millis(500);
/// How many requests may follow each other at once after a pause.
pub(super) const BURST: u32 = 4;

/// Gives out moments at which a request may go.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the requests that were let through are all paid for, at one per interval.
    paid_at: Option<Tick>,
}

impl Pace {
    /// How long a request that comes now has to wait.
    pub(super) fn wait(&mut self, now: Tick) -> Duration {
        let paid_at = self.paid_at.map_or(now, |paid_at| paid_at.max(now));
        let owed = paid_at.since(now);
        self.paid_at = Some(paid_at.plus(INTERVAL));
        owed.saturating_sub(INTERVAL * (BURST - 1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_the_pace() {
        let mut pace = Pace::default();
        let now = Tick(1_000);
        let waits: Vec<u64> =
            (0..8).map(|_| u64::try_from(pace.wait(now).as_millis()).expect("small")).collect();
        assert_eq!(waits, [0, 0, 0, 0, 500, 1_000, 1_500, 2_000]);
        assert_eq!(pace.wait(Tick(60_000)), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn no_window_has_more_than_its_share(gaps in proptest::collection::vec(0_u64..900, 1..200)) {
            let (mut pace, mut now, mut sent) = (Pace::default(), 0, Vec::new());
            for gap in gaps {
                now += gap;
                let wait = u64::try_from(pace.wait(Tick(now)).as_millis()).expect("small");
                sent.push(now + wait);
            }
            prop_assert!(sent.is_sorted());
            for (first, from) in sent.iter().enumerate() {
                for (last, to) in sent.iter().enumerate().skip(first) {
                    let allowed = u64::from(BURST) + (to - from) / 500;
                    prop_assert!((last - first + 1) as u64 <= allowed, "{} in {} ms", last - first + 1, to - from);
                }
            }
        }
    }
}
