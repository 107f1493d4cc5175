//! The ledger's entry of one request: everything that is counted, metered and logged about it, written once when the
//! request has ended, whichever way it ends. A request that is dropped is written as one whose client left.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use nebula_core::clock::Clock;
use nebula_core::ids::{KeyId, NodeId, ReplicaId};
use nebula_core::telemetry::access::{Line, Value};
use nebula_dialect::Tally;
use nebula_relay::End;

use crate::domain::key::Permit;
use crate::domain::route::Route;
use crate::domain::usage::Sums;
use crate::metrics;

use super::Ledger;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What a client is said to have got that left before there was anything to say.
const CLIENT_LEFT: u16 = 499;
/// Most tokens that an engine is believed, of the prompts or the answers of one request: far more than any could have.
const TOKENS_MAX: u64 = 1 << 28;

/// What is learnt of a request while it is answered. Shared by those who answer it, on one thread.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// The route by which it is answered, once the caller was let in.
    route: RefCell<Option<Arc<Route>>>,
    /// The replica that was asked last, and its node.
    replica: RefCell<Option<(ReplicaId, NodeId)>>,
    /// How many replicas were asked.
    tries: Cell<u32>,
    /// When the first byte of a good answer came, since the clock's start.
    first_byte: Cell<Option<Duration>>,
    /// Tokens so far.
    pub(crate) tally: Cell<Tally>,
    /// How a relayed body ended.
    pub(crate) end: Cell<Option<End>>,
}

impl Facts {
    /// It is answered by this route from now on.
    pub(crate) fn goes_by(&self, route: &Arc<Route>) {
        self.route.replace(Some(Arc::clone(route)));
    }

    /// A replica is asked.
    pub(crate) fn asks(&self, replica: ReplicaId, node: &NodeId) {
        self.replica.replace(Some((replica, node.clone())));
        self.tries.set(self.tries.get() + 1);
    }

    /// From now until the guard is told that it is over, whoever drops it leaves a response that has begun.
    pub(crate) fn waits(self: &Rc<Self>) -> Waits {
        Waits(Some(Rc::clone(self)))
    }

    /// A byte of a good answer has come.
    pub(crate) fn byte_came(&self, clock: &Clock) {
        if self.first_byte.get().is_none() {
            self.first_byte.set(Some(clock.elapsed()));
        }
    }
}

/// A client that waits within a response which has begun.
pub(crate) struct Waits(Option<Rc<Facts>>);

impl Waits {
    /// It has its answer.
    pub(crate) fn over(mut self) {
        self.0 = None;
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        if let Some(facts) = &self.0 {
            facts.end.set(Some(End::Abandoned));
        }
    }
}

/// One request.
pub(crate) struct Entry {
    ledger: Rc<Ledger>,
    /// Since the clock's start.
    began: Duration,
    request_id: HeaderValue,
    trace_id: Option<String>,
    method: &'static str,
    path: &'static str,
    /// Of a body that was read to its end.
    bytes_in: u64,
    bytes_out: u64,
    status: u16,
    key: Option<KeyId>,
    permit: Option<Permit>,
    streams: bool,
    prompt_estimate: u64,
    facts: Rc<Facts>,
}

impl Entry {
    /// A request has come.
    pub(crate) fn begin(ledger: &Rc<Ledger>, request: &HttpRequest, request_id: HeaderValue) -> Self {
        Self {
            began: ledger.clock.elapsed(),
            ledger: Rc::clone(ledger),
            request_id,
            trace_id: trace_id(request.headers()),
            method: method(request),
            path: "",
            bytes_in: 0,
            bytes_out: 0,
            status: CLIENT_LEFT,
            key: None,
            permit: None,
            streams: false,
            prompt_estimate: 0,
            facts: Rc::default(),
        }
    }

    /// It came to this path.
    pub(crate) fn came_to(&mut self, path: &'static str) {
        self.path = path;
    }

    /// The whole body was read.
    pub(crate) fn read(&mut self, bytes: usize, streams: bool, prompt_estimate: u64) {
        self.bytes_in = bytes as u64;
        self.streams = streams;
        self.prompt_estimate = prompt_estimate;
    }

    /// The caller may use this route, on the account of this key.
    pub(crate) fn let_in(&mut self, route: &Arc<Route>, key: Option<KeyId>) {
        self.facts.goes_by(route);
        self.key = key;
    }

    /// The key's limits leave room.
    pub(crate) fn permitted(&mut self, permit: Permit) {
        self.permit = Some(permit);
    }

    /// What is learnt while it is answered.
    pub(crate) fn facts(&self) -> &Rc<Facts> {
        &self.facts
    }

    /// What its key has left.
    pub(crate) fn permit(&self) -> Option<&Permit> {
        self.permit.as_ref()
    }

    /// The response has this status; what follows is its body.
    pub(crate) fn over(mut self, status: u16, body: BoxBody) -> Recorded {
        self.status = status;
        Recorded { body, entry: self }
    }

    /// Prompt and completion tokens, and whether the answer was cut short.
    fn tokens(&self) -> (u64, u64, bool) {
        let tally = self.facts.tally.get();
        let cut = matches!(self.facts.end.get(), Some(End::Abandoned | End::Broken(_)));
        let aborted = cut || self.status == CLIENT_LEFT && self.facts.tries.get() > 0;
        match tally.usage {
            Some(usage) => (usage.prompt.min(TOKENS_MAX), usage.completion.min(TOKENS_MAX), aborted),
            // What was cut short was worked on all the same; what ended without figures is counted by its pieces.
            None if aborted || tally.pieces > 0 => (self.prompt_estimate, tally.pieces, aborted),
            None => (0, 0, aborted),
        }
    }

    fn to_first_byte(&self) -> Option<Duration> {
        Some(self.facts.first_byte.get()?.saturating_sub(self.began))
    }

    fn meter(&mut self, prompt: u64, completion: u64, aborted: bool) {
        let route = self.facts.route.borrow();
        let Some(route) = &*route else { return };
        if self.facts.tries.get() == 0 {
            return;
        }
        let (now, wall) = (self.ledger.clock.now(), self.ledger.clock.wall());
        let sums = Sums {
            requests: 1,
            prompt_tokens: prompt,
            completion_tokens: completion,
            aborted: u64::from(aborted),
        };
        self.ledger.usage.add(self.key, &route.name, wall, sums);
        if let Some(permit) = &self.permit {
            permit.spend(prompt.saturating_add(completion), now, wall);
        }
    }

    fn log(&self, took: Duration, prompt: u64, completion: u64) {
        let (log, format) = &self.ledger.access;
        if !log.is_on() {
            return;
        }
        let mut line = Line::new(*format, "gateway request");
        line.field("bytes_in", Value::Number(self.bytes_in));
        line.field("bytes_out", Value::Number(self.bytes_out));
        match self.facts.end.get() {
            Some(End::Abandoned) => line.field("cut", Value::Text("client left")),
            Some(End::Broken(_)) => line.field("cut", Value::Text("upstream broke")),
            Some(End::Whole) | None => {}
        }
        line.field("duration_ms", Value::Millis(took));
        if let Some(key) = self.key {
            line.field("key_id", Value::Text(&key.to_string()));
        }
        line.field("method", Value::Text(self.method));
        if let Some(route) = &*self.facts.route.borrow() {
            line.field("model", Value::Text(&route.name));
        }
        if let Some((replica, node)) = &*self.facts.replica.borrow() {
            line.field("node_id", Value::Text(node.as_str()));
            line.field("replica_id", Value::Text(&replica.to_string()));
        }
        line.field("path", Value::Text(self.path));
        line.field("request_id", Value::Text(self.request_id.to_str().unwrap_or_default()));
        line.field("status", Value::Number(u64::from(self.status)));
        line.field("stream", Value::Bool(self.streams));
        line.field("tokens_in", Value::Number(prompt));
        line.field("tokens_out", Value::Number(completion));
        if let Some(trace_id) = &self.trace_id {
            line.field("trace_id", Value::Text(trace_id));
        }
        line.field("tries", Value::Number(u64::from(self.facts.tries.get())));
        if let Some(ttft) = self.to_first_byte() {
            line.field("ttft_ms", Value::Millis(ttft));
        }
        log.write(line.end());
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let took = self.ledger.clock.elapsed().saturating_sub(self.began);
        let (prompt, completion, aborted) = self.tokens();
        self.meter(prompt, completion, aborted);
        let ttft = self.to_first_byte().map(|ttft| ttft.as_secs_f64());
        {
            let route = self.facts.route.borrow();
            let model = route.as_ref().map_or("", |route| route.name.as_str());
            metrics::gateway().answered(model, self.status, took.as_secs_f64(), ttft, prompt, completion);
        }
        self.log(took, prompt, completion);
    }
}

/// A response's body, which counts what goes out and writes the entry when it has ended.
pub(crate) struct Recorded {
    // Dropped before the entry, which it still tells how it ended.
    body: BoxBody,
    entry: Entry,
}

impl MessageBody for Recorded {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.get_mut();
        let next = Pin::new(&mut this.body).poll_next(cx);
        if let Poll::Ready(Some(Ok(data))) = &next {
            this.entry.bytes_out += data.len() as u64;
        }
        next
    }
}

/// The request's method; what nobody uses is not repeated.
fn method(request: &HttpRequest) -> &'static str {
    match request.method().as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// The trace that a request belongs to, by W3C's trace context.
fn trace_id(headers: &HeaderMap) -> Option<String> {
    let parent = headers.get(TRACEPARENT)?.to_str().ok()?;
    let trace = parent.split('-').nth(1)?;
    (trace.len() == 32 && trace.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| trace.to_owned())
}
