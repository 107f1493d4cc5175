//! `GET /api/v1/openapi.json`: the management API described for machines, without a token. The description is the file
//! beside this one; a test holds it to what is mounted and to what is answered.

use actix_web::http::header::ContentType;
use actix_web::{HttpResponse, web};

/// OpenAPI 3.1.
const DESCRIPTION: &str = include_str!("openapi/openapi.json");

pub(super) fn configure(cfg: &mut web::ServiceConfig) {
    cfg.service(web::resource("/api/v1/openapi.json").route(web::get().to(get)));
}

async fn get() -> HttpResponse {
    HttpResponse::Ok().content_type(ContentType::json()).body(DESCRIPTION)
}
