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

/// All data of the chunks in the buffer as one piece, so that one read becomes one write.
fn decode_chunks(chunk: &mut Chunk, buffer: &mut BytesMut) -> Result<Decoded, &'static str> {
    let mut whole: Option<Bytes> = None;
    let mut joined = BytesMut::new();
    loop {
        match chunk {
            Chunk::Data(left) => {
                let Some(data) = take(buffer, left) else { break };
                if *left == 0 {
                    *chunk = Chunk::DataEnd;
                }
                match whole.take() {
                    None if joined.is_empty() => whole = Some(data),
                    None => joined.extend_from_slice(&data),
                    Some(first) => {
                        joined.extend_from_slice(&first);
                        joined.extend_from_slice(&data);
                    }
                }
            }
            Chunk::End => break,
            Chunk::Size | Chunk::DataEnd | Chunk::Trailer => {
                let Some(line) = take_line(buffer)? else { break };
                *chunk = after_line(chunk, &line)?;
            }
        }
    }
    let data = whole.unwrap_or_else(|| joined.freeze());
    Ok(match (data.is_empty(), &*chunk) {
        (false, _) => Decoded::Data(data),
        (true, Chunk::End) => Decoded::End,
        (true, _) => Decoded::More,
    })
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

/// A line without its end, if the buffer holds a whole one.
fn take_line(buffer: &mut BytesMut) -> Result<Option<Bytes>, &'static str> {
    let Some(end) = memchr::memchr(b'\n', buffer) else {
        return if buffer.len() > LINE_MAX { Err("a chunk's line is too long") } else { Ok(None) };
    };
    let mut line = buffer.split_to(end).freeze();
    buffer.advance(1);
    if line.ends_with(b"\r") {
        line.truncate(line.len() - 1);
    }
    Ok(Some(line))
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
