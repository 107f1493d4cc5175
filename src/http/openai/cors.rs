//! Cross-origin access, so that pages may call the gateway from a browser.

use actix_web::HttpResponse;
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, HeaderMap,
    HeaderValue, ORIGIN, VARY,
};

/// What a page may read of a response besides the simple headers.
const EXPOSED: &str = "x-request-id, retry-after, x-should-retry, openai-processing-ms, openai-version, \
                       x-ratelimit-limit-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-requests, \
                       x-ratelimit-remaining-tokens, x-ratelimit-reset-requests, x-ratelimit-reset-tokens";
/// How long a browser may remember an answer, in seconds.
const MAX_AGE_SECS: u64 = 7200;

/// Which origins may read responses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowOrigins(Option<Vec<String>>);

impl AllowOrigins {
    /// These origins, such as `https://chat.example.com`; `*` among them means any.
    #[must_use]
    pub fn new(origins: impl IntoIterator<Item = String>) -> Self {
        let origins: Vec<String> = origins.into_iter().collect();
        Self((!origins.iter().any(|origin| origin == "*")).then_some(origins))
    }

    /// Says in the response to a request with these headers whether its origin may read it.
    pub(crate) fn apply(&self, request: &HeaderMap, response: &mut HeaderMap) {
        let allowed = match (&self.0, request.get(ORIGIN)) {
            (None, _) => Some(HeaderValue::from_static("*")),
            (Some(origins), origin) => {
                response.append(VARY, HeaderValue::from_static("origin"));
                origin
                    .filter(|origin| origins.iter().any(|known| known.as_bytes() == origin.as_bytes()))
                    .cloned()
            }
        };
        if let Some(allowed) = allowed {
            response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
            response.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        }
    }
}

/// The answer to a preflight: every header it asks for is fine, as `*` would not cover `authorization`.
pub(crate) fn preflight(request: &HeaderMap) -> HttpResponse {
    let mut response = HttpResponse::NoContent();
    response.insert_header((ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS"));
    response.insert_header((ACCESS_CONTROL_MAX_AGE, MAX_AGE_SECS));
    if let Some(wanted) = request.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        response.insert_header((ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone()));
        response.insert_header((VARY, "access-control-request-headers"));
    }
    response.finish()
}
