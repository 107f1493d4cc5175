//! An answer whose head has arrived.

use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_web::body::BodySize;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use bytes::{Bytes, BytesMut};

use crate::connection::Connection;
use crate::error::{Broken, UpstreamError};
use crate::filter::Incoming;
use crate::framing::{Decoded, Framing};
use crate::pool::Lane;
use crate::relay::RelayBody;

/// An answer: its head, and its body while it comes. Dropped before the body's end, it resets the connection and so
/// tells the upstream that nobody waits any more.
pub struct Upstream {
    /// The status.
    pub status: StatusCode,
    /// The headers that a client gets: none that ends at this hop, no `content-length`, which the body says itself, and
    /// no `x-nebula-*`, which a runtime could forge.
    pub headers: HeaderMap,
    /// What [`crate::PROXY_ERROR`] says.
    pub proxy_error: Option<HeaderValue>,
    pub(crate) incoming: Incoming,
    /// What an answer to HEAD says of the body that it does not have.
    pub(crate) size_of_head: Option<BodySize>,
    pub(crate) body: Body,
}

impl Incoming {
    /// By the headers of an answer. A stream of events that is compressed cannot be read.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        if headers.get(CONTENT_ENCODING).is_some_and(|coding| coding.as_bytes() != b"identity") {
            return Self::Opaque;
        }
        let kind = headers.get(CONTENT_TYPE).map(|value| value.as_bytes()).unwrap_or_default();
        let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default();
        if kind.trim_ascii().eq_ignore_ascii_case(b"text/event-stream") { Self::Events } else { Self::Other }
    }
}

impl Upstream {
    /// What the body is.
    #[must_use]
    pub fn incoming(&self) -> Incoming {
        self.incoming
    }

    /// The whole body, at most `limit` bytes of it.
    ///
    /// # Errors
    /// When the body is longer, breaks, or nothing of it comes for `idle_timeout`.
    pub async fn collect(mut self, limit: usize, idle_timeout: Duration) -> Result<Bytes, UpstreamError> {
        let mut first = Bytes::new();
        let mut joined = BytesMut::new();
        loop {
            let next = std::future::poll_fn(|cx| self.body.poll_data(cx));
            let next = tokio::time::timeout(idle_timeout, next).await.map_err(|_| UpstreamError::Timeout)?;
            let Some(data) = next.map_err(UpstreamError::Broken)? else {
                return Ok(if joined.is_empty() { first } else { joined.freeze() });
            };
            if first.len().max(joined.len()) + data.len() > limit {
                return Err(UpstreamError::Broken(format!("its body is longer than {limit} bytes")));
            }
            if first.is_empty() {
                first = data;
            } else {
                if joined.is_empty() {
                    joined.extend_from_slice(&first);
                }
                joined.extend_from_slice(&data);
            }
        }
    }

    /// The body for a response to the client.
    ///
    /// `broken` gives the event with which an event stream ends that breaks or ends without `[DONE]`; nothing is
    /// added when it gives none. Nothing may come for `idle_timeout` before the body counts as broken.
    #[must_use]
    pub fn relay(self, idle_timeout: Duration, broken: fn(Broken) -> Bytes) -> RelayBody {
        RelayBody::new(self, idle_timeout, broken)
    }
}

/// A body while it comes.
pub(crate) struct Body {
    /// Nothing once the body is whole.
    connection: Option<Connection>,
    framing: Framing,
    /// Where the connection goes after the body, if it can be used again.
    lane: Option<Rc<Lane>>,
}

impl Body {
    pub(crate) fn new(connection: Connection, framing: Framing, lane: Option<Rc<Lane>>) -> Self {
        let whole = framing == Framing::Length(0);
        let mut body = Self { connection: Some(connection), framing, lane };
        if whole {
            body.finish();
        }
        body
    }

    /// How long the body is, where that is known before it has come.
    pub(crate) fn length(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(length) => Some(length),
            Framing::Chunked(_) | Framing::UntilClose => None,
        }
    }

    /// The next data, nothing at the end, or why the body broke.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, String>> {
        loop {
            let Some(connection) = &mut self.connection else { return Poll::Ready(Ok(None)) };
            match self.framing.decode(&mut connection.buffer) {
                Ok(Decoded::Data(data)) => {
                    // The next request need not wait for the client to ask for more.
                    if self.framing == Framing::Length(0) {
                        self.finish();
                    }
                    return Poll::Ready(Ok(Some(data)));
                }
                Ok(Decoded::More) => {}
                Ok(Decoded::End) => {
                    self.finish();
                    return Poll::Ready(Ok(None));
                }
                Err(reason) => return Poll::Ready(Err(reason.to_owned())),
            }
            match ready!(connection.poll_fill(cx)) {
                Ok(0) if self.framing == Framing::UntilClose => self.finish(),
                Ok(0) => return Poll::Ready(Err("it closed the connection before the end".to_owned())),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(error.to_string())),
            }
        }
    }

    fn finish(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        match self.lane.take() {
            Some(lane) if connection.buffer.is_empty() => lane.put(connection),
            _ => connection.close(),
        }
    }
}
