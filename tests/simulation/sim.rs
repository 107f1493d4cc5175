//! The world: one queue of events in the order of their time, one generator of chance, and everybody in it. Nothing in
//! here reads a clock, so an hour costs what happens in it.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;

use nebula_agent::replica::spec::ProcessRef;
use nebula_core::ids::{CommandId, ReplicaId};
use nebulad::domain::command::Command;
use nebulad::ports::AgentError;

use super::agent::Agent;
use super::chaos::{Act, Mix};
use super::control::{Control, Mail, Who};
use super::drill::Drill;
use super::moves::Moves;
use super::net::Link;
use super::oracle::Oracle;
use super::rng::Rng;
use super::store::Image;
use super::talk::{Beat, BeatAnswer};

/// How many nodes there are.
pub(crate) const NODES: u16 = 50;
/// Long before simulated time begins, so that wall times look like some.
pub(crate) const EPOCH_MS: u64 = 1_700_000_000_000;

/// What happens at a moment.
#[derive(Debug)]
pub(crate) enum Event {
    // In nebulad. The first number says in which of its lives; later lives do not see it.
    Mail(u32, Who, Mail),
    Committed(u32, Who, u32),
    Rebuild(u32, Who),
    DeploymentTimer(u32, u32, u32),
    RegistryTimer(u32, u32),
    SendCommand(u32, u32, Box<Command>),
    ControlStarts,
    ControlContinues(u32),
    // Between nebulad and agents.
    BeatArrives {
        node: u16,
        life: u32,
        call: u64,
        beat: Box<Beat>,
    },
    BeatAnswered {
        node: u16,
        life: u32,
        call: u64,
        answer: Box<BeatAnswer>,
    },
    CommandArrives {
        node: u16,
        from: (u32, u32),
        command: Arc<Command>,
    },
    CommandAnswered {
        from: (u32, u32),
        node: u16,
        id: CommandId,
        result: Result<(), AgentError>,
    },
    // On a node.
    AgentSpeaks {
        node: u16,
        token: u64,
    },
    AgentStarts(u16),
    Prepared {
        node: u16,
        life: u32,
        replica: ReplicaId,
        attempt: u32,
        well: bool,
    },
    Healthy {
        node: u16,
        life: u32,
        replica: ReplicaId,
        attempt: u32,
    },
    ReplicaTimer {
        node: u16,
        life: u32,
        replica: ReplicaId,
        fence: u64,
    },
    ProcessEnds {
        node: u16,
        process: ProcessRef,
    },
    ExitSeen {
        node: u16,
        life: u32,
        replica: ReplicaId,
        attempt: u32,
        process: ProcessRef,
    },
    /// What the world does to them.
    Act(Act),
}

struct Due {
    at: u64,
    seq: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.seq) == (other.at, other.seq)
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.seq).cmp(&(self.at, self.seq))
    }
}

pub(crate) struct Sim {
    /// Milliseconds since the run began.
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    pub(crate) mix: Mix,
    pub(crate) control: Control,
    pub(crate) agents: Vec<Agent>,
    pub(crate) links: Vec<Link>,
    pub(crate) oracle: Oracle,
    pub(crate) moves: Moves,
    pub(crate) drill: Drill,
    pub(crate) counts: BTreeMap<&'static str, u64>,
    pub(crate) violation: Option<String>,
    /// Whether the world hurts at the moment.
    pub(crate) hurting: bool,
    /// Copies of the store, the oldest first.
    pub(crate) exports: Vec<Image>,
    /// Some deployment may learn from its nodes what its store has forgotten.
    pub(crate) restored: bool,
    /// Of everything that happened: equal for equal runs.
    pub(crate) digest: u64,
    heap: BinaryHeap<Due>,
    seq: u64,
    trace: VecDeque<String>,
    /// Lines of the trace that are kept.
    trace_lines: usize,
}

impl Sim {
    pub(crate) fn new(seed: u64, mix: Mix, trace_lines: usize) -> Self {
        let mut sim = Self {
            now: 0,
            rng: Rng::new(seed),
            mix,
            control: Control::default(),
            agents: (0..NODES).map(Agent::new).collect(),
            links: vec![Link::default(); usize::from(NODES)],
            oracle: Oracle::default(),
            moves: Moves::default(),
            drill: Drill::default(),
            counts: BTreeMap::new(),
            violation: None,
            hurting: false,
            exports: Vec::new(),
            restored: false,
            digest: 0,
            heap: BinaryHeap::new(),
            seq: 0,
            trace: VecDeque::new(),
            trace_lines,
        };
        sim.at(0, Event::ControlStarts);
        for node in 0..NODES {
            let later = sim.rng.below(30_000);
            sim.at(later, Event::AgentStarts(node));
        }
        sim
    }

    pub(crate) fn at(&mut self, at: u64, event: Event) {
        self.seq += 1;
        self.heap.push(Due { at, seq: self.seq, event });
    }

    pub(crate) fn after(&mut self, wait: u64, event: Event) {
        self.at(self.now + wait, event);
    }

    pub(crate) fn count(&mut self, what: &'static str, times: u64) {
        *self.counts.entry(what).or_default() += times;
    }

    pub(crate) fn trace(&mut self, line: impl FnOnce() -> String) {
        if self.trace_lines == 0 {
            return;
        }
        if self.trace.len() >= self.trace_lines {
            self.trace.pop_front();
        }
        let (secs, ms) = (self.now / 1_000, self.now % 1_000);
        self.trace.push_back(format!("{secs:>8}.{ms:03} {}", line()));
    }

    pub(crate) fn trace_lines(&self) -> impl Iterator<Item = &String> {
        self.trace.iter()
    }

    /// An invariant does not hold: the run ends here.
    pub(crate) fn violated(&mut self, which: &str, what: String) {
        if self.violation.is_none() {
            self.trace(|| format!("VIOLATED {which}: {what}"));
            self.violation = Some(format!("{which}: {what}"));
        }
    }

    /// How many events wait.
    pub(crate) fn waiting(&self) -> usize {
        self.heap.len()
    }

    /// Lets everything happen up to a moment.
    pub(crate) fn run_until(&mut self, until: u64) {
        while self.violation.is_none() && self.heap.peek().is_some_and(|due| due.at <= until) {
            let Some(Due { at, seq, event }) = self.heap.pop() else { break };
            self.now = at;
            self.digest = (self.digest ^ at ^ (seq << 20)).wrapping_mul(0x0100_0000_01b3);
            self.happen(event);
        }
        if self.violation.is_none() {
            self.now = self.now.max(until);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Mail(life, who, mail) => self.in_control(life, |sim| sim.deliver(who, mail)),
            Event::Committed(life, who, incarnation) => {
                self.in_control(life, |sim| sim.committed(who, incarnation));
            }
            Event::Rebuild(life, who) => self.in_control(life, |sim| sim.rebuild(who)),
            Event::DeploymentTimer(life, dep, incarnation) => {
                self.in_control(life, |sim| sim.deployment_timer(dep, incarnation));
            }
            Event::RegistryTimer(life, incarnation) => {
                self.in_control(life, |sim| sim.registry_timer(incarnation));
            }
            Event::SendCommand(life, tries, command) => {
                self.in_control(life, |sim| sim.try_send(tries, command));
            }
            Event::ControlStarts => self.control_starts(),
            Event::ControlContinues(life) => self.in_control(life, Self::control_continues),
            Event::BeatArrives { node, life, call, beat } => self.beat_arrives(node, life, call, *beat),
            Event::BeatAnswered { node, life, call, answer } => {
                let agent = self.agent(node);
                if agent.up && agent.life == life && agent.call == call {
                    self.beat_answered(node, *answer);
                }
            }
            Event::CommandArrives { node, from, command } => self.command_arrives(node, from, &command),
            Event::CommandAnswered { from, node, id, result } => {
                self.in_control(from.0, |sim| sim.command_answered(from.1, node, id, result));
            }
            Event::AgentSpeaks { node, token } => {
                let agent = self.agent(node);
                if agent.up && agent.token == token {
                    self.speak(node);
                }
            }
            Event::AgentStarts(node) => self.agent_starts(node),
            Event::Prepared { node, life, replica, attempt, well } => {
                self.on_node(node, life, |sim| sim.prepared(node, replica, attempt, well));
            }
            Event::Healthy { node, life, replica, attempt } => {
                self.on_node(node, life, |sim| sim.healthy(node, replica, attempt));
            }
            Event::ReplicaTimer { node, life, replica, fence } => {
                self.on_node(node, life, |sim| sim.replica_timer(node, replica, fence));
            }
            Event::ProcessEnds { node, process } => self.process_ends(node, process),
            Event::ExitSeen { node, life, replica, attempt, process } => {
                self.on_node(node, life, |sim| sim.exit_seen(node, replica, attempt, process));
            }
            Event::Act(act) => self.act(act),
        }
    }

    fn on_node(&mut self, node: u16, life: u32, happen: impl FnOnce(&mut Self)) {
        let agent = self.agent(node);
        if agent.up && agent.life == life {
            happen(self);
        }
    }

    /// What is about one life of nebulad happens in that life only, and not while it stands still.
    fn in_control(&mut self, life: u32, happen: impl FnOnce(&mut Self)) {
        if self.control.up && self.control.life == life {
            happen(self);
            self.end_if_tripped();
        }
    }
}
