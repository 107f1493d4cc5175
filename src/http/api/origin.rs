//! Who a request comes from, for the audit: whose credential it carries, its id and its address.

use actix_web::dev::ServiceRequest;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::{HttpMessage, HttpRequest};

use super::error::request_id;
use crate::domain::event::Origin;

/// The header that carries a request's id.
const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// A request's id, so that its answer, its error and its line in the audit carry the same one.
struct Id(String);

/// Gives a request its id.
pub(super) fn mark(request: &ServiceRequest) -> String {
    let id = request_id(request.headers());
    request.extensions_mut().insert(Id(id.clone()));
    id
}

/// Puts the id on the answer.
pub(super) fn sign(id: &str, headers: &mut HeaderMap) {
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert(HEADER, value);
    }
}

/// The id of a request: the one it was given, else the client's own, else a new one.
pub(super) fn id(request: &HttpRequest) -> String {
    let given = request.extensions().get::<Id>().map(|Id(id)| id.clone());
    given.unwrap_or_else(|| request_id(request.headers()))
}

/// Who sends a request that the admin token let pass.
pub(in crate::http) fn origin(request: &HttpRequest) -> Origin {
    Origin {
        by: "admin token".to_owned(),
        request_id: id(request),
        address: request.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default(),
    }
}
