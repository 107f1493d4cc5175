//! Durations as people write them: a bare number of seconds, or `30s`, `5m`, `24h`, `7d`, `500ms`.

use std::time::Duration;

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no duration; write seconds (30) or a number with ms, s, m, h or d (30s, 5m, 24h)")]
pub struct InvalidDuration(String);

/// Reads a duration.
///
/// # Errors
/// When the text is neither a whole number of seconds nor a whole number with a unit, or overflows.
pub fn parse(text: &str) -> Result<Duration, InvalidDuration> {
    let fail = || InvalidDuration(text.chars().take(40).collect());
    let trimmed = text.trim();
    let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = trimmed.split_at(digits);
    let number: u64 = number.parse().map_err(|_| fail())?;
    let millis_per_unit: u64 = match unit.trim() {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(fail()),
    };
    number.checked_mul(millis_per_unit).map(Duration::from_millis).ok_or_else(fail)
}

/// A duration for people: `850 ms`, `1.4 s`, `2m 05s`, `3h 20m`, `7d`.
#[must_use]
pub fn human(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis < 1_000 {
        format!("{millis} ms")
    } else if millis < 60_000 {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        match duration.as_secs() {
            secs if secs < 3_600 => format!("{}m {:02}s", secs / 60, secs % 60),
            secs if secs < 86_400 => pair(secs / 60, 60, ["h", "m"]),
            secs => pair(secs / 3_600, 24, ["d", "h"]),
        }
    }
}

/// `3h 20m`, or `3h` where nothing is left over.
fn pair(small: u64, per_large: u64, [large_unit, small_unit]: [&str; 2]) -> String {
    match (small / per_large, small % per_large) {
        (large, 0) => format!("{large}{large_unit}"),
        (large, small) => format!("{large}{large_unit} {small:02}{small_unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_with_and_without_unit() {
        for (text, millis) in
            [("90", 90_000), ("30s", 30_000), ("5m", 300_000), ("24h", 86_400_000), ("500ms", 500)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn people_read_the_two_largest_units() {
        for (secs, text) in [
            (59, "59.0 s"),
            (60, "1m 00s"),
            (3_599, "59m 59s"),
            (3_600, "1h"),
            (12_000, "3h 20m"),
            (86_400, "1d"),
            (90_000, "1d 01h"),
            (31_536_000, "365d"),
        ] {
            assert_eq!(human(Duration::from_secs(secs)), text);
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", "s", "-1", "1.5s", "5 weeks", "99999999999999999999", "18446744073709551615d"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
