//! The proxy's own answers: OpenAI's error shape.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use bytes::Bytes;
use nebula_relay::{Broken, PROXY_ERROR, UpstreamError};
use serde_json::json;

use super::table::NotPicked;

/// Seconds after which a replica that does not serve yet may be asked again.
const RETRY_AFTER_SECS: &str = "1";

/// The header tells nebulad's gateway that the answer is the proxy's and not the runtime's.
fn error(status: StatusCode, kind: &str, code: &str, message: &str) -> HttpResponse {
    HttpResponse::build(status).insert_header((PROXY_ERROR, code)).json(body(kind, code, message))
}

/// The runtime could not be reached or its answer broke. To clients that is the same; `told`, in the header, says
/// whether the request may have reached the runtime.
fn no_answer(told: &'static str) -> HttpResponse {
    let message = "the runtime could not be reached or its answer broke";
    let mut answer = error(StatusCode::BAD_GATEWAY, "server_error", "upstream_error", message);
    let told = actix_web::http::header::HeaderValue::from_static(told);
    answer.headers_mut().insert(PROXY_ERROR, told);
    answer
}

fn body(kind: &str, code: &str, message: &str) -> serde_json::Value {
    json!({ "error": { "message": message, "type": kind, "param": null, "code": code } })
}

/// There is nothing that is meant.
pub(super) fn not_picked(reason: &NotPicked) -> HttpResponse {
    error(StatusCode::NOT_FOUND, "invalid_request_error", "model_not_found", &reason.to_string())
}

/// The path is none that can be passed on.
pub(super) fn bad_path() -> HttpResponse {
    error(StatusCode::BAD_REQUEST, "invalid_request_error", "invalid_path", "the path cannot be read")
}

/// No token, or a wrong one.
pub(super) fn unauthorized() -> HttpResponse {
    let message = "this deployment is private; send its token as Authorization: Bearer nbtok_…";
    let mut answer = error(StatusCode::UNAUTHORIZED, "invalid_request_error", "invalid_api_key", message);
    let scheme = actix_web::http::header::HeaderValue::from_static("Bearer");
    answer.headers_mut().insert(WWW_AUTHENTICATE, scheme);
    answer
}

/// Nothing of it can serve now.
pub(super) fn not_ready() -> HttpResponse {
    let message = "no replica of this deployment on this node is running";
    let mut answer = error(StatusCode::SERVICE_UNAVAILABLE, "server_error", "model_not_ready", message);
    let wait = actix_web::http::header::HeaderValue::from_static(RETRY_AFTER_SECS);
    answer.headers_mut().insert(RETRY_AFTER, wait);
    answer
}

/// The runtime did not answer as it should.
pub(super) fn upstream(reason: &UpstreamError) -> HttpResponse {
    match reason {
        UpstreamError::Timeout => error(
            StatusCode::GATEWAY_TIMEOUT,
            "server_error",
            "upstream_timeout",
            "the runtime did not answer in time",
        ),
        UpstreamError::Request(_) => error(
            StatusCode::BAD_REQUEST,
            "invalid_request_error",
            "invalid_request",
            "the request's body broke off",
        ),
        UpstreamError::Connect(_) => no_answer("upstream_connect"),
        UpstreamError::Broken(_) => no_answer("upstream_broken"),
    }
}

/// The last event of a stream that broke. One that ended in order without `[DONE]` is passed as it is: not every
/// API has that mark.
pub(super) fn last_event(broken: Broken) -> Bytes {
    let (code, message) = match broken {
        Broken::Upstream | Broken::TooLong => ("upstream_error", "the runtime's answer broke off"),
        Broken::Timeout => ("upstream_timeout", "the runtime fell silent"),
        Broken::Unfinished => return Bytes::new(),
    };
    Bytes::from(format!("data: {}\n\n", body("server_error", code, message)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_tells_whether_the_request_may_have_reached_the_runtime() {
        for (reason, told) in [
            (UpstreamError::Connect("no".to_owned()), "upstream_connect"),
            (UpstreamError::Broken("no".to_owned()), "upstream_broken"),
            (UpstreamError::Timeout, "upstream_timeout"),
        ] {
            let answer = upstream(&reason);
            let header = answer.headers().get(PROXY_ERROR).and_then(|value| value.to_str().ok());
            assert_eq!(header, Some(told), "{reason}");
            assert_eq!(answer.headers().get_all(PROXY_ERROR).count(), 1);
        }
    }
}
