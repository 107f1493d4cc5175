//! How many calls the proxy has answered, by the class of the answer's status.

use std::sync::atomic::{AtomicU64, Ordering};

/// Names of the classes, as metrics label them. The last one: the client hung up before there was an answer.
pub(crate) const CLASSES: [&str; 5] = ["2xx", "3xx", "4xx", "5xx", "client_closed"];

/// The counts since the agent started.
#[derive(Debug, Default)]
pub(crate) struct Stats([AtomicU64; CLASSES.len()]);

impl Stats {
    /// Each class with its count.
    pub(crate) fn counts(&self) -> [(&'static str, u64); CLASSES.len()] {
        let mut counts = CLASSES.map(|class| (class, 0));
        for ((_, count), counter) in counts.iter_mut().zip(&self.0) {
            *count = counter.load(Ordering::Relaxed);
        }
        counts
    }

    /// A call that has begun.
    pub(super) fn call(&self) -> Call<'_> {
        Call { stats: self, class: "client_closed" }
    }
}

/// One call; counted when it is dropped.
pub(super) struct Call<'a> {
    stats: &'a Stats,
    class: &'static str,
}

impl Call<'_> {
    /// It is answered with this status.
    pub(super) fn answered(&mut self, status: u16) {
        self.class = match status {
            ..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            500.. => "5xx",
        };
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let mut counters = CLASSES.iter().zip(&self.stats.0);
        if let Some((_, counter)) = counters.find(|(class, _)| **class == self.class) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_class_and_those_without_an_answer_too() {
        let stats = Stats::default();
        for status in [200, 204, 302, 401, 404, 429, 503] {
            stats.call().answered(status);
        }
        drop(stats.call());
        let expected = [("2xx", 2), ("3xx", 1), ("4xx", 3), ("5xx", 1), ("client_closed", 1)];
        assert_eq!(stats.counts(), expected);
    }
}
