//! `/api/v1/operations`: what operators have begun and what takes its time. Today these are drains of nodes.

use actix_web::{HttpRequest, HttpResponse, web};
use nebula_core::clock::WallTime;
use nebula_core::ids::OperationId;
use serde_json::Value;

use super::error::refuse;
use super::{Api, Page, origin, page, view};
use crate::domain::error::{Error, ErrorClass};
use crate::domain::operation::Operation;

type Shared = web::Data<Api>;

pub(super) fn configure(cfg: &mut web::ServiceConfig) {
    cfg.service(web::resource("/operations").route(web::get().to(list)))
        .service(web::resource("/operations/{id}").route(web::get().to(get)).route(web::delete().to(cancel)));
}

/// Its place in the list: they are listed newest first, and one that is gone still has its place.
fn place(operation: &Operation) -> String {
    format!("{}.{}", operation.started_at.0, operation.id)
}

fn read_place(cursor: &str) -> Result<(WallTime, OperationId), Error> {
    let place =
        cursor.split_once('.').and_then(|(at, id)| Some((WallTime(at.parse().ok()?), id.parse().ok()?)));
    let why = || format!("the query: cursor is \"{}\", not one of this list", clip(cursor));
    place.ok_or_else(|| Error::new(ErrorClass::Invalid, why()))
}

fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}

async fn list(request: HttpRequest, api: Shared, wanted: web::Query<Page>) -> HttpResponse {
    let listed = || {
        let limit = wanted.limit()?;
        let after = wanted.cursor.as_deref().map(read_place).transpose()?;
        let operations = api.system.operations()?;
        let rest = operations.iter().filter(|one| after.is_none_or(|after| (one.started_at, one.id) < after));
        let rows: Vec<(String, Value)> =
            rest.take(limit + 1).map(|one| (place(one), view::operation(one))).collect();
        Ok::<_, Error>(page(rows, limit))
    };
    match listed() {
        Ok(rows) => HttpResponse::Ok().json(rows),
        Err(error) => refuse(&request, &error),
    }
}

async fn get(request: HttpRequest, api: Shared, id: web::Path<String>) -> HttpResponse {
    match api.system.operation(&id) {
        Ok(operation) => HttpResponse::Ok().json(view::operation(&operation)),
        Err(error) => refuse(&request, &error),
    }
}

async fn cancel(request: HttpRequest, api: Shared, id: web::Path<String>) -> HttpResponse {
    match api.system.cancel_operation(&id, origin(&request)).await {
        Ok(()) => HttpResponse::NoContent().finish(),
        Err(error) => refuse(&request, &error),
    }
}
