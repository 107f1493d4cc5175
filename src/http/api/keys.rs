//! `/api/v1/keys`: API keys. A secret is shown when it is made and never again.

use std::collections::BTreeSet;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use nebula_core::clock::{WallTime, wall_now};
use nebula_core::duration;
use nebula_core::ids::KeyId;
use nebula_core::token::Secret;
use serde::Deserialize;
use serde_json::{Value, json};

use super::deployments::parse;
use super::error::refuse;
use super::{Api, Page, origin, page};
use crate::domain::error::{Error, ErrorClass};
use crate::domain::key::{ApiKey, Budget, KeyLimits, KeyTable, NewKey, OVERLAP_MAX, Period};

type Shared = web::Data<Api>;

/// How long the old secret of a rotated key stays valid when nobody says it: long enough to give the new one to all
/// who use it.
const OVERLAP_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest life of a key that has an end.
const EXPIRES_IN_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

pub(super) fn configure(cfg: &mut web::ServiceConfig) {
    cfg.service(web::resource("/keys").route(web::post().to(post)).route(web::get().to(list)))
        .service(web::resource("/keys/{key}/rotate").route(web::post().to(rotate)))
        .service(web::resource("/keys/{key}").route(web::get().to(get)).route(web::delete().to(delete)));
}

/// The body of a create. Fields that are not known are refused: they are typing errors more often than not.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateBody {
    name: String,
    models: Option<Vec<String>>,
    expires_in: Option<Value>,
    rpm: Option<i64>,
    tpm: Option<i64>,
    max_concurrent: Option<i64>,
    budget: Option<BudgetBody>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BudgetBody {
    tokens: i64,
    period: String,
}

/// The body of a rotation, which may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RotateBody {
    overlap: Option<Value>,
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorClass::Unprocessable, message)
}

/// A key as it is wanted. What only the domain knows to be wrong is found there.
fn wanted(body: CreateBody, now: WallTime) -> Result<NewKey, Error> {
    let expires_in = body.expires_in.as_ref().map(|value| time("expires_in", value, EXPIRES_IN_MAX));
    let limits = KeyLimits {
        rpm: body.rpm.map(|value| limit("rpm", value)).transpose()?,
        tpm: body.tpm.map(|value| limit("tpm", value)).transpose()?,
        max_concurrent: body.max_concurrent.map(|value| limit("max_concurrent", value)).transpose()?,
        budget: body.budget.map(budget).transpose()?,
    };
    Ok(NewKey {
        name: body.name,
        models: body.models.map(BTreeSet::from_iter),
        expires_at: expires_in.transpose()?.map(|time| after(now, time)),
        limits,
    })
}

fn after(now: WallTime, time: Duration) -> WallTime {
    WallTime(now.0.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
}

/// How much of something, from 1 on.
fn limit<T: TryFrom<i64>>(field: &str, value: i64) -> Result<T, Error> {
    let fits = T::try_from(value).ok().filter(|_| value > 0);
    fits.ok_or_else(|| {
        wrong(format!("{field} is {value}, too small or too large; leave it out for no limit"))
    })
}

fn budget(body: BudgetBody) -> Result<Budget, Error> {
    let period = Period::ALL.into_iter().find(|period| period.as_str() == body.period);
    let period = period.ok_or_else(|| {
        let shown: String = body.period.chars().take(40).collect();
        wrong(format!("budget.period is \"{shown}\"; known: day, month, total"))
    })?;
    Ok(Budget { tokens: limit("budget.tokens", body.tokens)?, period })
}

/// Seconds, or a duration such as `"24h"`.
pub(super) fn time(field: &str, value: &Value, most: Duration) -> Result<Duration, Error> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return Err(wrong(format!("{field} is neither seconds nor a duration like \"24h\""))),
    };
    let time = duration::parse(&text).map_err(|error| wrong(format!("{field}: {error}")))?;
    if time > most {
        let days = most.as_secs() / 86_400;
        return Err(wrong(format!("{field} is more than {days} days")));
    }
    Ok(time)
}

/// A key's id, by its id or its name.
fn find(keys: &KeyTable, wanted: &str) -> Result<KeyId, Error> {
    if let Some(live) = wanted.parse().ok().and_then(|id| keys.get(id)) {
        return Ok(live.key.id);
    }
    let named = keys.iter().find(|live| live.key.name == wanted).map(|live| live.key.id);
    named.ok_or_else(|| Error::new(ErrorClass::NotFound, format!("there is no key \"{wanted}\"")))
}

async fn post(request: HttpRequest, api: Shared, body: Bytes) -> HttpResponse {
    let created = async {
        let wanted = wanted(parse(&body)?, wall_now())?;
        api.system.create_key(wanted, origin(&request)).await
    };
    match created.await {
        Ok((key, secret)) => HttpResponse::Created().json(shown_with(&api, &key, &secret)),
        Err(error) => refuse(&request, &error),
    }
}

async fn list(request: HttpRequest, api: Shared, wanted: web::Query<Page>) -> HttpResponse {
    let listed = || {
        let limit = wanted.limit()?;
        let after = wanted.cursor.as_deref().map(str::parse::<KeyId>).transpose();
        let after =
            after.map_err(|error| Error::new(ErrorClass::Invalid, format!("the query: cursor: {error}")))?;
        let (keys, now) = (api.system.keys(), wall_now());
        let rows = keys.iter().filter(|live| after.is_none_or(|after| live.key.id > after));
        let rows = rows
            .take(limit + 1)
            .map(|live| (live.key.id.to_string(), shown(&live.key, live.spent(now), now)));
        Ok(page(rows.collect(), limit))
    };
    match listed() {
        Ok(rows) => HttpResponse::Ok().json(rows),
        Err(error) => refuse(&request, &error),
    }
}

async fn get(request: HttpRequest, api: Shared, key: web::Path<String>) -> HttpResponse {
    let (keys, now) = (api.system.keys(), wall_now());
    let found = find(&keys, &key).map(|id| keys.get(id));
    match found {
        Ok(Some(live)) => HttpResponse::Ok().json(shown(&live.key, live.spent(now), now)),
        Ok(None) => refuse(&request, &Error::restarting()),
        Err(error) => refuse(&request, &error),
    }
}

async fn rotate(request: HttpRequest, api: Shared, key: web::Path<String>, body: Bytes) -> HttpResponse {
    let rotated = async {
        let body: RotateBody = if body.is_empty() { RotateBody::default() } else { parse(&body)? };
        let overlap = body.overlap.as_ref().map(|value| time("overlap", value, OVERLAP_MAX));
        let overlap = overlap.transpose()?.unwrap_or(OVERLAP_DEFAULT);
        let id = find(&api.system.keys(), &key)?;
        api.system.rotate_key(id, overlap, origin(&request)).await
    };
    match rotated.await {
        Ok((key, secret)) => HttpResponse::Ok().json(shown_with(&api, &key, &secret)),
        Err(error) => refuse(&request, &error),
    }
}

async fn delete(request: HttpRequest, api: Shared, key: web::Path<String>) -> HttpResponse {
    let revoked = async {
        let id = find(&api.system.keys(), &key)?;
        api.system.revoke_key(id, origin(&request)).await
    };
    match revoked.await {
        Ok(()) => HttpResponse::NoContent().finish(),
        Err(error) => refuse(&request, &error),
    }
}

/// A key without anything of its secrets. `spent` is what is spent of its budget.
fn shown(key: &ApiKey, spent: Option<u64>, now: WallTime) -> Value {
    let limits = &key.limits;
    let budget = limits.budget.map(|budget| {
        json!({"tokens": budget.tokens, "period": budget.period.as_str(), "spent": spent.unwrap_or_default()})
    });
    let old = key.secrets.iter().filter_map(|secret| secret.until).find(|until| *until > now);
    json!({
        "id": key.id.to_string(),
        "name": key.name,
        "state": if key.is_expired(now) { "expired" } else { "active" },
        "models": key.models,
        "rpm": limits.rpm,
        "tpm": limits.tpm,
        "max_concurrent": limits.max_concurrent,
        "budget": budget,
        "expires_at": key.expires_at.map(WallTime::rfc3339),
        "created_at": key.created_at.rfc3339(),
        "old_secret_until": old.map(WallTime::rfc3339),
    })
}

/// A key with its new secret, which nobody can see again.
fn shown_with(api: &Api, key: &ApiKey, secret: &Secret) -> Value {
    let now = wall_now();
    let spent = api.system.keys().get(key.id).and_then(|live| live.spent(now));
    let mut shown = shown(key, spent, now);
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("key".to_owned(), json!(secret.expose()));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallTime = WallTime(1_702_400_000_000);

    fn create(json: &str) -> Result<NewKey, Error> {
        let wanted = wanted(parse(json.as_bytes())?, NOW)?;
        wanted.check(NOW).map(|()| wanted)
    }

    #[test]
    fn a_key_without_limits_is_one_word_and_all_limits_are_understood() {
        let plain = create(r#"{"name":"ci"}"#).expect("valid");
        assert_eq!((plain.models, plain.expires_at, plain.limits), (None, None, KeyLimits::default()));
        let full = create(
            r#"{"name":"ci","models":["b","a","b"],"expires_in":"30d","rpm":60,"tpm":9000000000,
                "max_concurrent":4,"budget":{"tokens":1000,"period":"month"}}"#,
        )
        .expect("valid");
        assert_eq!(full.models, Some(BTreeSet::from(["a".to_owned(), "b".to_owned()])));
        assert_eq!(full.expires_at, Some(WallTime(NOW.0 + 30 * 86_400_000)));
        let budget = Some(Budget { tokens: 1_000, period: Period::Month });
        let limits = KeyLimits { rpm: Some(60), tpm: Some(9_000_000_000), max_concurrent: Some(4), budget };
        assert_eq!(full.limits, limits);
        let seconds = create(r#"{"name":"ci","expires_in":90}"#).expect("valid");
        assert_eq!(seconds.expires_at, Some(WallTime(NOW.0 + 90_000)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (json, class, part) in [
            ("", ErrorClass::Invalid, "the body: "),
            ("[]", ErrorClass::Invalid, "the body: "),
            (r#"{"models":[]}"#, ErrorClass::Invalid, "missing field `name`"),
            (r#"{"name":"a","modles":[]}"#, ErrorClass::Invalid, "unknown field `modles`"),
            (r#"{"name":"a","rpm":1.5}"#, ErrorClass::Invalid, "1.5"),
            (r#"{"name":"a","budget":{"tokens":1}}"#, ErrorClass::Invalid, "missing field `period`"),
            (r#"{"name":""}"#, ErrorClass::Unprocessable, "name"),
            (r#"{"name":"a","models":[]}"#, ErrorClass::Unprocessable, "models is empty"),
            (r#"{"name":"a","rpm":0}"#, ErrorClass::Unprocessable, "rpm is 0"),
            (r#"{"name":"a","rpm":4294967296}"#, ErrorClass::Unprocessable, "rpm is 4294967296"),
            (r#"{"name":"a","tpm":-5}"#, ErrorClass::Unprocessable, "tpm is -5"),
            (r#"{"name":"a","max_concurrent":0}"#, ErrorClass::Unprocessable, "max_concurrent is 0"),
            (r#"{"name":"a","expires_in":"soon"}"#, ErrorClass::Unprocessable, "expires_in: \"soon\""),
            (r#"{"name":"a","expires_in":true}"#, ErrorClass::Unprocessable, "expires_in is neither"),
            (r#"{"name":"a","expires_in":-1}"#, ErrorClass::Unprocessable, "expires_in: \"-1\""),
            (r#"{"name":"a","expires_in":0}"#, ErrorClass::Unprocessable, "expired already"),
            (
                r#"{"name":"a","expires_in":"40000d"}"#,
                ErrorClass::Unprocessable,
                "expires_in is more than 36500",
            ),
            (
                r#"{"name":"a","budget":{"tokens":0,"period":"day"}}"#,
                ErrorClass::Unprocessable,
                "budget.tokens is 0",
            ),
            (
                r#"{"name":"a","budget":{"tokens":1,"period":"week"}}"#,
                ErrorClass::Unprocessable,
                "budget.period is \"week\"; known: day, month, total",
            ),
        ] {
            let error = create(json).expect_err(json);
            assert_eq!(error.class, class, "{json}: {}", error.message);
            assert!(error.message.contains(part), "{}", error.message);
        }
    }
}
