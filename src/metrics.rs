//! What is counted and timed while it happens, and the page that Prometheus reads.
//!
//! Counts live as long as the process. What can be read from elsewhere (how many nodes, how many requests in flight)
//! is not counted here: whoever makes the page puts it on it. No label ever holds text that a client chose.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry};

mod gateway;
mod page;
mod process;

pub use self::gateway::GatewayMetrics;
pub use self::page::Page;

/// Seconds from handing a batch to the store to its acknowledgement.
const COMMIT_BUCKETS: [f64; 16] =
    [0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

struct Metrics {
    registry: Registry,
    gateway: GatewayMetrics,
    heartbeats: IntCounter,
    actor_restarts: IntCounterVec,
    commit_seconds: Histogram,
}

impl Metrics {
    fn new() -> Self {
        let make = Maker(Registry::new());
        Self {
            gateway: GatewayMetrics::new(&make),
            heartbeats: make.counter("nebula_heartbeats_total", "Heartbeats that were heard."),
            actor_restarts: make.counters(
                "nebula_actor_restarts_total",
                "Actors that were built again, by what they are.",
                &["kind"],
            ),
            commit_seconds: make.histogram(
                "nebula_store_commit_seconds",
                "Time from handing a batch to the store until it is durable.",
                &COMMIT_BUCKETS,
            ),
            registry: make.0,
        }
    }
}

/// What the gateway counts.
#[must_use]
pub fn gateway() -> &'static GatewayMetrics {
    &METRICS.gateway
}

/// A node was heard, be it known or not.
pub fn heartbeat() {
    METRICS.heartbeats.inc();
}

/// There is an actor of this kind: its restarts are shown from zero on.
pub fn actor_kind(kind: &'static str) {
    METRICS.actor_restarts.with_label_values(&[kind]);
}

/// An actor of this kind ended and is built again.
pub fn actor_restarted(kind: &'static str) {
    METRICS.actor_restarts.with_label_values(&[kind]).inc();
}

/// A batch became durable after so long.
pub fn committed(took: Duration) {
    METRICS.commit_seconds.observe(took.as_secs_f64());
}

/// Makes metrics and keeps them for the page.
struct Maker(Registry);

impl Maker {
    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.keep(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.keep(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.keep(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
    }

    fn keep<M>(&self, made: prometheus::Result<M>) -> M
    where
        M: prometheus::core::Collector + Clone + 'static,
    {
        let metric = valid(made);
        valid(self.0.register(Box::new(metric.clone())));
        metric
    }
}

/// Names, labels and buckets are constants of this part: a wrong one shows in the first test.
#[expect(clippy::expect_used, reason = "depends on nothing but constants")]
fn valid<T>(made: prometheus::Result<T>) -> T {
    made.expect("names, labels and buckets are valid and used once")
}

#[cfg(test)]
mod tests;
