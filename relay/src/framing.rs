//! Where a body ends in the bytes of a connection (RFC 9112 §6), and what of it has arrived.

use bytes::{Buf as _, Bytes, BytesMut};

/// Longest chunk-size or trailer line that is accepted, in bytes.
const LINE_MAX: usize = 8 * 1024;

/// How a body is delimited, and how far it has been read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// So many bytes are still to come.
    Length(u64),
    /// Chunks.
    Chunked(Chunk),
    /// Everything until the upstream closes.
    UntilClose,
}

/// What comes next in a chunked body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Chunk {
    /// A line with a size.
    Size,
    /// So many bytes of data.
    Data(u64),
    /// The line end after the data.
    DataEnd,
    /// Trailer lines, up to an empty one.
    Trailer,
    /// Nothing: the body is whole.
    End,
}

/// What a look into the buffer gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    /// Data, never empty: everything of the body that the buffer held.
    Data(Bytes),
    /// Nothing yet.
    More,
    /// The body is whole.
    End,
}

impl Framing {
    /// Takes what the buffer holds of the body.
    pub(crate) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, &'static str> {
        match self {
            Self::Length(0) => Ok(Decoded::End),
            Self::Length(left) => Ok(take(buffer, left).map_or(Decoded::More, Decoded::Data)),
            Self::UntilClose if buffer.is_empty() => Ok(Decoded::More),
            Self::UntilClose => Ok(Decoded::Data(buffer.split().freeze())),
            Self::Chunked(chunk) => decode_chunks(chunk, buffer),
        }
    }
}

/// Up to `left` bytes of the buffer, without copying.
fn take(buffer: &mut BytesMut, left: &mut u64) -> Option<Bytes> {
    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
    *left -= count as u64;
    (count > 0).then(|| buffer.split_to(count).freeze())
}

/// All data of the chunks in the buffer as one piece, so that one read becomes one write. What comes after the first
/// chunk is moved up to it within the buffer.
fn decode_chunks(chunk: &mut Chunk, buffer: &mut BytesMut) -> Result<Decoded, &'static str> {
    let mut at = 0;
    let mut data = 0..0;
    loop {
        match chunk {
            Chunk::Data(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len() - at);
                if count == 0 {
                    break;
                }
                if data.is_empty() {
                    data = at..at;
                } else {
                    buffer.copy_within(at..at + count, data.end);
                }
                data.end += count;
                at += count;
                *left -= count as u64;
                if *left == 0 {
                    *chunk = Chunk::DataEnd;
                }
            }
            Chunk::End => break,
            Chunk::Size | Chunk::DataEnd | Chunk::Trailer => {
                let rest = buffer.get(at..).unwrap_or_default();
                let Some((line, length)) = first_line(rest)? else { break };
                *chunk = after_line(chunk, line)?;
                at += length;
            }
        }
    }
    let mut passed = buffer.split_to(at);
    if !data.is_empty() {
        passed.truncate(data.end);
        passed.advance(data.start);
        return Ok(Decoded::Data(passed.freeze()));
    }
    Ok(if *chunk == Chunk::End { Decoded::End } else { Decoded::More })
}

fn after_line(chunk: &Chunk, line: &[u8]) -> Result<Chunk, &'static str> {
    Ok(match chunk {
        Chunk::Size => match chunk_size(line)? {
            0 => Chunk::Trailer,
            size => Chunk::Data(size),
        },
        Chunk::DataEnd if line.is_empty() => Chunk::Size,
        Chunk::DataEnd => return Err("a chunk is longer than its size says"),
        Chunk::Trailer if line.is_empty() => Chunk::End,
        Chunk::Trailer => Chunk::Trailer,
        Chunk::Data(_) | Chunk::End => return Err("a line where none is expected"),
    })
}

/// The line at the beginning without its end, and how long it is with it, if it is there as a whole.
fn first_line(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, &'static str> {
    let Some(end) = memchr::memchr(b'\n', bytes) else {
        return if bytes.len() > LINE_MAX { Err("a chunk's line is too long") } else { Ok(None) };
    };
    let line = bytes.get(..end).unwrap_or_default();
    Ok(Some((line.strip_suffix(b"\r").unwrap_or(line), end + 1)))
}

fn chunk_size(line: &[u8]) -> Result<u64, &'static str> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let valid = !digits.is_empty() && digits.len() <= 15 && digits.iter().all(u8::is_ascii_hexdigit);
    let text = if valid { std::str::from_utf8(digits).ok() } else { None };
    text.and_then(|text| u64::from_str_radix(text, 16).ok()).ok_or("a chunk's size is no number")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `wire` in pieces of `step` bytes and returns the body, or why it is none.
    fn decode(wire: &[u8], step: usize) -> Result<(Vec<u8>, bool), &'static str> {
        let mut framing = Framing::Chunked(Chunk::Size);
        let mut buffer = BytesMut::new();
        let mut body = Vec::new();
        for piece in wire.chunks(step) {
            buffer.extend_from_slice(piece);
            loop {
                match framing.decode(&mut buffer)? {
                    Decoded::Data(data) => body.extend_from_slice(&data),
                    Decoded::More => break,
                    Decoded::End => return Ok((body, true)),
                }
            }
        }
        Ok((body, false))
    }

    #[test]
    fn chunks_are_read_however_they_are_split() {
        let wire = b"5\r\nhello\r\n1;ext=1\r\n \r\n00a\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n";
        for step in 1..=wire.len() {
            assert_eq!(decode(wire, step), Ok((b"hello 0123456789".to_vec(), true)), "step {step}");
        }
    }

    #[test]
    fn chunks_of_one_read_come_as_one_piece() {
        let mut buffer = BytesMut::from(&b"2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n"[..]);
        let mut framing = Framing::Chunked(Chunk::Size);
        assert_eq!(framing.decode(&mut buffer), Ok(Decoded::Data(Bytes::from_static(b"abcd"))));
        assert_eq!(framing.decode(&mut buffer), Ok(Decoded::End));
    }

    #[test]
    fn a_cut_or_wrong_chunk_is_never_an_end() {
        assert_eq!(decode(b"5\r\nhel", 3), Ok((b"hel".to_vec(), false)));
        assert_eq!(decode(b"5\r\nhello\r\n", 99), Ok((b"hello".to_vec(), false)));
        assert_eq!(decode(b"5\r\nhello\r\n0\r\n", 99), Ok((b"hello".to_vec(), false)));
        for wrong in [&b"x\r\n"[..], b"-1\r\n", b"\r\n", b"3\r\nhello\r\n", b"fffffffffffffffff\r\n"] {
            assert!(decode(wrong, 99).is_err(), "{}", String::from_utf8_lossy(wrong));
        }
    }

    #[test]
    fn a_length_ends_exactly() {
        let mut buffer = BytesMut::from(&b"abcdef"[..]);
        let mut framing = Framing::Length(4);
        assert_eq!(framing.decode(&mut buffer), Ok(Decoded::Data(Bytes::from_static(b"abcd"))));
        assert_eq!(framing.decode(&mut buffer), Ok(Decoded::End));
        assert_eq!(&buffer[..], b"ef");
    }
}
