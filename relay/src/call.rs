//! What is sent to an upstream.

use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use actix_web::web;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use nebula_core::address::HostPort;

use crate::error::UpstreamError;
use crate::request::RequestHead;

/// Bodies up to this size are read before they are sent on, so that they can be sent again over a fresh
/// connection when a reused one turns out to be closed.
const READ_AHEAD_BYTES: usize = 256 * 1024;

/// One request to an upstream.
pub struct Call<'a> {
    /// Where the upstream listens.
    pub address: &'a HostPort,
    /// The head.
    pub head: RequestHead,
    /// The body.
    pub body: CallBody,
    /// How long the upstream may take from the connection to the head of its answer.
    pub first_byte_timeout: Duration,
}

/// The body of a [`Call`].
pub enum CallBody {
    /// None.
    Empty,
    /// All of it.
    Bytes(Bytes),
    /// What has been read of a client's body, and the rest while it comes. Such a call always takes a new
    /// connection, as it could not be repeated on another.
    Stream {
        /// What has been read.
        prefix: Bytes,
        /// What follows.
        rest: web::Payload,
        /// The length of the whole, when the client has declared it.
        length: Option<u64>,
        /// How long nothing may follow before the body counts as broken.
        idle_timeout: Duration,
    },
}

impl CallBody {
    /// The body of a client's request: all of it when it is small, else the beginning and the stream of the rest.
    ///
    /// # Errors
    /// [`UpstreamError::Request`] when the client's body breaks or nothing of it comes for `idle_timeout`; the stream
    /// of the rest ends the same way.
    pub async fn of(
        request: &HttpRequest,
        mut payload: web::Payload,
        idle_timeout: Duration,
    ) -> Result<Self, UpstreamError> {
        let headers = request.headers();
        let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if length.unwrap_or(0) == 0 && !headers.contains_key(TRANSFER_ENCODING) {
            return Ok(Self::Empty);
        }
        let declared = length.and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
        let mut read = BytesMut::with_capacity(declared.min(READ_AHEAD_BYTES));
        while read.len() < READ_AHEAD_BYTES {
            match tokio::time::timeout(idle_timeout, payload.next()).await {
                Ok(Some(Ok(chunk))) => read.extend_from_slice(&chunk),
                Ok(Some(Err(error))) => return Err(UpstreamError::Request(error.to_string())),
                Ok(None) => return Ok(Self::Bytes(read.freeze())),
                Err(_) => return Err(UpstreamError::Request(stalled(idle_timeout))),
            }
        }
        Ok(Self::Stream { prefix: read.freeze(), rest: payload, length, idle_timeout })
    }
}

/// Says that nothing of a client's body has come for too long.
pub(crate) fn stalled(idle_timeout: Duration) -> String {
    format!("nothing of it came for {idle_timeout:?}")
}
