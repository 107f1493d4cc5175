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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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

/// The wall clock's time in microseconds since 1970: to compare times of two programs on one machine.
#[must_use]
pub fn wall_micros() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

impl WallTime {
    /// RFC 3339 in UTC with milliseconds, as the API prints times.
    #[must_use]
    pub fn rfc3339(self) -> String {
        let ms = self.0 % 86_400_000;
        let (year, month, day) = self.date();
        let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1_000)
    }

    /// Reads an RFC 3339 time with any offset; nothing when the text is none or is before 1970.
    #[must_use]
    pub fn from_rfc3339(text: &str) -> Option<Self> {
        // `parse` takes a sign, too.
        let digits = |text: &str| text.parse::<u64>().ok().filter(|_| !text.starts_with('+'));
        let number = |from: usize, to: usize, most: u64| digits(text.get(from..to)?).filter(|it| *it <= most);
        let sign = |at: usize| text.get(at..=at);
        if (sign(4)?, sign(7)?, sign(13)?, sign(16)?) != ("-", "-", ":", ":")
            || !matches!(sign(10)?, "T" | "t" | " ")
        {
            return None;
        }
        let (year, month, day) = (number(0, 4, 9_999)?, number(5, 7, 12)?, number(8, 10, 31)?);
        let days =
            days_from_civil(year, month, day).filter(|days| civil_from_days(*days) == (year, month, day))?;
        // A leap second is the first one of the next minute.
        let second = number(11, 13, 23)? * 3_600 + number(14, 16, 59)? * 60 + number(17, 19, 60)?;
        let rest = text.get(19..)?;
        let (fraction, zone) = match rest.strip_prefix('.') {
            None => ("0", rest),
            Some(rest) => rest.split_at(rest.bytes().take_while(u8::is_ascii_digit).count()),
        };
        if fraction.is_empty() {
            return None;
        }
        let millis = digits(format!("{fraction:0<3}").get(..3)?)?;
        let utc = (days * 86_400 + second) * 1_000 + millis;
        let offset = |zone: &str| {
            let part =
                |from: usize, to: usize, most: u64| digits(zone.get(from..to)?).filter(|it| *it <= most);
            let minutes = part(1, 3, 23)? * 60 + part(4, 6, 59)?;
            (zone.len() == 6 && zone.get(3..4)? == ":").then_some(minutes * 60_000)
        };
        match zone.as_bytes() {
            [b'Z' | b'z'] => Some(Self(utc)),
            [b'+', ..] => utc.checked_sub(offset(zone)?).map(Self),
            [b'-', ..] => utc.checked_add(offset(zone)?).map(Self),
            _ => None,
        }
    }

    /// The year, the month and the day of the month, in UTC.
    #[must_use]
    pub fn date(self) -> (u64, u64, u64) {
        civil_from_days(self.0 / 86_400_000)
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

/// The Gregorian date to days since 1970-01-01 (Howard Hinnant's `days_from_civil`); nothing for earlier ones.
fn days_from_civil(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = if month <= 2 { year.checked_sub(1)? } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day.checked_sub(1)?;
    (era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year)
        .checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_with_offsets_are_read_and_nonsense_is_not() {
        let read = |text: &str| WallTime::from_rfc3339(text).map(|time| time.0);
        assert_eq!(read("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(read("2000-02-29T12:34:56.789Z"), Some(951_827_696_789));
        assert_eq!(read("2023-12-12t16:53:20.0001z"), Some(1_702_400_000_000));
        assert_eq!(read("2023-12-12 18:53:20.5+02:00"), Some(1_702_400_000_500));
        assert_eq!(read("2023-12-12T11:23:20-05:30"), Some(1_702_400_000_000));
        for text in [
            "",
            "yesterday",
            "2023-12-12",
            "2023-12-12T16:53:20",
            "2023-12-12T16:53:20+2",
            "2023-12-12T16:53:20+02:00:00",
            "2023-12-12T16:53:20.Z",
            "2023-12-12X16:53:20Z",
            "2023-02-29T16:53:20Z",
            "2023-13-01T16:53:20Z",
            "2023-00-10T16:53:20Z",
            "2023-12-00T16:53:20Z",
            "2023-12-12T24:00:00Z",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+01:00",
            "２０２３-1",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        for time in (0..4_102_444_800_000).step_by(86_399_999) {
            assert_eq!(read(&WallTime(time).rfc3339()), Some(time));
        }
    }

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
