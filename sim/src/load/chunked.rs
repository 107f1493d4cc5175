//! The chunked transfer coding, read as it comes.

use super::failure::Failure;

/// Bytes of a size line or of all trailers: no server needs more.
const LINE_MAX: usize = 4_096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Digits of a size so far.
    Size {
        size: u64,
        digits: usize,
    },
    /// The rest of a size's line.
    SizeEnd {
        size: u64,
        length: usize,
    },
    Data(u64),
    /// The line's end after the data.
    DataEnd,
    /// A line after the last chunk: whether it is still empty.
    Trailer {
        empty: bool,
        length: usize,
    },
    Over,
}

/// Reads one chunked body.
#[derive(Debug)]
pub(crate) struct Chunked(State);

impl Chunked {
    pub(crate) fn new() -> Self {
        Self(State::Size { size: 0, digits: 0 })
    }

    /// Takes bytes as they come and hands out the data among them. Gives back what comes after the end; none: there is
    /// more to come.
    pub(crate) fn feed<'a>(
        &mut self,
        mut bytes: &'a [u8],
        mut data: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<Option<&'a [u8]>, Failure> {
        loop {
            if self.0 == State::Over {
                return Ok(Some(bytes));
            }
            let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
            if let State::Data(left) = self.0 {
                let now = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                let (chunk, after) = bytes.split_at(now);
                data(chunk)?;
                let left = left - now as u64;
                self.0 = if left == 0 { State::DataEnd } else { State::Data(left) };
                bytes = after;
                continue;
            }
            self.0 = next(self.0, first)?;
            bytes = rest;
        }
    }
}

/// The state after one more byte that is no data.
fn next(state: State, byte: u8) -> Result<State, Failure> {
    Ok(match (state, byte) {
        (State::Size { size, digits }, byte) if byte.is_ascii_hexdigit() && digits < 16 => {
            let digit = u64::from((byte as char).to_digit(16).unwrap_or_default());
            State::Size { size: size << 4 | digit, digits: digits + 1 }
        }
        (State::Size { digits: 0, .. }, _) => return Err(Failure::Malformed),
        (State::Size { size, .. } | State::SizeEnd { size, .. }, b'\n') => match size {
            0 => State::Trailer { empty: true, length: 0 },
            size => State::Data(size),
        },
        (State::Size { size, .. }, b'\r' | b';' | b' ') => State::SizeEnd { size, length: 0 },
        (State::SizeEnd { size, length }, _) if length < LINE_MAX => {
            State::SizeEnd { size, length: length + 1 }
        }
        (State::DataEnd, b'\r') => State::DataEnd,
        (State::DataEnd, b'\n') => State::Size { size: 0, digits: 0 },
        (State::Trailer { empty: true, .. }, b'\n') => State::Over,
        (State::Trailer { length, .. }, b'\n') => State::Trailer { empty: true, length },
        (State::Trailer { empty, length }, byte) if length < LINE_MAX => {
            State::Trailer { empty: empty && byte == b'\r', length: length + 1 }
        }
        _ => return Err(Failure::Malformed),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The data, and what came after the end; none: it did not end.
    fn read(parts: &[&[u8]]) -> Result<(Vec<u8>, Option<usize>), Failure> {
        let (mut chunked, mut all, mut rest) = (Chunked::new(), Vec::new(), None);
        for part in parts {
            let left = chunked.feed(part, |data| {
                all.extend_from_slice(data);
                Ok(())
            })?;
            rest = left.map(<[u8]>::len);
        }
        Ok((all, rest))
    }

    #[test]
    fn chunks_are_read_wherever_they_are_cut() {
        let body = b"5\r\nhello\r\nA;x=y\r\n0123456789\r\n0\r\nName: value\r\n\r\n";
        let want = b"hello0123456789".to_vec();
        assert_eq!(read(&[body]), Ok((want.clone(), Some(0))));
        for cut in 1..body.len() {
            let (one, two) = body.split_at(cut);
            assert_eq!(read(&[one, two]), Ok((want.clone(), Some(0))), "{cut}");
        }
        assert_eq!(read(&[&body[..body.len() - 1]]), Ok((want, None)), "the last byte is missing");
        assert_eq!(read(&[b"0\r\n\r\nHTTP"]), Ok((Vec::new(), Some(4))));
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        for body in [&b"\r\n"[..], b"x\r\n", b"5\r\nhelloX", b"11111111111111111\r\n"] {
            assert_eq!(read(&[body]), Err(Failure::Malformed), "{body:?}");
        }
    }
}
