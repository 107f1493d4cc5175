//! Reads a request's body, which routing needs as a whole, within limits of size and patience.

use std::time::Duration;

use actix_web::http::header::CONTENT_LENGTH;
use actix_web::{HttpRequest, web};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;

use crate::http::error::OpenAiError;

/// How long a client may pause within its body.
const BODY_IDLE: Duration = Duration::from_secs(30);
/// Most room that is made on the word of a `content-length` alone, in bytes.
const RESERVE_MAX: usize = 1024 * 1024;

/// The whole body, at most `limit` bytes of it.
pub(crate) async fn read(
    request: &HttpRequest,
    mut payload: web::Payload,
    limit: usize,
) -> Result<Bytes, OpenAiError> {
    let declared =
        request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if declared.is_some_and(|length: usize| length > limit) {
        return Err(OpenAiError::TooLarge(limit));
    }
    let mut body = BytesMut::with_capacity(declared.unwrap_or(0).min(RESERVE_MAX));
    loop {
        let next = tokio::time::timeout(BODY_IDLE, payload.next()).await;
        match next.map_err(|_| OpenAiError::BodyTimeout)? {
            Some(Ok(chunk)) if body.len() + chunk.len() > limit => return Err(OpenAiError::TooLarge(limit)),
            Some(Ok(chunk)) => body.extend_from_slice(&chunk),
            Some(Err(_)) => return Err(OpenAiError::InvalidJson("it broke off".to_owned())),
            None => return Ok(body.freeze()),
        }
    }
}
