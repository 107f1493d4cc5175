//! How many replicas the load asks for.
//!
//! The number grows at once to what the requests in flight and waiting need. It shrinks by one replica at a time, at
//! most once per cool-down, to no less than the most that was needed during the last one, and only while some replica
//! has nothing to do. The last replica goes when nobody has asked for the whole idle time.

use std::collections::VecDeque;
use std::time::Duration;

use nebula_core::clock::Tick;

use crate::domain::deployment::Autoscale;
use crate::domain::route::Load;

/// Another number of replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// So many there should be.
    pub to: u32,
    /// For the journal.
    pub why: String,
}

/// What is remembered of the load. A new one, as after a restart, knows nothing and takes nothing away before it has
/// looked on for the times that the user set.
#[derive(Clone, Debug, Default)]
pub struct Autoscaler {
    /// What was needed, with the times: falling, as what came before something larger counts no more. No longer than
    /// the replicas that are allowed are many.
    peaks: VecDeque<(Tick, u32)>,
    /// How many replicas were wanted at the last look, and since when.
    wanted: Option<(u32, Tick)>,
    /// [`Load::asked`] at the last look with a request, and when that was.
    asked: Option<(u64, Tick)>,
}

impl Autoscaler {
    /// Looks at the load. `wanted` replicas are asked for now, of which `running` serve. None: that is right.
    pub fn decide(
        &mut self,
        scale: &Autoscale,
        wanted: u32,
        running: u32,
        load: &Load,
        now: Tick,
    ) -> Option<Decision> {
        let needed = needed(scale, load);
        let since = self.look(scale, wanted, needed, load, now);
        let (min, max) = (scale.min, scale.max.max(scale.min).max(1));
        if needed > wanted {
            return Some(grown(scale, needed, load));
        }
        let may_go = running < wanted || load.inflight.values().any(|count| *count == 0);
        if !may_go || wanted == 0 {
            return None;
        }
        if wanted > max {
            return Some(Decision { to: wanted - 1, why: format!("at most {max} are to run") });
        }
        let cooled = now.since(since) >= scale.cooldown;
        let most = self.peaks.front().map_or(needed, |(_, most)| *most).max(1);
        if wanted > most.max(min) && cooled {
            let secs = scale.cooldown.as_secs();
            let why = format!("no more than {} in flight for {secs} seconds", most_served(scale, most));
            return Some(Decision { to: wanted - 1, why });
        }
        let idle = load.total() == 0 && self.sleeps_at(scale).is_some_and(|at| now >= at);
        idle.then(|| Decision {
            to: 0,
            why: format!("nobody asked for {} seconds", scale.idle_after.as_secs()),
        })
    }

    /// When the last replica goes if nobody asks until then.
    #[must_use]
    pub fn sleeps_at(&self, scale: &Autoscale) -> Option<Tick> {
        let (_, since) = self.wanted.filter(|(wanted, _)| scale.min == 0 && *wanted == 1)?;
        let (_, asked) = self.asked?;
        Some(asked.plus(scale.idle_after).max(since.plus(scale.cooldown)))
    }

    /// Remembers what is seen. Answers since when so many replicas are wanted.
    fn look(&mut self, scale: &Autoscale, wanted: u32, needed: u32, load: &Load, now: Tick) -> Tick {
        if load.total() > 0 || self.asked.is_none_or(|(asked, _)| asked != load.asked) {
            self.asked = Some((load.asked, now));
        }
        let since = match self.wanted {
            Some((same, since)) if same == wanted => since,
            _ => now,
        };
        self.wanted = Some((wanted, since));
        while self.peaks.back().is_some_and(|(_, peak)| *peak <= needed) {
            self.peaks.pop_back();
        }
        self.peaks.push_back((now, needed));
        let is_old = |at: Tick| now.since(at) > scale.cooldown;
        while self.peaks.len() > 1 && self.peaks.front().is_some_and(|(at, _)| is_old(*at)) {
            self.peaks.pop_front();
        }
        since
    }
}

/// How many replicas these requests need, within the bounds. Somebody who waits needs one at least.
fn needed(scale: &Autoscale, load: &Load) -> u32 {
    let needed = load.total().div_ceil(scale.target.max(1));
    needed.clamp(scale.min, scale.max.max(scale.min).max(1))
}

fn grown(scale: &Autoscale, to: u32, load: &Load) -> Decision {
    let (total, waiting) = (load.total(), load.waiting);
    if total <= most_served(scale, to.saturating_sub(1)) {
        return Decision { to, why: format!("at least {to} are to run") };
    }
    let waiting = if waiting == 0 { String::new() } else { format!(", {waiting} of them waiting") };
    Decision { to, why: format!("{total} in flight{waiting}, {} for each replica", scale.target) }
}

/// How many requests so many replicas serve.
fn most_served(scale: &Autoscale, replicas: u32) -> u32 {
    replicas.saturating_mul(scale.target.max(1))
}

/// How often the load is looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);

#[cfg(test)]
mod props;
#[cfg(test)]
mod tests;
