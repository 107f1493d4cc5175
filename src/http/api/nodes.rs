//! `/api/v1/nodes`.

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::Value;

use super::error::refuse;
use super::{Api, Page, origin, page, view};
use crate::actors::queries::NodePicture;
use crate::domain::error::{Error, ErrorClass};
use crate::domain::node::Scheduling;

type Shared = web::Data<Api>;

pub(super) fn configure(cfg: &mut web::ServiceConfig) {
    cfg.service(web::resource("/nodes").route(web::get().to(list)))
        .service(web::resource("/nodes/{name}/{action}").route(web::post().to(act)))
        .service(web::resource("/nodes/{name}").route(web::get().to(get)).route(web::delete().to(delete)));
}

fn show(api: &Api, picture: &NodePicture) -> Value {
    let mut by_node = api.system.replicas_by_node();
    let here = by_node.remove(&picture.update.node.id).unwrap_or_default();
    let replicas: Vec<Value> = here.iter().map(|(dep, at)| view::replica_on_node(dep, *at)).collect();
    view::node(picture, &replicas)
}

async fn list(request: HttpRequest, api: Shared, wanted: web::Query<Page>) -> HttpResponse {
    let listed = async {
        let limit = wanted.limit()?;
        let mut by_node = api.system.replicas_by_node();
        let nodes = api.system.nodes().await?;
        let after = |picture: &&NodePicture| {
            wanted.cursor.as_deref().is_none_or(|cursor| picture.update.node.id.as_str() > cursor)
        };
        let rows = nodes.iter().filter(after).take(limit + 1).map(|picture| {
            let here = by_node.remove(&picture.update.node.id).unwrap_or_default();
            let replicas: Vec<Value> = here.iter().map(|(dep, at)| view::replica_on_node(dep, *at)).collect();
            (picture.update.node.id.to_string(), view::node(picture, &replicas))
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

async fn delete(request: HttpRequest, api: Shared, name: web::Path<String>) -> HttpResponse {
    match api.system.forget_node(&name, origin(&request)).await {
        Ok(()) => HttpResponse::NoContent().finish(),
        Err(error) => refuse(&request, &error),
    }
}
