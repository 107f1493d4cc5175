//! The result: as one line of JSON, or as a table for people.
//!
//! | field | meaning |
//! |---|---|
//! | `url`, `model`, `stream`, `connections` | what was asked, and over how many connections |
//! | `seconds` | from the end of the warm-up to the end of the last answer |
//! | `requests`, `failed`, `failures` | complete answers; others; these by kind |
//! | `requests_per_second` | complete answers |
//! | `latency_ms` | from the request to the answer's last byte: `p50`, `p90`, `p99`, `max` |
//! | `ttft_ms` | the same to a stream's first event; null without streams |
//! | `token_delay_ms` | the same from the runtime's sending of an event to its arrival; null unless it tells (`--stamp`) |
//! | `events`, `tokens`, `tokens_per_second` | events with data; those with text |
//! | `bytes_sent`, `bytes_received` | of requests, and of the answers' bodies |
//! | `reconnects` | connections that the server had closed between two requests |
//! | `idle`, `streams` | connections held open: `wanted`, `opened`, `lost` before the end |

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::args::Args;
use super::failure::Failure;
use super::figures::{Figures, Held};
use crate::latency::Latency;

/// Times in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Times {
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

impl Times {
    /// None when nothing was timed.
    fn of(latency: &Latency) -> Option<Self> {
        let quantile = |part| latency.quantile_ms(part);
        (latency.count() > 0).then(|| Self {
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            max: latency.longest_ms(),
        })
    }
}

/// What one run came to.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    url: String,
    model: String,
    stream: bool,
    connections: u32,
    seconds: f64,
    requests: u64,
    failed: u64,
    failures: BTreeMap<String, u64>,
    requests_per_second: f64,
    latency_ms: Option<Times>,
    ttft_ms: Option<Times>,
    token_delay_ms: Option<Times>,
    events: u64,
    tokens: u64,
    tokens_per_second: f64,
    bytes_sent: u64,
    bytes_received: u64,
    reconnects: u64,
    idle: Held,
    streams: Held,
    #[serde(skip)]
    worst: Option<(Failure, u64)>,
}

impl Report {
    /// Of a run of so long.
    pub(crate) fn new(args: &Args, figures: &Figures, took: Duration, idle: Held, streams: Held) -> Self {
        let seconds = took.as_secs_f64();
        let each_second = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let worst = figures.failures.iter().max_by_key(|(_, count)| **count);
        Self {
            url: args.url.to_string() + &args.path,
            model: args.model.clone(),
            stream: args.stream,
            connections: args.connections,
            seconds,
            requests: figures.answered,
            failed: figures.failed(),
            failures: figures.failures.iter().map(|(kind, count)| (kind.to_string(), *count)).collect(),
            requests_per_second: each_second(figures.answered),
            latency_ms: Times::of(&figures.latency),
            ttft_ms: Times::of(&figures.first),
            token_delay_ms: Times::of(&figures.delay),
            events: figures.events,
            tokens: figures.tokens,
            tokens_per_second: each_second(figures.tokens),
            bytes_sent: figures.bytes_sent,
            bytes_received: figures.bytes_received,
            reconnects: figures.reconnects,
            idle,
            streams,
            worst: worst.map(|(kind, count)| (*kind, *count)),
        }
    }

    /// Requests that failed, and the failure that most of them had.
    pub(crate) fn worst(&self) -> Option<(Failure, u64)> {
        self.worst
    }

    /// Held connections that could not be opened or did not stay.
    pub(crate) fn not_held(&self) -> u32 {
        let missing = |held: Held| held.wanted - held.opened + held.lost;
        missing(self.idle) + missing(self.streams)
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failed
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests
    }

    /// A few lines for people.
    pub(crate) fn table(&self) -> String {
        let mut table = String::new();
        let mut row = |name: &str, text: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(table, "{name:<12} {text}");
        };
        row("asked", format!("{} for {}, {} connections", self.url, self.model, self.connections));
        row("requests", format!("{} in {:.1} s, {} failed", self.requests, self.seconds, self.failed));
        for (kind, count) in &self.failures {
            row("", format!("{count} × {kind}"));
        }
        row("rate", format!("{:.1} requests/s", self.requests_per_second));
        for (name, times) in [
            ("latency", self.latency_ms),
            ("first token", self.ttft_ms),
            ("token delay", self.token_delay_ms),
        ] {
            if let Some(Times { p50, p90, p99, max }) = times {
                row(name, format!("p50 {p50:.2} ms, p90 {p90:.2} ms, p99 {p99:.2} ms, max {max:.2} ms"));
            }
        }
        if self.stream {
            row("tokens", format!("{} ({:.0}/s)", self.tokens, self.tokens_per_second));
        }
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        let (sent, received) = (megabytes(self.bytes_sent), megabytes(self.bytes_received));
        row("bytes", format!("{sent:.1} MB sent, {received:.1} MB received"));
        if self.reconnects > 0 {
            row("reconnects", self.reconnects.to_string());
        }
        for (name, held) in [("idle", self.idle), ("streams", self.streams)] {
            if held.wanted > 0 {
                row(name, format!("{} of {} opened, {} lost", held.opened, held.wanted, held.lost));
            }
        }
        table
    }
}
