//! Sends a request to a replica, and to another when that one did not take it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use actix_web::http::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use nebula_core::ids::ReplicaId;
use nebula_dialect::{Asked, Outgoing, Scan, Surface, adapter};
use nebula_relay::{Call, CallBody, HeaderLines, IllegalValue, RequestHead, Upstream, UpstreamError};

use crate::domain::route::{Balance, Endpoint, InflightGuard, Pick, Route};
use crate::http::error::OpenAiError;
use crate::metrics;

use super::Worker;
use super::answer::{Answering, answer};
use super::entry::Facts;
use super::outcome::{Tries, Verdict};
use super::request_id::REQUEST_ID;

/// Most replicas for which header lines are kept on one thread.
const REPLICA_LINES_MAX: usize = 4096;

const DEPLOYMENT: HeaderName = HeaderName::from_static("x-nebula-deployment");
const REPLICA: HeaderName = HeaderName::from_static("x-nebula-replica");

/// A request that has been let in.
pub(crate) struct Admitted {
    pub(crate) request: HttpRequest,
    /// What the upstream gets as the request's id.
    pub(crate) request_id: HeaderValue,
    pub(crate) surface: Surface,
    pub(crate) route: Arc<Route>,
    pub(crate) body: Bytes,
    /// What the body says.
    pub(crate) scan: Scan,
    /// What is learnt on the way.
    pub(crate) facts: Rc<Facts>,
}

/// Calls replicas until one has taken the request; nothing has gone to the client before.
pub(crate) async fn forward(worker: &Worker, admitted: Admitted) -> Result<HttpResponse, OpenAiError> {
    let route = &*admitted.route;
    let adapter = adapter(route.runtime);
    let Outgoing { path, body, answer: wanted } =
        adapter.outgoing(&asked(&admitted)).map_err(OpenAiError::Refused)?;
    let pick = Pick { random: rand::random(), affinity: affinity(&admitted) };
    let mut tried: Vec<ReplicaId> = Vec::new();
    let mut tries = Tries::default();
    let mut failure = OpenAiError::NotReady(route.name.clone());
    worker.budget.earn();
    while let Some(place) = route.take(&tried, pick) {
        let replica = place.endpoint().replica_id;
        tried.push(replica);
        admitted.facts.asks(replica, &place.endpoint().node_id);
        let others = tried.len() < route.endpoints.len();
        let call = call(worker, &admitted, path, &body, place.endpoint())?;
        let result = worker.client.send(call).await;
        let verdict = match &result {
            Ok(upstream) => Verdict::of_answer(upstream),
            Err(error) => Verdict::of_error(error),
        };
        log(route, &place, &result);
        let attempt = worker.gateway.outcomes.attempt(route.deployment_id, replica);
        let again = others && tries.go_on(verdict.retry, &worker.budget);
        match result {
            Ok(upstream) if !again => {
                let facts = Rc::clone(&admitted.facts);
                let kind = verdict.kind;
                let answering = Answering { worker, route, adapter, wanted, place, attempt, kind, facts };
                return answer(upstream, answering).await;
            }
            Ok(_) => {
                attempt.ended(verdict.kind);
                failure = OpenAiError::Upstream;
            }
            Err(error) => {
                attempt.ended(verdict.kind);
                failure = told(&error);
                if !again {
                    break;
                }
            }
        }
        metrics::gateway().retried();
    }
    Err(failure)
}

fn asked(admitted: &Admitted) -> Asked<'_> {
    Asked {
        surface: admitted.surface,
        body: &admitted.body,
        scan: &admitted.scan,
        served_name: &admitted.route.served_name,
        nonce: rand::random(),
    }
}

/// What requests have in common that should meet the same replica, where the route wants that.
fn affinity(admitted: &Admitted) -> Option<u64> {
    (admitted.route.balance == Balance::Prefix).then(|| admitted.scan.affinity(&admitted.body))
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
            let Some(code) = &upstream.proxy_error else { return };
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

/// The route for which lines were made, and the lines.
type Made = (Arc<Route>, Rc<HeaderLines>);

/// The header lines that are the same in every request to a replica: made once for each route and replica.
#[derive(Default)]
pub(crate) struct ReplicaLines(RefCell<HashMap<ReplicaId, Made>>);

impl ReplicaLines {
    /// The lines for a replica of a route as it is published now.
    fn of(&self, route: &Arc<Route>, replica: ReplicaId) -> Result<Rc<HeaderLines>, OpenAiError> {
        let mut known = self.0.borrow_mut();
        if let Some((of, lines)) = known.get(&replica)
            && Arc::ptr_eq(of, route)
        {
            return Ok(Rc::clone(lines));
        }
        if known.len() >= REPLICA_LINES_MAX {
            known.clear();
        }
        let lines = Rc::new(lines(route, replica).map_err(|_| OpenAiError::Upstream)?);
        known.insert(replica, (Arc::clone(route), Rc::clone(&lines)));
        Ok(lines)
    }
}

fn lines(route: &Route, replica: ReplicaId) -> Result<HeaderLines, IllegalValue> {
    let credential = format!("Bearer {}", route.gateway_token.expose());
    let lines = HeaderLines::default().text(&AUTHORIZATION, &credential)?;
    lines.text(&DEPLOYMENT, &route.deployment_id.to_string())?.text(&REPLICA, &replica.to_string())
}

fn call<'a>(
    worker: &Worker,
    admitted: &Admitted,
    path: &str,
    body: &Bytes,
    endpoint: &'a Endpoint,
) -> Result<Call<'a>, OpenAiError> {
    let lines = worker.lines.of(&admitted.route, endpoint.replica_id)?;
    // Streams are watched for their end, so they must be readable.
    let ours = |name: &HeaderName| [ACCEPT_ENCODING, REQUEST_ID].contains(name);
    let head = RequestHead::new(&Method::POST, path, admitted.request.uri().query())
        .lines(&lines)
        .header(&REQUEST_ID, &admitted.request_id)
        .forward(admitted.request.headers(), ours);
    let body = CallBody::Bytes(body.clone());
    let first_byte_timeout = worker.gateway.limits.upstream_timeout;
    Ok(Call { address: &endpoint.address, head, body, first_byte_timeout })
}
