//! Turns an upstream's answer into ours.

use std::rc::Rc;
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER,
};
use bytes::Bytes;
use nebula_core::clock::Clock;
use nebula_dialect::words::presentable;
use nebula_dialect::{Adapter, Answer, Passing, Told, Whole};
use nebula_relay::{Broken, End, Filter, Incoming, Unfinished, Upstream};

use crate::domain::route::{InflightGuard, Route};
use crate::http::error::{NOT_READY_RETRY_SECS, OpenAiError, error_body};

use super::Worker;
use super::entry::Facts;
use super::outcome::{Attempt, OutcomeKind};
use super::request_id::REQUEST_ID;

/// Largest error body that is looked at, in bytes.
const ERROR_BODY_MAX: usize = 64 * 1024;
/// How long an upstream may take for an error body.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer that is translated as a whole, in bytes.
const WHOLE_MAX: usize = 64 * 1024 * 1024;
/// Longest line of an event stream, in bytes.
const LINE_MAX: usize = 16 * 1024 * 1024;

/// Tells proxies such as nginx to pass events at once.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What is known of the call when its answer comes.
pub(crate) struct Answering<'a> {
    pub(crate) worker: &'a Worker,
    pub(crate) route: &'a Route,
    pub(crate) adapter: &'static dyn Adapter,
    /// What becomes of a good answer.
    pub(crate) wanted: Answer,
    /// Held until the body has ended.
    pub(crate) place: InflightGuard,
    /// Told how it went, when that is known.
    pub(crate) attempt: Attempt,
    /// What the answer's head says of the replica.
    pub(crate) kind: Option<OutcomeKind>,
    pub(crate) facts: Rc<Facts>,
}

/// The response to the client.
pub(crate) async fn answer(
    upstream: Upstream,
    answering: Answering<'_>,
) -> Result<HttpResponse, OpenAiError> {
    let status = upstream.status;
    if status.is_success() {
        return good(upstream, answering).await;
    }
    answering.attempt.ended(answering.kind);
    refused(upstream, answering.adapter, &answering.route.name).await
}

/// The response to the client of an answer that is no good one, for a model of this name.
pub(crate) async fn refused(
    upstream: Upstream,
    adapter: &dyn Adapter,
    model: &str,
) -> Result<HttpResponse, OpenAiError> {
    let status = upstream.status;
    if upstream.proxy_error.is_some() {
        return Err(proxy_error(status, model));
    }
    if status.is_client_error() || status.is_server_error() {
        return Ok(error_answer(upstream, adapter).await);
    }
    Err(OpenAiError::Upstream)
}

async fn good(upstream: Upstream, answering: Answering<'_>) -> Result<HttpResponse, OpenAiError> {
    let Answer::Whole(whole) = answering.wanted else { return Ok(relayed(upstream, answering)) };
    let idle_timeout = answering.worker.gateway.limits.upstream_idle_timeout;
    let translated =
        translated(upstream, &*whole, &answering.facts, &answering.worker.gateway.clock, idle_timeout).await;
    answering.attempt.ended(Some(match &translated {
        Ok(_) => OutcomeKind::Ok,
        Err(OpenAiError::UpstreamTimeout) => OutcomeKind::Timeout,
        Err(_) => OutcomeKind::ServerError,
    }));
    translated
}

/// What the client hears when the node's proxy answered instead of the replica.
fn proxy_error(status: StatusCode, model: &str) -> OpenAiError {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND | StatusCode::SERVICE_UNAVAILABLE => {
            OpenAiError::NotReady(model.to_owned())
        }
        StatusCode::GATEWAY_TIMEOUT => OpenAiError::UpstreamTimeout,
        _ => OpenAiError::Upstream,
    }
}

/// An answer that is read to its end and told in other words.
async fn translated(
    mut upstream: Upstream,
    whole: &dyn Whole,
    facts: &Facts,
    clock: &Clock,
    idle_timeout: Duration,
) -> Result<HttpResponse, OpenAiError> {
    facts.byte_came(clock);
    let mut response = response(&mut upstream);
    let body = upstream.collect(WHOLE_MAX, idle_timeout).await.map_err(|error| match error {
        nebula_relay::UpstreamError::Timeout => OpenAiError::UpstreamTimeout,
        _ => OpenAiError::Upstream,
    })?;
    let (body, tally) = whole.translate(&body).ok_or(OpenAiError::Upstream)?;
    facts.tally.set(tally);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response.set_body(body).map_into_boxed_body())
}

/// An answer that passes while it comes.
fn relayed(mut upstream: Upstream, answering: Answering<'_>) -> HttpResponse {
    let Answering { worker, route, wanted, place, attempt, facts, .. } = answering;
    let limits = &worker.gateway.limits;
    let mut response = response(&mut upstream);
    let is_stream = upstream.incoming() == Incoming::Events;
    let mut body = upstream.relay(limits.upstream_idle_timeout, broken_event);
    if let Answer::Passing(passing) = wanted {
        let (facts, clock) = (Rc::clone(&facts), worker.gateway.clock);
        body = body.filtered(Box::new(Watched { passing, facts, clock }));
    }
    let body = body.line_limit(LINE_MAX).keepalive(limits.keepalive);
    if body.events_out() {
        let headers = response.headers_mut();
        if !is_stream {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        }
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    }
    let (route, replica) = (route.deployment_id, place.endpoint().replica_id);
    let body = body.on_end(move |end| {
        let kind = match end {
            End::Whole => Some(OutcomeKind::Ok),
            End::Abandoned | End::Broken(Broken::Unfinished | Broken::TooLong) => None,
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
        attempt.ended(kind);
        facts.end.set(Some(end));
        drop(place);
    });
    response.set_body(body).map_into_boxed_body()
}

/// Lets an answer pass through its adapter and notes what the ledger wants to know of it.
struct Watched {
    passing: Box<dyn Passing>,
    facts: Rc<Facts>,
    clock: Clock,
}

impl Filter for Watched {
    fn begin(&mut self, incoming: Incoming) -> bool {
        self.passing.begin(match incoming {
            Incoming::Events => nebula_dialect::Incoming::Events,
            Incoming::Other => nebula_dialect::Incoming::Other,
            Incoming::Opaque => nebula_dialect::Incoming::Opaque,
        })
    }

    fn pass(&mut self, data: Bytes) -> Bytes {
        self.facts.byte_came(&self.clock);
        let out = self.passing.pass(data);
        self.facts.tally.set(self.passing.tally());
        out
    }

    fn finish(&mut self) -> Result<Bytes, Unfinished> {
        let last = self.passing.finish();
        self.facts.tally.set(self.passing.tally());
        last.map_err(|unfinished| Unfinished { told: unfinished.told })
    }
}

/// The event that ends a stream which broke.
fn broken_event(broken: Broken) -> Bytes {
    match broken {
        Broken::Upstream | Broken::Unfinished | Broken::TooLong => OpenAiError::Upstream.event(),
        Broken::Timeout => OpenAiError::UpstreamTimeout.event(),
    }
}

/// A response with the upstream's status and, moved out of it, its headers.
fn response(upstream: &mut Upstream) -> HttpResponse {
    let mut headers = std::mem::take(&mut upstream.headers);
    // Cross-origin access is ours to grant, and the id is ours or the client's.
    headers.retain(|name, _| !name.as_str().starts_with("access-control-") && *name != REQUEST_ID);
    let mut response = HttpResponse::new(upstream.status);
    *response.headers_mut() = headers;
    response
}

/// An upstream's error: as it came when it has the shape that clients know, else in that shape.
async fn error_answer(mut upstream: Upstream, adapter: &dyn Adapter) -> HttpResponse {
    let status = upstream.status;
    let response = response(&mut upstream);
    let encoded = upstream.incoming() == Incoming::Opaque;
    let body = upstream.collect(ERROR_BODY_MAX, ERROR_BODY_TIMEOUT);
    let body = tokio::time::timeout(ERROR_BODY_TIMEOUT, body).await.ok().and_then(Result::ok);
    let body = body.unwrap_or_default();
    let told = adapter.told(status.as_u16(), &body);
    let parsed = serde_json::from_slice::<serde_json::Value>(&body).ok();
    let known = parsed.as_ref().is_some_and(|value| value.get("error").is_some_and(|e| e.is_object()));
    if told.is_none() && !encoded && known {
        return response.set_body(body).map_into_boxed_body();
    }
    let ours = match &told {
        Some(told) => translated_error(told),
        None => wrapped(status, parsed.as_ref()),
    };
    let mut response = response.set_body(ours).map_into_boxed_body();
    if let Some(told) = told {
        *response.status_mut() = StatusCode::from_u16(told.status).unwrap_or(status);
        if told.retry && !response.headers().contains_key(RETRY_AFTER) {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(NOT_READY_RETRY_SECS));
        }
    }
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().remove(CONTENT_ENCODING);
    response
}

fn translated_error(told: &Told) -> Bytes {
    let message = presentable(&told.message).unwrap_or_else(|| answered_with(told.status));
    error_body(&message, told.kind, told.param, Some(told.code))
}

fn wrapped(status: StatusCode, body: Option<&serde_json::Value>) -> Bytes {
    let text = ["error", "message", "detail"].iter().find_map(|key| body?.get(key)?.as_str());
    let text = text.and_then(presentable).unwrap_or_else(|| answered_with(status.as_u16()));
    let (kind, code) = match status {
        StatusCode::TOO_MANY_REQUESTS => ("rate_limit_error", "rate_limit_exceeded"),
        status if status.is_server_error() => ("server_error", "upstream_error"),
        _ => ("invalid_request_error", "upstream_error"),
    };
    error_body(&text, kind, None, Some(code))
}

fn answered_with(status: u16) -> String {
    format!("The model's runtime answered with status {status}.")
}

#[cfg(test)]
mod tests {
    use super::*;

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
