//! Amounts as people write and read them: bytes and ages.

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

/// Unix seconds of an RFC 3339 time; nothing when the text is none.
pub(crate) fn unix_seconds(rfc3339: &str) -> Option<i64> {
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = rfc3339.get(from..to)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let sign = |at: usize| rfc3339.get(at..=at);
    if (sign(4)?, sign(7)?, sign(13)?, sign(16)?) != ("-", "-", ":", ":") {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let seconds = number(11, 13)? * 3_600 + number(14, 16)? * 60 + number(17, 19)?;
    let zone = rfc3339.get(19..)?.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let offset = match zone.as_bytes() {
        [b'Z' | b'z'] => 0,
        [east @ (b'+' | b'-'), _, _, b':', _, _] => {
            let size =
                zone.get(1..3)?.parse::<i64>().ok()? * 3_600 + zone.get(4..6)?.parse::<i64>().ok()? * 60;
            if *east == b'+' { size } else { -size }
        }
        _ => return None,
    };
    Some(days_from_civil(year, month, day) * 86_400 + seconds - offset)
}

/// The Gregorian date to days since 1970-01-01 (Howard Hinnant's `days_from_civil`).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted_month = (month + 9) % 12;
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use nebula_core::clock::WallTime;
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
    fn times_with_offsets_are_read_and_nonsense_is_not() {
        assert_eq!(unix_seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(unix_seconds("2023-12-12T16:53:20.000Z"), Some(1_702_400_000));
        assert_eq!(unix_seconds("2023-12-12T18:53:20.5+02:00"), Some(1_702_400_000));
        for text in
            ["", "yesterday", "2023-12-12", "2023-12-12T16:53:20", "2023-12-12T16:53:20+2", "２０２３-1"]
        {
            assert_eq!(unix_seconds(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_time_of_the_api_is_read_back(millis in 0u64..4_102_444_800_000) {
            let text = WallTime(millis).rfc3339();
            prop_assert_eq!(unix_seconds(&text), Some(i64::try_from(millis / 1_000).expect("fits")));
        }

        #[test]
        fn no_text_breaks_the_readers(text in "\\PC{0,40}") {
            let _ = unix_seconds(&text);
            let _ = parse_bytes(&text);
        }
    }
}
