//! `/models`: what a caller may use.

use std::sync::Arc;

use actix_web::HttpResponse;
use serde_json::{Value, json};

use crate::domain::route::{Route, RouteTable};
use crate::http::error::OpenAiError;

use super::credential::Caller;

/// The models that the caller may use and that something serves.
pub(crate) fn list(table: &RouteTable, caller: &Caller) -> HttpResponse {
    let usable = table.iter().filter(|route| !route.endpoints.is_empty() && caller.may_use(route));
    let data: Vec<Value> = usable.map(describe).collect();
    HttpResponse::Ok().json(json!({"object": "list", "data": data}))
}

/// One model, by the rest of the path after `/models/`, in which slashes may stand as they are or escaped. One that
/// the caller may use and that nothing serves is not ready rather than unknown.
pub(crate) fn one(table: &RouteTable, caller: Caller, path: &str) -> Result<HttpResponse, OpenAiError> {
    let model = unescape(path);
    let (route, _) = caller.route(table, &model)?;
    if route.endpoints.is_empty() {
        return Err(OpenAiError::NotReady(model));
    }
    Ok(HttpResponse::Ok().json(describe(&route)))
}

fn describe(route: &Arc<Route>) -> Value {
    json!({
        "id": route.name,
        "object": "model",
        "created": route.created_at.unix_secs(),
        "owned_by": "nebula",
    })
}

/// The text with `%XX` resolved; what is no such escape stays.
fn unescape(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = after.get(..2).filter(|_| *first == b'%');
        let decoded = escaped.and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'))?;
            u8::from_str_radix(digits, 16).ok()
        });
        bytes.push(decoded.unwrap_or(*first));
        rest = if decoded.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_models_name_is_read_from_any_form_of_the_path() {
        for (path, name) in
            [("demo", "demo"), ("org/m", "org/m"), ("org%2Fm%20x", "org/m x"), ("a%", "a%"), ("a%+1", "a%+1")]
        {
            assert_eq!(unescape(path), name);
        }
    }
}
