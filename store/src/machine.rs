//! What the store does when its engine fails: goes on, opens it again, or ends.
//!
//! A full disk passes: the engine is given up and opened again until that succeeds. A panic may have been about one
//! request: the engine is opened again once. Any other error is final, because a sync that failed once can succeed
//! falsely when it is tried again.

use std::time::Duration;

use nebula_core::clock::Tick;

/// The pause between two tries to open the engine on a full disk.
pub(crate) const REOPEN_EVERY: Duration = Duration::from_secs(5);
/// A second panic, or a second full disk, within this time is not treated like a first one.
pub(crate) const SECOND_WITHIN: Duration = Duration::from_secs(60);

/// What happened to the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// It found no space, in use or while it was opened.
    Full(String),
    /// It failed in another way, in use or while it was opened.
    Broken(String),
    /// The work on it panicked.
    Panicked(String),
    /// It is open again.
    Opened,
    /// Time has passed.
    Tick,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Drop the engine and turn requests away with the reason.
    GiveUp(String),
    /// Give the reserve back.
    Release,
    /// Open the engine.
    Open,
    /// Serve requests again.
    Serve,
    /// End for good.
    Fail(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Reopening { at: Tick },
    Failed,
}

/// The life of the engine.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    state: State,
    panicked: Option<Tick>,
    full: Option<Tick>,
}

impl Machine {
    /// With an engine that is open.
    pub(crate) fn new() -> Self {
        Self { state: State::Open, panicked: None, full: None }
    }

    /// When something is to be done even if nothing happens.
    pub(crate) fn deadline(&self) -> Option<Tick> {
        match self.state {
            State::Reopening { at } => Some(at),
            State::Open | State::Failed => None,
        }
    }

    pub(crate) fn step(&mut self, event: Event, now: Tick) -> Vec<Effect> {
        match (self.state, event) {
            (State::Failed, _) | (State::Open, Event::Opened | Event::Tick) => Vec::new(),
            (_, Event::Broken(reason)) => self.fail(reason),
            (_, Event::Panicked(text)) => {
                if is_second(self.panicked.replace(now), now) {
                    return self.fail(format!("panic: {text}"));
                }
                self.state = State::Reopening { at: now };
                vec![Effect::GiveUp(format!("panic: {text}"))]
            }
            (before, Event::Full(reason)) => {
                // Opening helped no more than for a moment, or not at all.
                let again = is_second(self.full.replace(now), now) || before != State::Open;
                self.state = State::Reopening { at: if again { now.plus(REOPEN_EVERY) } else { now } };
                vec![Effect::GiveUp(reason), Effect::Release]
            }
            (State::Reopening { .. }, Event::Opened) => {
                self.state = State::Open;
                vec![Effect::Serve]
            }
            (State::Reopening { at }, Event::Tick) if now >= at => vec![Effect::Open],
            (State::Reopening { .. }, Event::Tick) => Vec::new(),
        }
    }

    fn fail(&mut self, reason: String) -> Vec<Effect> {
        self.state = State::Failed;
        vec![Effect::Fail(reason)]
    }
}

fn is_second(first: Option<Tick>, now: Tick) -> bool {
    first.is_some_and(|first| now.since(first) < SECOND_WITHIN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn full() -> Event {
        Event::Full("no space".to_owned())
    }

    fn panicked() -> Event {
        Event::Panicked("as told".to_owned())
    }

    fn give_up(reason: &str) -> Effect {
        Effect::GiveUp(reason.to_owned())
    }

    fn fail(reason: &str) -> Vec<Effect> {
        vec![Effect::Fail(reason.to_owned())]
    }

    #[test]
    fn a_full_disk_is_tried_at_once_and_then_every_five_seconds() {
        let mut machine = Machine::new();
        assert_eq!(machine.step(full(), Tick(1_000)), [give_up("no space"), Effect::Release]);
        assert_eq!(machine.deadline(), Some(Tick(1_000)));
        assert_eq!(machine.step(Event::Tick, Tick(1_000)), [Effect::Open]);
        assert_eq!(machine.step(full(), Tick(1_100)), [give_up("no space"), Effect::Release]);
        assert_eq!(machine.step(Event::Tick, Tick(6_099)), []);
        assert_eq!(machine.step(Event::Tick, Tick(6_100)), [Effect::Open]);
        assert_eq!(machine.step(Event::Opened, Tick(6_200)), [Effect::Serve]);
        assert_eq!(machine.deadline(), None);
        assert_eq!(machine.step(Event::Tick, Tick(99_000)), []);
    }

    #[test]
    fn opening_that_does_not_help_is_not_repeated_at_once() {
        let mut machine = Machine::new();
        machine.step(full(), Tick(0));
        machine.step(Event::Opened, Tick(10));
        machine.step(full(), Tick(20));
        assert_eq!(machine.deadline(), Some(Tick(5_020)));
        machine.step(Event::Opened, Tick(5_100));
        machine.step(full(), Tick(65_020));
        assert_eq!(machine.deadline(), Some(Tick(65_020)));
    }

    #[test]
    fn one_panic_a_minute_is_survived() {
        let mut machine = Machine::new();
        assert_eq!(machine.step(panicked(), Tick(0)), [give_up("panic: as told")]);
        assert_eq!(machine.step(Event::Tick, Tick(0)), [Effect::Open]);
        machine.step(Event::Opened, Tick(100));
        assert_eq!(machine.step(panicked(), Tick(60_000)), [give_up("panic: as told")]);
        machine.step(Event::Opened, Tick(60_100));
        assert_eq!(machine.step(panicked(), Tick(119_999)), fail("panic: as told"));
        assert_eq!(machine.step(Event::Opened, Tick(120_000)), []);
        assert_eq!(machine.deadline(), None);
    }

    #[test]
    fn any_other_error_is_final() {
        for before in [None, Some(full()), Some(panicked())] {
            let mut machine = Machine::new();
            before.map(|event| machine.step(event, Tick(0)));
            assert_eq!(machine.step(Event::Broken("EIO".to_owned()), Tick(1)), fail("EIO"));
            assert_eq!(machine.step(full(), Tick(2)), []);
            assert_eq!(machine.step(Event::Tick, Tick(99_999)), []);
        }
    }

    fn events() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => Just(Event::Tick),
            2 => Just(Event::Opened),
            2 => Just(full()),
            1 => Just(panicked()),
            1 => Just(Event::Broken("EIO".to_owned())),
        ]
    }

    proptest! {
        /// The engine is only opened after it was given up, only served after it was opened, and never after the end.
        #[test]
        fn the_engine_has_one_life_at_a_time(
            script in prop::collection::vec((events(), 0..30_000_u64), 1..60),
        ) {
            let (mut machine, mut now) = (Machine::new(), 0);
            let (mut open, mut failed) = (true, false);
            for (event, wait) in script {
                now += wait;
                for effect in machine.step(event, Tick(now)) {
                    prop_assert!(!failed);
                    match effect {
                        Effect::GiveUp(_) => open = false,
                        Effect::Release => prop_assert!(!open),
                        Effect::Open => prop_assert!(!open),
                        Effect::Serve => {
                            prop_assert!(!open);
                            open = true;
                        }
                        Effect::Fail(_) => failed = true,
                    }
                }
                prop_assert_eq!(machine.deadline().is_some(), !open && !failed);
            }
        }
    }
}
