//! `/models`: what a caller may use.

use actix_web::HttpResponse;
use nebula_core::clock::WallTime;
use serde_json::{Value, json};

use crate::domain::route::{Route, RouteTable};
use crate::http::error::OpenAiError;

use super::credential::Caller;

/// The models that the caller may use and that something serves, or that a request would start; aliases among them.
pub(crate) fn list(table: &RouteTable, caller: &Caller) -> HttpResponse {
    let routes = table.iter().filter(|route| serves(route) && caller.may_use(route));
    let routes = routes.map(|route| (&*route.name, route.created_at));
    let aliases = table.aliases().filter(|alias| {
        let serves = caller.alias(table, alias).is_some_and(|route| serves(route));
        serves && table.get(&alias.name).is_none()
    });
    let aliases = aliases.map(|alias| (&*alias.name, alias.created_at));
    let mut models: Vec<(&str, WallTime)> = routes.chain(aliases).collect();
    models.sort_unstable();
    let data: Vec<Value> = models.into_iter().map(|(name, created_at)| describe(name, created_at)).collect();
    HttpResponse::Ok().json(json!({"object": "list", "data": data}))
}

/// One model, by the rest of the path after `/models/`, in which slashes may stand as they are or escaped. One that
/// the caller may use and that nothing serves is not ready rather than unknown.
pub(crate) fn one(table: &RouteTable, caller: Caller, path: &str) -> Result<HttpResponse, OpenAiError> {
    let model = unescape(path);
    let route = caller.open(table, &model)?.route;
    if !serves(&route) {
        return Err(OpenAiError::NotReady(model));
    }
    let described = match table.get(&model).is_none().then(|| table.alias(&model)).flatten() {
        Some(alias) => describe(&alias.name, alias.created_at),
        None => describe(&route.name, route.created_at),
    };
    Ok(HttpResponse::Ok().json(described))
}

fn serves(route: &Route) -> bool {
    !route.endpoints.is_empty() || route.wakes
}

fn describe(name: &str, created_at: WallTime) -> Value {
    json!({
        "id": name,
        "object": "model",
        "created": created_at.unix_secs(),
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
