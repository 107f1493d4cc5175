//! What the fleet saw, as one line of JSON:
//!
//! | field | meaning |
//! |---|---|
//! | `kind` | `second` or `final` |
//! | `at_seconds` | since the fleet started |
//! | `nodes`, `registered`, `online` | agents; those that the control plane has taken; those whose last call was answered |
//! | `heartbeats` | `sent`, `acked`, `failed`, since the start |
//! | `registrations` | the same for registrations |
//! | `peak_heartbeats` | the most that were sent within 1, 5 and 10 s and arrived, counted from one interval after all were registered, and anew from each SIGUSR1 |
//! | `commands` | carried out, by kind; `repeated` and `stale` ones were not |
//! | `replicas_running` | replicas |
//! | `latency_ms` | of acked heartbeats: `p50`, `p99`, `max` |

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nebula_core::clock::{Clock, Tick};
use serde::Serialize;

use super::windows::{Peaks, Windows};
use crate::latency::Latency;

/// How many calls there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Calls {
    pub(crate) sent: u64,
    pub(crate) acked: u64,
    pub(crate) failed: u64,
}

/// Which call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Register,
    Heartbeat,
}

#[derive(Debug, Serialize)]
struct LatencyView {
    p50: f64,
    p99: f64,
    max: f64,
}

/// One line.
#[derive(Debug, Serialize)]
pub(crate) struct View {
    kind: &'static str,
    at_seconds: f64,
    nodes: u32,
    registered: u32,
    online: u32,
    heartbeats: Calls,
    registrations: Calls,
    peak_heartbeats: Peaks,
    commands: BTreeMap<&'static str, u64>,
    replicas_running: u64,
    latency_ms: LatencyView,
}

#[derive(Debug, Default)]
struct Counts {
    registered: u32,
    ever_registered: u32,
    online: u32,
    heartbeats: Calls,
    registrations: Calls,
    windows: Windows,
    /// From here on peaks count.
    peaks_from: Option<Tick>,
    commands: BTreeMap<&'static str, u64>,
    replicas_running: u64,
    latency: Latency,
    last_error: Option<String>,
}

/// The fleet's figures, shared by all agents.
#[derive(Debug)]
pub(crate) struct Figures {
    clock: Clock,
    nodes: u32,
    counts: Mutex<Counts>,
}

impl Figures {
    pub(crate) fn new(clock: Clock, nodes: u32) -> Self {
        Self { clock, nodes, counts: Mutex::default() }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sent(&self, call: Call) {
        self.counts().calls(call).sent += 1;
    }

    pub(crate) fn acked(&self, call: Call, took: Duration) {
        let mut counts = self.counts();
        counts.calls(call).acked += 1;
        if call == Call::Heartbeat {
            let sent = Tick(self.clock.now().since(Tick(0)).saturating_sub(took).as_millis() as u64);
            let counting = counts.peaks_from.is_some_and(|from| sent >= from);
            counts.windows.add(sent, counting);
            counts.latency.add(took);
        }
    }

    pub(crate) fn failed(&self, call: Call, error: String) {
        let mut counts = self.counts();
        counts.calls(call).failed += 1;
        counts.last_error = Some(error);
    }

    /// An agent changed from `was` to `is`: registered, and its last call answered. `first` says that it had never been
    /// registered.
    pub(crate) fn standing(&self, was: Standing, is: Standing, first: bool, interval: Duration) {
        let mut counts = self.counts();
        shift(&mut counts.registered, was.registered, is.registered);
        shift(&mut counts.online, was.online, is.online);
        if first {
            counts.ever_registered += 1;
            if counts.ever_registered == self.nodes {
                counts.peaks_from = Some(self.clock.now().plus(interval));
            }
        }
    }

    /// Peaks count from now on.
    pub(crate) fn restart_peaks(&self) {
        let mut counts = self.counts();
        counts.windows.restart_peaks();
        counts.peaks_from = Some(self.clock.now());
    }

    pub(crate) fn command(&self, kind: &'static str) {
        *self.counts().commands.entry(kind).or_default() += 1;
    }

    /// A node's running replicas changed.
    pub(crate) fn running(&self, was: u64, is: u64) {
        let mut counts = self.counts();
        counts.replicas_running = (counts.replicas_running + is).saturating_sub(was);
    }

    /// How many agents were registered at some time, and what the last failure said.
    pub(crate) fn outcome(&self) -> (u32, Option<String>) {
        let counts = self.counts();
        (counts.ever_registered, counts.last_error.clone())
    }

    pub(crate) fn view(&self, kind: &'static str) -> View {
        let counts = self.counts();
        View {
            kind,
            at_seconds: self.clock.now().0 as f64 / 1_000.0,
            nodes: self.nodes,
            registered: counts.registered,
            online: counts.online,
            heartbeats: counts.heartbeats,
            registrations: counts.registrations,
            peak_heartbeats: counts.windows.peaks(),
            commands: counts.commands.clone(),
            replicas_running: counts.replicas_running,
            latency_ms: LatencyView {
                p50: counts.latency.quantile_ms(0.5),
                p99: counts.latency.quantile_ms(0.99),
                max: counts.latency.longest_ms(),
            },
        }
    }
}

impl Counts {
    fn calls(&mut self, call: Call) -> &mut Calls {
        match call {
            Call::Register => &mut self.registrations,
            Call::Heartbeat => &mut self.heartbeats,
        }
    }
}

/// How an agent sees itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) registered: bool,
    pub(crate) online: bool,
}

fn shift(count: &mut u32, was: bool, is: bool) {
    match (was, is) {
        (false, true) => *count += 1,
        (true, false) => *count = count.saturating_sub(1),
        (true, true) | (false, false) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn peaks_count_from_one_interval_after_all_are_registered() {
        let figures = Figures::new(Clock::start(), 2);
        let (out, in_) = (Standing::default(), Standing { registered: true, online: true });
        let interval = Duration::from_secs(30);
        figures.standing(out, in_, true, interval);
        figures.standing(out, in_, true, interval);
        figures.standing(in_, Standing { registered: true, online: false }, false, interval);
        figures.acked(Call::Heartbeat, Duration::from_millis(1));
        let peak = |figures: &Figures| figures.view("second").peak_heartbeats.within_1s;
        assert_eq!(peak(&figures), 0);
        tokio::time::advance(interval + Duration::from_secs(1)).await;
        figures.acked(Call::Heartbeat, Duration::from_millis(1));
        assert_eq!(peak(&figures), 1);
        let view = figures.view("final");
        assert_eq!((view.registered, view.online, view.heartbeats.acked), (2, 1, 2));
    }
}
