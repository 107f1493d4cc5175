//! Reads a request's body, which routing needs as a whole, within limits of size and patience.

use std::time::Duration;

use actix_web::http::header::CONTENT_LENGTH;
use actix_web::{HttpRequest, web};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use nebula_core::clock::{Clock, Tick};

use crate::http::error::OpenAiError;

/// How long a body may take whatever its size, and the longest pause within it.
const GRACE: Duration = Duration::from_secs(30);
/// What comes slower than this after the grace is cut, in bytes per second.
const RATE_MIN: u64 = 1024;
/// How long a body may take, however large: what has come is held meanwhile.
const LONGEST: Duration = Duration::from_secs(600);
/// Most room that is made on the word of a `content-length` alone, in bytes.
const RESERVE_MAX: usize = 1024 * 1024;

/// The whole body, at most `limit` bytes of it.
pub(crate) async fn read(
    request: &HttpRequest,
    payload: &mut web::Payload,
    limit: usize,
    clock: &Clock,
) -> Result<Bytes, OpenAiError> {
    let declared =
        request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if declared.is_some_and(|length: usize| length > limit) {
        return Err(OpenAiError::TooLarge(limit));
    }
    let began = clock.now();
    // Most bodies come in one piece, which need not be copied.
    let mut first = Bytes::new();
    let mut body = BytesMut::new();
    loop {
        let came = first.len().max(body.len());
        let patience = deadline(began, came).since(clock.now()).min(GRACE);
        let next = tokio::time::timeout(patience, payload.next()).await;
        match next.map_err(|_| OpenAiError::BodyTimeout)? {
            Some(Ok(chunk)) if came + chunk.len() > limit => return Err(OpenAiError::TooLarge(limit)),
            Some(Ok(chunk)) if came == 0 => first = chunk,
            Some(Ok(chunk)) => {
                if body.is_empty() {
                    body.reserve(declared.unwrap_or(0).min(RESERVE_MAX).max(came + chunk.len()));
                    body.extend_from_slice(&first);
                }
                body.extend_from_slice(&chunk);
            }
            Some(Err(_)) => return Err(OpenAiError::InvalidJson("it broke off".to_owned())),
            None => return Ok(if body.is_empty() { first } else { body.freeze() }),
        }
    }
}

/// When more must have come of a body of which so many bytes have.
fn deadline(began: Tick, bytes: usize) -> Tick {
    began.plus((GRACE + Duration::from_secs(bytes as u64 / RATE_MIN)).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_trickles_is_cut_and_what_is_only_large_is_not() {
        let after = |bytes| deadline(Tick(0), bytes);
        assert_eq!(after(0), Tick(30_000));
        assert_eq!(after(100), Tick(30_000), "a byte a second does not buy another second");
        assert_eq!(after(256 * 1024), Tick(30_000 + 256 * 1_000));
        assert_eq!(after(32 * 1024 * 1024), Tick(600_000), "what came quickly does not buy hours");
    }
}
