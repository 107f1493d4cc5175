//! Which headers travel on, and which end at each hop.

use actix_web::http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};

/// Headers with this prefix are set by Nebula itself and never taken from a client or a runtime.
const OURS: &str = "x-nebula-";

/// Set by the agent's proxy on answers of its own, so that the gateway can tell them from the runtime's. The value is
/// the reason in a word.
pub const PROXY_ERROR: HeaderName = HeaderName::from_static("x-nebula-proxy-error");

/// Where clients put credentials besides `authorization` and `proxy-authorization`.
const CREDENTIALS: [HeaderName; 3] =
    [HeaderName::from_static("x-api-key"), HeaderName::from_static("api-key"), COOKIE];

/// The headers of a client's request that an upstream gets: all but the hop-by-hop ones, `host`, `content-length`,
/// `expect`, `x-nebula-*` and those that carry credentials.
#[must_use]
pub fn forward_request_headers(headers: &HeaderMap) -> HeaderMap {
    forward(headers, |name| {
        [HOST, AUTHORIZATION, EXPECT].contains(name) || CREDENTIALS.contains(name) || is_ours(name)
    })
}

/// The headers of an upstream's answer that a client gets: all but the hop-by-hop ones, `x-nebula-*`, which a runtime
/// could forge, and `content-length`, which the body says itself.
#[must_use]
pub fn forward_response_headers(headers: &HeaderMap) -> HeaderMap {
    forward(headers, is_ours)
}

fn is_ours(name: &HeaderName) -> bool {
    name.as_str().starts_with(OURS)
}

fn forward(headers: &HeaderMap, dropped: impl Fn(&HeaderName) -> bool) -> HeaderMap {
    let named: Vec<&str> = headers
        .get_all(CONNECTION)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
        .collect();
    let mut kept = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let hop = is_hop_by_hop(name) || named.iter().any(|other| name.as_str().eq_ignore_ascii_case(other));
        if !hop && *name != CONTENT_LENGTH && !dropped(name) {
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    [CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE].contains(name)
        || name.as_str() == "keep-alive"
        || name.as_str().starts_with("proxy-")
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    fn names(map: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = map.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_request_loses_what_is_hop_by_hop_or_not_the_clients_to_say() {
        let kept = forward_request_headers(&map(&[
            ("connection", "close, X-Secret"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic x"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("host", "a"),
            ("content-length", "3"),
            ("authorization", "Bearer x"),
            ("x-api-key", "nbtok_x"),
            ("api-key", "nbtok_x"),
            ("cookie", "session=x"),
            ("expect", "100-continue"),
            ("x-nebula-deployment", "forged"),
            ("traceparent", "00-1"),
            ("x-request-id", "r"),
        ]));
        assert_eq!(names(&kept), ["traceparent", "x-request-id"]);
    }

    #[test]
    fn an_answer_keeps_repeated_headers_and_loses_marks_that_are_ours_to_set() {
        let kept = forward_response_headers(&map(&[
            ("x-a", "1"),
            ("x-a", "2"),
            ("content-type", "text/plain"),
            ("content-length", "9"),
            ("connection", "keep-alive"),
            ("x-nebula-proxy-error", "model_not_ready"),
        ]));
        assert_eq!(names(&kept), ["content-type", "x-a", "x-a"]);
    }
}
