//! One node: the agent's real replica machine with its disk, its memory of commands and its ports, and the processes
//! that run there whether or not an agent does.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use nebula_agent::replica::machine as replica;
use nebula_agent::replica::spec::{Access, Ended, Instance, ProcessRef, Spec};
use nebula_core::clock::Tick;
use nebula_core::ids::{CommandId, DeploymentId, Generation, NodeId, ReplicaId};
use nebulad::domain::command::{Action, Command};
use nebulad::domain::report::{ReplicaReport, ReportedStatus, Seen};

use super::report::report;
use super::sim::{Event, Sim};

/// As in the agent's store: ids of commands and fences that are kept.
const REMEMBERED_MAX: usize = 1_024;
const FIRST_PORT: u16 = 30_000;
/// An argument by which a workload says that no agent can ever start it.
pub(crate) const DECLINED: &str = "--declined";
/// An argument by which a workload says that its runtime ends by itself now and then.
pub(crate) const FLAKY: &str = "--flaky";

/// What the agent's store holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) replicas: Vec<(replica::State, Arc<Spec>)>,
    pub(crate) fences: VecDeque<(ReplicaId, Generation)>,
    pub(crate) done: VecDeque<CommandId>,
}

/// A runtime's process. It outlives its agent.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) at: ProcessRef,
    pub(crate) replica: ReplicaId,
    pub(crate) attempt: u32,
    pub(crate) gpus: Vec<u32>,
    pub(crate) port: u16,
    pub(crate) ending: bool,
    pub(crate) deaf: bool,
}

/// A replica's task.
pub(crate) struct Live {
    pub(crate) id: ReplicaId,
    pub(crate) machine: replica::Machine,
    timer: Option<u64>,
    watched: Option<ProcessRef>,
}

/// When the agent speaks next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaking {
    /// A call is under way.
    Calling,
    /// It waits; a change makes it speak from this moment on, if there is one.
    Waiting(Option<u64>),
}

pub(crate) struct Agent {
    pub(crate) index: u16,
    pub(crate) node: NodeId,
    pub(crate) up: bool,
    pub(crate) life: u32,
    pub(crate) boots: u8,
    pub(crate) disk: Disk,
    pub(crate) live: Vec<Live>,
    pub(crate) processes: Vec<Process>,
    pub(crate) declined: Vec<(DeploymentId, ReplicaId, Generation)>,
    pub(crate) ports: BTreeMap<u16, ReplicaId>,
    pub(crate) acks: VecDeque<CommandId>,
    pub(crate) registered: bool,
    pub(crate) unproven: bool,
    pub(crate) failures: u32,
    pub(crate) speaking: Speaking,
    pub(crate) token: u64,
    pub(crate) call: u64,
    pub(crate) changed: bool,
    /// Full reports in a row in which nothing was new.
    pub(crate) same: u8,
    next_pid: u32,
    /// The agent dies before so many further effects.
    pub(crate) die_in: Option<u32>,
}

/// How a command went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    Refused(replica::Refusal),
    Declined,
    /// It may work later.
    Later,
}

impl Agent {
    pub(crate) fn new(index: u16) -> Self {
        Self {
            index,
            node: node_id(index),
            up: false,
            life: 0,
            boots: 1,
            disk: Disk::default(),
            live: Vec::new(),
            processes: Vec::new(),
            declined: Vec::new(),
            ports: BTreeMap::new(),
            acks: VecDeque::new(),
            registered: false,
            unproven: false,
            failures: 0,
            speaking: Speaking::Waiting(None),
            token: 0,
            call: 0,
            changed: false,
            same: 0,
            next_pid: 1,
            die_in: None,
        }
    }

    pub(crate) fn boot_id(&self) -> String {
        format!("{}-{}", self.index, self.life)
    }

    pub(crate) fn live(&mut self, id: ReplicaId) -> Option<&mut Live> {
        self.live.iter_mut().find(|live| live.id == id)
    }

    /// What the agent reports.
    pub(crate) fn replicas(&self) -> Vec<ReplicaReport> {
        let declined = self.declined.iter().map(|(deployment_id, replica_id, generation)| ReplicaReport {
            deployment_id: *deployment_id,
            replica_id: *replica_id,
            generation: *generation,
            status: ReportedStatus::Failed,
            container_id: String::new(),
            port: 0,
            message: "cannot_start: declined".to_owned(),
            restarts: 0,
            exit_code: None,
            seen: Seen::default(),
        });
        let newer = |live: &Live| {
            let now = live.machine.state().generation;
            self.declined.iter().any(|(_, id, declined)| *id == live.id && *declined > now)
        };
        let live = self.live.iter().filter(|live| !newer(live)).filter_map(report);
        declined.chain(live).collect()
    }

    fn claim(&mut self, id: ReplicaId) -> u16 {
        if let Some((port, _)) = self.ports.iter().find(|(_, owner)| **owner == id) {
            return *port;
        }
        let taken = |port: u16| {
            self.ports.contains_key(&port) || self.processes.iter().any(|process| process.port == port)
        };
        let port = (FIRST_PORT..).find(|port| !taken(*port)).unwrap_or(FIRST_PORT);
        self.ports.insert(port, id);
        port
    }
}

/// The id of a node.
pub(crate) fn node_id(index: u16) -> NodeId {
    format!("n{index:02}").parse().expect("an id")
}

/// Which node has this id.
pub(crate) fn node_index(id: &NodeId) -> u16 {
    id.as_str().trim_start_matches('n').parse().expect("a node of this world")
}

impl Sim {
    pub(crate) fn agent(&mut self, n: u16) -> &mut Agent {
        &mut self.agents[usize::from(n)]
    }

    /// The agent's program starts: it takes up what its disk and the process table say.
    pub(crate) fn agent_starts(&mut self, n: u16) {
        let now = Tick(self.now);
        let agent = self.agent(n);
        if agent.up {
            return;
        }
        (agent.up, agent.registered, agent.unproven, agent.failures) = (true, false, false, 0);
        agent.life += 1;
        agent.same = 0;
        agent.die_in = None;
        let known: Vec<ReplicaId> = agent.disk.replicas.iter().map(|(state, _)| state.replica).collect();
        let strays = agent.processes.iter().filter(|process| !known.contains(&process.replica)).count();
        agent.processes.retain(|process| known.contains(&process.replica));
        agent.ports = agent.disk.replicas.iter().map(|(state, _)| (state.port, state.replica)).collect();
        agent.ports.remove(&0);
        let stored = agent.disk.replicas.clone();
        self.count("strays ended", strays as u64);
        self.trace(|| format!("n{n:02} agent starts with {} replicas", stored.len()));
        for (state, spec) in stored {
            let id = state.replica;
            let agent = self.agent(n);
            let found = match (&state.phase, state.phase.instance().and_then(Instance::process)) {
                (replica::Phase::Spawning { .. }, _) => agent
                    .processes
                    .iter()
                    .find(|process| process.replica == id && process.attempt == state.attempt)
                    .map(|process| process.at),
                (_, at) => at.filter(|at| agent.processes.iter().any(|process| process.at == *at)),
            };
            let boot = [agent.boots; 16];
            let found = match (found, state.phase.instance().and_then(Instance::process)) {
                (Some(process), _) => replica::Found::Alive(Instance::Process(process)),
                (None, Some(at)) if at.boot != boot => replica::Found::Rebooted,
                (None, _) => replica::Found::Gone(Ended::default()),
            };
            let (machine, effects) = replica::Machine::load(policy(), state, spec, found, now);
            agent.live.push(Live { id, machine, timer: None, watched: None });
            self.carry_out(n, id, effects);
            if !self.agent(n).up {
                return;
            }
        }
        self.speak_at(n, self.now + 20);
    }

    /// The agent's process is killed. What runs goes on.
    pub(crate) fn agent_dies(&mut self, n: u16, restart_in: u64) {
        let agent = self.agent(n);
        if !agent.up {
            return;
        }
        agent.up = false;
        agent.life += 1;
        agent.token += 1;
        agent.call += 1;
        agent.live.clear();
        agent.declined.clear();
        agent.acks.clear();
        agent.changed = false;
        self.trace(|| format!("n{n:02} agent dies"));
        self.at(self.now + restart_in, Event::AgentStarts(n));
    }

    /// A command comes by a call or with a heartbeat's answer.
    pub(crate) fn command(&mut self, n: u16, command: &Command) -> Answer {
        let id = command.replica_id;
        let generation = Some(command.generation).filter(|generation| generation.0 > 0);
        let drain = command.drain;
        match &command.action {
            Action::Start(start) if start.args.iter().any(|arg| arg == DECLINED) => Answer::Declined,
            Action::Start(start) => {
                let spec = Arc::new(Spec {
                    runtime: start.runtime,
                    model: start.model.clone(),
                    source: None,
                    served_name: start.served_name.clone(),
                    command: Vec::new(),
                    args: start.args.clone(),
                    env: BTreeMap::new(),
                    gpu_devices: start.gpu_devices.clone(),
                    image: None,
                    driver: None,
                });
                let access =
                    Access { public: start.public, tokens: start.token.into_iter().collect(), gateway: None };
                self.start(n, command, spec, access)
            }
            Action::Stop => {
                self.forget_declined(n, id, Some(command.generation));
                self.tell(n, id, replica::Event::Stop { generation, grace: None, drain })
            }
            Action::Delete => {
                self.forget_declined(n, id, Some(command.generation.next()));
                self.tell(n, id, replica::Event::Delete { generation, drain })
            }
            Action::Access { tokens, public } => {
                let access = Access { public: *public, tokens: tokens.clone(), gateway: None };
                self.tell(n, id, replica::Event::SetAccess { access })
            }
        }
    }

    fn start(&mut self, n: u16, command: &Command, spec: Arc<Spec>, access: Access) -> Answer {
        let (id, given) = (command.replica_id, command.generation);
        let agent = self.agent(n);
        if let Some((_, newest)) =
            agent.disk.fences.iter().rev().find(|(fenced, newest)| *fenced == id && given < *newest)
        {
            return Answer::Refused(replica::Refusal::Stale { given, newest: *newest });
        }
        if agent.live(id).is_none() {
            let machine = replica::Machine::new(policy(), command.deployment_id, id, spec.clone());
            agent.live.push(Live { id, machine, timer: None, watched: None });
        }
        let port = agent.claim(id);
        let drain = command.drain;
        let answer = self.tell(n, id, replica::Event::Start { generation: given, spec, access, port, drain });
        if answer == Answer::Done {
            self.forget_declined(n, id, Some(given.next()));
        }
        answer
    }

    fn forget_declined(&mut self, n: u16, id: ReplicaId, below: Option<Generation>) {
        self.agent(n).declined.retain(|(_, declined, generation)| {
            *declined != id || below.is_some_and(|below| *generation >= below)
        });
    }

    fn tell(&mut self, n: u16, id: ReplicaId, event: replica::Event) -> Answer {
        if self.agent(n).live(id).is_none() {
            return Answer::Refused(replica::Refusal::Unknown);
        }
        match self.step(n, id, event) {
            Some(Ok(())) => Answer::Done,
            Some(Err(refusal)) => Answer::Refused(refusal),
            None => Answer::Later,
        }
    }

    /// One event of a replica's task. Answers what the machine replied, if it came to that.
    pub(crate) fn step(
        &mut self,
        n: u16,
        id: ReplicaId,
        event: replica::Event,
    ) -> Option<Result<(), replica::Refusal>> {
        let now = Tick(self.now);
        self.trace(|| format!("n{n:02} {} {event:?}", short(id)));
        let live = self.agent(n).live(id)?;
        let effects = live.machine.step(event, now);
        self.carry_out(n, id, effects)
    }

    /// Does what the machine says, in order; the agent may die before any of it.
    fn carry_out(
        &mut self,
        n: u16,
        id: ReplicaId,
        effects: Vec<replica::Effect>,
    ) -> Option<Result<(), replica::Refusal>> {
        let mut replied = None;
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            if self.agent_trips(n) {
                return replied;
            }
            self.oracle.commands.effect_done();
            match effect {
                replica::Effect::Persist(_) => self.keep(n, id),
                replica::Effect::Remove(generation) => self.remove(n, id, generation),
                replica::Effect::Reply(answer) => {
                    let new = self.agent(n).live(id)?.machine.state().phase == replica::Phase::New;
                    replied = Some(answer);
                    if new {
                        self.end_task(n, id);
                        return replied;
                    }
                }
                replica::Effect::Route { .. }
                | replica::Effect::Guard { .. }
                | replica::Effect::StopProbe => {}
                replica::Effect::Prepare { attempt } => {
                    let takes = self.rng.between(5, 1_500);
                    let well = !self.rng.chance(self.mix.prepare_fails);
                    let life = self.agent(n).life;
                    self.after(takes, Event::Prepared { node: n, life, replica: id, attempt, well });
                }
                replica::Effect::Spawn { attempt } => effects.extend(self.spawn(n, id, attempt)),
                replica::Effect::Watch { attempt, instance } => self.watch(n, id, attempt, process(instance)),
                replica::Effect::Probe { attempt } => {
                    let takes = self.rng.between(100, 4_000);
                    let life = self.agent(n).life;
                    self.after(takes, Event::Healthy { node: n, life, replica: id, attempt });
                }
                // No requests are simulated: there is nothing to wait for.
                replica::Effect::Drain { attempt } => {
                    let now = Tick(self.now);
                    let machine = &mut self.agent(n).live(id)?.machine;
                    effects.extend(machine.step(replica::Event::Drained { attempt }, now));
                }
                replica::Effect::Signal { instance, signal } => self.signal(n, process(instance), signal),
                replica::Effect::SetTimer { fence, after } => self.set_timer(n, id, fence, after),
                replica::Effect::CancelTimer => self.agent(n).live(id)?.timer = None,
                replica::Effect::Report => self.changed(n),
                replica::Effect::Done => {
                    self.end_task(n, id);
                    return replied;
                }
            }
        }
        replied
    }

    fn agent_trips(&mut self, n: u16) -> bool {
        let agent = self.agent(n);
        match &mut agent.die_in {
            Some(0) => {
                agent.die_in = None;
                self.count("agent dies between effects", 1);
                let restart = self.rng.between(500, 20_000);
                self.agent_dies(n, restart);
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => !agent.up,
        }
    }

    fn keep(&mut self, n: u16, id: ReplicaId) {
        let agent = self.agent(n);
        let Some(live) = agent.live.iter().find(|live| live.id == id) else { return };
        let record = (live.machine.state().clone(), live.machine.spec().clone());
        match agent.disk.replicas.iter_mut().find(|(state, _)| state.replica == id) {
            Some(old) => *old = record,
            None => agent.disk.replicas.push(record),
        }
    }

    fn remove(&mut self, n: u16, id: ReplicaId, generation: Generation) {
        let agent = self.agent(n);
        agent.disk.replicas.retain(|(state, _)| state.replica != id);
        agent.ports.retain(|_, owner| *owner != id);
        if generation.0 > 0 {
            agent.disk.fences.push_back((id, generation));
        }
        while agent.disk.fences.len() > REMEMBERED_MAX {
            agent.disk.fences.pop_front();
        }
        agent.processes.retain(|process| process.replica != id);
    }

    fn end_task(&mut self, n: u16, id: ReplicaId) {
        let agent = self.agent(n);
        agent.live.retain(|live| live.id != id);
        if !agent.disk.replicas.iter().any(|(state, _)| state.replica == id) {
            agent.ports.retain(|_, owner| *owner != id);
        }
        self.changed(n);
    }

    fn spawn(&mut self, n: u16, id: ReplicaId, attempt: u32) -> Vec<replica::Effect> {
        let now = Tick(self.now);
        let fails = self.rng.chance(self.mix.prepare_fails);
        let deaf = self.rng.chance(150);
        let agent = self.agent(n);
        agent.next_pid += 1;
        let at = ProcessRef { pid: agent.next_pid, started: 1, boot: [agent.boots; 16] };
        let Some(live) = agent.live(id) else { return Vec::new() };
        if fails {
            let message = "it cannot be run".to_owned();
            return live.machine.step(replica::Event::SpawnFailed { attempt, message }, now);
        }
        let (port, gpus) = (live.machine.state().port, live.machine.spec().gpu_devices.clone());
        let effects =
            live.machine.step(replica::Event::Spawned { attempt, instance: Instance::Process(at) }, now);
        agent.processes.push(Process { at, replica: id, attempt, gpus, port, ending: false, deaf });
        self.count("runtimes started", 1);
        self.trace(|| format!("n{n:02} {} process {} exists", short(id), at.pid));
        self.check_processes(n);
        effects
    }

    fn watch(&mut self, n: u16, id: ReplicaId, attempt: u32, process: ProcessRef) {
        let agent = self.agent(n);
        let gone = !agent.processes.iter().any(|known| known.at == process);
        let life = agent.life;
        let Some(live) = agent.live(id) else { return };
        live.watched = Some(process);
        let flaky = live.machine.spec().args.iter().any(|arg| arg == FLAKY);
        if gone {
            self.after(5, Event::ExitSeen { node: n, life, replica: id, attempt, process });
        } else if flaky && self.rng.chance(self.mix.exits) {
            let lives = self.rng.between(100, 60_000);
            self.after(lives, Event::ProcessEnds { node: n, process });
        }
    }

    fn signal(&mut self, n: u16, process: ProcessRef, signal: replica::Signal) {
        let takes = self.rng.between(5, 2_500);
        let Some(known) = self.agent(n).processes.iter_mut().find(|known| known.at == process) else {
            return;
        };
        let hard = signal == replica::Signal::Kill;
        if hard || !(known.ending || known.deaf) {
            known.ending = true;
            let takes = if hard { 1 } else { takes };
            self.after(takes, Event::ProcessEnds { node: n, process });
        }
    }

    fn set_timer(&mut self, n: u16, id: ReplicaId, fence: u64, after: Duration) {
        let agent = self.agent(n);
        let life = agent.life;
        if let Some(live) = agent.live(id) {
            live.timer = Some(fence);
        }
        let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        self.after(after, Event::ReplicaTimer { node: n, life, replica: id, fence });
    }

    pub(crate) fn replica_timer(&mut self, n: u16, id: ReplicaId, fence: u64) {
        let Some(live) = self.agent(n).live(id) else { return };
        if live.timer == Some(fence) {
            live.timer = None;
            self.step(n, id, replica::Event::Timer { fence });
        }
    }

    pub(crate) fn prepared(&mut self, n: u16, id: ReplicaId, attempt: u32, well: bool) {
        if self.agent(n).live(id).is_none() {
            return;
        }
        let event = if well {
            replica::Event::Prepared { attempt, port: self.agent(n).claim(id) }
        } else {
            self.count("preparations failed", 1);
            let reason = replica::FailureReason::Model;
            replica::Event::PrepareFailed { attempt, reason, message: "no model".to_owned() }
        };
        self.step(n, id, event);
    }

    pub(crate) fn healthy(&mut self, n: u16, id: ReplicaId, attempt: u32) {
        let agent = self.agent(n);
        let alive = agent.processes.iter().any(|known| known.replica == id && known.attempt == attempt);
        if alive {
            self.step(n, id, replica::Event::Healthy { attempt });
        }
    }

    /// A process ends; its agent, if it has one that watches, sees it.
    pub(crate) fn process_ends(&mut self, n: u16, process: ProcessRef) {
        let agent = self.agent(n);
        let Some(at) = agent.processes.iter().position(|known| known.at == process) else { return };
        let gone = agent.processes.remove(at);
        let life = agent.life;
        self.trace(|| format!("n{n:02} {} process {} ends", short(gone.replica), process.pid));
        let (id, attempt) = (gone.replica, gone.attempt);
        if self.agent(n).live(id).is_some_and(|live| live.watched == Some(process)) {
            self.after(3, Event::ExitSeen { node: n, life, replica: id, attempt, process });
        }
    }

    pub(crate) fn exit_seen(&mut self, n: u16, id: ReplicaId, attempt: u32, process: ProcessRef) {
        let Some(live) = self.agent(n).live(id) else { return };
        if live.watched != Some(process) {
            return;
        }
        live.watched = None;
        let ended = Ended { code: Some(1), ..Ended::default() };
        self.step(n, id, replica::Event::Exited { attempt, ended });
    }

    /// nebulad should hear of something at once.
    fn changed(&mut self, n: u16) {
        let now = self.now;
        let agent = self.agent(n);
        agent.same = 0;
        agent.changed = true;
        if let Speaking::Waiting(Some(from)) = agent.speaking {
            agent.changed = false;
            agent.speaking = Speaking::Waiting(None);
            self.speak_at(n, from.max(now));
        }
    }
}

/// What runs here is always a process.
fn process(instance: Instance) -> ProcessRef {
    instance.process().expect("a process")
}

/// As in production, with a shorter limit for starts.
pub(crate) fn policy() -> replica::Policy {
    replica::Policy { start_deadline: Duration::from_secs(60), ..replica::Policy::default() }
}

/// The first digits of an id, for the trace.
pub(crate) fn short(id: ReplicaId) -> String {
    let text = id.to_string();
    text[..8].to_owned()
}

/// Remembers that a command was carried out.
pub(crate) fn remember(done: &mut VecDeque<CommandId>, id: CommandId) {
    done.push_back(id);
    while done.len() > REMEMBERED_MAX {
        done.pop_front();
    }
}
