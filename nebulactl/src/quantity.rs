//! Amounts as people write and read them: bytes, moments, counts and ages.

use nebula_core::clock::{self, WallTime};

/// Reads a size: a bare number of bytes, or one with `K M G T` (powers of 1000, also `KB` …) or `Ki Mi Gi Ti`
/// (powers of 1024, also `KiB` …).
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let fail = || "write bytes or a number with a unit, such as 80GB or 24GiB".to_owned();
    let trimmed = text.trim();
    let digits = trimmed.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, unit) = trimmed.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().trim_end_matches('b') {
        "" => 1,
        "k" => 1_000,
        "m" => 1_000_000,
        "g" => 1_000_000_000,
        "t" => 1_000_000_000_000,
        "ki" => 1 << 10,
        "mi" => 1 << 20,
        "gi" => 1 << 30,
        "ti" => 1 << 40,
        _ => return Err(fail()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.len() > 6 || fraction.contains('.') {
        return Err(fail());
    }
    let whole: u64 = whole.parse().map_err(|_| fail())?;
    let millionths: u64 = format!("{fraction:0<6}").parse().map_err(|_| fail())?;
    let part = u128::from(factor) * u128::from(millionths) / 1_000_000;
    u64::try_from(u128::from(whole) * u128::from(factor) + part).map_err(|_| fail())
}

/// Reads a moment as the API takes it: RFC 3339 and unix seconds stay, a date is its midnight (UTC), and a duration with
/// its unit is so long ago.
pub(crate) fn parse_moment(text: &str) -> Result<String, String> {
    if text.parse::<u64>().is_ok() || WallTime::from_rfc3339(text).is_some() {
        return Ok(text.to_owned());
    }
    let midnight = format!("{text}T00:00:00Z");
    if WallTime::from_rfc3339(&midnight).is_some() {
        return Ok(midnight);
    }
    let ago = nebula_core::duration::parse(text).map_err(|_| {
        "write a time (2026-01-31T12:00:00Z), a date (2026-01-31), unix seconds, or how long ago (7d)"
            .to_owned()
    })?;
    Ok(clock::wall_now().unix_secs().saturating_sub(ago.as_secs()).to_string())
}

/// A number for people: `12,345`.
pub(crate) fn human_count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A size for people: `79.6 GiB`.
#[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
pub(crate) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64;
    let mut shown = "B";
    for unit in UNITS {
        if amount < 1024.0 {
            break;
        }
        amount /= 1024.0;
        shown = unit;
    }
    format!("{amount:.1} {shown}")
}

/// An age for people, in its largest unit: `42s`, `7m`, `3h`, `12d`.
pub(crate) fn human_age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("123", 123),
            ("80GB", 80_000_000_000),
            ("80g", 80_000_000_000),
            ("24GiB", 24 << 30),
            ("24 Gi", 24 << 30),
            ("1.5GiB", 3 << 29),
            ("141.7GB", 141_700_000_000),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "GB", "-1", "1.2.3G", "80 things", "99999999999999999999", "99999999TiB", "."] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_and_ages_are_shown_short() {
        assert_eq!(human_bytes(512), "512 B");
        assert_eq!(human_bytes(85_899_345_920), "80.0 GiB");
        assert_eq!(human_age(119), "119s");
        assert_eq!(human_age(120), "2m");
        assert_eq!(human_age(7_200), "2h");
        assert_eq!(human_age(172_800), "2d");
    }

    #[test]
    fn moments_are_read_as_the_api_takes_them() {
        for (text, moment) in [
            ("1702400000", "1702400000"),
            ("2023-12-12T18:53:20+02:00", "2023-12-12T18:53:20+02:00"),
            ("2023-12-12", "2023-12-12T00:00:00Z"),
        ] {
            assert_eq!(parse_moment(text).as_deref(), Ok(moment));
        }
        let ago: u64 = parse_moment("7d").expect("a moment").parse().expect("a number");
        let now = clock::wall_now().unix_secs();
        assert!((now - ago).abs_diff(7 * 86_400) < 60, "{ago}");
        for text in ["", "yesterday", "2023-12", "2023-02-30", "12:00", "-1", "99999999999999999999"] {
            assert!(parse_moment(text).is_err(), "{text}");
        }
    }

    #[test]
    fn counts_are_grouped() {
        let counts = [0, 999, 1_000, 12_345, 1_234_567].map(human_count);
        assert_eq!(counts, ["0", "999", "1,000", "12,345", "1,234,567"]);
    }

    proptest! {
        #[test]
        fn every_time_of_the_api_is_read_back(millis in 0u64..4_102_444_800_000) {
            let time = WallTime(millis);
            prop_assert_eq!(WallTime::from_rfc3339(&time.rfc3339()), Some(time));
        }

        #[test]
        fn no_text_breaks_the_readers(text in "\\PC{0,40}") {
            let _ = WallTime::from_rfc3339(&text);
            let _ = parse_bytes(&text);
        }
    }
}
