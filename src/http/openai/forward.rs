//! Sends a request to a replica, and to another when that one did not take it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

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
use super::answer::{Answering, answer, refused};
use super::entry::Facts;
use super::outcome::{OutcomeKind, Retry, Tries, Verdict};
use super::request_id::REQUEST_ID;

/// Most replicas for which header lines are kept on one thread.
const REPLICA_LINES_MAX: usize = 4096;

const DEPLOYMENT: HeaderName = HeaderName::from_static("x-nebula-deployment");
const REPLICA: HeaderName = HeaderName::from_static("x-nebula-replica");

/// How long the table may lag behind a proxy that says that its replica is going, until the answer stands.
const NEWS_WAIT: Duration = Duration::from_millis(500);

/// A request that has been let in.
pub(crate) struct Admitted {
    pub(crate) request: HttpRequest,
    /// What the upstream gets as the request's id.
    pub(crate) request_id: HeaderValue,
    pub(crate) surface: Surface,
    pub(crate) body: Bytes,
    /// What the body says.
    pub(crate) scan: Scan,
    /// What is learnt on the way.
    pub(crate) facts: Rc<Facts>,
}

/// The route by which a request goes, and what was tried.
pub(crate) struct Way {
    pub(crate) route: Arc<Route>,
    /// Of this route's endpoints.
    tried: Vec<ReplicaId>,
    tries: Tries,
}

/// A request that no replica has taken.
pub(crate) struct Untaken {
    /// What the last one answered, if any was asked.
    last: Option<Result<Upstream, UpstreamError>>,
    /// A replica of another deployment may take it.
    pub(crate) elsewhere: bool,
    /// Nothing was done to it: it may also wait for a replica.
    pub(crate) untouched: bool,
}

/// How it went.
pub(crate) enum Forwarded {
    /// So, and that stands.
    Answered(Result<HttpResponse, OpenAiError>),
    /// Nobody took it, and nothing has gone to the client.
    Untaken(Untaken),
}

/// Calls replicas until one has taken the request; nothing has gone to the client before. When all that are known have
/// been asked, those are that came since: a change may have replaced them.
pub(crate) async fn forward(worker: &Worker, admitted: &Admitted, way: &mut Way) -> Forwarded {
    loop {
        match over_route(worker, admitted, way).await {
            Ok(None) => {}
            Ok(Some(forwarded)) => return forwarded,
            Err(error) => return Forwarded::Answered(Err(error)),
        }
    }
}

/// The same by one version of the route; none when there is another by now.
async fn over_route(
    worker: &Worker,
    admitted: &Admitted,
    way: &mut Way,
) -> Result<Option<Forwarded>, OpenAiError> {
    let adapter = adapter(way.route.runtime);
    let Outgoing { path, body, answer: wanted } =
        adapter.outgoing(&asked(admitted, &way.route)).map_err(OpenAiError::Refused)?;
    let pick = Pick { random: rand::random(), affinity: affinity(admitted, &way.route) };
    let mut last = None;
    while let Some(place) = way.route.take(&way.tried, pick) {
        let route = &*way.route;
        let replica = place.endpoint().replica_id;
        way.tried.push(replica);
        admitted.facts.asks(replica, &place.endpoint().node_id);
        let call = call(worker, admitted, &way.route, path, &body, place.endpoint())?;
        let result = worker.client.send(call).await;
        let Verdict { kind, retry } = match &result {
            Ok(upstream) => Verdict::of_answer(upstream),
            Err(error) => Verdict::of_error(error),
        };
        log(route, &place, &result);
        let attempt = worker.gateway.outcomes.attempt(route.deployment_id, replica);
        let late = kind == Some(OutcomeKind::Timeout);
        let result = match result {
            Ok(upstream) if retry == Retry::No && !late => {
                let facts = Rc::clone(&admitted.facts);
                let answering = Answering { worker, route, adapter, wanted, place, attempt, kind, facts };
                return Ok(Some(Forwarded::Answered(answer(upstream, answering).await)));
            }
            result => result,
        };
        attempt.ended(kind);
        drop(place);
        let more = way.tries.may_go_on(retry);
        let next = if more { way.next(worker, retry).await } else { Next::Nobody };
        if next == Next::Nobody || !worker.budget.pay(retry) {
            let elsewhere = late || retry != Retry::No && way.tries.may_break();
            let untouched = matches!(retry, Retry::Another | Retry::NotTaken);
            last = Some(result);
            return Ok(Some(Forwarded::Untaken(Untaken { last, elsewhere, untouched })));
        }
        metrics::gateway().retried();
        if next == Next::Renewed {
            return Ok(None);
        }
    }
    Ok(Some(Forwarded::Untaken(Untaken { last, elsewhere: true, untouched: true })))
}

/// Who can be asked next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Another replica of the route as it is known.
    Known,
    /// One of the route as it is by now.
    Renewed,
    Nobody,
}

impl Way {
    /// Nothing was tried.
    pub(crate) fn by(route: Arc<Route>) -> Self {
        Self { route, tried: Vec::new(), tries: Tries::default() }
    }

    /// The request goes by the same deployment's route, whose replicas have come since.
    pub(crate) fn turn_to(&mut self, route: Arc<Route>) {
        self.route = route;
        self.tried.clear();
    }

    /// The request goes by another deployment's route.
    pub(crate) fn turn_away_to(&mut self, route: Arc<Route>) {
        self.tries = self.tries.elsewhere();
        self.turn_to(route);
    }

    async fn next(&mut self, worker: &Worker, retry: Retry) -> Next {
        // Who is said to be going may be one of several that go.
        if retry != Retry::NotTaken && self.has_more() {
            return Next::Known;
        }
        let mut changes = worker.holding.changes();
        let mut next = self.renewed(worker);
        if next == Next::Nobody && retry == Retry::NotTaken {
            let news = async {
                while next == Next::Nobody
                    && !self.route.endpoints.is_empty()
                    && changes.changed().await.is_ok()
                {
                    next = self.renewed(worker);
                }
            };
            let _ = tokio::time::timeout(NEWS_WAIT, news).await;
        }
        next
    }

    /// Takes the route as it is published now.
    fn renewed(&mut self, worker: &Worker) -> Next {
        let table = worker.gateway.routes.load();
        let Some(new) = table.by_id(self.route.deployment_id).filter(|new| !Arc::ptr_eq(new, &self.route))
        else {
            return if self.has_more() { Next::Known } else { Next::Nobody };
        };
        let old = std::mem::replace(&mut self.route, Arc::clone(new));
        // One that was started again is another endpoint.
        self.tried.retain(|id| {
            let of =
                |route: &Route| route.endpoints.iter().find(|endpoint| endpoint.replica_id == *id).cloned();
            matches!((of(&old), of(new)), (Some(old), Some(new)) if Arc::ptr_eq(&old, &new))
        });
        if self.has_more() { Next::Renewed } else { Next::Nobody }
    }

    fn has_more(&self) -> bool {
        self.tried.len() < self.route.endpoints.len()
    }
}

impl Untaken {
    /// What the client hears if it stays so.
    pub(crate) async fn told(self, admitted: &Admitted, route: &Route) -> Result<HttpResponse, OpenAiError> {
        match self.last {
            None => Err(OpenAiError::NotReady(admitted.scan.model.clone())),
            Some(Err(error)) => Err(told(&error)),
            Some(Ok(upstream)) => refused(upstream, adapter(route.runtime), &admitted.scan.model).await,
        }
    }
}

fn asked<'a>(admitted: &'a Admitted, route: &'a Route) -> Asked<'a> {
    Asked {
        surface: admitted.surface,
        body: &admitted.body,
        scan: &admitted.scan,
        served_name: &route.served_name,
        nonce: rand::random(),
    }
}

/// What requests have in common that should meet the same replica, where the route wants that.
fn affinity(admitted: &Admitted, route: &Route) -> Option<u64> {
    (route.balance == Balance::Prefix).then(|| admitted.scan.affinity(&admitted.body))
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
    route: &Arc<Route>,
    path: &str,
    body: &Bytes,
    endpoint: &'a Endpoint,
) -> Result<Call<'a>, OpenAiError> {
    let lines = worker.lines.of(route, endpoint.replica_id)?;
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
