//! The gateway: OpenAI's API in front of the deployments' runtimes.
//!
//! A request is read, its model is found by a scan of the bytes ([`scan`]), the caller is let in or not
//! ([`credential`]), and the bytes go to the agent's proxy of the least busy replica ([`forward`]), whose answer
//! streams back ([`answer`]). Routes come from the table that the router publishes; no actor is asked.

mod answer;
mod body;
mod cors;
mod credential;
mod forward;
mod models;
mod outcome;
mod scan;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::Method;
use actix_web::http::header::{ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use arc_swap::ArcSwap;
use nebula_core::token::TokenHash;
use nebula_relay::Client;

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

/// A path whose requests go to a runtime.
struct Surface {
    /// After the prefix.
    path: &'static str,
    /// At the runtime, whatever our prefix is.
    upstream: &'static str,
    /// Its streams end with `[DONE]`, so that one without it is broken.
    ends_with_done: bool,
}

const SURFACES: [Surface; 9] = [
    Surface { path: "/chat/completions", upstream: "/v1/chat/completions", ends_with_done: true },
    Surface { path: "/completions", upstream: "/v1/completions", ends_with_done: true },
    Surface { path: "/embeddings", upstream: "/v1/embeddings", ends_with_done: false },
    Surface { path: "/responses", upstream: "/v1/responses", ends_with_done: false },
    Surface { path: "/messages", upstream: "/v1/messages", ends_with_done: false },
    Surface { path: "/rerank", upstream: "/v1/rerank", ends_with_done: false },
    Surface { path: "/score", upstream: "/v1/score", ends_with_done: false },
    Surface { path: "/images/generations", upstream: "/v1/images/generations", ends_with_done: false },
    // Runtimes have this one outside of /v1.
    Surface { path: "/tokenize", upstream: "/tokenize", ends_with_done: false },
];

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
    let request_id = request_id(request.headers());
    let is_preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let result = if is_preflight {
        Ok(cors::preflight(request.headers()))
    } else {
        dispatch(&worker, &request, payload, &request_id).await
    };
    let mut response = result.unwrap_or_else(|error| error.response());
    tracing::debug!(
        request_id = request_id.to_str().unwrap_or_default(),
        path = request.path(),
        status = response.status().as_u16(),
        "gateway request"
    );
    worker.gateway.origins.apply(request.headers(), response.headers_mut());
    response.headers_mut().insert(REQUEST_ID, request_id);
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
    if let Some(surface) = SURFACES.iter().find(|surface| surface.path == path) {
        expect_method(request, &[Method::POST], "POST, OPTIONS")?;
        let body = body::read(request, payload, worker.gateway.limits.max_body_bytes).await?;
        let scan = scan::scan(&body)?;
        let route = {
            let table = worker.gateway.routes.load();
            caller(worker, request, &table).route(&table, &scan.model)?
        };
        let body = scan.with_model(&body, &route.served_name);
        return forward(worker, Admitted { request, request_id, surface, route: &route, body }).await;
    }
    let model = match path.strip_prefix("/models") {
        Some("") => None,
        Some(rest) => rest
            .strip_prefix('/')
            .filter(|model| !model.is_empty())
            .map(Some)
            .ok_or_else(|| unknown(request))?,
        None => return Err(unknown(request)),
    };
    expect_method(request, &[Method::GET, Method::HEAD], "GET, HEAD, OPTIONS")?;
    let table = worker.gateway.routes.load();
    let caller = caller(worker, request, &table);
    match model {
        Some(model) => models::one(&table, caller, model),
        None => Ok(models::list(&table, &caller)),
    }
}

fn caller(worker: &Worker, request: &HttpRequest, table: &RouteTable) -> Caller {
    Caller::of(request.headers(), &worker.gateway.admin, table)
}

fn unknown(request: &HttpRequest) -> OpenAiError {
    OpenAiError::UnknownUrl { method: request.method().to_string(), path: request.uri().path().to_owned() }
}

fn expect_method(request: &HttpRequest, methods: &[Method], allow: &'static str) -> Result<(), OpenAiError> {
    if methods.contains(request.method()) {
        return Ok(());
    }
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    Err(OpenAiError::MethodNotAllowed { method, path, allow })
}

/// The client's own id for the request if it is a sensible one, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"._:-".contains(byte);
    let given = headers.get(REQUEST_ID).filter(|id| {
        let id = id.as_bytes();
        (1..=REQUEST_ID_MAX).contains(&id.len()) && id.iter().all(legal)
    });
    given.cloned().unwrap_or_else(|| {
        let made = format!("req_{:032x}", rand::random::<u128>());
        HeaderValue::from_str(&made).unwrap_or_else(|_| HeaderValue::from_static("req_unknown"))
    })
}
