//! A request's id, on both of our sides.

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

/// Carries the id.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id that is taken from a client, in bytes.
const REQUEST_ID_MAX: usize = 128;

/// A request's id.
pub(super) struct RequestId {
    /// In the response: the client's own if it sent a sensible one.
    pub(super) client: HeaderValue,
    /// To the runtime, always a UUID: some refuse every request whose id is none.
    pub(super) upstream: HeaderValue,
}

impl RequestId {
    /// The id of a request with these headers.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"._:-".contains(byte);
        let given = headers.get(REQUEST_ID).filter(|id| {
            let id = id.as_bytes();
            (1..=REQUEST_ID_MAX).contains(&id.len()) && id.iter().all(legal)
        });
        if let Some(id) = given.filter(|id| is_uuid(id.as_bytes())) {
            return Self { client: id.clone(), upstream: id.clone() };
        }
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        let made = HeaderValue::from_str(random_uuid().hyphenated().encode_lower(&mut text));
        let made = made.unwrap_or_else(|_| HeaderValue::from_static("00000000-0000-4000-8000-000000000000"));
        Self { client: given.unwrap_or(&made).clone(), upstream: made }
    }
}

/// Whether an id is a UUID in one of the two forms that everybody reads, with hyphens or without.
fn is_uuid(id: &[u8]) -> bool {
    [32, 36].contains(&id.len()) && Uuid::try_parse_ascii(id).is_ok()
}

/// A version 4 UUID from this thread's generator: the system's own costs a system call, and nobody gains by guessing.
fn random_uuid() -> Uuid {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid()
}
