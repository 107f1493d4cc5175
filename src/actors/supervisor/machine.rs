//! What a supervisor decides, in OTP's words: who is built, when, and who must end first.
//!
//! A child that falls is built again after a pause that grows from 100 ms to 30 s. After 5 restarts within 60 s it
//! stays down until an operator restarts it. With `RestForOne`, those that were started after it end before it is
//! built, and are built after it, each when the one before runs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use nebula_core::clock::Tick;

use super::spec::{Restart, Strategy};

/// The pause before the first restart; doubled for each further one within the window.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest pause.
pub const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// How many restarts are tried within the window.
pub const INTENSITY: usize = 5;
/// The window in which restarts are counted.
pub const INTENSITY_WINDOW: Duration = Duration::from_secs(60);

/// What happens to a family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// There is a new child.
    Add(String, Restart),
    /// Building an incarnation is over: it runs, or why not.
    Built {
        /// Whose.
        id: String,
        /// Which.
        incarnation: u64,
        /// It runs, or why not.
        result: Result<(), String>,
    },
    /// An incarnation has ended.
    Exited {
        /// Whose.
        id: String,
        /// Which.
        incarnation: u64,
        /// How.
        exit: Exit,
    },
    /// An operator wants it built anew.
    Renew(String),
    /// Time has passed, or the supervisor itself was built again.
    Look,
}

/// How an incarnation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Its work is done.
    Finished,
    /// It was asked to end.
    Stopped,
    /// It fell, with the cause in words.
    Fell(String),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Build this incarnation.
    Build(String, u64),
    /// Ask it to end.
    Stop(String),
    /// It fell and is built again after a pause.
    Fell(String, String, Duration),
    /// It ended because another must be built before it.
    Ended(String),
    /// It stays down.
    Crashed(String, String),
    /// It is gone for good.
    Forget(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Down, to be built when those before it run.
    Waiting,
    /// Down, to be built at this time.
    Due(Tick),
    Starting,
    Up,
    /// Asked to end, or to be asked as soon as it runs.
    Stopping,
    Crashed,
}

impl State {
    fn is_alive(self) -> bool {
        matches!(self, Self::Starting | Self::Up | Self::Stopping)
    }
}

#[derive(Debug)]
struct Child {
    restart: Restart,
    state: State,
    incarnation: u64,
    order: u64,
    falls: VecDeque<Tick>,
}

/// A family's state.
#[derive(Debug)]
pub struct Machine {
    strategy: Strategy,
    children: BTreeMap<String, Child>,
    /// The children in the order in which they were started.
    order: BTreeMap<u64, String>,
    next_order: u64,
    /// With `OneForOne`: those to be built now, and those to be built later.
    waiting: VecDeque<String>,
    due: BTreeSet<(Tick, String)>,
}

impl Machine {
    /// A family without children.
    #[must_use]
    pub fn new(strategy: Strategy) -> Self {
        Self {
            strategy,
            children: BTreeMap::new(),
            order: BTreeMap::new(),
            next_order: 0,
            waiting: VecDeque::new(),
            due: BTreeSet::new(),
        }
    }

    /// Takes an event and decides.
    pub fn step(&mut self, event: Event, now: Tick) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Add(id, restart) => self.add(id, restart),
            Event::Built { id, incarnation, result: Ok(()) } => self.built(&id, incarnation, &mut effects),
            Event::Built { id, incarnation, result: Err(cause) } => {
                self.fell(&id, incarnation, cause, now, &mut effects);
            }
            Event::Exited { id, incarnation, exit } => self.exited(&id, incarnation, exit, now, &mut effects),
            Event::Renew(id) => self.renew(&id, now, &mut effects),
            Event::Look => {}
        }
        match self.strategy {
            Strategy::OneForOne => self.advance_each(now, &mut effects),
            Strategy::RestForOne => self.advance_in_order(now, &mut effects),
        }
        effects
    }

    /// When `Event::Look` is due.
    #[must_use]
    pub fn next_deadline(&self, now: Tick) -> Option<Tick> {
        // What is due already waits for others to end.
        self.due.iter().map(|(at, _)| *at).find(|at| *at > now)
    }

    /// Whether there is such a child.
    #[must_use]
    pub fn knows(&self, id: &str) -> bool {
        self.children.contains_key(id)
    }

    /// Whether the child is down or on its way there; none when there is no such child.
    #[must_use]
    pub fn is_down(&self, id: &str) -> Option<bool> {
        let child = self.children.get(id)?;
        Some(matches!(child.state, State::Waiting | State::Due(_) | State::Crashed))
    }

    fn add(&mut self, id: String, restart: Restart) {
        if self.children.contains_key(&id) {
            return;
        }
        let order = self.next_order;
        self.next_order += 1;
        self.order.insert(order, id.clone());
        self.waiting.push_back(id.clone());
        let child = Child { restart, state: State::Waiting, incarnation: 0, order, falls: VecDeque::new() };
        self.children.insert(id, child);
    }

    fn built(&mut self, id: &str, incarnation: u64, effects: &mut Vec<Effect>) {
        let Some(child) = self.children.get_mut(id).filter(|child| child.incarnation == incarnation) else {
            return;
        };
        match child.state {
            State::Starting => child.state = State::Up,
            State::Stopping => effects.push(Effect::Stop(id.to_owned())),
            State::Waiting | State::Due(_) | State::Up | State::Crashed => {}
        }
    }

    fn exited(&mut self, id: &str, incarnation: u64, exit: Exit, now: Tick, effects: &mut Vec<Effect>) {
        let Some(child) = self.children.get(id).filter(|child| child.incarnation == incarnation) else {
            return;
        };
        match exit {
            Exit::Finished if child.restart != Restart::Permanent => self.forget(id, effects),
            Exit::Finished => self.fell(id, incarnation, "ended".to_owned(), now, effects),
            Exit::Stopped => self.fell(id, incarnation, "stopped".to_owned(), now, effects),
            Exit::Fell(cause) => self.fell(id, incarnation, cause, now, effects),
        }
    }

    fn fell(&mut self, id: &str, incarnation: u64, cause: String, now: Tick, effects: &mut Vec<Effect>) {
        let Some(child) = self.children.get_mut(id).filter(|child| child.incarnation == incarnation) else {
            return;
        };
        let order = child.order;
        match child.state {
            // It was to end anyway, so how it did counts for nothing.
            State::Stopping => {
                child.state = State::Waiting;
                effects.push(Effect::Ended(id.to_owned()));
                self.waiting.push_back(id.to_owned());
                return;
            }
            State::Waiting | State::Due(_) | State::Crashed => return,
            State::Starting | State::Up => {}
        }
        if child.restart == Restart::Temporary {
            self.forget(id, effects);
            return;
        }
        while child.falls.front().is_some_and(|at| now.since(*at) > INTENSITY_WINDOW) {
            child.falls.pop_front();
        }
        if child.falls.len() >= INTENSITY {
            child.state = State::Crashed;
            effects.push(Effect::Crashed(id.to_owned(), cause));
        } else {
            let exponent = u32::try_from(child.falls.len()).unwrap_or(u32::MAX);
            let pause = BACKOFF_FIRST.saturating_mul(2_u32.saturating_pow(exponent)).min(BACKOFF_MAX);
            child.falls.push_back(now);
            child.state = State::Due(now.plus(pause));
            self.due.insert((now.plus(pause), id.to_owned()));
            effects.push(Effect::Fell(id.to_owned(), cause, pause));
        }
        self.end_those_after(order, effects);
    }

    /// With `RestForOne`: those that derive from a child that is down must end, the last first.
    fn end_those_after(&mut self, order: u64, effects: &mut Vec<Effect>) {
        if self.strategy == Strategy::OneForOne {
            return;
        }
        let later: Vec<String> = self.order.range(order + 1..).rev().map(|(_, id)| id.clone()).collect();
        for id in later {
            let Some(child) = self.children.get_mut(&id) else { continue };
            match child.state {
                State::Up => {
                    child.state = State::Stopping;
                    effects.push(Effect::Stop(id));
                }
                State::Starting => child.state = State::Stopping,
                State::Waiting | State::Due(_) | State::Stopping | State::Crashed => {}
            }
        }
    }

    fn renew(&mut self, id: &str, now: Tick, effects: &mut Vec<Effect>) {
        let Some(child) = self.children.get_mut(id) else { return };
        child.falls.clear();
        let order = child.order;
        match child.state {
            State::Crashed | State::Due(_) => {
                if let State::Due(at) = child.state {
                    self.due.remove(&(at, id.to_owned()));
                }
                child.state = State::Due(now);
                self.due.insert((now, id.to_owned()));
            }
            State::Up => {
                child.state = State::Stopping;
                effects.push(Effect::Stop(id.to_owned()));
                self.end_those_after(order, effects);
            }
            State::Waiting | State::Starting | State::Stopping => {}
        }
    }

    fn forget(&mut self, id: &str, effects: &mut Vec<Effect>) {
        if let Some(child) = self.children.remove(id) {
            self.order.remove(&child.order);
            effects.push(Effect::Forget(id.to_owned()));
        }
    }

    fn advance_each(&mut self, now: Tick, effects: &mut Vec<Effect>) {
        while let Some((at, id)) = self.due.pop_first() {
            if at > now {
                self.due.insert((at, id));
                break;
            }
            if self.children.get(&id).is_some_and(|child| child.state == State::Due(at)) {
                self.build(&id, effects);
            }
        }
        while let Some(id) = self.waiting.pop_front() {
            if self.children.get(&id).is_some_and(|child| child.state == State::Waiting) {
                self.build(&id, effects);
            }
        }
    }

    /// Builds the first that is down, once everyone after it has ended.
    fn advance_in_order(&mut self, now: Tick, effects: &mut Vec<Effect>) {
        self.waiting.clear();
        let in_order = self.order.values().filter_map(|id| Some((id, self.children.get(id)?.state)));
        let mut from_first_down = in_order.skip_while(|(_, state)| *state == State::Up);
        let Some((id, state)) = from_first_down.next() else { return };
        let due = match state {
            State::Waiting => true,
            State::Due(at) => at <= now,
            State::Starting | State::Up | State::Stopping | State::Crashed => false,
        };
        if due && !from_first_down.any(|(_, state)| state.is_alive()) {
            let id = id.clone();
            if let State::Due(at) = state {
                self.due.remove(&(at, id.clone()));
            }
            self.build(&id, effects);
        }
    }

    fn build(&mut self, id: &str, effects: &mut Vec<Effect>) {
        if let Some(child) = self.children.get_mut(id) {
            child.state = State::Starting;
            child.incarnation += 1;
            effects.push(Effect::Build(id.to_owned(), child.incarnation));
        }
    }
}

#[cfg(test)]
mod limits_tests;
#[cfg(test)]
mod tests;
