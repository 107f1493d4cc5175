//! One connection to an upstream: dial, send a request, read the head of the answer.

use std::io;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use actix_web::http::{Method, StatusCode};
use actix_web::web;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures_util::StreamExt as _;
use nebula_core::address::HostPort;
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;

use crate::call::stalled;
use crate::error::UpstreamError;
use crate::framing::{Chunk, Framing};

/// How long a connection may take to be made, name lookup included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest head of an answer, in bytes.
const HEAD_MAX: usize = 64 * 1024;
/// Most headers of an answer.
const HEADERS_MAX: usize = 128;
/// Room made for one read, in bytes: small at first as most connections carry small events, more once a read fills it.
const READ_MIN: usize = 8 * 1024;
const READ_MAX: usize = 64 * 1024;

/// A connection. Dropped without [`Connection::close`] it is reset: a closing alone would be a legal half-close,
/// after which an upstream may go on working for nobody.
pub(crate) struct Connection {
    io: TcpStream,
    pub(crate) buffer: BytesMut,
    read_size: usize,
    in_order: bool,
}

/// The head of an answer.
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) framing: Framing,
    /// What `content-length` says, also where no body follows.
    pub(crate) length: Option<u64>,
    /// Whether the connection can carry another request after the body.
    pub(crate) reusable: bool,
}

/// Why there is no head.
pub(crate) struct Failure {
    /// The connection broke before a single byte of the answer, so it may have been closed before the request came.
    pub(crate) untouched: bool,
    pub(crate) error: UpstreamError,
}

/// A body as it goes out.
pub(crate) enum Outgoing {
    /// All of it is sent along with the head.
    Whole(Bytes),
    /// A beginning and the rest, in chunks unless the length is declared.
    Stream { prefix: Bytes, rest: web::Payload, chunked: bool, idle_timeout: Duration },
}

impl Connection {
    /// Connects.
    pub(crate) async fn dial(address: &HostPort) -> Result<Self, UpstreamError> {
        let failed = |reason: String| UpstreamError::Connect(format!("{address}: {reason}"));
        let connecting = TcpStream::connect((address.host(), address.port()));
        let io = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| failed(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs())))?
            .map_err(|error| failed(error.to_string()))?;
        io.set_nodelay(true).map_err(|error| failed(error.to_string()))?;
        Ok(Self { io, buffer: BytesMut::new(), read_size: READ_MIN, in_order: false })
    }

    /// Whether the upstream has neither closed this idle connection nor sent anything nobody asked for.
    pub(crate) fn is_quiet(&self) -> bool {
        let nothing = |result: io::Result<usize>| matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        self.buffer.is_empty() && nothing(self.io.try_read(&mut [0u8; 1]))
    }

    /// Ends the connection in order: nothing is under way on it.
    pub(crate) fn close(mut self) {
        self.in_order = true;
    }

    /// Gives back what a long answer needed, before the connection waits for its next request.
    pub(crate) fn rest(&mut self) {
        self.buffer = BytesMut::new();
        self.read_size = READ_MIN;
    }

    /// Reads more into the buffer: how many bytes came, zero when the upstream has closed.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.buffer.reserve(self.read_size);
        let read = pin!(self.io.read_buf(&mut self.buffer));
        let result = std::task::ready!(read.poll(cx));
        if matches!(result, Ok(count) if count >= self.read_size) {
            self.read_size = (self.read_size * 2).min(READ_MAX);
        }
        Poll::Ready(result)
    }

    /// Sends a request and reads the head of the answer; both at once, as an upstream may answer early.
    pub(crate) async fn exchange(
        &mut self,
        head: Bytes,
        body: Outgoing,
        method: &Method,
    ) -> Result<Head, Failure> {
        let (mut reader, writer) = self.io.split();
        let mut sending = pin!(send(writer, head, body));
        let mut reading = pin!(read_head(&mut reader, &mut self.buffer, method));
        let mut sent = false;
        loop {
            tokio::select! {
                answer = &mut reading => {
                    let mut answer = answer?;
                    answer.reusable &= sent;
                    return Ok(answer);
                }
                result = &mut sending, if !sent => match result {
                    Ok(()) => sent = true,
                    Err(Unsent::Client(error)) => {
                        return Err(Failure { untouched: false, error: UpstreamError::Request(error) });
                    }
                    // The upstream may have said why before it closed.
                    Err(Unsent::Upstream) => {
                        return reading.await.map(|mut answer| {
                            answer.reusable = false;
                            answer
                        });
                    }
                },
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.in_order {
            // Where this fails the socket is closed all the same.
            let _ = self.io.set_zero_linger();
        }
    }
}

/// The head of a request as it goes out.
pub(crate) fn request_head(
    method: &Method,
    address: &HostPort,
    path_and_query: &str,
    headers: &HeaderMap,
    length: Option<u64>,
) -> Bytes {
    let mut head = BytesMut::with_capacity(512);
    for part in [method.as_str(), " ", path_and_query, " HTTP/1.1\r\nhost: ", &address.to_string(), "\r\n"] {
        head.put_slice(part.as_bytes());
    }
    for (name, value) in headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.put_slice(part);
        }
    }
    match length {
        Some(length) => head.put_slice(format!("content-length: {length}\r\n\r\n").as_bytes()),
        None => head.put_slice(b"transfer-encoding: chunked\r\n\r\n"),
    }
    head.freeze()
}

enum Unsent {
    Upstream,
    Client(String),
}

async fn send(mut writer: impl AsyncWrite + Unpin, head: Bytes, body: Outgoing) -> Result<(), Unsent> {
    let (first, rest) = match body {
        Outgoing::Whole(bytes) => (bytes, None),
        Outgoing::Stream { prefix, rest, chunked, idle_timeout } => {
            (prefix, Some((rest, chunked, idle_timeout)))
        }
    };
    let Some((mut rest, chunked, idle_timeout)) = rest else {
        return writer.write_all_buf(&mut head.chain(first)).await.map_err(|_| Unsent::Upstream);
    };
    writer.write_all_buf(&mut head.chain(framed(first, chunked))).await.map_err(|_| Unsent::Upstream)?;
    loop {
        let next = tokio::time::timeout(idle_timeout, rest.next()).await;
        let Some(chunk) = next.map_err(|_| Unsent::Client(stalled(idle_timeout)))? else { break };
        let chunk = chunk.map_err(|error| Unsent::Client(error.to_string()))?;
        writer.write_all_buf(&mut framed(chunk, chunked)).await.map_err(|_| Unsent::Upstream)?;
    }
    let end: &[u8] = if chunked { b"0\r\n\r\n" } else { b"" };
    writer.write_all(end).await.map_err(|_| Unsent::Upstream)
}

/// The data as one chunk, or as it is. Empty data is nothing, as an empty chunk would end the body.
fn framed(data: Bytes, chunked: bool) -> impl bytes::Buf {
    let (size, end) = match (chunked, data.is_empty()) {
        (true, false) => (Bytes::from(format!("{:x}\r\n", data.len())), Bytes::from_static(b"\r\n")),
        _ => (Bytes::new(), Bytes::new()),
    };
    size.chain(data).chain(end)
}

async fn read_head(
    reader: &mut ReadHalf<'_>,
    buffer: &mut BytesMut,
    method: &Method,
) -> Result<Head, Failure> {
    let broken = |untouched, reason: String| Failure { untouched, error: UpstreamError::Broken(reason) };
    let mut untouched = buffer.is_empty();
    loop {
        while let Some((head, length)) =
            parse_head(buffer, method).map_err(|reason| broken(false, reason.to_owned()))?
        {
            buffer.advance(length);
            if head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Err(broken(false, "it switched protocols".to_owned()));
            }
            if !head.status.is_informational() {
                return Ok(head);
            }
        }
        if buffer.len() > HEAD_MAX {
            return Err(broken(false, format!("its head is larger than {HEAD_MAX} bytes")));
        }
        buffer.reserve(READ_MIN);
        match reader.read_buf(buffer).await {
            Ok(0) => return Err(broken(untouched, "it closed the connection before it answered".to_owned())),
            Ok(_) => untouched = false,
            Err(error) => return Err(broken(untouched, error.to_string())),
        }
    }
}

/// The head at the beginning of `buffer` and how long it is, if it is there as a whole.
fn parse_head(buffer: &[u8], method: &Method) -> Result<Option<(Head, usize)>, &'static str> {
    const NO_HTTP: &str = "what it sent is no HTTP/1.1";
    let mut parsed = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut parsed);
    let length = match response.parse(buffer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(NO_HTTP),
    };
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(NO_HTTP)?;
    let mut headers = HeaderMap::with_capacity(response.headers.len());
    for header in response.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| NO_HTTP)?;
        headers.append(name, HeaderValue::from_bytes(header.value).map_err(|_| NO_HTTP)?);
    }
    let declared = declared_length(&headers)?;
    let chunked = chunked(&headers);
    let bodyless = *method == Method::HEAD
        || status.is_informational()
        || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status);
    let framing = match (bodyless, chunked, declared) {
        (true, _, _) => Framing::Length(0),
        (false, Some(true), _) => Framing::Chunked(Chunk::Size),
        (false, None, Some(length)) => Framing::Length(length),
        (false, Some(false), _) | (false, None, None) => Framing::UntilClose,
    };
    let persistent = match response.version {
        Some(1) => !has_token(&headers, &CONNECTION, "close"),
        _ => has_token(&headers, &CONNECTION, "keep-alive"),
    };
    let ambiguous = chunked.is_some() && declared.is_some();
    let reusable = persistent && !ambiguous && framing != Framing::UntilClose;
    Ok(Some((Head { status, headers, framing, length: declared, reusable }, length)))
}

fn declared_length(headers: &HeaderMap) -> Result<Option<u64>, &'static str> {
    const NO_LENGTH: &str = "its content-length is no number";
    let mut lengths = headers.get_all(CONTENT_LENGTH).map(|value| {
        let digits = value.as_bytes().trim_ascii();
        let valid = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        let text = if valid { std::str::from_utf8(digits).ok() } else { None };
        text.and_then(|text| text.parse::<u64>().ok()).ok_or(NO_LENGTH)
    });
    let Some(first) = lengths.next().transpose()? else { return Ok(None) };
    for other in lengths {
        if other? != first {
            return Err("it declares two lengths");
        }
    }
    Ok(Some(first))
}

/// Whether the last transfer coding is `chunked`; nothing when there is none at all.
fn chunked(headers: &HeaderMap) -> Option<bool> {
    let last = headers.get_all(TRANSFER_ENCODING).last()?.as_bytes();
    let coding = last.rsplit(|byte| *byte == b',').next().unwrap_or_default();
    Some(coding.trim_ascii().eq_ignore_ascii_case(b"chunked"))
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, method: &Method) -> Head {
        parse_head(text.as_bytes(), method).expect("valid").expect("whole").0
    }

    #[test]
    fn the_framing_follows_the_head() {
        let get = Method::GET;
        let cases = [
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", Framing::Length(5), true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", Framing::Chunked(Chunk::Size), true),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n",
                Framing::Chunked(Chunk::Size),
                false,
            ),
            ("HTTP/1.1 200 OK\r\n\r\n", Framing::UntilClose, false),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", Framing::UntilClose, false),
            ("HTTP/1.1 204 No Content\r\n\r\n", Framing::Length(0), true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: Close\r\n\r\n", Framing::Length(5), false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\n", Framing::Length(5), false),
            (
                "HTTP/1.0 200 OK\r\ncontent-length: 5\r\nconnection: keep-alive\r\n\r\n",
                Framing::Length(5),
                true,
            ),
        ];
        for (text, framing, reusable) in cases {
            let head = parse(text, &get);
            assert_eq!((&head.framing, head.reusable), (&framing, reusable), "{text}");
        }
        let head = parse("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", &Method::HEAD);
        assert_eq!((head.framing, head.length), (Framing::Length(0), Some(5)));
    }

    #[test]
    fn a_contradictory_or_foreign_head_is_refused() {
        for text in [
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n",
            "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        ] {
            assert!(parse_head(text.as_bytes(), &Method::GET).is_err(), "{text}");
        }
        assert!(parse_head(b"HTTP/1.1 200 OK\r\ncontent-le", &Method::GET).expect("so far valid").is_none());
    }
}
