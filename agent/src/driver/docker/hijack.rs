//! A connection that the Engine hands over: raw bytes in both directions after one request.
//!
//! The client library takes what a terminal writes apart by its first byte, and takes some bytes for the header of
//! a frame. So this is done here.

use std::io;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use futures_util::stream;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use super::engine::Host;

/// What the Engine may say before it hands over, in bytes.
const HEAD_MAX: usize = 16 * 1024;
/// What is read at once, in bytes.
const CHUNK: usize = 16 * 1024;
/// Before each piece when there are two streams: which one, three zeros, and its length.
const FRAME_HEAD: usize = 8;
/// The number of standard error.
const ERR: u8 = 2;

/// Where something was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Channel {
    /// Standard output; a terminal has only this one.
    Out,
    /// Standard error.
    Err,
}

/// What comes from the other side.
pub(crate) type Output = Pin<Box<dyn Stream<Item = io::Result<(Channel, Bytes)>> + Send>>;

/// What the Engine did with the request.
pub(super) enum Answer {
    /// It handed over.
    Open { input: Pin<Box<dyn AsyncWrite + Send>>, reader: Pin<Box<dyn AsyncRead + Send>> },
    /// It refused, with an HTTP status and its words.
    Refused(u16, String),
}

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Posts a JSON text and takes the connection over.
///
/// # Errors
/// When the connection fails.
pub(super) async fn post(host: &Host, path: &str, body: &str) -> io::Result<Answer> {
    let mut wire: Box<dyn Wire> = match host {
        Host::Unix(path) => Box::new(UnixStream::connect(path).await?),
        Host::Tcp(address) => Box::new(TcpStream::connect(address.as_str()).await?),
    };
    let name = match host {
        Host::Unix(_) => "localhost",
        Host::Tcp(address) => address.as_str(),
    };
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {name}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    wire.write_all(request.as_bytes()).await?;
    let (head, rest) = read_head(&mut wire).await?;
    let status = status_of(&head).ok_or_else(|| io::Error::other("the Docker Engine does not speak HTTP"))?;
    if !matches!(status, 101 | 200) {
        return Ok(Answer::Refused(status, read_words(&mut wire, rest).await));
    }
    let (reader, writer) = tokio::io::split(wire);
    let reader = Box::pin(io::Cursor::new(rest).chain(reader));
    Ok(Answer::Open { input: Box::pin(writer), reader })
}

/// The head of the answer, and what came behind it.
async fn read_head(wire: &mut Box<dyn Wire>) -> io::Result<(Vec<u8>, BytesMut)> {
    let mut read = BytesMut::new();
    loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = read.split_off(end + 4);
            return Ok((read.to_vec(), rest));
        }
        if read.len() > HEAD_MAX {
            return Err(io::Error::other("the Docker Engine's answer has no end"));
        }
        if wire.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// `HTTP/1.1 101 UPGRADED` is 101.
fn status_of(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next()?.parse().ok()
}

/// The message in a refusal, as far as it comes at once.
async fn read_words(wire: &mut Box<dyn Wire>, mut rest: BytesMut) -> String {
    while rest.len() < HEAD_MAX && serde_json::from_slice::<serde_json::Value>(&rest).is_err() {
        // The end of the connection is the end of the words.
        if !matches!(wire.read_buf(&mut rest).await, Ok(1..)) {
            break;
        }
    }
    let message = serde_json::from_slice::<serde_json::Value>(&rest).ok();
    let message = message.and_then(|words| words.get("message")?.as_str().map(str::to_owned));
    message.unwrap_or_else(|| String::from_utf8_lossy(&rest).into_owned())
}

/// What comes from the other side of a terminal: all of it is output.
pub(super) fn raw(reader: Pin<Box<dyn AsyncRead + Send>>) -> Output {
    Box::pin(stream::unfold(Some(reader), async |reader| {
        let mut reader = reader?;
        match chunk(&mut reader, CHUNK).await {
            Ok(bytes) if bytes.is_empty() => None,
            Ok(bytes) => Some((Ok((Channel::Out, bytes)), Some(reader))),
            Err(error) => Some((Err(error), None)),
        }
    }))
}

/// What comes from the other side when two streams are folded into one.
pub(super) fn framed(reader: Pin<Box<dyn AsyncRead + Send>>) -> Output {
    Box::pin(stream::unfold(Some((reader, (Channel::Out, 0))), async |state| {
        let (mut reader, frame) = state?;
        match next_of_frame(&mut reader, frame).await {
            Ok(Some((bytes, frame))) => Some((Ok((frame.0, bytes)), Some((reader, frame)))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    }))
}

/// The next bytes and what is left of their frame. None: the end, between two frames.
async fn next_of_frame(
    reader: &mut Pin<Box<dyn AsyncRead + Send>>,
    (mut channel, mut left): (Channel, usize),
) -> io::Result<Option<(Bytes, (Channel, usize))>> {
    while left == 0 {
        let mut head = [0; FRAME_HEAD];
        let first = reader.read(&mut head[..1]).await?;
        if first == 0 {
            return Ok(None);
        }
        reader.read_exact(&mut head[1..]).await?;
        let [kind, .., a, b, c, d] = head;
        channel = if kind == ERR { Channel::Err } else { Channel::Out };
        left = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    }
    let bytes = chunk(reader, left.min(CHUNK)).await?;
    if bytes.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    left -= bytes.len();
    Ok(Some((bytes, (channel, left))))
}

/// What comes next, at most so much; nothing at the end.
async fn chunk(reader: &mut Pin<Box<dyn AsyncRead + Send>>, max: usize) -> io::Result<Bytes> {
    let mut bytes = BytesMut::with_capacity(max);
    reader.take(u64::try_from(max).unwrap_or(u64::MAX)).read_buf(&mut bytes).await?;
    Ok(bytes.freeze())
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    #[test]
    fn the_first_line_of_an_answer() {
        for (head, status) in [
            (&b"HTTP/1.1 101 UPGRADED\r\nX: y\r\n\r\n"[..], Some(101)),
            (b"HTTP/1.0 409 Conflict\r\n\r\n", Some(409)),
            (b"SSH-2.0 x\r\n\r\n", None),
            (b"", None),
        ] {
            assert_eq!(status_of(head), status);
        }
    }

    #[tokio::test]
    async fn two_streams_come_apart_again() {
        let long = vec![b'x'; 3 * CHUNK];
        let mut wire =
            b"\x01\0\0\0\0\0\0\x03out\x02\0\0\0\0\0\0\x00\x02\0\0\0\0\0\0\x03err\x01\0\0\0".to_vec();
        wire.extend_from_slice(&u32::try_from(long.len()).expect("a length").to_be_bytes());
        wire.extend_from_slice(&long);
        let mut parts = framed(Box::pin(io::Cursor::new(wire)));
        let mut next = async || parts.next().await.map(|part| part.expect("bytes"));
        assert_eq!(next().await, Some((Channel::Out, Bytes::from_static(b"out"))));
        assert_eq!(next().await, Some((Channel::Err, Bytes::from_static(b"err"))));
        for _ in 0..3 {
            assert_eq!(next().await, Some((Channel::Out, Bytes::from(vec![b'x'; CHUNK]))));
        }
        assert_eq!(next().await, None);
    }

    #[tokio::test]
    async fn a_frame_that_breaks_off_is_an_error() {
        let parts = framed(Box::pin(io::Cursor::new(b"\x01\0\0\0\0\0\0\x09half".to_vec())));
        let parts: Vec<bool> = parts.map(|part| part.is_ok()).collect().await;
        assert_eq!(parts, [true, false]);
    }

    #[tokio::test]
    async fn a_terminal_may_write_any_byte() {
        let parts = raw(Box::pin(io::Cursor::new(b"\x01\x00\x02\xffabcdefgh".to_vec())));
        let parts: Vec<_> = parts.map(|part| part.expect("bytes")).collect().await;
        assert_eq!(parts, [(Channel::Out, Bytes::from_static(b"\x01\x00\x02\xffabcdefgh"))]);
    }
}
