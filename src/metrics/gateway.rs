//! What the gateway counts of its requests. Threads count through handles of their own, so that a request looks
//! nothing up under a lock and allocates nothing.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::core::Collector;
use prometheus::{Histogram, IntCounter, IntCounterVec};

use super::Maker;

/// Seconds that a request takes: from a cached answer to a long generation.
const REQUEST_BUCKETS: [f64; 16] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
/// Seconds to the first byte of an answer.
const TTFT_BUCKETS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

const MODEL: &str = "model";

/// The limits of an API key.
const LIMITS: [&str; 4] = ["requests", "tokens", "concurrent", "budget"];

/// What the gateway counts.
pub struct GatewayMetrics {
    requests: IntCounterVec,
    tokens: IntCounterVec,
    seconds: Histogram,
    ttft: Histogram,
    retries: IntCounter,
    limited: IntCounterVec,
    /// Grows when series are dropped: handles from before lead nowhere.
    epoch: AtomicU64,
}

/// One thread's handles.
#[derive(Default)]
struct Handles {
    epoch: u64,
    models: HashMap<Box<str>, Model>,
}

/// The series of a model.
struct Model {
    /// A few statuses.
    codes: Vec<(u16, IntCounter)>,
    prompt: IntCounter,
    completion: IntCounter,
}

thread_local! {
    static HANDLES: RefCell<Handles> = RefCell::default();
}

impl GatewayMetrics {
    pub(super) fn new(make: &Maker) -> Self {
        let limited = make.counters(
            "nebula_gateway_limited_total",
            "Requests refused because a limit of their API key was reached.",
            &["kind"],
        );
        for kind in LIMITS {
            // Shown from zero on.
            limited.with_label_values(&[kind]);
        }
        Self {
            requests: make.counters(
                "nebula_gateway_requests_total",
                "Requests by deployment (empty: none was found) and status.",
                &[MODEL, "code"],
            ),
            tokens: make.counters(
                "nebula_gateway_tokens_total",
                "Tokens of prompts and completions by deployment.",
                &[MODEL, "kind"],
            ),
            seconds: make.histogram(
                "nebula_gateway_request_seconds",
                "Time from a request's head to the end of its answer.",
                &REQUEST_BUCKETS,
            ),
            ttft: make.histogram(
                "nebula_gateway_ttft_seconds",
                "Time from a request's head to the first byte of its answer.",
                &TTFT_BUCKETS,
            ),
            retries: make.counter(
                "nebula_gateway_retries_total",
                "Requests that were sent to another replica because one failed.",
            ),
            limited,
            epoch: AtomicU64::new(0),
        }
    }

    /// A request is over. `model` is the name of a deployment, or nothing when none was found: never what a client
    /// sent. Times are in seconds from the request's head; `ttft` is there if an upstream has answered.
    pub fn answered(
        &self,
        model: &str,
        status: u16,
        seconds: f64,
        ttft: Option<f64>,
        prompt: u64,
        completion: u64,
    ) {
        self.seconds.observe(seconds);
        if let Some(ttft) = ttft {
            self.ttft.observe(ttft);
        }
        // A request may end while its thread does, when the thread's handles are gone.
        let counted =
            HANDLES.try_with(|handles| handles.borrow_mut().count(self, model, status, prompt, completion));
        if counted.is_err() {
            Model::new(self, model).count(self, model, status, prompt, completion);
        }
    }

    /// A request was sent to another replica.
    pub fn retried(&self) {
        self.retries.inc();
    }

    /// A request was refused because its key is at this limit: `requests`, `tokens`, `concurrent` or `budget`.
    pub fn limited(&self, kind: &'static str) {
        self.limited.with_label_values(&[kind]).inc();
    }

    /// Drops the series of models for which `exists` says no.
    pub(super) fn retain(&self, exists: impl Fn(&str) -> bool) {
        let mut dropped = false;
        for series in [&self.requests, &self.tokens] {
            for metric in series.collect().iter().flat_map(|family| family.get_metric()) {
                let labels = metric.get_label();
                let value = |of: &str| labels.iter().find(|label| label.name() == of).map(|l| l.value());
                let model = value(MODEL).unwrap_or_default();
                if !model.is_empty() && !exists(model) {
                    let other = value("code").or_else(|| value("kind")).unwrap_or_default();
                    dropped |= series.remove_label_values(&[model, other]).is_ok();
                }
            }
        }
        if dropped {
            self.epoch.fetch_add(1, Ordering::Release);
        }
    }
}

impl Handles {
    fn count(&mut self, metrics: &GatewayMetrics, name: &str, status: u16, prompt: u64, completion: u64) {
        let epoch = metrics.epoch.load(Ordering::Acquire);
        if self.epoch != epoch {
            *self = Self { epoch, models: HashMap::new() };
        }
        match self.models.get_mut(name) {
            Some(model) => model.count(metrics, name, status, prompt, completion),
            None => {
                let mut model = Model::new(metrics, name);
                model.count(metrics, name, status, prompt, completion);
                self.models.insert(name.into(), model);
            }
        }
    }
}

impl Model {
    fn new(metrics: &GatewayMetrics, name: &str) -> Self {
        let tokens = |kind| metrics.tokens.with_label_values(&[name, kind]);
        Self { codes: Vec::new(), prompt: tokens("prompt"), completion: tokens("completion") }
    }

    fn count(&mut self, metrics: &GatewayMetrics, name: &str, status: u16, prompt: u64, completion: u64) {
        match self.codes.iter().find(|(code, _)| *code == status) {
            Some((_, requests)) => requests.inc(),
            None => {
                let requests = metrics.requests.with_label_values(&[name, &status.to_string()]);
                requests.inc();
                self.codes.push((status, requests));
            }
        }
        self.prompt.inc_by(prompt);
        self.completion.inc_by(completion);
    }
}
