//! Which headers travel on, and which end at each hop.

use actix_web::http::header::{CONNECTION, HeaderMap, HeaderName};

/// Headers with this prefix are set by Nebula itself and never taken from a client or a runtime.
const OURS: &str = "x-nebula-";

/// Set by the agent's proxy on answers of its own, so that the gateway can tell them from the runtime's. The value is
/// the reason in a word.
pub const PROXY_ERROR: HeaderName = HeaderName::from_static("x-nebula-proxy-error");

/// Tells which headers of a client's request an upstream gets.
pub(crate) fn passes_upstream(headers: &HeaderMap) -> impl Fn(&HeaderName) -> bool + use<'_> {
    let named: Vec<&str> =
        headers.get_all(CONNECTION).filter_map(|value| value.to_str().ok()).flat_map(options).collect();
    move |name| {
        passes(name)
            && !is_the_hops(name.as_str())
            && !named.iter().any(|other| other.eq_ignore_ascii_case(name.as_str()))
    }
}

/// Whether a header ends at no hop and is not ours to set. What `connection` names must go too.
pub(crate) fn passes(name: &HeaderName) -> bool {
    let name = name.as_str();
    !matches!(
        name,
        "connection" | "content-length" | "keep-alive" | "te" | "trailer" | "transfer-encoding" | "upgrade"
    ) && !name.starts_with("proxy-")
        && !name.starts_with(OURS)
}

/// What a `connection` header names besides what it says of the connection itself.
pub(crate) fn options(connection: &str) -> impl Iterator<Item = &str> {
    let of_itself =
        |option: &str| ["", "close", "keep-alive"].iter().any(|it| option.eq_ignore_ascii_case(it));
    connection.split(',').map(str::trim).filter(move |option| !of_itself(option))
}

/// What a request says to us alone: whom it is for, and where clients put credentials.
fn is_the_hops(name: &str) -> bool {
    matches!(name, "host" | "expect" | "authorization" | "x-api-key" | "api-key" | "cookie")
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    #[test]
    fn a_request_loses_what_is_hop_by_hop_or_not_the_clients_to_say() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Secret"),
            ("connection", "keep-alive"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic x"),
            ("te", "trailers"),
            ("trailer", "x"),
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
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let passes = passes_upstream(&headers);
        let mut kept: Vec<_> = headers.keys().filter(|name| passes(name)).map(HeaderName::as_str).collect();
        kept.sort_unstable();
        assert_eq!(kept, ["traceparent", "x-request-id"]);
    }
}
