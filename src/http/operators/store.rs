//! `/admin/store`: how the store does, an export on demand, and accepting a gap.

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;

use super::Shared;
use crate::http::api::error::refuse;
use crate::http::api::origin;

pub(super) fn configure(cfg: &mut web::ServiceConfig) {
    cfg.service(web::resource("/store").route(web::get().to(show)))
        .service(web::resource("/store/export").route(web::post().to(export)))
        .service(web::resource("/store/accept").route(web::post().to(accept_restored)));
}

/// A store that cannot be read still says how it does.
async fn show(api: Shared) -> HttpResponse {
    let system = &api.system;
    let (records, set_aside) = (system.census().await, system.set_aside().await);
    let unread = records.as_ref().err().or(set_aside.as_ref().err()).map(|error| error.message.clone());
    HttpResponse::Ok().json(json!({
        "store": system.store_report(),
        "records": records.ok(),
        "set_aside": set_aside.unwrap_or_default(),
        "messages_set_aside": system.messages_set_aside(),
        "unread": unread,
    }))
}

async fn export(request: HttpRequest, api: Shared) -> HttpResponse {
    match api.system.export_store().await {
        Ok(export) => HttpResponse::Ok().json(export),
        Err(error) => refuse(&request, &error),
    }
}

async fn accept_restored(request: HttpRequest, api: Shared) -> HttpResponse {
    match api.system.accept_restored(origin(&request)).await {
        Ok(()) => HttpResponse::Ok().json(json!({"accepted": true})),
        Err(error) => refuse(&request, &error),
    }
}
