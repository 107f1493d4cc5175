//! Whatever is wanted and whatever the edge does, in any order: one call at a time, never more often than the gap,
//! always a next step, and when the trouble is over the edge is soon as it should be.

use proptest::prelude::*;

use super::*;
use crate::actors::edge::kind::Kind;
use crate::domain::edge::{Change, Differences, Verb};

/// How the edge behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Works,
    /// It takes a few changes in a round.
    Slow,
    Fails(Trouble),
}

#[derive(Clone, Debug)]
enum Act {
    Change,
    Wait(u64),
    Mood(Mood),
    /// What a call takes, in milliseconds.
    Takes(u64),
    /// The edge forgets everything.
    Forgets,
    /// The actor fell and was built again.
    Restart,
}

fn mood() -> impl Strategy<Value = Mood> {
    prop_oneof![
        2 => Just(Mood::Works),
        1 => Just(Mood::Slow),
        3 => Just(Mood::Fails(Trouble::Unreachable)),
        2 => Just(Mood::Fails(Trouble::Busy)),
        1 => Just(Mood::Fails(Trouble::Refused)),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => Just(Act::Change),
        3 => (0_u64..3_000).prop_map(Act::Wait),
        3 => (0_u64..200_000).prop_map(Act::Wait),
        3 => mood().prop_map(Act::Mood),
        2 => (0_u64..5_000).prop_map(Act::Takes),
        1 => Just(Act::Forgets),
        1 => Just(Act::Restart),
    ]
}

/// The most that a slow edge takes in a round.
const SLOW: u64 = 3;

struct World {
    kind: Kind,
    machine: Machine,
    now: Tick,
    mood: Mood,
    takes: u64,
    chances: Vec<f64>,
    drawn: usize,
    /// What is wanted, and what is there, as so many objects.
    wanted: u64,
    there: u64,
    /// The call under way: until when, and what was wanted when it began.
    call: Option<(Call, Tick, u64)>,
    last_round: Option<Tick>,
    /// Changes that were told and are not seen to be done: what is wanted by each, and when it was told.
    told: Vec<(u64, Tick)>,
    /// When the last round began after which nothing was left.
    in_sync_at: Option<Tick>,
    /// The last failed round's end, unless something has happened since that begins the next one sooner.
    fell: Option<Tick>,
}

impl World {
    fn new(kind: Kind, chances: Vec<f64>) -> Self {
        Self {
            kind,
            machine: Machine::new(kind.pace(), Tick(0)),
            now: Tick(0),
            mood: Mood::Works,
            takes: 0,
            chances,
            drawn: 0,
            wanted: 1,
            there: 0,
            call: None,
            last_round: None,
            told: vec![(1, Tick(0))],
            in_sync_at: None,
            fell: None,
        }
    }

    fn draw(&mut self) -> Chance {
        self.drawn += 1;
        Chance(self.chances[self.drawn % self.chances.len()])
    }

    fn step(&mut self, event: Event) {
        let open_before = self.machine.picture().circuit_open;
        let is_change = matches!(event, Event::Changed);
        for effect in self.machine.step(event, self.now) {
            let call = match effect {
                Effect::Notice(_) => continue,
                Effect::Reconcile => Call::Round,
                Effect::Probe => Call::Probe,
            };
            assert_eq!(self.call, None, "one call at a time");
            if call == Call::Round {
                assert!(!(is_change && open_before), "an open circuit lets changes wait");
                if let Some(before) = self.last_round {
                    assert!(self.now.since(before) >= self.kind.pace().gap, "not sooner than the gap");
                }
                if let Some(fell) = self.fell.take() {
                    let pause = self.now.since(fell);
                    assert!(pause >= BACKOFF_FIRST, "{pause:?}");
                    // A probe may hang in between.
                    assert!(pause <= BACKOFF_MAX + Duration::from_secs(5), "{pause:?}");
                }
                self.last_round = Some(self.now);
            } else {
                assert!(self.machine.picture().circuit_open, "only what is away is probed");
            }
            self.call = Some((call, Tick(self.now.0 + self.takes), self.wanted));
        }
        self.holds();
    }

    /// What is always so.
    fn holds(&self) {
        let picture = self.machine.picture();
        assert_eq!(self.machine.next_timer().is_none(), self.call.is_some(), "there is always a next step");
        assert_eq!(picture.circuit_open, picture.failures >= OPEN_AFTER);
        assert_eq!(picture.failures > 0, picture.last_error.is_some());
        assert_eq!(picture.up, picture.failures == 0 && picture.rounds_total > 0);
        match (picture.differ_since, self.told.first()) {
            (None, told) => assert_eq!(told, None, "what was told and is not done is behind"),
            (Some(since), Some((_, told))) => {
                assert!(since <= *told, "the lag counts from the first change that is not done");
                assert!(self.in_sync_at.is_none_or(|at| since >= at), "and from no earlier one");
            }
            (Some(since), None) => panic!("nothing is known to be left, and it is behind since {since:?}"),
        }
        if picture.state == State::InSync {
            assert_eq!((picture.differ_since, picture.left.changes()), (None, 0));
        }
    }

    fn call_ends(&mut self) {
        let Some((call, _, wanted)) = self.call.take() else { return };
        let chance = self.draw();
        let error = |trouble| EdgeError { trouble, message: "no".to_owned(), hint: String::new() };
        if call == Call::Probe {
            let away = self.mood == Mood::Fails(Trouble::Unreachable);
            let result = if away { Err(error(Trouble::Unreachable)) } else { Ok(()) };
            self.fell = self.fell.filter(|_| away);
            return self.step(Event::Probed(result, chance));
        }
        let result = match self.mood {
            Mood::Fails(trouble) => {
                self.fell = Some(self.now);
                Err(error(trouble))
            }
            Mood::Works | Mood::Slow => {
                let most = if self.mood == Mood::Slow { SLOW } else { u64::MAX };
                let changed = wanted.abs_diff(self.there).min(most);
                self.there += changed;
                let change = Change { verb: Verb::Add, kind: "A", name: String::new(), to: String::new() };
                let left = usize::try_from(wanted - self.there).expect("few");
                self.told.retain(|(number, _)| *number > self.there);
                if left == 0 {
                    self.in_sync_at = self.last_round;
                } else if self.told.is_empty() {
                    // The edge has lost something.
                    self.told.push((wanted, self.now));
                }
                let left = Differences { changes: vec![change; left], blocked: Vec::new() };
                Ok(Round { observed: 0, changed: usize::try_from(changed).expect("few"), left })
            }
        };
        self.step(Event::Rounded(result, chance));
    }

    /// Time passes, and what is due happens.
    fn pass(&mut self, until: Tick) {
        loop {
            let next = self.call.map(|(_, ends, _)| ends).or(self.machine.next_timer());
            match next.filter(|at| *at <= until) {
                None => break,
                Some(at) => {
                    self.now = self.now.max(at);
                    if self.call.is_some() { self.call_ends() } else { self.step(Event::Timer) }
                }
            }
        }
        self.now = until;
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Change => {
                self.wanted += 1;
                self.told.push((self.wanted, self.now));
                if !self.machine.picture().circuit_open {
                    self.fell = None;
                }
                self.step(Event::Changed);
            }
            Act::Wait(millis) => self.pass(Tick(self.now.0 + millis)),
            Act::Mood(mood) => self.mood = *mood,
            Act::Takes(millis) => self.takes = *millis,
            Act::Forgets => self.there = 0,
            Act::Restart => {
                let later = self.now.plus(Duration::from_secs(20));
                self.machine = Machine::new(self.kind.pace(), later);
                (self.call, self.fell, self.in_sync_at) = (None, None, None);
                // The new one knows no more than that something is wanted.
                self.told = vec![(self.wanted, self.now)];
                self.step(Event::Changed);
            }
        }
    }

    /// The trouble is over. Answers how long it takes until the edge is as it should be, from the end of the call that
    /// was under way.
    fn recovers(&mut self) -> Duration {
        let under_way = self.call.map_or(self.now, |(_, ends, _)| ends);
        self.pass(under_way);
        (self.mood, self.takes) = (Mood::Works, 10);
        let began = self.now.max(self.machine.not_before);
        while self.there != self.wanted || self.machine.picture().state != State::InSync {
            let next = self.call.map(|(_, ends, _)| ends).or(self.machine.next_timer());
            self.pass(next.expect("there is always a next step"));
            assert!(self.now.since(began) < Duration::from_secs(600), "it never is: {:?}", self.machine);
        }
        self.now.since(began)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn an_edge_is_never_pressed_and_never_given_up(
        route53 in any::<bool>(),
        acts in prop::collection::vec(act(), 0..60),
        chances in prop::collection::vec(0.0_f64..=1.0, 1..20),
    ) {
        let kind = if route53 { Kind::Route53 } else { Kind::Caddy };
        let mut world = World::new(kind, chances);
        world.step(Event::Changed);
        acts.iter().for_each(|act| world.act(act));
        let refused = matches!(&world.machine.picture().last_error, Some((error, _)) if error.trouble == Trouble::Refused)
            || world.mood == Mood::Fails(Trouble::Refused);
        let most = match kind {
            _ if refused => BACKOFF_MAX + Duration::from_secs(1),
            // What nobody has told of, the edge's own losses, is found with the next look.
            Kind::Caddy => Duration::from_secs(16),
            Kind::Route53 => Duration::from_secs(60),
        };
        let took = world.recovers();
        prop_assert!(took <= most, "{took:?} {:?}", world.machine);
        prop_assert_eq!(world.machine.picture().differ_since, None);
        prop_assert!(world.machine.next_timer().is_none_or(|at| at.since(world.now) <= LOOK_AGAIN));
    }

    /// The promise: an edge was away, or refused changes, for any time, while names came and went.
    #[test]
    fn after_trouble_the_edge_is_as_it_should_be_in_time(
        route53 in any::<bool>(),
        busy in any::<bool>(),
        waits in prop::collection::vec(1_u64..100_000, 1..60),
        takes in 0_u64..5_000,
        chances in prop::collection::vec(0.0_f64..=1.0, 1..20),
    ) {
        let kind = if route53 { Kind::Route53 } else { Kind::Caddy };
        let mut world = World::new(kind, chances);
        world.step(Event::Changed);
        world.pass(Tick(1_000));
        world.mood = Mood::Fails(if busy { Trouble::Busy } else { Trouble::Unreachable });
        world.takes = takes;
        for wait in waits {
            world.act(&Act::Change);
            world.act(&Act::Wait(wait));
        }
        let took = world.recovers();
        let most = if route53 { Duration::from_secs(60) } else { Duration::from_secs(10) };
        prop_assert!(took <= most, "{took:?} {:?}", world.machine);
    }
}
