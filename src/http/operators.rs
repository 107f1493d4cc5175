//! For operators and their tools: `/health`, `/ready`, `/metrics` and `/admin`. The page at `/admin` loads without a token
//! and asks for it; everything it shows comes from the paths below it, which take the admin token.

use actix_web::http::header::ContentType;
use actix_web::middleware::from_fn;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;

use super::api::error::refuse;
use super::api::{Api, admin_only, origin};
use crate::domain::error::{Error, ErrorClass};

mod metrics;
mod store;

type Shared = web::Data<Api>;

/// Mounts the paths. Expects the API's data to be there.
pub fn configure(cfg: &mut web::ServiceConfig) {
    cfg.service(web::resource("/health").route(web::get().to(health)).route(web::head().to(health)))
        .service(web::resource("/ready").route(web::get().to(ready)).route(web::head().to(ready)))
        .configure(metrics::configure)
        .service(web::resource("/admin").route(web::get().to(page)))
        .service(
            web::scope("/admin")
                .wrap(from_fn(admin_only))
                .configure(store::configure)
                .service(web::resource("/brake/release").route(web::post().to(release_brake)))
                .service(web::resource("/config").route(web::get().to(config)))
                .service(web::resource("/actors").route(web::get().to(actors)))
                .service(web::resource("/actors/{path:.*}/restart").route(web::post().to(restart)))
                .service(web::resource("/actors/{path:.*}").route(web::get().to(actor))),
        );
}

async fn health() -> HttpResponse {
    HttpResponse::Ok().json(json!({"status": "ok"}))
}

async fn ready(api: Shared) -> HttpResponse {
    let reasons = api.system.not_ready();
    if reasons.is_empty() {
        match api.system.concerns() {
            none if none.is_empty() => HttpResponse::Ok().json(json!({"status": "ready"})),
            concerns => HttpResponse::Ok().json(json!({"status": "ready", "concerns": concerns})),
        }
    } else {
        HttpResponse::ServiceUnavailable().json(json!({"status": "not ready", "reasons": reasons}))
    }
}

async fn page() -> HttpResponse {
    HttpResponse::Ok().content_type(ContentType::html()).body(include_str!("operators/page.html"))
}

/// The nodes that the brake against mass failure holds are really gone.
async fn release_brake(request: HttpRequest, api: Shared) -> HttpResponse {
    match api.system.release_brake(origin(&request)).await {
        Ok(()) => HttpResponse::Ok().json(json!({"released": true})),
        Err(error) => refuse(&request, &error),
    }
}

async fn config(api: Shared) -> HttpResponse {
    HttpResponse::Ok().json(&api.config)
}

async fn actors(api: Shared) -> HttpResponse {
    HttpResponse::Ok().json(api.system.tree.view("/").into_iter().next())
}

async fn actor(request: HttpRequest, api: Shared, path: web::Path<String>) -> HttpResponse {
    let path = format!("/{}", path.trim_matches('/'));
    match api.system.tree.view(&path).into_iter().next() {
        Some(actor) => HttpResponse::Ok().json(actor),
        None => refuse(&request, &Error::new(ErrorClass::NotFound, format!("there is no actor {path}"))),
    }
}

async fn restart(request: HttpRequest, api: Shared, path: web::Path<String>) -> HttpResponse {
    let path = format!("/{}", path.trim_matches('/'));
    match api.system.restart_actor(&path, origin(&request)).await {
        Ok(()) => HttpResponse::Accepted().json(json!({"path": path, "restarting": true})),
        Err(error) => refuse(&request, &error),
    }
}
