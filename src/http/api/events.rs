//! The journal: `/api/v1/events` and the events of one deployment, as pages or followed as server-sent events.
//!
//! Each event of the stream is a line: `id` is its number, `event` its type, `data` the line as JSON. A client that
//! comes back says how far it got, by the header `Last-Event-ID` or by `cursor`.

use std::time::Duration;

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::refuse;
use super::{Api, PAGE_MAX, view};
use crate::actors::journal::{Filter, Follower, News};
use crate::domain::error::{Error, ErrorClass};
use crate::domain::event::JournalEvent;

type Shared = web::Data<Api>;

/// A stream that has nothing to say says so this often, so that proxies and clients know that it lives.
const KEEPALIVE: Duration = Duration::from_secs(15);

pub(super) fn configure(cfg: &mut web::ServiceConfig) {
    cfg.service(web::resource("/events").route(web::get().to(all)));
}

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    limit: Option<usize>,
    cursor: Option<String>,
    /// Only so many of the newest lines.
    tail: Option<usize>,
    #[serde(default)]
    follow: bool,
    /// A deployment's id or name.
    deployment: Option<String>,
    /// A node's id.
    node: Option<String>,
    /// The beginning of a type.
    #[serde(rename = "type")]
    kind: Option<String>,
}

impl Wanted {
    fn limit(&self) -> Result<usize, Error> {
        match self.limit {
            None => Ok(PAGE_MAX),
            Some(limit @ 1..=PAGE_MAX) => Ok(limit),
            Some(other) => {
                Err(Error::new(ErrorClass::Invalid, format!("limit is {other}, not from 1 to {PAGE_MAX}")))
            }
        }
    }

    /// The number of the last line that the client has, if it says so.
    fn cursor(&self, request: &HttpRequest) -> Result<Option<u64>, Error> {
        let header = request.headers().get("last-event-id").and_then(|value| value.to_str().ok());
        let text = header.filter(|_| self.follow).or(self.cursor.as_deref());
        let number = |text: &str| {
            let shown: String = text.chars().take(64).collect();
            text.parse()
                .map_err(|_| Error::new(ErrorClass::Invalid, format!("\"{shown}\" is no event's number")))
        };
        text.filter(|text| !text.is_empty()).map(number).transpose()
    }
}

async fn all(request: HttpRequest, api: Shared, wanted: web::Query<Wanted>) -> HttpResponse {
    let filter = || {
        let deployment = wanted.deployment.as_deref().map(|name| match name.parse() {
            // One that is gone has left its lines in the audit.
            Ok(id) => Ok(id),
            Err(_) => api.system.find_deployment(name),
        });
        let node = wanted.node.as_deref().map(str::parse).transpose();
        let node = node.map_err(|error| Error::new(ErrorClass::Invalid, format!("the query: {error}")))?;
        let kind = wanted.kind.clone().unwrap_or_default();
        Ok(Filter { deployment: deployment.transpose()?, node, kind, own: false })
    };
    answer(&request, &api, &wanted, filter()).await
}

/// `GET /deployments/{name}/events`.
pub(super) async fn of_deployment(
    request: HttpRequest,
    api: Shared,
    name: web::Path<String>,
    wanted: web::Query<Wanted>,
) -> HttpResponse {
    let filter = api.system.find_deployment(&name).map(|id| {
        let kind = wanted.kind.clone().unwrap_or_default();
        Filter { kind, ..Filter::of_deployment(id) }
    });
    answer(&request, &api, &wanted, filter).await
}

async fn answer(
    request: &HttpRequest,
    api: &Api,
    wanted: &Wanted,
    filter: Result<Filter, Error>,
) -> HttpResponse {
    let answered = async {
        let filter = filter?;
        let journal = &api.system.journal;
        let tail = || wanted.tail.map(|count| journal.before_last(count, &filter));
        let after = wanted.cursor(request)?.or_else(tail);
        if wanted.follow {
            return Ok(streamed(journal.follow(after, filter)?));
        }
        let page = journal.page(after.unwrap_or(0), wanted.limit()?, &filter).await?;
        let data: Vec<Value> = page.events.iter().map(|event| view::event(event)).collect();
        let cursor = page.more.then(|| page.reached.to_string());
        Ok::<_, Error>(HttpResponse::Ok().json(json!({"data": data, "next_cursor": cursor})))
    };
    answered.await.unwrap_or_else(|error| refuse(request, &error))
}

fn streamed(follower: Follower) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/event-stream"))
        .insert_header((CACHE_CONTROL, "no-cache"))
        .insert_header(("x-accel-buffering", "no"))
        .streaming(stream(follower))
}

/// The follower's news as bytes. Dropping the stream, as when the client leaves, ends the following.
fn stream(follower: Follower) -> impl Stream<Item = Result<Bytes, Error>> {
    // The first comment makes the head travel at once.
    let hello = futures_util::stream::iter([Ok(Bytes::from_static(b": the journal follows\n\n"))]);
    let news = unfold(Some(follower), async |follower| {
        let mut follower = follower?;
        match tokio::time::timeout(KEEPALIVE, follower.next()).await {
            Err(_) => Some((Ok(Bytes::from_static(b": nothing new\n\n")), Some(follower))),
            Ok(Ok(News::Lines(events))) => {
                let text: String = events.iter().map(|event| entry(event)).collect();
                Some((Ok(text.into()), Some(follower)))
            }
            Ok(Ok(News::Skipped(after))) => Some((Ok(skipped(after)), Some(follower))),
            Ok(Ok(News::End)) => None,
            // The client comes back with the number of its last line.
            Ok(Err(error)) => {
                tracing::warn!(%error, "a follower of the journal is sent away");
                None
            }
        }
    });
    futures_util::StreamExt::chain(hello, news)
}

fn entry(event: &JournalEvent) -> String {
    format!("id: {}\nevent: {}\ndata: {}\n\n", event.seq, event.line.kind, view::event(event))
}

fn skipped(after: u64) -> Bytes {
    let message = "lines that are no longer kept may be missing here";
    format!("event: skipped\ndata: {}\n\n", json!({"type": "skipped", "after": after, "message": message}))
        .into()
}
