//! The gateway: OpenAI's API in front of the deployments' runtimes.
//!
//! A request is read, its model is found by a scan of the bytes ([`nebula_dialect::scan`], [`form`]), the caller is let in or not
//! ([`credential`]), and the bytes go to the agent's proxy of the least busy replica ([`forward`]), whose answer
//! streams back ([`answer`]). Routes come from the table that the router publishes; no actor is asked.

mod answer;
mod body;
mod cors;
mod credential;
mod form;
mod forward;
mod models;
mod outcome;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::Method;
use actix_web::http::header::{ACCESS_CONTROL_REQUEST_METHOD, ALLOW, HeaderMap, HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use arc_swap::ArcSwap;
use nebula_core::token::TokenHash;
use nebula_dialect::{Surface, scan};
use nebula_relay::Client;
use uuid::Uuid;

use crate::domain::route::RouteTable;
use crate::http::error::OpenAiError;

pub use cors::AllowOrigins;
pub use outcome::{Outcome, OutcomeKind, Outcomes};

use credential::Caller;
use forward::{Admitted, forward};
use outcome::RetryBudget;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id that is taken from a client, in bytes.
const REQUEST_ID_MAX: usize = 128;

/// Everything the gateway needs; clones share it.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// The path before all of the gateway's, such as `/v1`.
    pub prefix: String,
    /// The routes, replaced as a whole.
    pub routes: Arc<ArcSwap<RouteTable>>,
    /// What the admin token hashes to.
    pub admin: TokenHash,
    /// Sizes and times.
    pub limits: Limits,
    /// Which origins may read responses.
    pub origins: AllowOrigins,
    /// Who hears how replicas do.
    pub outcomes: Outcomes,
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
}

/// What a path under the prefix means.
enum Target<'a> {
    Surface(Surface),
    Models,
    Model(&'a str),
}

impl<'a> Target<'a> {
    fn of(path: &'a str) -> Option<Self> {
        if let Some(surface) = Surface::at(path) {
            return Some(Self::Surface(surface));
        }
        match path.strip_prefix("/models")? {
            "" => Some(Self::Models),
            rest => rest.strip_prefix('/').filter(|model| !model.is_empty()).map(Self::Model),
        }
    }

    /// Its methods, as in `Allow`.
    fn allow(&self) -> &'static str {
        match self {
            Self::Surface(_) => "POST, OPTIONS",
            Self::Models | Self::Model(_) => "GET, HEAD, OPTIONS",
        }
    }

    fn takes(&self, method: &Method) -> bool {
        self.allow().split(", ").any(|allowed| allowed == method.as_str())
    }
}

/// The gateway on one worker thread.
struct Worker {
    gateway: Gateway,
    client: Client,
    budget: RetryBudget,
}

/// Adds the gateway to an `App`: everything under its prefix. Called once per worker thread.
///
/// The server must be built with `h1_allow_half_closed(false)`, else a client that leaves is not noticed.
pub fn configure(config: &mut web::ServiceConfig, gateway: Gateway) {
    let prefix = gateway.prefix.trim_end_matches('/').to_owned();
    let worker = Rc::new(Worker { gateway, client: Client::new(), budget: RetryBudget::full() });
    let handler =
        move |request: HttpRequest, payload: web::Payload| serve(Rc::clone(&worker), request, payload);
    config.service(web::scope(&prefix).default_service(web::to(handler)));
}

/// Answers any request under the prefix, and adds what every response carries.
async fn serve(worker: Rc<Worker>, request: HttpRequest, payload: web::Payload) -> HttpResponse {
    let id = RequestId::of(request.headers());
    let is_preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let result = if is_preflight {
        Ok(cors::preflight(request.headers()))
    } else {
        dispatch(&worker, &request, payload, &id.upstream).await
    };
    let mut response = result.unwrap_or_else(|error| error.response());
    tracing::debug!(
        request_id = id.client.to_str().unwrap_or_default(),
        upstream_request_id = id.upstream.to_str().unwrap_or_default(),
        path = request.path(),
        status = response.status().as_u16(),
        "gateway request"
    );
    worker.gateway.origins.apply(request.headers(), response.headers_mut());
    response.headers_mut().insert(REQUEST_ID, id.client);
    response
}

async fn dispatch(
    worker: &Worker,
    request: &HttpRequest,
    payload: web::Payload,
    request_id: &HeaderValue,
) -> Result<HttpResponse, OpenAiError> {
    let prefix = worker.gateway.prefix.trim_end_matches('/');
    let path = request.uri().path().strip_prefix(prefix).unwrap_or_default();
    let Some(target) = Target::of(path) else {
        let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
        return Err(OpenAiError::UnknownUrl { method, path });
    };
    if !target.takes(request.method()) {
        let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
        return Err(OpenAiError::MethodNotAllowed { method, path, allow: target.allow() });
    }
    if request.method() == Method::OPTIONS {
        return Ok(HttpResponse::NoContent().insert_header((ALLOW, target.allow())).finish());
    }
    let surface = match target {
        Target::Surface(surface) => surface,
        Target::Models | Target::Model(_) => {
            let table = worker.gateway.routes.load();
            let caller = caller(worker, request, &table);
            return match target {
                Target::Model(model) => models::one(&table, caller, model),
                _ => Ok(models::list(&table, &caller)),
            };
        }
    };
    let body = body::read(request, payload, worker.gateway.limits.max_body_bytes).await?;
    let scan = if surface.takes_form() {
        form::scan(request.headers(), &body)?
    } else {
        scan::scan(&body).map_err(OpenAiError::from)?
    };
    let route = {
        let table = worker.gateway.routes.load();
        caller(worker, request, &table).route(&table, &scan.model)?
    };
    let body = scan.with_model(&body, &route.served_name);
    forward(worker, Admitted { request, request_id, surface, route: &route, body }).await
}

fn caller(worker: &Worker, request: &HttpRequest, table: &RouteTable) -> Caller {
    Caller::of(request.headers(), &worker.gateway.admin, table)
}

/// A request's id, on both of our sides.
struct RequestId {
    /// In the response: the client's own if it sent a sensible one.
    client: HeaderValue,
    /// To the runtime, always a UUID: some refuse every request whose id is none.
    upstream: HeaderValue,
}

impl RequestId {
    fn of(headers: &HeaderMap) -> Self {
        let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"._:-".contains(byte);
        let given = headers.get(REQUEST_ID).filter(|id| {
            let id = id.as_bytes();
            (1..=REQUEST_ID_MAX).contains(&id.len()) && id.iter().all(legal)
        });
        if let Some(id) = given.filter(|id| is_uuid(id.as_bytes())) {
            return Self { client: id.clone(), upstream: id.clone() };
        }
        let made = HeaderValue::from_str(&Uuid::new_v4().to_string());
        let made = made.unwrap_or_else(|_| HeaderValue::from_static("00000000-0000-4000-8000-000000000000"));
        Self { client: given.unwrap_or(&made).clone(), upstream: made }
    }
}

/// Whether an id is a UUID in one of the two forms that everybody reads, with hyphens or without.
fn is_uuid(id: &[u8]) -> bool {
    [32, 36].contains(&id.len()) && Uuid::try_parse_ascii(id).is_ok()
}
