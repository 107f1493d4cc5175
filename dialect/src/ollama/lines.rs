//! Cuts a stream into lines, however its bytes come.

use memchr::memchr;

/// A line is longer than any can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// Holds the beginning of a line until its end comes: never more than `max` bytes.
#[derive(Debug)]
pub(super) struct Lines {
    rest: Vec<u8>,
    max: usize,
}

impl Lines {
    pub(super) fn new(max: usize) -> Self {
        Self { rest: Vec::new(), max }
    }

    /// Takes the next bytes and hands over each line that they end, without its end (LF or CRLF).
    ///
    /// # Errors
    /// When a line is too long; what was held is gone then.
    pub(super) fn feed(&mut self, mut data: &[u8], mut take: impl FnMut(&[u8])) -> Result<(), TooLong> {
        while let Some(end) = memchr(b'\n', data) {
            let (line, after) = data.split_at(end);
            data = after.get(1..).unwrap_or_default();
            self.room_for(line)?;
            if self.rest.is_empty() {
                take(without_cr(line));
            } else {
                self.rest.extend_from_slice(line);
                take(without_cr(&std::mem::take(&mut self.rest)));
            }
        }
        self.room_for(data)?;
        self.rest.extend_from_slice(data);
        Ok(())
    }

    /// The last line, when the stream has ended without a line's end.
    pub(super) fn last(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.rest)
    }

    fn room_for(&mut self, more: &[u8]) -> Result<(), TooLong> {
        if self.rest.len().saturating_add(more.len()) <= self.max {
            return Ok(());
        }
        self.rest = Vec::new();
        Err(TooLong)
    }
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(lines: &mut Lines, data: &[u8]) -> (Vec<Vec<u8>>, Result<(), TooLong>) {
        let mut seen = Vec::new();
        let fed = lines.feed(data, |line| seen.push(line.to_vec()));
        (seen, fed)
    }

    #[test]
    fn a_line_has_a_limit_whole_or_in_pieces() {
        let mut short = Lines::new(4);
        assert_eq!(lines(&mut short, b"1234\n12"), (vec![b"1234".to_vec()], Ok(())));
        assert_eq!(lines(&mut short, b"34"), (vec![], Ok(())));
        assert_eq!(lines(&mut short, b"5"), (vec![], Err(TooLong)));
        assert!(short.last().is_empty());
        assert_eq!(lines(&mut Lines::new(4), b"a\n12345\n"), (vec![b"a".to_vec()], Err(TooLong)));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_lines(text in "[ab\r\n]{0,60}", cuts in prop::collection::vec(0..60usize, 0..8)) {
            let expected: Vec<Vec<u8>> = text
                .split_inclusive('\n')
                .filter_map(|line| line.strip_suffix('\n'))
                .map(|line| line.strip_suffix('\r').unwrap_or(line).as_bytes().to_vec())
                .collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let mut cutter = Lines::new(100);
            let mut seen = Vec::new();
            for pair in cuts.windows(2) {
                seen.extend(lines(&mut cutter, &text.as_bytes()[pair[0]..pair[1]]).0);
            }
            prop_assert_eq!(seen, expected);
            let rest = text.rsplit('\n').next().unwrap_or_default();
            prop_assert_eq!(cutter.last(), rest.as_bytes());
        }
    }
}
