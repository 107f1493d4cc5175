//! The most that happened within 1, 5 and 10 seconds.

use std::collections::VecDeque;

use nebula_core::clock::Tick;
use serde::Serialize;

/// How exact the windows are, in milliseconds.
const STEP_MS: u64 = 100;
/// The longest window, in steps.
const STEPS: usize = 100;
/// The windows, in steps.
const WINDOWS: [usize; 3] = [10, 50, 100];

/// The most within each window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Peaks {
    /// Within one second.
    pub(crate) within_1s: u64,
    /// Within five seconds.
    pub(crate) within_5s: u64,
    /// Within ten seconds.
    pub(crate) within_10s: u64,
}

/// Counts over the last ten seconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Windows {
    /// The newest first.
    steps: VecDeque<u64>,
    now: u64,
    peaks: [u64; WINDOWS.len()],
}

impl Windows {
    /// Something happened at `at`, perhaps a while ago. Whether it counts for the peaks is the caller's to say.
    pub(crate) fn add(&mut self, at: Tick, counts: bool) {
        let step = at.0 / STEP_MS;
        let passed = usize::try_from(step.saturating_sub(self.now)).unwrap_or(usize::MAX).min(STEPS);
        self.now = self.now.max(step);
        for _ in 0..passed {
            self.steps.push_front(0);
        }
        self.steps.resize(STEPS, 0);
        let back = usize::try_from(self.now - step).unwrap_or(usize::MAX);
        if let Some(count) = self.steps.get_mut(back) {
            *count += 1;
        }
        if counts {
            for (peak, window) in self.peaks.iter_mut().zip(WINDOWS) {
                // Every window that holds the step; the newest step is the first.
                let first = (back + 1).saturating_sub(window);
                let sums = (first..=back).map(|end| self.steps.iter().skip(end).take(window).sum());
                *peak = sums.fold(*peak, u64::max);
            }
        }
    }

    /// Forgets the most so far.
    pub(crate) fn restart_peaks(&mut self) {
        self.peaks = [0; WINDOWS.len()];
    }

    /// The most so far.
    pub(crate) fn peaks(&self) -> Peaks {
        let [within_1s, within_5s, within_10s] = self.peaks;
        Peaks { within_1s, within_5s, within_10s }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_within_each_window_is_kept() {
        let mut windows = Windows::default();
        for ms in (0..30_000).step_by(100) {
            windows.add(Tick(ms), true);
        }
        assert_eq!(windows.peaks(), Peaks { within_1s: 10, within_5s: 50, within_10s: 100 });
        for _ in 0..20 {
            windows.add(Tick(30_050), true);
        }
        assert_eq!(windows.peaks(), Peaks { within_1s: 29, within_5s: 69, within_10s: 119 });
    }

    #[test]
    fn what_is_told_late_counts_where_it_happened() {
        let mut windows = Windows::default();
        for ms in [0, 100, 200, 5_000, 300, 400] {
            windows.add(Tick(ms), true);
        }
        assert_eq!(windows.peaks(), Peaks { within_1s: 5, within_5s: 5, within_10s: 6 });
        windows.restart_peaks();
        windows.add(Tick(5_050), true);
        assert_eq!(windows.peaks(), Peaks { within_1s: 2, within_5s: 6, within_10s: 7 });
    }

    #[test]
    fn a_pause_leaves_nothing_behind_and_what_does_not_count_makes_no_peak() {
        let mut windows = Windows::default();
        for _ in 0..5 {
            windows.add(Tick(0), false);
        }
        assert_eq!(windows.peaks(), Peaks::default());
        windows.add(Tick(3_600_000), true);
        windows.add(Tick(3_600_000), true);
        assert_eq!(windows.peaks(), Peaks { within_1s: 2, within_5s: 2, within_10s: 2 });
    }
}
