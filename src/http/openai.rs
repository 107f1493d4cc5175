//! The gateway: OpenAI's API in front of the deployments' runtimes.
//!
//! A request is read, its model is found by a scan of the bytes ([`nebula_dialect::scan`], [`form`]), the caller is
//! let in or not ([`credential`]), and the request goes, in the words of the runtime ([`nebula_dialect::Adapter`]),
//! to the agent's proxy of the replica that the route picks ([`journey`], [`forward`]), whose answer streams back
//! ([`answer`]).
//! What it took is written once at the end ([`entry`]). Routes and keys come from tables that are published; no actor
//! is asked.

mod answer;
mod body;
mod cors;
mod credential;
mod entry;
mod form;
mod forward;
mod hold;
mod journey;
mod models;
mod outcome;
pub(super) mod ratelimit;
mod request_id;
mod target;
mod wakes;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::{ACCESS_CONTROL_REQUEST_METHOD, ALLOW, HeaderValue};
use actix_web::http::{ConnectionType, Method, Version};
use actix_web::{HttpRequest, HttpResponse, web};
use arc_swap::ArcSwap;
use nebula_core::clock::Clock;
use nebula_core::telemetry::LogFormat;
use nebula_core::telemetry::access::AccessLog;
use nebula_core::token::TokenHash;
use nebula_dialect::{Scan, Surface, scan};
use nebula_relay::{Client, Unread};
use tokio::sync::watch;

use crate::domain::key::{KeyTable, Limited, LiveKey, Permit};
use crate::domain::route::RouteTable;
use crate::domain::usage::Tallies;
use crate::http::error::OpenAiError;
use crate::metrics;

pub use cors::AllowOrigins;
pub use outcome::{Outcome, OutcomeKind, Outcomes};
pub use wakes::Wakes;

use credential::{Caller, Opened};
use entry::{Entry, Recorded};
use forward::{Admitted, ReplicaLines};
use hold::Holding;
use journey::Journey;
use outcome::RetryBudget;
use request_id::{REQUEST_ID, RequestId};
use target::Target;

/// Everything the gateway needs; clones share it.
#[derive(Clone)]
pub struct Gateway {
    /// The path before all of the gateway's, such as `/v1`.
    pub prefix: String,
    /// The routes, replaced as a whole.
    pub routes: Arc<ArcSwap<RouteTable>>,
    /// Changes with each replacement of the routes.
    pub routes_changed: watch::Receiver<u64>,
    /// The API keys, replaced as a whole.
    pub keys: Arc<ArcSwap<KeyTable>>,
    /// Where tokens are added up.
    pub usage: Arc<Tallies>,
    /// Where each request is logged, and in which form.
    pub access: (AccessLog, LogFormat),
    /// What the admin token hashes to.
    pub admin: TokenHash,
    /// Sizes and times.
    pub limits: Limits,
    /// Which origins may read responses.
    pub origins: AllowOrigins,
    /// Who hears how replicas do.
    pub outcomes: Outcomes,
    /// Who wakes deployments that sleep.
    pub wakes: Wakes,
    /// What the time is.
    pub clock: Clock,
}

/// Sizes and times.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest request body, in bytes.
    pub max_body_bytes: usize,
    /// To the first byte of an answer.
    pub upstream_timeout: Duration,
    /// Between two bytes of an answer.
    pub upstream_idle_timeout: Duration,
    /// How long a request waits for a deployment that is starting.
    pub hold: Duration,
    /// After so much silence in a stream a comment is sent; zero: never.
    pub keepalive: Duration,
}

/// The gateway on one worker thread.
struct Worker {
    gateway: Gateway,
    /// The prefix without a slash at its end.
    prefix: String,
    client: Client,
    budget: RetryBudget,
    ledger: Rc<Ledger>,
    holding: Holding,
    lines: ReplicaLines,
}

/// Where entries are written.
struct Ledger {
    clock: Clock,
    usage: Arc<Tallies>,
    access: (AccessLog, LogFormat),
}

/// Adds the gateway to an `App`: everything under its prefix. Called once per worker thread.
///
/// The server must be built with `h1_allow_half_closed(false)`, else a client that leaves is not noticed.
pub fn configure(config: &mut web::ServiceConfig, gateway: Gateway) {
    let prefix = gateway.prefix.trim_end_matches('/').to_owned();
    let ledger = Rc::new(Ledger {
        clock: gateway.clock,
        usage: Arc::clone(&gateway.usage),
        access: gateway.access.clone(),
    });
    let holding = Holding::new(&gateway);
    let worker = Rc::new(Worker {
        gateway,
        prefix: prefix.clone(),
        client: Client::new(),
        budget: RetryBudget::new(),
        ledger,
        holding,
        lines: ReplicaLines::default(),
    });
    let handler =
        move |request: HttpRequest, payload: web::Payload| serve(Rc::clone(&worker), request, payload);
    config.service(web::scope(&prefix).default_service(web::to(handler)));
}

/// Answers any request under the prefix, and adds what every response carries.
async fn serve(
    worker: Rc<Worker>,
    request: HttpRequest,
    mut payload: web::Payload,
) -> HttpResponse<Recorded> {
    let id = RequestId::of(request.headers());
    let mut entry = Entry::begin(&worker.ledger, &request, id.client.clone());
    let is_preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let result = if is_preflight {
        Ok(cors::preflight(request.headers()))
    } else {
        dispatch(&worker, &request, &mut payload, id.upstream, &mut entry).await
    };
    let mut response =
        result.unwrap_or_else(|error| error.response().map_body(|_, body| Unread::keep(payload, body)));
    let headers = response.headers_mut();
    worker.gateway.origins.apply(request.headers(), headers);
    headers.insert(REQUEST_ID, id.client);
    if let Some(permit) = entry.permit() {
        ratelimit::tell(&permit.standing(worker.ledger.clock.now()), headers);
    }
    if request.version() < Version::HTTP_11 {
        // Such clients know no chunks: the end of the connection ends the body.
        response.head_mut().no_chunking(true);
        response.head_mut().set_connection_type(ConnectionType::Close);
    }
    let status = response.status().as_u16();
    response.map_body(|_, body| entry.over(status, body))
}

async fn dispatch(
    worker: &Rc<Worker>,
    request: &HttpRequest,
    payload: &mut web::Payload,
    request_id: HeaderValue,
    entry: &mut Entry,
) -> Result<HttpResponse, OpenAiError> {
    let path = request.uri().path().strip_prefix(&*worker.prefix).unwrap_or_default();
    let Some(target) = Target::of(path) else {
        let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
        return Err(OpenAiError::UnknownUrl { method, path });
    };
    entry.came_to(target.path());
    if !target.takes(request.method()) {
        let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
        return Err(OpenAiError::MethodNotAllowed { method, path, allow: target.allow() });
    }
    if request.method() == Method::OPTIONS {
        return Ok(HttpResponse::NoContent().insert_header((ALLOW, target.allow())).finish());
    }
    match target {
        Target::Surface(surface) => ask(worker, request, payload, request_id, surface, entry).await,
        Target::Models => Ok(models::list(&worker.gateway.routes.load(), &worker.caller(request))),
        Target::Model(model) => models::one(&worker.gateway.routes.load(), worker.caller(request), model),
    }
}

/// Reads a request for a model, lets its caller in and has it answered.
async fn ask(
    worker: &Rc<Worker>,
    request: &HttpRequest,
    payload: &mut web::Payload,
    request_id: HeaderValue,
    surface: Surface,
    entry: &mut Entry,
) -> Result<HttpResponse, OpenAiError> {
    let limits = &worker.gateway.limits;
    let body = body::read(request, payload, limits.max_body_bytes, &worker.ledger.clock).await?;
    let scan: Scan =
        if surface.takes_form() { form::scan(request.headers(), &body)? } else { scan::scan(&body)? };
    entry.read(body.len(), scan.streams, scan.prompt_estimate);
    let opened = worker.caller(request).open(&worker.gateway.routes.load(), &scan.model)?;
    let Opened { route, fallback, sleeper, key } = opened;
    entry.let_in(&route, key.as_ref().map(|key| key.key.id));
    if let Some(key) = key {
        entry.permitted(worker.permit(&key)?);
    }
    if let Some(sleeper) = sleeper {
        worker.gateway.wakes.wake(&sleeper, &worker.ledger.clock);
    }
    let request = request.clone();
    let admitted = Admitted { request, request_id, surface, body, scan, facts: Rc::clone(entry.facts()) };
    Journey::new(admitted, route, fallback).end(worker).await
}

impl Worker {
    fn caller(&self, request: &HttpRequest) -> Caller {
        let gateway = &self.gateway;
        let (routes, keys) = (gateway.routes.load(), gateway.keys.load());
        Caller::of(request.headers(), &gateway.admin, &routes, &keys, self.ledger.clock.wall())
    }

    /// A place among the requests of a key, if its limits leave one.
    fn permit(&self, key: &Arc<LiveKey>) -> Result<Permit, OpenAiError> {
        key.admit(self.ledger.clock.now(), self.ledger.clock.wall()).map_err(|limited| {
            metrics::gateway().limited(match &limited {
                Limited::Rate { what, .. } => what.as_str(),
                Limited::Budget => "budget",
            });
            OpenAiError::Limited(Box::new(limited))
        })
    }
}
