//! `/api/v1/deployments`.

use std::time::Duration;

use actix_web::http::header::CONTENT_TYPE;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::StreamExt;
use nebula_core::clock::wall_now;
use nebula_core::token::{Secret, TokenKind};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::error::refuse;
use super::patch::Patch;
use super::{Api, Page, create, origin, page, view};
use crate::actors::catalog::{Create, Created};
use crate::actors::deployment::machine::Intent;
use crate::actors::queries::LogRequest;
use crate::domain::error::{Error, ErrorClass};
use crate::domain::idempotency::KEY_BYTES_MAX;
use crate::domain::key::OVERLAP_MAX;

type Shared = web::Data<Api>;

pub(super) fn configure(cfg: &mut web::ServiceConfig) {
    cfg.service(web::resource("/deployments").route(web::post().to(post)).route(web::get().to(list)))
        .service(web::resource("/deployments/{name}/logs").route(web::get().to(logs)))
        .service(
            web::resource("/deployments/{name}/events").route(web::get().to(super::events::of_deployment)),
        )
        .service(web::resource("/deployments/{name}/exec").route(web::post().to(super::exec::post)))
        .service(web::resource("/deployments/{name}/why").route(web::get().to(why)))
        .service(
            web::resource("/deployments/{name}/{action:start|stop|restart|scale|rotate-token}")
                .route(web::post().to(act)),
        )
        .service(
            web::resource("/deployments/{name}")
                .route(web::get().to(get))
                .route(web::patch().to(patch))
                .route(web::delete().to(delete)),
        );
}

/// The body as JSON, whatever content type it claims. It is an object: of an array the place of a value would say what
/// it means.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    if body.trim_ascii_start().starts_with(b"[") {
        return Err(Error::new(ErrorClass::Invalid, "the body: it is an array, not an object"));
    }
    serde_json::from_slice(body).map_err(|error| not_as_expected("", &error))
}

/// The error for a body, or a `field` of it, that holds something else than it should.
pub(super) fn not_as_expected(field: &str, error: &serde_json::Error) -> Error {
    let said = error.to_string().replace("expected i64", "expected a whole number");
    let said = said.replace("expected u64", "expected a whole number");
    let field = if field.is_empty() { String::new() } else { format!("{field}: ") };
    Error::new(ErrorClass::Invalid, format!("the body: {field}{said}"))
}

/// The client's idempotency key with the hash of the body, if it sent one.
fn key(request: &HttpRequest, body: &[u8]) -> Result<Option<(String, [u8; 32])>, Error> {
    let Some(value) = request.headers().get("idempotency-key") else { return Ok(None) };
    let key = value.to_str().ok().filter(|key| (1..=KEY_BYTES_MAX).contains(&key.len()));
    let key = key.ok_or_else(|| {
        Error::new(
            ErrorClass::Invalid,
            format!("Idempotency-Key is not 1 to {KEY_BYTES_MAX} visible characters"),
        )
    })?;
    Ok(Some((key.to_owned(), Sha256::digest(body).into())))
}

async fn post(request: HttpRequest, api: Shared, body: Bytes) -> HttpResponse {
    let created = async {
        let key = key(&request, &body)?;
        let (dep, token) = create::deployment(parse(&body)?, wall_now())?;
        if let Some(node) = &dep.spec.node {
            api.system.node(node).await?;
        }
        match api.system.create(Create { deployment: dep.clone(), key, origin: origin(&request) }).await? {
            Created::New => Ok((dep, Some(token))),
            Created::Before(id) => {
                let dep = api.system.deployment(&id.to_string()).await?;
                Ok::<_, Error>(((*dep).clone(), None))
            }
        }
    };
    match created.await {
        Err(error) => refuse(&request, &error),
        Ok((dep, None)) => HttpResponse::Ok()
            .insert_header(("idempotency-replayed", "true"))
            .json(view::deployment(&dep, &api.gateway_url)),
        Ok((dep, Some(token))) => {
            let mut shown = view::deployment(&dep, &api.gateway_url);
            if let Some(fields) = shown.as_object_mut() {
                fields.insert("access_token".to_owned(), json!(token.expose()));
            }
            HttpResponse::Created().json(shown)
        }
    }
}

async fn list(request: HttpRequest, api: Shared, wanted: web::Query<Page>) -> HttpResponse {
    match wanted.limit() {
        Err(error) => refuse(&request, &error),
        Ok(limit) => {
            let found = api.system.deployment_page(wanted.cursor.as_deref(), limit + 1);
            let rows = found.into_iter().map(|row| match &row.deployment {
                Some(dep) => (row.id, view::deployment(dep, &api.gateway_url)),
                None => (row.id.clone(), view::unseen_deployment(&row)),
            });
            HttpResponse::Ok().json(page(rows.collect(), limit))
        }
    }
}

async fn get(request: HttpRequest, api: Shared, name: web::Path<String>) -> HttpResponse {
    match api.system.deployment(&name).await {
        Ok(dep) => HttpResponse::Ok().json(view::deployment(&dep, &api.gateway_url)),
        Err(error) => refuse(&request, &error),
    }
}

async fn patch(request: HttpRequest, api: Shared, name: web::Path<String>, body: Bytes) -> HttpResponse {
    let changed = async {
        let patch = Patch::read(&body)?;
        api.system.change(&name, |spec| patch.apply(spec), origin(&request)).await
    };
    match changed.await {
        Ok(dep) => HttpResponse::Accepted().json(view::deployment(&dep, &api.gateway_url)),
        Err(error) => refuse(&request, &error),
    }
}

async fn why(request: HttpRequest, api: Shared, name: web::Path<String>) -> HttpResponse {
    match api.system.why(&name).await {
        Ok(why) => HttpResponse::Ok().json(why),
        Err(error) => refuse(&request, &error),
    }
}

async fn delete(request: HttpRequest, api: Shared, name: web::Path<String>) -> HttpResponse {
    match api.system.want(&name, Intent::Delete, origin(&request)).await {
        Ok(dep) => HttpResponse::Accepted().json(view::deployment(&dep, &api.gateway_url)),
        Err(error) => refuse(&request, &error),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scale {
    replicas: i64,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotate {
    overlap: Option<Value>,
}

impl Rotate {
    /// How long the old token is valid beside the new one: not at all, unless it is said.
    fn overlap(body: &[u8]) -> Result<Duration, Error> {
        let body: Self = if body.is_empty() { Self::default() } else { parse(body)? };
        body.overlap.as_ref().map_or(Ok(Duration::ZERO), |value| create::time("overlap", value, OVERLAP_MAX))
    }
}

async fn act(
    request: HttpRequest,
    api: Shared,
    path: web::Path<(String, String)>,
    body: Bytes,
) -> HttpResponse {
    let (name, action) = path.into_inner();
    let mut shown_once: Option<Secret> = None;
    let acted = async {
        let intent = match action.as_str() {
            "start" => Intent::Start,
            "stop" => Intent::Stop,
            "restart" => Intent::Restart,
            "scale" => {
                let wanted = parse::<Scale>(&body)?.replicas;
                let dep = api.system.deployment(&name).await?;
                Intent::Scale(create::replicas(wanted, dep.spec.autoscale.as_ref())?)
            }
            "rotate-token" => {
                let overlap = Rotate::overlap(&body)?;
                let token = Secret::generate(TokenKind::Deployment)
                    .map_err(|error| Error::new(ErrorClass::Internal, error.to_string()))?;
                let hash = token.hash();
                shown_once = Some(token);
                Intent::Rotate { token: hash, overlap }
            }
            other => {
                let what = format!("\"{other}\" is nothing that can be done with a deployment");
                return Err(Error::new(ErrorClass::NotFound, what));
            }
        };
        api.system.want(&name, intent, origin(&request)).await
    };
    match acted.await {
        Err(error) => refuse(&request, &error),
        Ok(dep) => {
            let mut shown = view::deployment(&dep, &api.gateway_url);
            if let (Some(fields), Some(token)) = (shown.as_object_mut(), shown_once) {
                fields.insert("access_token".to_owned(), json!(token.expose()));
            }
            HttpResponse::Accepted().json(shown)
        }
    }
}

#[derive(Deserialize)]
struct LogParams {
    tail: Option<u32>,
    #[serde(default)]
    follow: bool,
    replica: Option<String>,
    #[serde(default)]
    previous: bool,
}

async fn logs(
    request: HttpRequest,
    api: Shared,
    name: web::Path<String>,
    params: web::Query<LogParams>,
) -> HttpResponse {
    let params = params.into_inner();
    let wanted = LogRequest {
        replica: params.replica,
        tail: params.tail.unwrap_or(0),
        follow: params.follow,
        previous: params.previous,
    };
    match api.system.logs(&name, wanted).await {
        Err(error) => refuse(&request, &error),
        Ok(stream) => HttpResponse::Ok()
            .insert_header((CONTENT_TYPE, "text/plain; charset=utf-8"))
            // An agent that is lost in mid-stream ends the text, as it would end a terminal's.
            .streaming(stream.take_while(|chunk| std::future::ready(chunk.is_ok()))),
    }
}
