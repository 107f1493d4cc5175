//! `/api/v1/nodes`.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use nebula_core::ids::OperationId;
use serde::Deserialize;
use serde_json::Value;

use super::deployments::parse;
use super::error::refuse;
use super::{Api, Page, keys, origin, page, view};
use crate::actors::queries::NodePicture;
use crate::domain::error::{Error, ErrorClass};
use crate::domain::node::Scheduling;

type Shared = web::Data<Api>;

/// A drain fails after this long when nobody says it.
const DRAIN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60 * 60);
/// The longest time that a drain may be given.
const DRAIN_TIMEOUT_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The body of a drain, which may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DrainBody {
    timeout: Option<Value>,
}

pub(super) fn configure(cfg: &mut web::ServiceConfig) {
    cfg.service(web::resource("/nodes").route(web::get().to(list)))
        .service(web::resource("/nodes/{name}/drain").route(web::post().to(drain)))
        .service(web::resource("/nodes/{name}/{action:cordon|uncordon}").route(web::post().to(act)))
        .service(web::resource("/nodes/{name}").route(web::get().to(get)).route(web::delete().to(delete)));
}

fn show(api: &Api, picture: &NodePicture) -> Value {
    shown(api, picture, api.system.operation_of(&picture.update.node.id))
}

fn shown(api: &Api, picture: &NodePicture, operation: Option<OperationId>) -> Value {
    let mut on_nodes = api.system.replicas_on([&picture.update.node.id]);
    let here = on_nodes.remove(&picture.update.node.id).unwrap_or_default();
    let replicas: Vec<Value> = here.iter().map(|(dep, at)| view::replica_on_node(dep, *at)).collect();
    view::node(picture, &replicas, operation)
}

async fn list(request: HttpRequest, api: Shared, wanted: web::Query<Page>) -> HttpResponse {
    let listed = async {
        let limit = wanted.limit()?;
        let nodes = api.system.nodes().await?;
        let after = |picture: &&NodePicture| {
            wanted.cursor.as_deref().is_none_or(|cursor| picture.update.node.id.as_str() > cursor)
        };
        let of_page: Vec<&NodePicture> = nodes.iter().filter(after).take(limit + 1).collect();
        let mut on_nodes = api.system.replicas_on(of_page.iter().map(|picture| &picture.update.node.id));
        let rows = of_page.into_iter().map(|picture| {
            let here = on_nodes.remove(&picture.update.node.id).unwrap_or_default();
            let replicas: Vec<Value> = here.iter().map(|(dep, at)| view::replica_on_node(dep, *at)).collect();
            let operation = api.system.operation_of(&picture.update.node.id);
            (picture.update.node.id.to_string(), view::node(picture, &replicas, operation))
        });
        Ok::<_, Error>(page(rows.collect(), limit))
    };
    match listed.await {
        Ok(rows) => HttpResponse::Ok().json(rows),
        Err(error) => refuse(&request, &error),
    }
}

async fn get(request: HttpRequest, api: Shared, name: web::Path<String>) -> HttpResponse {
    match api.system.node(&name).await {
        Ok(picture) => HttpResponse::Ok().json(show(&api, &picture)),
        Err(error) => refuse(&request, &error),
    }
}

async fn act(request: HttpRequest, api: Shared, path: web::Path<(String, String)>) -> HttpResponse {
    let (name, action) = path.into_inner();
    let scheduling = match action.as_str() {
        "cordon" => Scheduling::Cordoned,
        "uncordon" => Scheduling::Schedulable,
        other => {
            let what = format!("\"{other}\" is nothing that can be done with a node");
            return refuse(&request, &Error::new(ErrorClass::NotFound, what));
        }
    };
    match api.system.schedule_node(&name, scheduling, origin(&request)).await {
        Ok(picture) => HttpResponse::Ok().json(show(&api, &picture)),
        Err(error) => refuse(&request, &error),
    }
}

async fn drain(request: HttpRequest, api: Shared, name: web::Path<String>, body: Bytes) -> HttpResponse {
    let drained = async {
        let wanted: DrainBody = if body.is_empty() { DrainBody::default() } else { parse(&body)? };
        let timeout = wanted.timeout.as_ref().map(|value| keys::time("timeout", value, DRAIN_TIMEOUT_MAX));
        let timeout = timeout.transpose()?.unwrap_or(DRAIN_TIMEOUT_DEFAULT);
        api.system.drain_node(&name, timeout, origin(&request)).await
    };
    match drained.await {
        Ok((picture, operation)) => HttpResponse::Accepted().json(shown(&api, &picture, Some(operation.id))),
        Err(error) => refuse(&request, &error),
    }
}

async fn delete(request: HttpRequest, api: Shared, name: web::Path<String>) -> HttpResponse {
    match api.system.forget_node(&name, origin(&request)).await {
        Ok(()) => HttpResponse::NoContent().finish(),
        Err(error) => refuse(&request, &error),
    }
}
