//! `GET /api/v1/usage`: what was used, per key, model and span of time.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use nebula_core::clock::{WallTime, wall_now};
use nebula_core::ids::KeyId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::refuse;
use super::{Api, PAGE_MAX, page};
use crate::domain::error::{Error, ErrorClass};
use crate::domain::usage::{Span, UsageQuery, UsageRow};

type Shared = web::Data<Api>;

/// How far back is looked when nobody says it.
const LOOK_BACK: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) fn configure(cfg: &mut web::ServiceConfig) {
    cfg.service(web::resource("/usage").route(web::get().to(list)));
}

#[derive(Debug, Default, Deserialize)]
struct Wanted {
    from: Option<String>,
    to: Option<String>,
    /// `key`, `model`, both with a comma, or nothing.
    by: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorClass::Invalid, message)
}

/// What a client wrote, as far as it fits into a message.
fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

impl Wanted {
    fn query(&self, now: WallTime) -> Result<UsageQuery, Error> {
        let to = self.to.as_deref().map(|text| moment("to", text)).transpose()?;
        let from = self.from.as_deref().map(|text| moment("from", text)).transpose()?;
        // The row of the hour that runs has begun before now.
        let to = to.unwrap_or(WallTime(now.0.saturating_add(1)));
        let back = u64::try_from(LOOK_BACK.as_millis()).unwrap_or(u64::MAX);
        let from = from.unwrap_or_else(|| Span::Hour.start(WallTime(to.0.saturating_sub(back))));
        if from >= to {
            return Err(wrong(format!("from is {}, which is not before {}", from.rfc3339(), to.rfc3339())));
        }
        let (mut by_key, mut by_model) = (false, false);
        for part in self.by.as_deref().unwrap_or("key,model").split(',').filter(|part| !part.is_empty()) {
            match part.trim() {
                "key" => by_key = true,
                "model" => by_model = true,
                other => {
                    return Err(wrong(format!(
                        "by has \"{}\", which is neither key nor model",
                        short(other)
                    )));
                }
            }
        }
        Ok(UsageQuery { from, to, by_key, by_model })
    }

    fn limit(&self) -> Result<usize, Error> {
        match self.limit {
            None => Ok(PAGE_MAX),
            Some(limit @ 1..=PAGE_MAX) => Ok(limit),
            Some(other) => Err(wrong(format!("limit is {other}, not from 1 to {PAGE_MAX}"))),
        }
    }
}

/// A moment as RFC 3339 or in unix seconds.
fn moment(name: &str, text: &str) -> Result<WallTime, Error> {
    // A plus that was not escaped in a query is read as a space.
    let unescaped = || text.rsplit_once(' ').map(|(time, zone)| format!("{time}+{zone}"));
    let seconds = || text.parse::<u64>().ok()?.checked_mul(1_000).map(WallTime);
    let read = seconds()
        .or_else(|| WallTime::from_rfc3339(text))
        .or_else(|| unescaped().and_then(|text| WallTime::from_rfc3339(&text)));
    read.ok_or_else(|| {
        wrong(format!(
            "{name} is \"{}\", which is neither a time like 2026-01-31T12:00:00Z nor unix seconds",
            short(text)
        ))
    })
}

/// Where a row is in the list: the oldest first. Also what a cursor says.
type Place = (WallTime, Span, Option<KeyId>, String);

fn place(row: &UsageRow) -> Place {
    (row.from, row.span, row.key, row.model.clone())
}

/// `<from in milliseconds>.<span>.<key or nothing>.<model>`.
fn cursor((from, span, key, model): &Place) -> String {
    let key = key.map(|key| key.to_string()).unwrap_or_default();
    format!("{}.{}.{key}.{model}", from.0, span.as_str())
}

fn read_cursor(text: &str) -> Result<Place, Error> {
    let read = || {
        let mut parts = text.splitn(4, '.');
        let from = WallTime(parts.next()?.parse().ok()?);
        let span = parts.next()?;
        let span = Span::ALL.into_iter().find(|known| known.as_str() == span)?;
        let key = Some(parts.next()?).filter(|key| !key.is_empty()).map(str::parse).transpose().ok()?;
        Some((from, span, key, parts.next()?.to_owned()))
    };
    read().ok_or_else(|| wrong(format!("cursor is \"{}\", which no page ended with", short(text))))
}

async fn list(request: HttpRequest, api: Shared, wanted: web::Query<Wanted>) -> HttpResponse {
    let listed = async {
        let (limit, mut query) = (wanted.limit()?, wanted.query(wall_now())?);
        let after = wanted.cursor.as_deref().map(read_cursor).transpose()?;
        if let Some((from, ..)) = &after {
            // The list begins with the oldest: what is before the last page's end need not be read again.
            query.from = query.from.max(*from);
        }
        let mut rows: Vec<(Place, UsageRow)> =
            api.system.usage(query).await?.into_iter().map(|row| (place(&row), row)).collect();
        rows.retain(|(place, _)| after.as_ref().is_none_or(|after| place > after));
        rows.sort_by(|(one, _), (other, _)| one.cmp(other));
        rows.truncate(limit + 1);
        let rows = rows.iter().map(|(place, row)| (cursor(place), shown(row, &query)));
        Ok::<_, Error>(page(rows.collect(), limit))
    };
    match listed.await {
        Ok(rows) => HttpResponse::Ok().json(rows),
        Err(error) => refuse(&request, &error),
    }
}

/// What is not told apart is null.
fn shown(row: &UsageRow, query: &UsageQuery) -> Value {
    let model = Some(&row.model).filter(|_| query.by_model);
    json!({
        "key_id": row.key.map(|key| key.to_string()),
        "model": model,
        "from": row.from.rfc3339(),
        "span": row.span.as_str(),
        "requests": row.sums.requests,
        "prompt_tokens": row.sums.prompt_tokens,
        "completion_tokens": row.sums.completion_tokens,
        "aborted": row.sums.aborted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallTime = WallTime(1_702_400_000_000);

    fn query(from: &str, to: &str, by: &str) -> Result<UsageQuery, Error> {
        let given = |text: &str| (text != "-").then(|| text.to_owned());
        Wanted { from: given(from), to: given(to), by: given(by), ..Wanted::default() }.query(NOW)
    }

    #[test]
    fn what_is_not_said_is_the_last_day_with_everything_told_apart() {
        let whole = query("-", "-", "-").expect("valid");
        assert_eq!((whole.by_key, whole.by_model), (true, true));
        assert_eq!(whole.from.rfc3339(), "2023-12-11T16:00:00.000Z", "the hour in which the day begins");
        assert!(whole.to > NOW);
        for (by, told) in [("key", (true, false)), ("model", (false, true)), ("", (false, false))] {
            let query = query("-", "-", by).expect("valid");
            assert_eq!((query.by_key, query.by_model), told, "{by}");
        }
    }

    #[test]
    fn moments_are_read_in_every_form() {
        for text in
            ["1702400000", "2023-12-12T16:53:20Z", "2023-12-12T18:53:20+02:00", "2023-12-12T18:53:20 02:00"]
        {
            assert_eq!(query(text, "2100-01-01T00:00:00Z", "-").map(|query| query.from), Ok(NOW), "{text}");
        }
    }

    #[test]
    fn a_wrong_parameter_is_named() {
        for (from, to, by, part) in [
            ("yesterday", "-", "-", "from is \"yesterday\""),
            ("-", "2023-13-12T16:53:20Z", "-", "to is \"2023-13-12"),
            ("-1", "-", "-", "from is \"-1\""),
            ("99999999999999999999", "-", "-", "from is"),
            ("1702400000", "1702400000", "-", "which is not before"),
            ("-", "-", "node", "by has \"node\""),
            ("-", "-", "key,user", "by has \"user\""),
        ] {
            let error = query(from, to, by).expect_err(part);
            assert_eq!(error.class, ErrorClass::Invalid);
            assert!(error.message.contains(part), "{}", error.message);
        }
    }

    #[test]
    fn a_cursor_is_read_back_and_nonsense_is_not() {
        for model in ["", "m", "org/a.b.c"] {
            for key in [None, Some(KeyId::random())] {
                for span in Span::ALL {
                    let place = (NOW, span, key, model.to_owned());
                    assert_eq!(read_cursor(&cursor(&place)), Ok(place));
                }
            }
        }
        for text in ["", "1", "1.hour", "1.hour.", "x.hour..m", "1.week..m", "1.hour.k.m"] {
            assert!(read_cursor(text).is_err(), "{text}");
        }
    }
}
