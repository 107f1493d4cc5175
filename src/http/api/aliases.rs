//! `/api/v1/aliases`: public model names that stand for several deployments.

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use nebula_core::clock::wall_now;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::create::count;
use super::deployments::parse;
use super::error::refuse;
use super::{Api, Page, origin, page};
use crate::domain::alias::{Alias, AliasPatch, Target, WEIGHT_MAX};
use crate::domain::error::Error;

type Shared = web::Data<Api>;

pub(super) fn configure(cfg: &mut web::ServiceConfig) {
    cfg.service(web::resource("/aliases").route(web::post().to(post)).route(web::get().to(list))).service(
        web::resource("/aliases/{name}")
            .route(web::get().to(get))
            .route(web::patch().to(patch))
            .route(web::delete().to(delete)),
    );
}

/// The body of a create. Fields that are not known are refused: they are typing errors more often than not.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateBody {
    name: String,
    targets: Vec<TargetBody>,
    fallback: Option<String>,
}

/// The body of a change: what is not named stays; a fallback of null is none.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PatchBody {
    targets: Option<Vec<TargetBody>>,
    #[serde(default, deserialize_with = "given")]
    fallback: Option<Option<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetBody {
    deployment: String,
    weight: i64,
}

/// Tells a field that is null from one that is not there.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::<String>::deserialize(deserializer).map(Some)
}

fn targets(bodies: Vec<TargetBody>) -> Result<Vec<Target>, Error> {
    let target = |TargetBody { deployment, weight }: TargetBody| {
        let shown: String = deployment.chars().take(64).collect();
        let weight = count(&format!("the weight of \"{shown}\""), weight, i64::from(WEIGHT_MAX))?;
        Ok(Target { deployment, weight })
    };
    bodies.into_iter().map(target).collect()
}

/// An alias as it is wanted. What only the domain knows to be wrong is found there.
fn wanted(body: CreateBody) -> Result<Alias, Error> {
    let now = wall_now();
    Ok(Alias {
        name: body.name,
        targets: targets(body.targets)?,
        fallback: body.fallback,
        created_at: now,
        updated_at: now,
    })
}

fn wanted_patch(body: PatchBody) -> Result<AliasPatch, Error> {
    Ok(AliasPatch { targets: body.targets.map(targets).transpose()?, fallback: body.fallback })
}

async fn post(request: HttpRequest, api: Shared, body: Bytes) -> HttpResponse {
    let created = async {
        let alias = wanted(parse(&body)?)?;
        alias.check()?;
        api.system.create_alias(alias, origin(&request)).await
    };
    match created.await {
        Ok(alias) => HttpResponse::Created().json(shown(&api, &alias)),
        Err(error) => refuse(&request, &error),
    }
}

async fn list(request: HttpRequest, api: Shared, wanted: web::Query<Page>) -> HttpResponse {
    let listed = || {
        let limit = wanted.limit()?;
        let after = |alias: &Alias| wanted.cursor.as_deref().is_none_or(|after| alias.name.as_str() > after);
        let all = api.system.aliases()?;
        let rows = all.iter().filter(|alias| after(alias)).take(limit + 1);
        Ok::<_, Error>(page(rows.map(|alias| (alias.name.clone(), shown(&api, alias))).collect(), limit))
    };
    match listed() {
        Ok(rows) => HttpResponse::Ok().json(rows),
        Err(error) => refuse(&request, &error),
    }
}

async fn get(request: HttpRequest, api: Shared, name: web::Path<String>) -> HttpResponse {
    match api.system.alias(&name) {
        Ok(alias) => HttpResponse::Ok().json(shown(&api, &alias)),
        Err(error) => refuse(&request, &error),
    }
}

async fn patch(request: HttpRequest, api: Shared, name: web::Path<String>, body: Bytes) -> HttpResponse {
    let patched = async {
        let patch = wanted_patch(parse(&body)?)?;
        api.system.patch_alias(&name, patch, origin(&request)).await
    };
    match patched.await {
        Ok(alias) => HttpResponse::Ok().json(shown(&api, &alias)),
        Err(error) => refuse(&request, &error),
    }
}

async fn delete(request: HttpRequest, api: Shared, name: web::Path<String>) -> HttpResponse {
    match api.system.delete_alias(&name, origin(&request)).await {
        Ok(()) => HttpResponse::NoContent().finish(),
        Err(error) => refuse(&request, &error),
    }
}

/// An alias, with what its deployments are up to.
fn shown(api: &Api, alias: &Alias) -> Value {
    let target = |target: &Target| {
        let mut shown = deployment(api, &target.deployment);
        if let Some(fields) = shown.as_object_mut() {
            fields.insert("weight".to_owned(), json!(target.weight));
            fields.insert("share_percent".to_owned(), json!(alias.share(target)));
        }
        shown
    };
    json!({
        "name": alias.name,
        "targets": alias.targets.iter().map(target).collect::<Vec<_>>(),
        "fallback": alias.fallback.as_ref().map(|fallback| deployment(api, fallback)),
        "endpoint": api.gateway_url,
        "created_at": alias.created_at.rfc3339(),
        "updated_at": alias.updated_at.rfc3339(),
    })
}

/// One of an alias's deployments. `state` is `missing` when there is none of that name; `serves` says whether a request
/// could go there now.
fn deployment(api: &Api, name: &str) -> Value {
    let id = api.system.deployment_named(name).ok().flatten();
    let state = id.map(|id| api.system.deployment_state(id));
    let serves = api.system.routes.load().named(name).is_some_and(|route| !route.endpoints.is_empty());
    let state = match state {
        None => json!("missing"),
        Some(state) => json!(state),
    };
    json!({"deployment": name, "id": id, "state": state, "serves": serves})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::error::ErrorClass;

    fn create(json: &str) -> Result<Alias, Error> {
        let alias = wanted(parse(json.as_bytes())?)?;
        alias.check().map(|()| alias)
    }

    #[test]
    fn an_alias_is_made_of_names_and_weights() {
        let alias = create(
            r#"{"name":"chat","targets":[{"deployment":"a","weight":90},{"deployment":"b","weight":10}],"fallback":"c"}"#,
        );
        assert_eq!(alias.expect("valid").to_string(), "a 90 %, b 10 %, else c");
        let plain = create(r#"{"name":"chat","targets":[{"deployment":"a","weight":1}],"fallback":null}"#);
        assert_eq!(plain.expect("valid").fallback, None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (json, class, part) in [
            ("", ErrorClass::Invalid, "the body: "),
            (r#"{"name":"a"}"#, ErrorClass::Invalid, "missing field `targets`"),
            (r#"{"name":"a","targets":[],"tragets":[]}"#, ErrorClass::Invalid, "unknown field `tragets`"),
            (r#"{"name":"a","targets":[{"deployment":"d"}]}"#, ErrorClass::Invalid, "missing field `weight`"),
            (
                r#"{"name":"a","targets":[{"deployment":"d","weight":0.5}]}"#,
                ErrorClass::Invalid,
                "floating point `0.5`",
            ),
            (
                r#"{"name":"a","targets":[{"deployment":"d","weight":1,"share":2}]}"#,
                ErrorClass::Invalid,
                "unknown field `share`",
            ),
            (
                r#"{"name":"a","targets":[{"deployment":"d","weight":-1}]}"#,
                ErrorClass::Unprocessable,
                "the weight of \"d\" is -1, not from 0 to 10000",
            ),
            (
                r#"{"name":"a","targets":[{"deployment":"d","weight":10001}]}"#,
                ErrorClass::Unprocessable,
                "the weight of \"d\" is 10001, not from 0 to 10000",
            ),
            (r#"{"name":"a","targets":[]}"#, ErrorClass::Unprocessable, "targets names 0 deployments"),
            (
                r#"{"name":"a b","targets":[{"deployment":"d","weight":1}]}"#,
                ErrorClass::Unprocessable,
                "name \"a b\"",
            ),
        ] {
            let error = create(json).expect_err(json);
            assert_eq!(error.class, class, "{json}: {}", error.message);
            assert!(error.message.contains(part), "{}", error.message);
        }
    }

    #[test]
    fn a_patch_tells_null_from_nothing() {
        let patch = |json: &str| wanted_patch(parse(json.as_bytes()).expect("well formed")).expect("valid");
        assert_eq!(patch("{}"), AliasPatch::default());
        assert_eq!(patch(r#"{"fallback":null}"#).fallback, Some(None));
        assert_eq!(patch(r#"{"fallback":"c"}"#).fallback, Some(Some("c".to_owned())));
        assert!(parse::<PatchBody>(br#"{"name":"b"}"#).is_err(), "a name stays");
    }
}
