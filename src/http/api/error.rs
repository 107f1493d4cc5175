//! Errors of the management API: one table from class to status and code, in the shape
//! `{"error":{"message","code","request_id"}}`.

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderMap, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpRequest, HttpResponse};
use nebula_core::ids::CommandId;
use serde_json::json;

use crate::domain::error::{Error, ErrorClass};

/// When to try again after a part that restarts, in seconds.
const RETRY_SECS: u64 = 1;
/// The longest request id that is taken from a client.
const REQUEST_ID_MAX: usize = 128;

fn status(class: ErrorClass) -> (StatusCode, &'static str) {
    match class {
        ErrorClass::Invalid => (StatusCode::BAD_REQUEST, "invalid_request"),
        ErrorClass::Unprocessable => (StatusCode::UNPROCESSABLE_ENTITY, "unprocessable"),
        ErrorClass::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated"),
        ErrorClass::NotFound => (StatusCode::NOT_FOUND, "not_found"),
        ErrorClass::Conflict => (StatusCode::CONFLICT, "conflict"),
        ErrorClass::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
        ErrorClass::Restarting => (StatusCode::SERVICE_UNAVAILABLE, "restarting"),
        ErrorClass::Unreachable => (StatusCode::SERVICE_UNAVAILABLE, "agent_unreachable"),
        ErrorClass::Timeout => (StatusCode::SERVICE_UNAVAILABLE, "timeout"),
        ErrorClass::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
    }
}

/// The answer to a request that failed.
pub(crate) fn refuse(request: &HttpRequest, error: &Error) -> HttpResponse {
    render(super::origin::id(request), error)
}

/// The answer with this request id.
pub(crate) fn render(request_id: String, error: &Error) -> HttpResponse {
    let (status, code) = status(error.class);
    let mut response = HttpResponse::build(status);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.insert_header((RETRY_AFTER, RETRY_SECS));
    }
    if status == StatusCode::UNAUTHORIZED {
        response.insert_header((WWW_AUTHENTICATE, "Bearer"));
    }
    response.insert_header(("x-request-id", request_id.clone()));
    response.json(json!({"error": {"message": error.message, "code": code, "request_id": request_id}}))
}

/// The client's own request id if it is well formed, else a new one.
pub(crate) fn request_id(headers: &HeaderMap) -> String {
    let legal = |id: &&str| {
        (1..=REQUEST_ID_MAX).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'))
    };
    let own = headers.get("x-request-id").and_then(|value| value.to_str().ok()).filter(legal);
    own.map_or_else(|| CommandId::random().to_string(), str::to_owned)
}
