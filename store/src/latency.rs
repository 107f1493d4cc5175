//! How long groups of commits take to become durable: the last 1,024 of them.

use std::time::Duration;

/// Groups that are looked back at.
const WINDOW: usize = 1024;

/// How long the last groups of commits took, from the first precondition to the end of the sync, in microseconds. The
/// wait in the queue is not part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Half of them took no longer.
    pub p50_us: u64,
    /// 99 of 100 took no longer.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
}

/// The last [`WINDOW`] times, the oldest overwritten first.
#[derive(Debug, Default)]
pub(crate) struct Window {
    times_us: Vec<u64>,
    next: usize,
}

impl Window {
    pub(crate) fn add(&mut self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        match self.times_us.get_mut(self.next) {
            Some(oldest) => *oldest = took,
            None => self.times_us.push(took),
        }
        self.next = (self.next + 1) % WINDOW;
    }

    pub(crate) fn summary(&self) -> Latency {
        let mut sorted = self.times_us.clone();
        sorted.sort_unstable();
        let at = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
            sorted.get(rank).copied().unwrap_or(0)
        };
        Latency { p50_us: at(50), p99_us: at(99), max_us: at(100) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(times_us: impl IntoIterator<Item = u64>) -> Latency {
        let mut window = Window::default();
        times_us.into_iter().for_each(|us| window.add(Duration::from_micros(us)));
        window.summary()
    }

    #[test]
    fn ranks_are_exact_and_old_times_are_forgotten() {
        assert_eq!(summary([]), Latency::default());
        assert_eq!(summary([7]), Latency { p50_us: 7, p99_us: 7, max_us: 7 });
        assert_eq!(summary((1..=100).rev()), Latency { p50_us: 50, p99_us: 99, max_us: 100 });
        assert_eq!(
            summary([9; 2000].into_iter().chain([1; 1024])),
            Latency { p50_us: 1, p99_us: 1, max_us: 1 }
        );
    }
}
