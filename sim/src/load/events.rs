//! What a body holds, counted as it comes: events of a stream and the text in them, or one JSON document.

use memchr::{memchr, memmem};

use super::failure::Failure;

/// The longest line of a stream, in bytes.
const LINE_MAX: usize = 1 << 20;
/// With what the simulated runtime begins its events when it says the time (`--stamp`).
const STAMP: &[u8] = b"{\"sim_sent_us\":";

/// What came of one body.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Events with data, `[DONE]` not counted.
    pub(crate) events: u64,
    /// Events with text for the user.
    pub(crate) tokens: u64,
    /// The body's bytes.
    pub(crate) bytes: u64,
    done: bool,
    error: bool,
    first: Option<u8>,
    last: Option<u8>,
    /// A line that has not ended yet.
    line: Vec<u8>,
}

impl Seen {
    /// More of a stream. Each time at which an event was sent, where it says so, is handed to `stamp`, in microseconds
    /// since 1970.
    pub(crate) fn stream(&mut self, mut bytes: &[u8], mut stamp: impl FnMut(u64)) -> Result<(), Failure> {
        self.bytes += bytes.len() as u64;
        while let Some(end) = memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(end);
            bytes = rest.get(1..).unwrap_or_default();
            if self.line.is_empty() {
                self.line_ended(line, &mut stamp);
            } else {
                let mut begun = std::mem::take(&mut self.line);
                begun.extend_from_slice(line);
                self.line_ended(&begun, &mut stamp);
                begun.clear();
                // Its memory serves the next line that is cut.
                self.line = begun;
            }
        }
        if self.line.len() + bytes.len() > LINE_MAX {
            return Err(Failure::Malformed);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    /// More of a body that is no stream.
    pub(crate) fn whole(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        let mut signs = bytes.iter().copied().filter(|byte| !byte.is_ascii_whitespace());
        self.first = self.first.or_else(|| signs.next());
        self.last = bytes.iter().rev().copied().find(|byte| !byte.is_ascii_whitespace()).or(self.last);
    }

    /// Whether a complete body is what was asked for.
    pub(crate) fn check(&self, events: bool) -> Result<(), Failure> {
        match events {
            true if self.error => Err(Failure::ErrorEvent),
            true if !self.done => Err(Failure::NoDone),
            false if (self.first, self.last) != (Some(b'{'), Some(b'}')) => Err(Failure::Body),
            _ => Ok(()),
        }
    }

    fn line_ended(&mut self, line: &[u8], stamp: &mut impl FnMut(u64)) {
        let Some(data) = line.strip_prefix(b"data:") else { return };
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            self.done = true;
            return;
        }
        self.events += 1;
        if has_text(data) {
            self.tokens += 1;
        } else if data.starts_with(b"{\"error\"") || data.starts_with(b"{ \"error\"") {
            self.error = true;
        }
        if let Some(rest) = data.strip_prefix(STAMP) {
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit());
            stamp(digits.fold(0, |sum, digit| {
                u64::wrapping_add(u64::wrapping_mul(sum, 10), u64::from(digit - b'0'))
            }));
        }
    }
}

/// Whether a chunk of chat or completions has text that is not empty.
fn has_text(data: &[u8]) -> bool {
    [&b"\"content\":"[..], b"\"text\":"].into_iter().any(|key| {
        let value = memmem::find(data, key).and_then(|at| data.get(at + key.len()..));
        let value = value.map(<[u8]>::trim_ascii_start).unwrap_or_default();
        value.starts_with(b"\"") && !value.starts_with(b"\"\"")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = concat!(
        ": hello\n\n",
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
        "data: {\"sim_sent_us\":42,\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\r\n\r\n",
        "data:{\"choices\":[{\"text\": \"b\"}]}\n\n",
        "data: [DONE]\n\n",
    );

    #[test]
    fn events_and_tokens_are_counted_wherever_a_stream_is_cut() {
        for cut in 0..STREAM.len() {
            let (mut seen, mut stamps) = (Seen::default(), Vec::new());
            let (one, two) = STREAM.as_bytes().split_at(cut);
            for part in [one, two] {
                seen.stream(part, |stamp| stamps.push(stamp)).expect("a stream");
            }
            assert_eq!((seen.events, seen.tokens, stamps.as_slice()), (3, 2, &[42][..]), "{cut}");
            assert_eq!((seen.bytes as usize, seen.check(true)), (STREAM.len(), Ok(())));
        }
    }

    #[test]
    fn streams_that_end_early_or_with_an_error_are_seen() {
        let check = |text: &str| {
            let mut seen = Seen::default();
            seen.stream(text.as_bytes(), |_| {}).expect("a stream");
            seen.check(true)
        };
        assert_eq!(check("data: {\"choices\":[]}\n\n"), Err(Failure::NoDone));
        assert_eq!(check("data: {\"error\":{\"message\":\"x\"}}\n\n"), Err(Failure::ErrorEvent));
        let mut seen = Seen::default();
        assert_eq!(seen.stream(&vec![b'x'; LINE_MAX + 1], |_| {}), Err(Failure::Malformed));
    }

    #[test]
    fn a_document_ends_as_it_began() {
        let check = |parts: &[&[u8]]| {
            let mut seen = Seen::default();
            parts.iter().for_each(|part| seen.whole(part));
            seen.check(false)
        };
        assert_eq!(check(&[b" {\"a\":", b"1}", b"\n"]), Ok(()));
        for parts in [&[&b"{\"a\":1"[..]][..], &[b"<html>"], &[b""], &[b"{}", b"x"]] {
            assert_eq!(check(parts), Err(Failure::Body), "{parts:?}");
        }
    }
}
