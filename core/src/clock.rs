//! Time. The only file that reads a clock, so that everything else can be told what time it is.

#![expect(clippy::disallowed_methods, reason = "this is where time comes from")]

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A moment on this process's monotonic clock, in milliseconds since the clock was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Tick(pub u64);

impl Tick {
    /// The moment `after` later.
    #[must_use]
    pub fn plus(self, after: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(after.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The time from `earlier` to this moment; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Milliseconds since 1970 on the wall clock: for records and people, never for deadlines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WallTime(pub u64);

/// Reads the time. Follows tokio's paused time in tests.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: tokio::time::Instant,
}

impl Clock {
    /// A clock that starts at tick zero now.
    #[must_use]
    pub fn start() -> Self {
        Self { origin: tokio::time::Instant::now() }
    }

    /// The monotonic time.
    #[must_use]
    pub fn now(&self) -> Tick {
        Tick(u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// The time since the clock was made, as exact as it is known: to measure how long something takes.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.origin.elapsed()
    }

    /// The wall clock's time.
    #[must_use]
    pub fn wall(&self) -> WallTime {
        wall_now()
    }
}

/// The wall clock's time.
#[must_use]
pub fn wall_now() -> WallTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    WallTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl WallTime {
    /// RFC 3339 in UTC with milliseconds, as the API prints times.
    #[must_use]
    pub fn rfc3339(self) -> String {
        let days = self.0 / 86_400_000;
        let ms = self.0 % 86_400_000;
        let (year, month, day) = civil_from_days(days);
        let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1_000)
    }

    /// Whole seconds since 1970.
    #[must_use]
    pub fn unix_secs(self) -> u64 {
        self.0 / 1_000
    }
}

/// Days since 1970-01-01 to the Gregorian date (Howard Hinnant's `civil_from_days`).
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    (year, month, doy - (153 * mp + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_prints_as_rfc3339() {
        assert_eq!(WallTime(0).rfc3339(), "1970-01-01T00:00:00.000Z");
        assert_eq!(WallTime(951_827_696_789).rfc3339(), "2000-02-29T12:34:56.789Z");
        assert_eq!(WallTime(1_702_400_000_000).rfc3339(), "2023-12-12T16:53:20.000Z");
        assert_eq!(WallTime(4_102_444_799_999).rfc3339(), "2099-12-31T23:59:59.999Z");
    }

    #[tokio::test(start_paused = true)]
    async fn ticks_follow_paused_time() {
        let clock = Clock::start();
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(clock.now().since(Tick(0)), Duration::from_secs(90));
    }
}
