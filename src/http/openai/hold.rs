//! Requests that wait: while nothing of a deployment can serve yet and something is on its way, they are held for a
//! while instead of being refused; one that sleeps is woken. Who asked for a stream hears at once that it is waited.

use std::cell::Cell;
use std::error::Error;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::body::{BodySize, BoxBody, MessageBody, to_bytes_limited};
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName};
use arc_swap::ArcSwap;
use bytes::Bytes;
use nebula_core::clock::Clock;
use nebula_core::ids::DeploymentId;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};

use crate::domain::route::{Route, RouteTable, Waiting};
use crate::http::error::OpenAiError;

use super::Gateway;
use super::wakes::{WAKE_EVERY, Wakes};

/// Most requests that are held on one worker thread; more are refused at once, as without holding.
const WAITING_MAX: usize = 1_000;
/// Largest answer that is put into an event, in bytes.
const EVENT_MAX: usize = 1024 * 1024;
/// What a stream says while it waits.
const COMMENT: &str = ": waiting for the model\n\n";
/// How long a request waits for a deployment that it has woken, where others are not held at all: a model may have to
/// be fetched and loaded.
const WAKE_HOLD: Duration = Duration::from_secs(300);

const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The requests that wait on one worker thread.
pub(crate) struct Holding {
    routes: Arc<ArcSwap<RouteTable>>,
    changed: watch::Receiver<u64>,
    longest: Duration,
    wakes: Wakes,
    clock: Clock,
    waiting: Rc<Cell<usize>>,
}

impl Holding {
    /// Nobody waits yet.
    pub(crate) fn new(gateway: &Gateway) -> Self {
        Self {
            routes: Arc::clone(&gateway.routes),
            changed: gateway.routes_changed.clone(),
            longest: gateway.limits.hold,
            wakes: gateway.wakes.clone(),
            clock: gateway.clock,
            waiting: Rc::default(),
        }
    }

    /// A place to wait for a route. None when there is nothing to wait for, or no room.
    pub(crate) fn enter(&self, route: &Route) -> Option<Hold> {
        let longest = if route.wakes && self.longest.is_zero() { WAKE_HOLD } else { self.longest };
        let count = self.waiting.get();
        if longest.is_zero() || !route.is_awaited() || count >= WAITING_MAX {
            return None;
        }
        self.waiting.set(count + 1);
        Some(Hold {
            deployment: route.deployment_id,
            routes: Arc::clone(&self.routes),
            changed: self.changed.clone(),
            longest,
            wakes: self.wakes.clone(),
            clock: self.clock,
            _place: Place(Rc::clone(&self.waiting)),
            _waiting: route.demand.wait(),
        })
    }

    /// Sees changes of the routes from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        let mut changed = self.changed.clone();
        changed.mark_unchanged();
        changed
    }
}

/// A request that waits. Dropping it gives its place back.
pub(crate) struct Hold {
    deployment: DeploymentId,
    routes: Arc<ArcSwap<RouteTable>>,
    changed: watch::Receiver<u64>,
    longest: Duration,
    wakes: Wakes,
    clock: Clock,
    _place: Place,
    _waiting: Waiting,
}

struct Place(Rc<Cell<usize>>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl Hold {
    /// The route as soon as a replica can be asked. None when the time is over, or as soon as it is known that none
    /// will come: the deployment was stopped or deleted, or has failed.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub(crate) async fn ready(mut self) -> Option<Arc<Route>> {
        tokio::time::timeout(self.longest, self.settled()).await.ok().flatten()
    }

    /// What a waiting stream says at the moment.
    pub(crate) fn comments(&self) -> impl Fn() -> Bytes + 'static {
        let (wakes, deployment) = (self.wakes.clone(), self.deployment);
        move || comment(wakes.progress(deployment))
    }

    async fn settled(&mut self) -> Option<Arc<Route>> {
        loop {
            // Seen before the table is read, so that no change after that is missed.
            self.changed.mark_unchanged();
            let route = self.routes.load().by_id(self.deployment).cloned()?;
            if !route.endpoints.is_empty() {
                return Some(route);
            }
            if !route.is_awaited() {
                return None;
            }
            self.wakes.wake(&route, &self.clock);
            tokio::select! {
                changed = self.changed.changed() => changed.ok()?,
                () = tokio::time::sleep(WAKE_EVERY), if route.wakes => {}
            }
        }
    }
}

fn comment(progress: Option<String>) -> Bytes {
    match progress {
        None => Bytes::from_static(COMMENT.as_bytes()),
        Some(progress) => Bytes::from(format!("{}: {progress}\n\n", COMMENT.trim_end())),
    }
}

/// A stream whose answer is still to come. Its head goes out at once, so an answer that turns out to be an error becomes
/// an event; until then a `comment` goes out at once and each `keepalive`, unless that is zero.
pub(crate) fn held(
    keepalive: Duration,
    comment: impl Fn() -> Bytes + 'static,
    answer: impl Future<Output = HttpResponse> + 'static,
) -> HttpResponse {
    let comments = (!keepalive.is_zero()).then(|| {
        let mut comments = tokio::time::interval(keepalive);
        comments.set_missed_tick_behavior(MissedTickBehavior::Delay);
        comments
    });
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/event-stream"))
        .insert_header((CACHE_CONTROL, "no-cache"))
        .insert_header((ACCEL_BUFFERING, "no"))
        .body(Held { comments, comment: Box::new(comment), state: State::Waiting(Box::pin(content(answer))) })
}

/// What an answer comes to in a stream that has begun already.
async fn content(answer: impl Future<Output = HttpResponse>) -> Content {
    let answer = answer.await;
    if answer.status().is_success() && is_event_stream(answer.headers()) {
        return Content::Stream(answer.into_body());
    }
    let whole = to_bytes_limited(answer.into_body(), EVENT_MAX).await;
    let whole = whole.ok().and_then(Result::ok).filter(|whole| is_object(whole));
    Content::Event(whole.map_or_else(|| OpenAiError::Upstream.event(), |whole| event(&whole)))
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    const EVENTS: &[u8] = b"text/event-stream";
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.as_bytes().get(..EVENTS.len()));
    kind.is_some_and(|kind| kind.eq_ignore_ascii_case(EVENTS))
}

fn is_object(body: &[u8]) -> bool {
    serde_json::from_slice::<&serde_json::value::RawValue>(body).is_ok_and(|json| json.get().starts_with('{'))
}

/// A document as one event. Line breaks can only stand between its parts.
fn event(document: &[u8]) -> Bytes {
    let one_line = document.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte });
    b"data: ".iter().copied().chain(one_line).chain(*b"\n\n").collect()
}

enum Content {
    Stream(BoxBody),
    Event(Bytes),
}

enum State {
    Waiting(Pin<Box<dyn Future<Output = Content>>>),
    Passing(BoxBody),
    Over,
}

/// The body of a held stream.
struct Held {
    comments: Option<Interval>,
    comment: Box<dyn Fn() -> Bytes>,
    state: State,
}

impl MessageBody for Held {
    type Error = Box<dyn Error>;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let held = self.get_mut();
        if let State::Waiting(answer) = &mut held.state {
            match answer.as_mut().poll(cx) {
                Poll::Ready(Content::Stream(body)) => held.state = State::Passing(body),
                Poll::Ready(Content::Event(event)) => {
                    held.state = State::Over;
                    return Poll::Ready(Some(Ok(event)));
                }
                Poll::Pending => {
                    let Some(comments) = &mut held.comments else { return Poll::Pending };
                    ready!(comments.poll_tick(cx));
                    return Poll::Ready(Some(Ok((held.comment)())));
                }
            }
        }
        match &mut held.state {
            State::Passing(body) => Pin::new(body).poll_next(cx),
            State::Waiting(_) | State::Over => Poll::Ready(None),
        }
    }
}

#[cfg(test)]
mod tests;
