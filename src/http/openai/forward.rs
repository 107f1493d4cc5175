//! Sends a request to a replica, and to another when that one did not take it.

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::http::Method;
use actix_web::http::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use nebula_core::ids::ReplicaId;
use nebula_relay::{Call, CallBody, UpstreamError, forward_request_headers};

use crate::domain::route::{Endpoint, InflightGuard, Route};
use crate::http::error::OpenAiError;

use super::answer::{Answering, answer};
use super::outcome::{Outcome, Verdict};
use super::{Surface, Worker};

/// Most replicas that are asked for one request.
const REPLICAS_MAX: usize = 3;

const DEPLOYMENT: HeaderName = HeaderName::from_static("x-nebula-deployment");
const REPLICA: HeaderName = HeaderName::from_static("x-nebula-replica");

/// A request that has been let in.
pub(crate) struct Admitted<'a> {
    pub(crate) request: &'a HttpRequest,
    pub(crate) request_id: &'a HeaderValue,
    pub(crate) surface: &'static Surface,
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
            Ok(upstream) => Verdict::of_answer(upstream),
            Err(error) => Verdict::of_error(error),
        };
        report(worker, route, &place, verdict, result.as_ref().err());
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

fn report(
    worker: &Worker,
    route: &Route,
    place: &InflightGuard,
    verdict: Verdict,
    error: Option<&UpstreamError>,
) {
    let endpoint = place.endpoint();
    if let Some(error) = error {
        tracing::warn!(
            deployment_id = %route.deployment_id,
            replica_id = %endpoint.replica_id,
            node_id = %endpoint.node_id,
            %error,
            "upstream call failed"
        );
    }
    let (route, replica) = (route.deployment_id, endpoint.replica_id);
    worker.gateway.outcomes.report(Outcome { route, replica, kind: verdict.kind });
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
    let mut path_and_query = admitted.surface.upstream.to_owned();
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
