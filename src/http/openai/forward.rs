//! Sends a request to a replica, and to another when that one did not take it.

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::http::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use bytes::Bytes;
use nebula_core::ids::ReplicaId;
use nebula_dialect::Surface;
use nebula_relay::{Call, CallBody, PROXY_ERROR, Upstream, UpstreamError, forward_request_headers};

use crate::domain::route::{Endpoint, InflightGuard, Route};
use crate::http::error::OpenAiError;

use super::Worker;
use super::answer::{Answering, answer};
use super::outcome::{Outcome, Verdict};

/// Most replicas that are asked for one request.
const REPLICAS_MAX: usize = 3;

const DEPLOYMENT: HeaderName = HeaderName::from_static("x-nebula-deployment");
const REPLICA: HeaderName = HeaderName::from_static("x-nebula-replica");

/// A request that has been let in.
pub(crate) struct Admitted<'a> {
    pub(crate) request: &'a HttpRequest,
    /// What the upstream gets as the request's id.
    pub(crate) request_id: &'a HeaderValue,
    pub(crate) surface: Surface,
    pub(crate) route: &'a Route,
    pub(crate) body: Bytes,
}

/// Calls replicas until one has taken the request; nothing has gone to the client before.
pub(crate) async fn forward(worker: &Worker, admitted: Admitted<'_>) -> Result<HttpResponse, OpenAiError> {
    let route = admitted.route;
    let headers = shared_headers(&admitted)?;
    let replicas = route.endpoints.len().min(REPLICAS_MAX);
    let mut tried: Vec<ReplicaId> = Vec::with_capacity(replicas);
    let mut failure = OpenAiError::NotReady(route.name.clone());
    worker.budget.earn();
    while tried.len() < replicas {
        let Some(place) = route.take(&tried, rand::random()) else { break };
        tried.push(place.endpoint().replica_id);
        let others = tried.len() < replicas;
        let result = worker.client.send(call(worker, &admitted, &headers, place.endpoint())).await;
        let verdict = match &result {
            Ok(upstream) => Verdict::of_answer(upstream, admitted.surface),
            Err(error) => Verdict::of_error(error, admitted.surface),
        };
        log(route, &place, &result);
        let (id, replica) = (route.deployment_id, place.endpoint().replica_id);
        worker.gateway.outcomes.report(Outcome { route: id, replica, kind: verdict.kind });
        match result {
            Ok(upstream) => {
                if !(others && worker.budget.allows(verdict.retry)) {
                    let outcomes = worker.gateway.outcomes.clone();
                    let limits = &worker.gateway.limits;
                    let answering = Answering { route, surface: admitted.surface, place, outcomes, limits };
                    return answer(upstream, answering).await;
                }
                failure = OpenAiError::Upstream;
            }
            Err(error) => {
                failure = told(&error);
                if !(others && worker.budget.allows(verdict.retry)) {
                    break;
                }
            }
        }
    }
    Err(failure)
}

/// What the client hears of a call without an answer.
fn told(error: &UpstreamError) -> OpenAiError {
    match error {
        UpstreamError::Timeout => OpenAiError::UpstreamTimeout,
        UpstreamError::Connect(_) | UpstreamError::Broken(_) | UpstreamError::Request(_) => {
            OpenAiError::Upstream
        }
    }
}

/// Tells operators of what is neither the client's fault nor the runtime's own answer.
fn log(route: &Route, place: &InflightGuard, result: &Result<Upstream, UpstreamError>) {
    let (deployment_id, endpoint) = (&route.deployment_id, place.endpoint());
    let (replica_id, node_id) = (&endpoint.replica_id, &endpoint.node_id);
    match result {
        Err(error) => {
            tracing::warn!(%deployment_id, %replica_id, %node_id, %error, "upstream call failed");
        }
        Ok(upstream) => {
            let Some(code) = upstream.headers.get(PROXY_ERROR) else { return };
            let (status, code) = (upstream.status.as_u16(), code.to_str().unwrap_or("unreadable"));
            // The proxy does not know what we know to be there, or does not trust us: waiting cures neither.
            if [StatusCode::UNAUTHORIZED, StatusCode::NOT_FOUND].contains(&upstream.status) {
                tracing::warn!(%deployment_id, %replica_id, %node_id, status, code, "node's proxy refused a request");
            } else {
                tracing::debug!(%deployment_id, %replica_id, %node_id, status, code, "node's proxy answered itself");
            }
        }
    }
}

/// The headers that every replica gets: the client's, without its credential, and ours.
fn shared_headers(admitted: &Admitted<'_>) -> Result<HeaderMap, OpenAiError> {
    let mut headers = forward_request_headers(admitted.request.headers());
    // Streams are watched for their end, so they must be readable.
    headers.remove(ACCEPT_ENCODING);
    let credential = format!("Bearer {}", admitted.route.gateway_token.expose());
    let mut credential = HeaderValue::from_str(&credential).map_err(|_| OpenAiError::Upstream)?;
    credential.set_sensitive(true);
    headers.insert(AUTHORIZATION, credential);
    headers.insert(DEPLOYMENT, text(&admitted.route.deployment_id.to_string())?);
    headers.insert(super::REQUEST_ID, admitted.request_id.clone());
    Ok(headers)
}

fn text(value: &str) -> Result<HeaderValue, OpenAiError> {
    HeaderValue::from_str(value).map_err(|_| OpenAiError::Upstream)
}

fn call(worker: &Worker, admitted: &Admitted<'_>, headers: &HeaderMap, endpoint: &Endpoint) -> Call {
    let mut headers = headers.clone();
    if let Ok(replica) = text(&endpoint.replica_id.to_string()) {
        headers.insert(REPLICA, replica);
    }
    let mut path_and_query = admitted.surface.upstream().to_owned();
    if let Some(query) = admitted.request.uri().query() {
        path_and_query.push('?');
        path_and_query.push_str(query);
    }
    Call {
        method: Method::POST,
        address: endpoint.address.clone(),
        path_and_query,
        headers,
        body: CallBody::Bytes(admitted.body.clone()),
        first_byte_timeout: worker.gateway.limits.upstream_timeout,
    }
}
