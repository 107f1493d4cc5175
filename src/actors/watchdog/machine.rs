//! What the watchdog makes of what it sees.

use std::collections::BTreeSet;
use std::time::Duration;

use nebula_core::clock::Tick;

/// An actor that does not go on, as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its path.
    pub path: String,
    /// What it is at.
    pub what: &'static str,
    /// For how long.
    pub lasts: Duration,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// This process stood still for so long: nobody is to be blamed for what was not done meanwhile.
    Forgive(Duration),
    /// Name the actor, once for each time that it is stuck.
    Name(Seen),
    /// It moves again.
    Moved(String),
    /// Nothing helps but a new process.
    End(Seen),
}

/// The watchdog's state.
#[derive(Debug, Default)]
pub struct Machine {
    looked: Option<Tick>,
    named: BTreeSet<String>,
}

impl Machine {
    /// Takes what is seen now, and decides. `end_after` is how long an actor may be stuck, `gap_max` how long the
    /// watchdog itself may be late.
    pub fn look(
        &mut self,
        seen: Vec<Seen>,
        now: Tick,
        end_after: Duration,
        gap_max: Duration,
    ) -> Vec<Effect> {
        let gap = self.looked.replace(now).map_or(Duration::ZERO, |looked| now.since(looked));
        if gap > gap_max {
            return vec![Effect::Forgive(gap)];
        }
        let paths: BTreeSet<String> = seen.iter().map(|seen| seen.path.clone()).collect();
        let mut effects: Vec<Effect> = self.named.difference(&paths).cloned().map(Effect::Moved).collect();
        let new = seen.iter().filter(|seen| !self.named.contains(&seen.path));
        effects.extend(new.cloned().map(Effect::Name));
        let worst = seen.into_iter().filter(|seen| seen.lasts >= end_after).max_by_key(|seen| seen.lasts);
        effects.extend(worst.map(Effect::End));
        self.named = paths;
        effects
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: Duration = Duration::from_secs(30);
    const GAP: Duration = Duration::from_secs(3);

    fn seen(path: &str, secs: u64) -> Seen {
        Seen { path: path.to_owned(), what: "M", lasts: Duration::from_secs(secs) }
    }

    fn look(machine: &mut Machine, second: u64, seen: Vec<Seen>) -> Vec<Effect> {
        machine.look(seen, Tick(second * 1_000), END, GAP)
    }

    #[test]
    fn a_stuck_actor_is_named_once_and_ends_the_process_in_the_end() {
        let mut machine = Machine::default();
        assert_eq!(look(&mut machine, 0, vec![]), []);
        assert_eq!(look(&mut machine, 1, vec![seen("/a", 5)]), [Effect::Name(seen("/a", 5))]);
        assert_eq!(look(&mut machine, 2, vec![seen("/a", 6)]), []);
        assert_eq!(look(&mut machine, 3, vec![]), [Effect::Moved("/a".to_owned())]);
        assert_eq!(look(&mut machine, 4, vec![seen("/a", 5)]), [Effect::Name(seen("/a", 5))]);
        assert_eq!(look(&mut machine, 5, vec![seen("/a", 29)]), []);
        assert_eq!(look(&mut machine, 6, vec![seen("/a", 30)]), [Effect::End(seen("/a", 30))]);
    }

    #[test]
    fn nobody_is_blamed_for_a_pause_of_the_process() {
        let mut machine = Machine::default();
        assert_eq!(look(&mut machine, 1, vec![]), []);
        let stopped = look(&mut machine, 100, vec![seen("/a", 99)]);
        assert_eq!(stopped, [Effect::Forgive(Duration::from_secs(99))]);
        assert_eq!(look(&mut machine, 101, vec![]), []);
    }
}
