//! A container's output as the Engine hands it out: pieces with times, of which each is taken once.
//!
//! Whoever asks again gets everything again from the beginning of what the Engine has kept. Within one of the two
//! streams the times never go back, so the last time and how many pieces had it say where to go on. (When the
//! machine's clock is set back, pieces may come twice.)

/// From the first of March of the year 0, less one, to the first of January 1970.
const DAYS_TO_1970: u64 = 719_469;

/// One of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Out,
    Err,
}

/// How far a container's output has been taken.
#[derive(Clone, Debug, Default)]
pub(super) struct Cursor {
    out: Place,
    err: Place,
}

#[derive(Clone, Debug, Default)]
struct Place {
    /// The newest time that was taken, and how many pieces had it.
    last: (Vec<u8>, u64),
    /// Pieces up to here have been taken before.
    skip: Option<(Vec<u8>, u64)>,
}

impl Cursor {
    /// The output comes again from its beginning.
    pub(super) fn rewind(&mut self) {
        for place in [&mut self.out, &mut self.err] {
            place.skip = Some(place.last.clone()).filter(|(time, _)| !time.is_empty());
        }
    }

    /// The newest time that was taken, in seconds since 1970.
    pub(super) fn newest(&self) -> Option<u64> {
        let newest = (&self.out.last.0).max(&self.err.last.0);
        seconds(std::str::from_utf8(newest).ok()?)
    }

    /// What of a piece is to be taken: all but its time, or nothing when it was taken before.
    pub(super) fn take<'a>(&mut self, stream: Stream, piece: &'a [u8]) -> Option<&'a [u8]> {
        let Some((time, bytes)) = split(piece) else { return Some(piece) };
        let place = match stream {
            Stream::Out => &mut self.out,
            Stream::Err => &mut self.err,
        };
        place.passes(time).then_some(bytes)
    }

    /// Whether a piece is newer than all that was taken of its stream.
    pub(super) fn lacks(&self, stream: Stream, piece: &[u8]) -> bool {
        let place = match stream {
            Stream::Out => &self.out,
            Stream::Err => &self.err,
        };
        split(piece).is_some_and(|(time, _)| time > place.last.0.as_slice())
    }
}

impl Place {
    fn passes(&mut self, time: &[u8]) -> bool {
        if let Some((until, left)) = &mut self.skip {
            if time < until.as_slice() {
                return false;
            }
            if time == until.as_slice() && *left > 0 {
                *left -= 1;
                return false;
            }
            self.skip = None;
        }
        if self.last.0 == time {
            self.last.1 += 1;
        } else {
            self.last = (time.to_vec(), 1);
        }
        true
    }
}

/// The time before a piece, in a form whose order is that of the bytes, and the piece: `2006-01-02T15:04:05.9Z x`.
fn split(piece: &[u8]) -> Option<(&[u8], &[u8])> {
    const TIME_MAX: usize = 36;
    let end = piece.iter().take(TIME_MAX).position(|byte| *byte == b' ')?;
    let (time, rest) = piece.split_at_checked(end)?;
    let time = time.strip_suffix(b"Z")?;
    let is_time = time.len() >= 19 && time.first().is_some_and(u8::is_ascii_digit) && time.contains(&b'T');
    is_time.then(|| (time, rest.get(1..).unwrap_or_default()))
}

/// The seconds since 1970 of a time in UTC: `2006-01-02T15:04:05.9`.
fn seconds(time: &str) -> Option<u64> {
    let (date, clock) = time.split_once('T')?;
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(clock.split('.').next()?, ':')?;
    // March is the first month, so that a leap day is the last day of its year.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day;
    Some(days.checked_sub(DAYS_TO_1970)? * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// Three numbers of some digits.
fn numbers(text: &str, between: char) -> Option<[u64; 3]> {
    let mut parts = text.split(between).map(|part| part.parse::<u16>().ok().map(u64::from));
    Some([parts.next()??, parts.next()??, parts.next()??])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pieces_with_and_without_a_time() {
        let mut cursor = Cursor::default();
        for (piece, taken) in [
            (&b"2026-11-22T09:00:00.000000001Z one\n"[..], &b"one\n"[..]),
            (b"2026-11-22T09:00:00.000000001Z ", b""),
            (b"2026-11-22T09:00:00Z  two", b" two"),
            (b"no time\n", b"no time\n"),
            (b"\xff\x00 \xfe", b"\xff\x00 \xfe"),
            (b"", b""),
        ] {
            assert_eq!(cursor.take(Stream::Out, piece), Some(taken), "{piece:?}");
        }
    }

    #[test]
    fn times_of_different_length_have_an_order() {
        let mut cursor = Cursor::default();
        assert!(cursor.take(Stream::Out, b"2026-11-22T09:00:00.5Z a").is_some());
        cursor.rewind();
        assert!(cursor.take(Stream::Out, b"2026-11-22T09:00:00Z before").is_none());
        assert!(cursor.take(Stream::Out, b"2026-11-22T09:00:00.5Z a").is_none());
        assert!(cursor.take(Stream::Out, b"2026-11-22T09:00:00.51Z after").is_some());
    }

    #[test]
    fn what_is_newer_than_all_that_came_is_lacking() {
        let mut cursor = Cursor::default();
        assert!(cursor.lacks(Stream::Out, b"2026-11-22T09:00:00.5Z a"));
        cursor.take(Stream::Out, b"2026-11-22T09:00:00.5Z a");
        assert!(!cursor.lacks(Stream::Out, b"2026-11-22T09:00:00.5Z a"));
        assert!(!cursor.lacks(Stream::Out, b"2026-11-22T09:00:00.4Z b"));
        assert!(cursor.lacks(Stream::Out, b"2026-11-22T09:00:00.6Z c"));
        assert!(cursor.lacks(Stream::Err, b"2026-11-22T09:00:00.1Z d"));
        assert!(!cursor.lacks(Stream::Out, b"no time"), "nothing is known of it");
    }

    #[test]
    fn times_are_told_in_seconds() {
        for (time, expected) in [
            ("1970-01-01T00:00:00", Some(0)),
            ("2000-02-29T12:34:56.789", Some(951_827_696)),
            ("2000-03-01T00:00:00", Some(951_868_800)),
            ("2023-12-12T16:53:20.000000001", Some(1_702_400_000)),
            ("2099-12-31T23:59:59.999", Some(4_102_444_799)),
            ("1969-12-31T23:59:59", None),
            ("0000-01-01T00:00:00", None),
            ("2023-12T16:53", None),
            ("", None),
        ] {
            assert_eq!(seconds(time), expected, "{time}");
        }
    }

    proptest! {
        /// However often the stream breaks, and whatever the Engine has thrown away of its beginning meanwhile,
        /// every piece that it still has is taken exactly once, in order.
        #[test]
        fn nothing_is_lost_or_doubled(
            steps in prop::collection::vec((0_u32..2, any::<bool>()), 1..60),
            breaks in prop::collection::vec((0_usize..60, 0_usize..60), 0..6),
        ) {
            let mut at = 0;
            let pieces: Vec<(Stream, Vec<u8>)> = steps.iter().enumerate().map(|(number, (later, is_err))| {
                at += later;
                let stream = if *is_err { Stream::Err } else { Stream::Out };
                (stream, format!("2026-11-22T09:00:00.{at:09}Z {number};").into_bytes())
            }).collect();
            let mut cursor = Cursor::default();
            let mut taken = Vec::new();
            let mut reached = 0;
            let mut kept_from = 0;
            let last = (pieces.len(), 0);
            for (until, gone) in breaks.into_iter().chain([last]) {
                cursor.rewind();
                // Only what was taken may be thrown away unseen; and never in the middle of a moment.
                let until = until.clamp(reached, pieces.len());
                for (stream, piece) in &pieces[kept_from..until] {
                    taken.extend_from_slice(cursor.take(*stream, piece).unwrap_or_default());
                }
                reached = until;
                let may = gone.min(reached).max(kept_from);
                let starts_moment = may == 0 || may >= pieces.len()
                    || split(&pieces[may].1).map(|s| s.0) != split(&pieces[may - 1].1).map(|s| s.0);
                if starts_moment {
                    kept_from = may;
                }
            }
            let expected: String = (0..pieces.len()).map(|number| format!("{number};")).collect();
            prop_assert_eq!(String::from_utf8_lossy(&taken), expected);
        }
    }
}
