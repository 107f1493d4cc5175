//! The page that Prometheus reads: text format 0.0.4.

use std::fmt::Debug;

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Counter, CounterVec, GaugeVec, Opts, TextEncoder};

use super::{METRICS, process, valid};

/// A page in the making: what was counted, the process itself, and what is put on it.
#[derive(Default)]
pub struct Page(Vec<MetricFamily>);

impl Page {
    /// The media type.
    pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

    /// What was counted until now. Series of models for which `exists` says no are dropped for good.
    #[must_use]
    pub fn begin(exists: impl Fn(&str) -> bool) -> Self {
        METRICS.gateway.retain(exists);
        let mut page = Self(METRICS.registry.gather());
        process::put(&mut page);
        page
    }

    /// Adds a value that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) {
        let none: [&str; 0] = [];
        self.gauges(name, help, none, [(none, value)]);
    }

    /// Adds such values, one for each combination of labels.
    pub fn gauges<const N: usize, L: AsRef<str> + Debug>(
        &mut self,
        name: &str,
        help: &str,
        labels: [&str; N],
        values: impl IntoIterator<Item = ([L; N], f64)>,
    ) {
        let gauges = valid(GaugeVec::new(Opts::new(name, help), &labels));
        for (labels, value) in values {
            gauges.with_label_values(&labels).set(value);
        }
        self.0.extend(gauges.collect().into_iter().filter(|family| !family.get_metric().is_empty()));
    }

    /// Adds a value that only grows.
    pub fn counter(&mut self, name: &str, help: &str, value: f64) {
        let counter = valid(Counter::new(name, help));
        counter.inc_by(value);
        self.0.extend(counter.collect());
    }

    /// Adds such values, one for each combination of labels.
    pub fn counters<const N: usize, L: AsRef<str> + Debug>(
        &mut self,
        name: &str,
        help: &str,
        labels: [&str; N],
        values: impl IntoIterator<Item = ([L; N], f64)>,
    ) {
        let counters = valid(CounterVec::new(Opts::new(name, help), &labels));
        for (labels, value) in values {
            counters.with_label_values(&labels).inc_by(value);
        }
        self.0.extend(counters.collect().into_iter().filter(|family| !family.get_metric().is_empty()));
    }

    /// The page as text.
    ///
    /// # Errors
    /// When two families on it share a name, which no family of ours does.
    pub fn text(&self) -> Result<String, String> {
        TextEncoder::new().encode_to_string(&self.0).map_err(|error| error.to_string())
    }
}
