//! The errors of the gateway: one table of status, type and code, in OpenAI's shape.

use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, CONTENT_TYPE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use bytes::Bytes;
use nebula_dialect::{Refusal, ScanError};
use serde_json::json;

use super::openai::ratelimit;
use crate::domain::key::{Limited, RateKind};

/// Tells clients that asking again is of no use.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// When a client should ask again after a model that cannot serve yet, in seconds.
pub(crate) const NOT_READY_RETRY_SECS: u64 = 5;
/// Longest piece of a client's own text that a message repeats, in characters.
const QUOTE_MAX: usize = 128;

/// What a caller of the gateway can be told has gone wrong. Never an address, a credential or an inner error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenAiError {
    /// The body is not one JSON object; the text says why.
    InvalidJson(String),
    /// The body is no form, or one that could be read in two ways; the text says why.
    InvalidForm(String),
    /// `model` is missing or no string.
    MissingModel,
    /// A credential is needed and there is none.
    NoCredential,
    /// A credential is needed and this one is wrong.
    BadCredential,
    /// There is no such model, or this credential may not use it.
    NoSuchModel(String),
    /// There is nothing at this path.
    UnknownUrl {
        /// As it came.
        method: String,
        /// As it came.
        path: String,
    },
    /// The path takes other methods.
    MethodNotAllowed {
        /// As it came.
        method: String,
        /// As it came.
        path: String,
        /// What it takes, as in `Allow`.
        allow: &'static str,
    },
    /// The body is over the limit, which is this many bytes.
    TooLarge(usize),
    /// The body stopped coming.
    BodyTimeout,
    /// The runtime cannot do what is asked.
    Refused(Refusal),
    /// A limit of the key is reached.
    Limited(Box<Limited>),
    /// The deployment exists, and nothing of it can serve now.
    NotReady(String),
    /// The upstream refused, broke or spoke nonsense.
    Upstream,
    /// The upstream took too long.
    UpstreamTimeout,
}

impl From<ScanError> for OpenAiError {
    fn from(error: ScanError) -> Self {
        match error {
            ScanError::InvalidJson(why) => Self::InvalidJson(why),
            ScanError::MissingModel => Self::MissingModel,
        }
    }
}

/// One row of the table.
struct Row {
    status: StatusCode,
    kind: &'static str,
    code: &'static str,
}

impl OpenAiError {
    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.row().status
    }

    /// The machine-readable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.row().code
    }

    fn row(&self) -> Row {
        const INVALID: &str = "invalid_request_error";
        const SERVER: &str = "server_error";
        let (status, kind, code) = match self {
            Self::InvalidJson(_) => (StatusCode::BAD_REQUEST, INVALID, "invalid_json"),
            Self::InvalidForm(_) => (StatusCode::BAD_REQUEST, INVALID, "invalid_multipart"),
            Self::MissingModel => (StatusCode::BAD_REQUEST, INVALID, "missing_required_parameter"),
            Self::NoCredential | Self::BadCredential => {
                (StatusCode::UNAUTHORIZED, INVALID, "invalid_api_key")
            }
            Self::NoSuchModel(_) => (StatusCode::NOT_FOUND, INVALID, "model_not_found"),
            Self::UnknownUrl { .. } => (StatusCode::NOT_FOUND, INVALID, "unknown_url"),
            Self::MethodNotAllowed { .. } => (StatusCode::METHOD_NOT_ALLOWED, INVALID, "method_not_allowed"),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, INVALID, "request_too_large"),
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, INVALID, "request_timeout"),
            Self::Refused(refusal) => {
                (StatusCode::BAD_REQUEST, INVALID, refusal.code.unwrap_or("unsupported_parameter"))
            }
            Self::Limited(limited) => match **limited {
                Limited::Rate { .. } => {
                    (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "rate_limit_exceeded")
                }
                Limited::Budget => {
                    (StatusCode::TOO_MANY_REQUESTS, "insufficient_quota", "insufficient_quota")
                }
            },
            Self::NotReady(_) => (StatusCode::SERVICE_UNAVAILABLE, SERVER, "model_not_ready"),
            Self::Upstream => (StatusCode::BAD_GATEWAY, SERVER, "upstream_error"),
            Self::UpstreamTimeout => (StatusCode::GATEWAY_TIMEOUT, SERVER, "upstream_timeout"),
        };
        Row { status, kind, code }
    }

    fn param(&self) -> Option<&'static str> {
        match self {
            Self::MissingModel => Some("model"),
            Self::Refused(refusal) => refusal.param,
            _ => None,
        }
    }

    fn message(&self) -> String {
        match self {
            Self::InvalidJson(why) => format!("The body must be one JSON object: {why}."),
            Self::InvalidForm(why) => format!("The body must be a multipart form: {why}."),
            Self::MissingModel => {
                "The body must name a model: \"model\" is missing or not a string.".to_owned()
            }
            Self::NoCredential => "This model needs a credential, and the request has none. Send it as \
                                   \"Authorization: Bearer …\". The model may also not exist."
                .to_owned(),
            Self::BadCredential => {
                // Clients recognise the first words.
                "Incorrect API key provided: it is wrong, expired or revoked, and this model needs one. The model \
                 may also not exist."
                    .to_owned()
            }
            Self::NoSuchModel(model) => {
                format!("The model `{}` does not exist or you do not have access to it.", quote(model))
            }
            Self::UnknownUrl { method, path } => format!("Invalid URL ({} {})", quote(method), quote(path)),
            Self::MethodNotAllowed { method, path, allow } => {
                format!("{} takes {allow}, not {}.", quote(path), quote(method))
            }
            Self::TooLarge(limit) => format!("The body is larger than {limit} bytes."),
            Self::BodyTimeout => "The body stopped coming before it was complete.".to_owned(),
            Self::Refused(refusal) => refusal.message.clone(),
            Self::Limited(limited) => limited_message(limited),
            Self::NotReady(model) => {
                format!("The model `{}` cannot serve right now. Try again in a moment.", quote(model))
            }
            Self::Upstream => {
                "The model's runtime refused the connection, broke it or sent nonsense.".to_owned()
            }
            Self::UpstreamTimeout => "The model's runtime did not answer in time.".to_owned(),
        }
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> Bytes {
        let row = self.row();
        error_body(&self.message(), row.kind, self.param(), Some(row.code))
    }

    /// The error as an event of a stream that has already begun.
    #[must_use]
    pub fn event(&self) -> Bytes {
        [b"data: ", &*self.body(), b"\n\n"].concat().into()
    }

    /// The response.
    #[must_use]
    pub fn response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status());
        response.insert_header((CONTENT_TYPE, "application/json"));
        match self {
            Self::NoCredential | Self::BadCredential => {
                response.insert_header((WWW_AUTHENTICATE, "Bearer"));
            }
            Self::MethodNotAllowed { allow, .. } => {
                response.insert_header((ALLOW, *allow));
            }
            Self::NotReady(_) => {
                response.insert_header((RETRY_AFTER, NOT_READY_RETRY_SECS));
            }
            // What is left of the body is not waited for.
            Self::TooLarge(_) | Self::BodyTimeout => {
                response.force_close();
            }
            Self::Limited(limited) => match &**limited {
                Limited::Rate { retry_after, standing, .. } => {
                    response.insert_header((RETRY_AFTER, whole_seconds(*retry_after)));
                    let mut response = response.body(self.body());
                    ratelimit::tell(standing, response.headers_mut());
                    return response;
                }
                Limited::Budget => {
                    response.insert_header((SHOULD_RETRY, "false"));
                }
            },
            Self::InvalidJson(_)
            | Self::InvalidForm(_)
            | Self::MissingModel
            | Self::Refused(_)
            | Self::NoSuchModel(_)
            | Self::UnknownUrl { .. }
            | Self::Upstream
            | Self::UpstreamTimeout => {}
        }
        response.body(self.body())
    }
}

fn limited_message(limited: &Limited) -> String {
    match limited {
        Limited::Rate { what, retry_after, .. } => {
            let what = match what {
                RateKind::Requests => "requests per minute",
                RateKind::Tokens => "tokens per minute",
                RateKind::Concurrent => "requests at the same time",
            };
            let seconds = whole_seconds(*retry_after);
            format!("This API key has reached its limit of {what}. Try again in {seconds} s.")
        }
        Limited::Budget => {
            "The budget of this API key is spent. It begins anew with its next day or month, if it has one; else another key is needed."
                .to_owned()
        }
    }
}

/// A pause for `Retry-After`, which has no fractions: rounded up, at least a second.
fn whole_seconds(pause: Duration) -> u64 {
    pause.as_secs().saturating_add(u64::from(pause.subsec_nanos() > 0)).max(1)
}

/// An error object in OpenAI's shape: all four keys, always.
pub(crate) fn error_body(message: &str, kind: &str, param: Option<&str>, code: Option<&str>) -> Bytes {
    json!({"error": {"message": message, "type": kind, "param": param, "code": code}}).to_string().into()
}

fn quote(text: &str) -> String {
    let mut quoted: String = text.chars().filter(|c| !c.is_control()).take(QUOTE_MAX).collect();
    if text.chars().count() > QUOTE_MAX {
        quoted.push('…');
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_its_row() {
        let url = || ("GET".to_owned(), "/v1/x".to_owned());
        let rows = [
            (OpenAiError::InvalidJson("x".into()), 400, "invalid_request_error", "invalid_json"),
            (OpenAiError::InvalidForm("x".into()), 400, "invalid_request_error", "invalid_multipart"),
            (OpenAiError::MissingModel, 400, "invalid_request_error", "missing_required_parameter"),
            (OpenAiError::NoCredential, 401, "invalid_request_error", "invalid_api_key"),
            (OpenAiError::BadCredential, 401, "invalid_request_error", "invalid_api_key"),
            (OpenAiError::NoSuchModel("m".into()), 404, "invalid_request_error", "model_not_found"),
            (
                OpenAiError::UnknownUrl { method: url().0, path: url().1 },
                404,
                "invalid_request_error",
                "unknown_url",
            ),
            (
                OpenAiError::MethodNotAllowed { method: url().0, path: url().1, allow: "POST" },
                405,
                "invalid_request_error",
                "method_not_allowed",
            ),
            (OpenAiError::TooLarge(9), 413, "invalid_request_error", "request_too_large"),
            (OpenAiError::BodyTimeout, 408, "invalid_request_error", "request_timeout"),
            (OpenAiError::NotReady("m".into()), 503, "server_error", "model_not_ready"),
            (OpenAiError::Upstream, 502, "server_error", "upstream_error"),
            (OpenAiError::UpstreamTimeout, 504, "server_error", "upstream_timeout"),
        ];
        for (error, status, kind, code) in rows {
            let body: serde_json::Value = serde_json::from_slice(&error.body()).expect("JSON");
            assert_eq!(error.response().status().as_u16(), status, "{error:?}");
            assert_eq!(body["error"]["type"], kind, "{error:?}");
            assert_eq!(body["error"]["code"], code, "{error:?}");
            assert!(body["error"]["message"].is_string() && body["error"].get("param").is_some());
        }
    }

    #[test]
    fn a_clients_text_is_cut_and_cannot_break_the_line() {
        let error = OpenAiError::NoSuchModel(format!("a\nb{}", "x".repeat(500)));
        assert!(error.message().contains("`abxxx") && error.message().len() < 250);
    }
}
