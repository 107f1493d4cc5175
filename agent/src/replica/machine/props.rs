//! The machine in a made-up world: any commands in any order, processes that end when they like, timers that fire
//! late, agents that die at any point.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::tests::{NOW, process, spec, start};
use super::*;
use crate::replica::spec::{ContainerRef, Ended, Instance};

/// What happens next in the world.
#[derive(Clone, Debug)]
enum Act {
    /// Here and below: the seconds that requests in flight get.
    Start(u64, u64),
    Stop(Option<u64>, u64),
    Restart(Option<u64>),
    Delete(Option<u64>, u64),
    /// The last request in flight is over, or so somebody says.
    Drained,
    /// What was asked of the outside is answered, well or badly.
    Answer(bool),
    /// An old answer comes again.
    Stale(u32),
    /// The process ends by itself.
    Exit(i32),
    Healthy,
    TimerFires,
    /// A timer that was replaced fires all the same.
    OldTimer(u64),
    /// The agent dies before the `n`-th effect of the next step, and a new one starts.
    Die(usize),
    /// The next process cannot be made; with `port`, because its port is taken.
    NoSpawn {
        port: bool,
    },
    /// The next one is a container, of whose making the answer comes later.
    Container,
    /// The Engine goes away and takes it along, if it is a container.
    EngineDies,
    /// The Engine does not answer when the next agent looks.
    EngineHangs,
    Progressed,
    Silent,
    Answering,
    Broken,
    Wait(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let drain = || prop_oneof![Just(0u64), 1u64..100];
    let generation = || prop_oneof![Just(None), (0u64..6).prop_map(Some)];
    prop_oneof![
        3 => ((0u64..6), drain()).prop_map(|(generation, drain)| Act::Start(generation, drain)),
        2 => (generation(), drain()).prop_map(|(generation, drain)| Act::Stop(generation, drain)),
        1 => generation().prop_map(Act::Restart),
        1 => (generation(), drain()).prop_map(|(generation, drain)| Act::Delete(generation, drain)),
        2 => Just(Act::Drained),
        6 => prop::bool::weighted(0.9).prop_map(Act::Answer),
        1 => (0u32..4).prop_map(Act::Stale),
        2 => (0i32..3).prop_map(Act::Exit),
        4 => Just(Act::Healthy),
        3 => Just(Act::TimerFires),
        1 => (0u64..40).prop_map(Act::OldTimer),
        2 => (0usize..6).prop_map(Act::Die),
        1 => any::<bool>().prop_map(|port| Act::NoSpawn { port }),
        2 => Just(Act::Container),
        1 => Just(Act::EngineDies),
        1 => Just(Act::EngineHangs),
        1 => Just(Act::Progressed),
        2 => Just(Act::Silent),
        1 => Just(Act::Answering),
        1 => Just(Act::Broken),
        1 => (0u64..700).prop_map(Act::Wait),
    ]
}

/// The outside: what is durable, and which process exists.
struct World {
    machine: Machine,
    durable: Option<State>,
    alive: Option<Instance>,
    next_pid: u32,
    preparing: Option<u32>,
    watched: Option<u32>,
    timer: Option<u64>,
    ready: bool,
    /// Somebody waits for the requests in flight of this attempt.
    draining: Option<u32>,
    die_before: Option<usize>,
    no_spawn: Option<bool>,
    container: bool,
    /// A container is being made for this attempt.
    making: Option<u32>,
    engine_hangs: bool,
    now: Tick,
    highest: u64,
    ended_by_us: BTreeSet<u32>,
}

/// A number that no other instance has.
fn number(instance: Instance) -> u32 {
    match instance {
        Instance::Process(process) => process.pid,
        Instance::Container(container) => {
            let [a, b, c, d, ..] = container.0;
            u32::from_be_bytes([a, b, c, d])
        }
    }
}

fn container(number: u32) -> Instance {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&number.to_be_bytes());
    Instance::Container(ContainerRef(id))
}

impl World {
    fn new() -> Self {
        let machine = Machine::new(
            Policy::default(),
            DeploymentId::from_bytes([1; 16]),
            ReplicaId::from_bytes([2; 16]),
            spec("m"),
        );
        Self {
            machine,
            durable: None,
            alive: None,
            next_pid: 100,
            preparing: None,
            watched: None,
            timer: None,
            ready: false,
            draining: None,
            die_before: None,
            no_spawn: None,
            container: false,
            making: None,
            engine_hangs: false,
            now: NOW,
            highest: 0,
            ended_by_us: BTreeSet::new(),
        }
    }

    fn send(&mut self, event: Event) {
        let stale = match &event {
            Event::Start { generation, .. } => generation.0 < self.highest,
            Event::Stop { generation, .. }
            | Event::Restart { generation }
            | Event::Delete { generation, .. } => generation.is_some_and(|given| given.0 < self.highest),
            _ => false,
        };
        let known = self.durable.is_some();
        let before = self.machine.state().clone();
        let effects = self.machine.step(event, self.now);
        if stale && known {
            assert_eq!(*self.machine.state(), before, "a stale command changed something");
        }
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        let mut replies = 0;
        let mut durable_in_step = false;
        let mut effects = std::collections::VecDeque::from(effects);
        let mut done = 0;
        while let Some(effect) = effects.pop_front() {
            if self.die_before.is_some_and(|at| done >= at) {
                return self.reborn();
            }
            done += 1;
            match effect {
                Effect::Persist(_) => {
                    durable_in_step = true;
                    self.durable = Some(self.machine.state().clone());
                    self.highest = self.highest.max(self.machine.state().generation.0);
                }
                Effect::Remove(_) => {
                    assert_eq!(self.alive, None, "removed while its process lives");
                    (durable_in_step, self.durable, self.highest) = (true, None, 0);
                }
                Effect::Reply(answer) => {
                    replies += 1;
                    let unchanged = self.durable.as_ref().is_none_or(|state| state == self.machine.state());
                    assert!(
                        answer.is_err() || durable_in_step || unchanged,
                        "answered before it was durable"
                    );
                }
                Effect::Route { ready } => self.ready = ready,
                Effect::Drain { attempt } => {
                    assert!(!self.ready, "new requests come while it drains");
                    self.draining = Some(attempt);
                }
                Effect::Prepare { attempt } => self.preparing = Some(attempt),
                Effect::Spawn { attempt } => effects.extend(self.spawn(attempt)),
                Effect::Watch { attempt, instance } => {
                    assert_eq!(self.alive, Some(instance));
                    self.watched = Some(attempt);
                }
                Effect::Signal { instance, signal } => {
                    assert_eq!(self.alive, Some(instance), "a signal to a stranger");
                    let drains = matches!(self.machine.state().phase, Phase::Draining { .. });
                    assert!(!drains, "it is to answer its last requests");
                    self.ended_by_us.insert(number(instance));
                    if signal == Signal::Kill {
                        self.exit(9);
                        return;
                    }
                }
                Effect::SetTimer { fence, .. } => self.timer = Some(fence),
                Effect::CancelTimer => self.timer = None,
                Effect::Probe { .. } | Effect::Guard { .. } | Effect::StopProbe | Effect::Report => {}
                Effect::Done => {
                    if self.durable.is_none() {
                        // A new replica of that id may come.
                        let (now, next_pid) = (self.now, self.next_pid);
                        *self = Self { now, next_pid, ..Self::new() };
                        return;
                    }
                }
            }
        }
        assert!(replies <= 1);
        if self.die_before.take().is_some() {
            self.reborn();
        }
        self.check();
    }

    /// Makes a process, or fails to, and says so to the machine.
    fn spawn(&mut self, attempt: u32) -> Vec<Effect> {
        assert_eq!(self.alive, None, "a second process");
        assert_eq!(self.machine.state().desired, Desired::Running);
        let durable = self.durable.as_ref().expect("the intent is durable");
        assert!(matches!(durable.phase, Phase::Spawning { .. }) && durable.attempt == attempt);
        if std::mem::take(&mut self.container) {
            self.making = Some(attempt);
            return Vec::new();
        }
        let event = self.make(attempt, process);
        self.machine.step(event, self.now)
    }

    /// What comes of an attempt to make something to run as.
    fn make(&mut self, attempt: u32, kind: impl Fn(u32) -> Instance) -> Event {
        let message = "no".to_owned();
        match self.no_spawn.take() {
            Some(true) => return Event::PortTaken { attempt, message },
            Some(false) => return Event::SpawnFailed { attempt, message },
            None => {}
        }
        let instance = kind(self.next_pid);
        self.next_pid += 1;
        self.alive = Some(instance);
        Event::Spawned { attempt, instance }
    }

    /// The agent died; what was not durable is lost, the process is not.
    fn reborn(&mut self) {
        self.die_before = None;
        (self.preparing, self.watched, self.timer, self.ready) = (None, None, None, false);
        if self.making.take().is_some() && self.alive.is_none() && self.next_pid.is_multiple_of(2) {
            // It came to be, and nobody was told.
            self.alive = Some(container(self.next_pid));
            self.next_pid += 1;
        }
        let hangs = std::mem::take(&mut self.engine_hangs);
        let Some(state) = self.durable.clone() else {
            assert_eq!(self.alive, None, "a process that nobody knows");
            let (now, next_pid) = (self.now, self.next_pid);
            *self = Self { now, next_pid, ..Self::new() };
            return;
        };
        let contained = matches!(self.alive, Some(Instance::Container(_)));
        let found = match (&state.phase, self.alive) {
            (Phase::Spawning { .. }, _) if hangs => {
                // A process is found all the same. Of a container nothing is known: whoever makes the next one
                // removes it first, and else the one who looks for strays.
                match self.alive.take_if(|_| contained) {
                    Some(_) => Found::Unknown,
                    None => self.alive.map_or(Found::Unknown, Found::Alive),
                }
            }
            (_, Some(_)) if hangs && contained => Found::Unknown,
            (Phase::Spawning { .. }, Some(instance)) => Found::Alive(instance),
            (phase, Some(instance)) if phase.instance() == Some(instance) => Found::Alive(instance),
            (phase, Some(instance)) => panic!("process {instance:?} is lost in {phase:?}"),
            (_, None) => Found::Gone(Ended::default()),
        };
        let (machine, effects) = Machine::load(Policy::default(), state, spec("m"), found, self.now);
        self.machine = machine;
        self.perform(effects);
    }

    fn exit(&mut self, code: i32) {
        self.end(Ended { code: Some(code), ..Ended::default() });
    }

    fn end(&mut self, ended: Ended) {
        let Some(instance) = self.alive.take() else { return };
        let restarts = self.machine.state().recent_crashes;
        if let Some(attempt) = self.watched.take() {
            // An agent that dies over it leaves nobody who knows why it ended.
            let blameless = ended.blameless && self.die_before.is_none();
            let hung = matches!(&self.machine.state().phase, Phase::Killing { failure: Some(failure), .. }
                if failure.reason == FailureReason::Unresponsive);
            self.send(Event::Exited { attempt, ended });
            if !hung && (blameless || self.ended_by_us.contains(&number(instance))) {
                assert!(self.machine.state().recent_crashes <= restarts, "blamed for what we did");
            }
        }
    }

    /// News of what runs, while it runs.
    fn tell(&mut self, event: impl FnOnce(u32) -> Event) {
        if self.alive.is_some() {
            self.send(event(self.machine.state().attempt));
        }
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Start(generation, secs) => {
                let mut event = start(generation);
                if let Event::Start { drain, .. } = &mut event {
                    *drain = Duration::from_secs(secs);
                }
                self.send(event);
            }
            Act::Stop(generation, secs) => {
                let drain = Duration::from_secs(secs);
                self.send(Event::Stop { generation: generation.map(Generation), grace: None, drain });
            }
            Act::Restart(generation) => self.send(Event::Restart { generation: generation.map(Generation) }),
            Act::Delete(generation, secs) => {
                let drain = Duration::from_secs(secs);
                self.send(Event::Delete { generation: generation.map(Generation), drain });
            }
            Act::Drained => self.tell(|attempt| Event::Drained { attempt }),
            Act::Answer(well) => {
                if let Some(attempt) = self.preparing.take() {
                    self.send(if well {
                        Event::Prepared { attempt, port: 30_000 }
                    } else {
                        let reason = FailureReason::ImagePull;
                        Event::PrepareFailed { attempt, reason, message: "no".to_owned() }
                    });
                } else if let Some(attempt) = self.making.take() {
                    let event = self.make(attempt, container);
                    self.send(event);
                }
            }
            // These are about one life of the agent.
            Act::Stale(_) | Act::OldTimer(_) if self.die_before.is_some() => {}
            Act::Stale(attempt) => {
                let attempt = self.machine.state().attempt.wrapping_sub(attempt + 1);
                let before = self.machine.state().clone();
                self.send(Event::Prepared { attempt, port: 1 });
                self.send(Event::Healthy { attempt });
                self.send(Event::Silent { attempt, message: String::new() });
                self.send(Event::Answering { attempt });
                self.send(Event::Progressed { attempt });
                self.send(Event::Drained { attempt });
                self.send(Event::Exited { attempt, ended: Ended::default() });
                assert!(before == *self.machine.state() || self.durable.is_none());
            }
            Act::Exit(code) => self.exit(code),
            Act::Healthy => {
                let attempt = self.machine.state().attempt;
                if self.alive.is_some() {
                    self.send(Event::Healthy { attempt });
                }
            }
            Act::TimerFires => {
                if let Some(fence) = self.timer.take() {
                    self.now = self.now.plus(Duration::from_secs(10));
                    self.send(Event::Timer { fence });
                }
            }
            Act::OldTimer(fence) => {
                if Some(fence) != self.timer {
                    let before = self.machine.state().clone();
                    self.send(Event::Timer { fence });
                    assert_eq!(before, *self.machine.state());
                }
            }
            Act::Die(at) => self.die_before = Some(at),
            Act::NoSpawn { port } => self.no_spawn = Some(port),
            Act::Container => self.container = true,
            Act::EngineDies => {
                if matches!(self.alive, Some(Instance::Container(_))) {
                    self.end(Ended { blameless: true, ..Ended::default() });
                }
            }
            Act::EngineHangs => self.engine_hangs = true,
            Act::Progressed => self.tell(|attempt| Event::Progressed { attempt }),
            Act::Silent => self.tell(|attempt| Event::Silent { attempt, message: "no".to_owned() }),
            Act::Answering => self.tell(|attempt| Event::Answering { attempt }),
            Act::Broken => self.tell(|attempt| {
                let reason = FailureReason::Gpu;
                Event::Broken { attempt, reason, message: "no".to_owned() }
            }),
            Act::Wait(secs) => self.now = self.now.plus(Duration::from_secs(secs)),
        }
    }

    fn check(&self) {
        let state = self.machine.state();
        assert_eq!(self.ready, matches!(state.phase, Phase::Running { .. }), "{:?}", state.phase);
        if let Some(instance) = state.phase.instance() {
            assert_eq!(self.alive, Some(instance), "{:?}", state.phase);
            assert_eq!(self.watched, Some(state.attempt), "nobody would see it end");
        }
        assert!(!state.phase.has_timer() || self.timer.is_some(), "{:?} without a timer", state.phase);
        assert!(state.phase != Phase::Preparing || self.preparing == Some(state.attempt), "nobody looks");
        let drains = matches!(state.phase, Phase::Draining { .. });
        assert!(!drains || self.draining == Some(state.attempt), "nobody sees the last request end");
        assert!(state.recent_crashes <= Policy::default().crash_max);
    }

    /// From here on all goes well: what is wanted is reached.
    fn heal(&mut self) {
        (self.no_spawn, self.container, self.engine_hangs) = (None, false, false);
        for _ in 0..12 {
            self.act(&Act::Answer(true));
            self.act(&Act::Healthy);
            self.act(&Act::Answering);
            self.act(&Act::Drained);
            if matches!(self.machine.state().phase, Phase::Killing { .. }) {
                self.exit(0);
            }
            if self.machine.state().phase == Phase::BackingOff {
                self.act(&Act::TimerFires);
            }
        }
        let state = self.machine.state();
        match state.phase {
            Phase::New => assert_eq!((self.alive, &self.durable), (None, &None)),
            Phase::Running { .. } => assert_eq!(state.desired, Desired::Running),
            Phase::Stopped => assert_eq!((state.desired, self.alive), (Desired::Stopped, None)),
            Phase::Failed(_) => assert_eq!(self.alive, None),
            ref other => panic!("stuck in {other:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_process_is_doubled_lost_or_blamed_and_what_is_wanted_is_reached(
        acts in prop::collection::vec(act(), 1..60)
    ) {
        let mut world = World::new();
        for act in &acts {
            world.act(act);
        }
        world.heal();
    }
}
