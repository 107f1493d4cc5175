//! The management API under `/api/v1`: JSON, with the admin token.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::{InternalError, PayloadError};
use actix_web::http::StatusCode;
use actix_web::http::header::AUTHORIZATION;
use actix_web::middleware::{Next, from_fn};
use actix_web::{HttpRequest, HttpResponse, web};
use nebula_core::token::{TokenHash, bearer};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::actors::system::System;
use crate::domain::error::{Error, ErrorClass};

mod aliases;
mod create;
mod deployments;
mod edge;
pub mod error;
mod events;
mod exec;
mod keys;
mod nodes;
mod openapi;
mod operations;
mod origin;
mod patch;
mod usage;
mod view;

use self::error::refuse;
pub(super) use self::origin::origin;

/// The largest page of a list.
const PAGE_MAX: usize = 500;
/// The page when no limit is asked for.
const PAGE_DEFAULT: usize = 100;
/// The largest request body.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// What the handlers share.
#[derive(Clone)]
pub struct Api {
    /// The actor system.
    pub system: System,
    /// What the admin token hashes to.
    pub admin: TokenHash,
    /// Where clients reach the gateway, with its prefix.
    pub gateway_url: String,
    /// The configuration, without secrets.
    pub config: Value,
}

/// Mounts the API.
pub fn configure(cfg: &mut web::ServiceConfig, api: Api) {
    let scope = web::scope("/api/v1")
        .wrap(from_fn(admin_only))
        .app_data(web::Data::new(api.clone()))
        .app_data(web::PayloadConfig::new(BODY_BYTES_MAX))
        .app_data(web::QueryConfig::default().error_handler(bad_query))
        .wrap(from_fn(in_our_shape))
        .configure(deployments::configure)
        .configure(nodes::configure)
        .configure(operations::configure)
        .configure(events::configure)
        .configure(aliases::configure)
        .configure(keys::configure)
        .configure(usage::configure)
        .configure(edge::configure)
        .default_service(web::to(nothing_here));
    // What describes the API needs no token.
    cfg.app_data(web::Data::new(api)).configure(openapi::configure).service(scope);
}

async fn nothing_here(request: HttpRequest) -> HttpResponse {
    let what = format!("there is nothing at {} {}", request.method(), request.path());
    refuse(&request, &Error::new(ErrorClass::NotFound, what))
}

fn bad_query(error: actix_web::error::QueryPayloadError, request: &HttpRequest) -> actix_web::Error {
    let error = Error::new(ErrorClass::Invalid, format!("the query: {error}"));
    InternalError::from_response("bad query", refuse(request, &error)).into()
}

/// What the framework refuses by itself (a method, a body over the limit) is refused in our words.
async fn in_our_shape(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    // The request itself must not be held while it is being routed.
    let request_id = error::request_id(request.headers());
    let what = format!("{} {}", request.method(), request.path());
    match next.call(request).await {
        Ok(response) if response.status() == StatusCode::METHOD_NOT_ALLOWED => {
            let error = Error::new(ErrorClass::Invalid, format!("{what} takes another method"));
            let mut refused = error::render(request_id, &error);
            *refused.status_mut() = response.status();
            Ok(response.into_response(refused))
        }
        Ok(response) => Ok(response.map_into_boxed_body()),
        Err(error) if error.as_error::<PayloadError>().is_some() => {
            let status = error.as_response_error().status_code();
            let told =
                Error::new(ErrorClass::Invalid, format!("{what}: the body cannot be read, or is too large"));
            let mut refused = error::render(request_id, &told);
            *refused.status_mut() = status;
            Err(InternalError::from_response(error, refused).into())
        }
        Err(error) => Err(error),
    }
}

/// Lets requests pass that carry the admin token.
pub(super) async fn admin_only(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let admin = request.app_data::<web::Data<Api>>().map(|api| api.admin);
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    // The comparison takes the same time whatever is shown.
    let shown = TokenHash::of(header.and_then(bearer).unwrap_or_default());
    if admin.is_some_and(|admin| admin.same(&shown)) {
        let id = origin::mark(&request);
        let mut response = next.call(request).await?.map_into_boxed_body();
        origin::sign(&id, response.headers_mut());
        return Ok(response);
    }
    let why = match header {
        None => "this needs the admin token: Authorization: Bearer nbadm_…",
        Some(_) => "this is not the admin token",
    };
    let response = refuse(request.request(), &Error::new(ErrorClass::Unauthenticated, why));
    Ok(request.into_response(response))
}

/// Which page of a list.
#[derive(Debug, Deserialize)]
struct Page {
    limit: Option<usize>,
    cursor: Option<String>,
}

impl Page {
    fn limit(&self) -> Result<usize, Error> {
        match self.limit {
            None => Ok(PAGE_DEFAULT),
            Some(limit @ 1..=PAGE_MAX) => Ok(limit),
            Some(other) => {
                Err(Error::new(ErrorClass::Invalid, format!("limit is {other}, not from 1 to {PAGE_MAX}")))
            }
        }
    }
}

/// A page of at most `limit` rows of `rows`, which hold one more if there are more.
fn page(mut rows: Vec<(String, Value)>, limit: usize) -> Value {
    let more = rows.len() > limit;
    rows.truncate(limit);
    let cursor = rows.last().filter(|_| more).map(|(id, _)| id.clone());
    let data: Vec<Value> = rows.into_iter().map(|(_, row)| row).collect();
    json!({"data": data, "next_cursor": cursor})
}
