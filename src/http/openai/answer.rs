//! Turns an upstream's answer into ours.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
};
use actix_web::{HttpResponse, HttpResponseBuilder};
use bytes::Bytes;
use nebula_dialect::Surface;
use nebula_relay::{Broken, End, PROXY_ERROR, Upstream, forward_response_headers};

use crate::domain::route::{InflightGuard, Route};
use crate::http::error::{OpenAiError, error_body};

use super::Limits;
use super::outcome::{Outcome, OutcomeKind, Outcomes};

/// Largest error body that is looked at, in bytes.
const ERROR_BODY_MAX: usize = 64 * 1024;
/// How long an upstream may take for an error body.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest piece of an upstream's own text in an error of ours, in characters.
const TEXT_MAX: usize = 500;

/// Tells proxies such as nginx to pass events at once.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What is known of the call when its answer comes.
pub(crate) struct Answering<'a> {
    pub(crate) route: &'a Route,
    pub(crate) surface: Surface,
    /// Held until the body has ended.
    pub(crate) place: InflightGuard,
    pub(crate) outcomes: Outcomes,
    pub(crate) limits: &'a Limits,
}

/// The response to the client.
pub(crate) async fn answer(
    upstream: Upstream,
    answering: Answering<'_>,
) -> Result<HttpResponse, OpenAiError> {
    let status = upstream.status;
    if upstream.headers.contains_key(PROXY_ERROR) {
        return Err(proxy_error(status, answering.route));
    }
    if status.is_client_error() || status.is_server_error() {
        return Ok(error_answer(upstream).await);
    }
    if !status.is_success() {
        return Err(OpenAiError::Upstream);
    }
    Ok(relayed(upstream, answering))
}

/// What the client hears when the node's proxy answered instead of the replica.
fn proxy_error(status: StatusCode, route: &Route) -> OpenAiError {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND | StatusCode::SERVICE_UNAVAILABLE => {
            OpenAiError::NotReady(route.name.clone())
        }
        StatusCode::GATEWAY_TIMEOUT => OpenAiError::UpstreamTimeout,
        _ => OpenAiError::Upstream,
    }
}

fn relayed(upstream: Upstream, answering: Answering<'_>) -> HttpResponse {
    let mut response = builder(upstream.status, &upstream.headers);
    if upstream.is_event_stream() {
        response.insert_header((CACHE_CONTROL, "no-cache"));
        response.insert_header((ACCEL_BUFFERING, "no"));
    }
    let Answering { route, surface, place, outcomes, limits } = answering;
    let (route, replica) = (route.deployment_id, place.endpoint().replica_id);
    let event = if surface.ends_with_done() { any_break } else { real_break };
    let body = upstream.relay(limits.upstream_idle_timeout, event).on_end(move |end| {
        let kind = match end {
            End::Whole | End::Abandoned | End::Broken(Broken::Unfinished) => None,
            End::Broken(Broken::Upstream) => Some(OutcomeKind::ServerError),
            End::Broken(Broken::Timeout) => Some(OutcomeKind::Timeout),
        };
        match end {
            End::Whole => {}
            End::Abandoned => tracing::debug!(deployment_id = %route, replica_id = %replica, "client left"),
            End::Broken(reason) => {
                tracing::warn!(deployment_id = %route, replica_id = %replica, ?reason, "answer broke");
            }
        }
        if let Some(kind) = kind {
            outcomes.report(Outcome { route, replica, kind });
        }
        drop(place);
    });
    response.body(body)
}

/// The event that ends a stream which `[DONE]` should have ended.
fn any_break(broken: Broken) -> Bytes {
    match broken {
        Broken::Upstream | Broken::Unfinished => OpenAiError::Upstream.event(),
        Broken::Timeout => OpenAiError::UpstreamTimeout.event(),
    }
}

/// The same for streams that have another last event, where a missing `[DONE]` says nothing.
fn real_break(broken: Broken) -> Bytes {
    match broken {
        Broken::Unfinished => Bytes::new(),
        Broken::Upstream | Broken::Timeout => any_break(broken),
    }
}

fn builder(status: StatusCode, headers: &HeaderMap) -> HttpResponseBuilder {
    let mut response = HttpResponse::build(status);
    for (name, value) in &forward_response_headers(headers) {
        // Cross-origin access is ours to grant, and the id is ours or the client's.
        if !name.as_str().starts_with("access-control-") && *name != super::REQUEST_ID {
            response.append_header((name.clone(), value.clone()));
        }
    }
    response
}

/// An upstream's error: as it came when it has the shape that clients know, else in that shape.
async fn error_answer(upstream: Upstream) -> HttpResponse {
    let status = upstream.status;
    let mut response = builder(status, &upstream.headers);
    let encoded = upstream.headers.contains_key(CONTENT_ENCODING);
    let body = upstream.collect(ERROR_BODY_MAX, ERROR_BODY_TIMEOUT);
    let body = tokio::time::timeout(ERROR_BODY_TIMEOUT, body).await.ok().and_then(Result::ok);
    let body = body.unwrap_or_default();
    let parsed = serde_json::from_slice::<serde_json::Value>(&body).ok();
    if !encoded && parsed.as_ref().is_some_and(|value| value.get("error").is_some_and(|e| e.is_object())) {
        return response.body(body);
    }
    let mut response = response.body(wrapped(status, parsed.as_ref()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().remove(CONTENT_ENCODING);
    response
}

fn wrapped(status: StatusCode, body: Option<&serde_json::Value>) -> Bytes {
    let text = ["error", "message", "detail"]
        .iter()
        .find_map(|key| body?.get(key)?.as_str())
        .filter(|text| is_presentable(text))
        .map(|text| text.chars().take(TEXT_MAX).collect())
        .unwrap_or_else(|| format!("The model's runtime answered with status {}.", status.as_u16()));
    let (kind, code) = match status {
        StatusCode::TOO_MANY_REQUESTS => ("rate_limit_error", "rate_limit_exceeded"),
        status if status.is_server_error() => ("server_error", "upstream_error"),
        _ => ("invalid_request_error", "upstream_error"),
    };
    error_body(&text, kind, None, Some(code))
}

/// Whether a runtime's own words hold nothing that looks like an address.
fn is_presentable(text: &str) -> bool {
    let looks_like_an_address = |word: &str| {
        let word = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        let host = word.split_once(':').map_or(word, |(host, _)| host);
        host == "localhost" || host.parse::<std::net::Ipv4Addr>().is_ok()
    };
    !text.contains("://")
        && !text
            .split(|c: char| c.is_whitespace() || matches!(c, '(' | ')' | '\'' | '"' | ',' | '='))
            .any(looks_like_an_address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_not_passed_on() {
        for text in
            ["GET http://10.0.0.1/x failed", "connect to 127.0.0.1:30001: refused", "host='localhost'"]
        {
            assert!(!is_presentable(text), "{text}");
        }
        assert!(is_presentable("version 1.2.3 of the model: too long (max. 4096 tokens)"));
    }

    #[test]
    fn a_foreign_error_is_put_into_the_known_shape() {
        let body = serde_json::json!({"error": "model is loading"});
        let wrapped = wrapped(StatusCode::SERVICE_UNAVAILABLE, Some(&body));
        assert_eq!(
            serde_json::from_slice::<serde_json::Value>(&wrapped).expect("JSON"),
            serde_json::json!({"error": {"message": "model is loading", "type": "server_error", "param": null,
                "code": "upstream_error"}})
        );
    }
}
