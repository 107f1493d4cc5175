//! One connection to an upstream: dial, send a request, read the head of the answer.

use std::io;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::web;
use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::StreamExt as _;
use nebula_core::address::HostPort;
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;

use crate::answer::{Head, parse_head};
use crate::call::stalled;
use crate::error::UpstreamError;

/// How long a connection may take to be made, name lookup included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest head of an answer, in bytes.
const HEAD_MAX: usize = 64 * 1024;
/// Room made for one read, in bytes: small at first as most connections carry small events, more once a read fills it.
const READ_MIN: usize = 8 * 1024;
const READ_MAX: usize = 32 * 1024;

/// A connection. Dropped without [`Connection::close`] it is reset: a closing alone would be a legal half-close,
/// after which an upstream may go on working for nobody.
pub(crate) struct Connection {
    io: TcpStream,
    pub(crate) buffer: BytesMut,
    read_size: usize,
    in_order: bool,
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

    /// Sends a request and reads the head of the answer, both at once, as an upstream may answer early. `to_head`: it
    /// is a HEAD request.
    pub(crate) async fn exchange(
        &mut self,
        head: Bytes,
        body: Outgoing,
        to_head: bool,
    ) -> Result<Head, Failure> {
        let (mut reader, writer) = self.io.split();
        let mut sending = pin!(send(writer, head, body));
        let mut reading = pin!(read_head(&mut reader, &mut self.buffer, to_head));
        let mut sent = false;
        loop {
            tokio::select! {
                // There is nothing to read before something has been sent.
                biased;
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
                answer = &mut reading => {
                    let mut answer = answer?;
                    answer.reusable &= sent;
                    return Ok(answer);
                }
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

async fn read_head(reader: &mut ReadHalf<'_>, buffer: &mut BytesMut, to_head: bool) -> Result<Head, Failure> {
    let broken = |untouched, reason: String| Failure { untouched, error: UpstreamError::Broken(reason) };
    let mut untouched = buffer.is_empty();
    loop {
        while let Some((head, length)) =
            parse_head(buffer, to_head).map_err(|reason| broken(false, reason.to_owned()))?
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
