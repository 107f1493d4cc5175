//! Simulated agents: each keeps replicas that prepare, run, wait for their requests and end, in simulated time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use nebula_core::address::HostPort;
use nebula_core::clock::{Clock, Tick};
use nebula_core::ids::{CommandId, DeploymentId, Generation, NodeId, ReplicaId};
use nebulad::domain::command::{Action, Command, StartSpec};
use nebulad::domain::deployment::MemoryHint;
use nebulad::domain::error::{Error, ErrorClass};
use nebulad::domain::report::{NodeReport, ReplicaReport, ReportedStatus, Seen};
use nebulad::ports::{
    AgentApi, AgentError, BoxFuture, ByteStream, EstimateQuery, ExecOutcome, ExecQuery, LogQuery,
};

/// How long a runtime loads, unless it is told otherwise.
pub(crate) const LOADS: Duration = Duration::from_secs(5);
/// An argument by which a runtime ends after it has loaded.
pub(crate) const FAILS: &str = "--fails";
/// How an argument begins that says how many seconds a runtime loads.
pub(crate) const LOADS_SECONDS: &str = "--loads=";
/// How it ends then.
pub(crate) const EXIT_CODE: i32 = 7;

/// What is done with a runtime when its requests are over.
#[derive(Clone, Debug)]
enum Then {
    Stop,
    Remove,
    Start(Box<StartSpec>, Generation),
}

#[derive(Clone, Debug)]
enum Phase {
    Loading(Tick),
    Running,
    /// It gets no new request, and has so long for those that it has.
    Draining(Tick, Then),
    Stopped,
    Failed,
}

#[derive(Clone, Debug)]
struct Runtime {
    deployment: DeploymentId,
    generation: Generation,
    spec: StartSpec,
    phase: Phase,
    /// Requests that it has.
    requests: u32,
}

#[derive(Default)]
struct Node {
    silent: bool,
    runtimes: BTreeMap<ReplicaId, Runtime>,
    fences: BTreeMap<ReplicaId, Generation>,
    done: BTreeSet<CommandId>,
    changed: bool,
}

/// All agents.
pub(crate) struct Agents {
    clock: Clock,
    nodes: Mutex<BTreeMap<NodeId, Node>>,
}

impl Runtime {
    /// Whether it holds its GPUs.
    fn lives(&self) -> bool {
        matches!(self.phase, Phase::Loading(_) | Phase::Running | Phase::Draining(..))
    }

    fn load(&mut self, now: Tick) {
        let told = self.spec.args.iter().find_map(|arg| arg.strip_prefix(LOADS_SECONDS));
        let loads = told.and_then(|text| text.parse().ok()).map_or(LOADS, Duration::from_secs);
        self.phase = Phase::Loading(now.plus(loads));
    }

    /// Takes its requests to their end first, if it has any.
    fn leave(&mut self, now: Tick, drain: Duration, then: Then) {
        let drain = if matches!(self.phase, Phase::Running) { drain } else { Duration::ZERO };
        self.phase = Phase::Draining(now.plus(drain), then);
    }

    /// Time has passed. Answers whether something became different; none when it is gone.
    fn pass(&mut self, now: Tick) -> Option<bool> {
        match self.phase.clone() {
            Phase::Loading(until) if now >= until => {
                let fails = self.spec.args.iter().any(|arg| arg == FAILS);
                self.phase = if fails { Phase::Failed } else { Phase::Running };
            }
            Phase::Draining(until, then) if self.requests == 0 || now >= until => {
                self.requests = 0;
                match then {
                    Then::Stop => self.phase = Phase::Stopped,
                    Then::Remove => return None,
                    Then::Start(spec, generation) => {
                        (self.spec, self.generation) = (*spec, generation);
                        self.load(now);
                    }
                }
            }
            _ => return Some(false),
        }
        Some(true)
    }

    fn report(&self, id: ReplicaId) -> ReplicaReport {
        let status = match self.phase {
            Phase::Loading(_) => ReportedStatus::Starting,
            Phase::Running => ReportedStatus::Running,
            Phase::Draining(..) => ReportedStatus::Stopping,
            Phase::Stopped => ReportedStatus::Stopped,
            Phase::Failed => ReportedStatus::Failed,
        };
        let failed = matches!(self.phase, Phase::Failed);
        ReplicaReport {
            deployment_id: self.deployment,
            replica_id: id,
            generation: self.generation,
            status,
            container_id: "c".to_owned(),
            port: 30_000,
            message: if failed { format!("crash_loop: exit code {EXIT_CODE}") } else { String::new() },
            restarts: 0,
            exit_code: failed.then_some(EXIT_CODE),
            seen: Seen::default(),
        }
    }
}

impl Node {
    fn carry_out(&mut self, command: Command, now: Tick) -> Result<(), AgentError> {
        if !self.done.insert(command.id) {
            return Ok(());
        }
        let (id, generation) = (command.replica_id, command.generation);
        let newest = self.runtimes.get(&id).map(|runtime| runtime.generation);
        let newest = newest.max(self.fences.get(&id).copied());
        if newest.is_some_and(|newest| generation < newest)
            && !matches!(command.action, Action::Access { .. })
        {
            return Err(AgentError::Rejected(format!("generation {generation} is old")));
        }
        self.changed = true;
        match command.action {
            Action::Start(spec) => {
                self.start(id, command.deployment_id, generation, spec, command.drain, now)
            }
            Action::Stop => {
                if let Some(runtime) = self.runtimes.get_mut(&id).filter(|runtime| runtime.lives()) {
                    runtime.generation = generation;
                    runtime.leave(now, command.drain, Then::Stop);
                }
            }
            Action::Delete => {
                self.fences.insert(id, generation);
                if let Some(runtime) = self.runtimes.get_mut(&id) {
                    runtime.leave(now, command.drain, Then::Remove);
                }
            }
            Action::Access { .. } => {}
        }
        Ok(())
    }

    fn start(
        &mut self,
        id: ReplicaId,
        deployment: DeploymentId,
        generation: Generation,
        spec: Box<StartSpec>,
        drain: Duration,
        now: Tick,
    ) {
        match self.runtimes.get_mut(&id) {
            Some(runtime) if runtime.generation == generation && runtime.lives() => {}
            Some(runtime) if runtime.lives() => runtime.leave(now, drain, Then::Start(spec, generation)),
            _ => {
                let phase = Phase::Stopped;
                let mut runtime = Runtime { deployment, generation, spec: *spec, phase, requests: 0 };
                runtime.load(now);
                self.runtimes.insert(id, runtime);
            }
        }
    }

    fn pass(&mut self, now: Tick) {
        let mut changed = false;
        self.runtimes.retain(|_, runtime| {
            let passed = runtime.pass(now);
            changed |= passed != Some(false);
            passed.is_some()
        });
        self.changed |= changed;
    }
}

impl Agents {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, nodes: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Node>> {
        self.nodes.lock().expect("a lock")
    }

    fn with<T>(&self, node: &NodeId, what: impl FnOnce(&mut Node) -> T) -> T {
        what(self.lock().entry(node.clone()).or_default())
    }

    /// Whether the node's agent says nothing, and hears nothing. What runs there goes on.
    pub(crate) fn set_silent(&self, node: &str, silent: bool) {
        self.with(&node.parse().expect("an id"), |node| (node.silent, node.changed) = (silent, true));
    }

    pub(crate) fn is_silent(&self, node: &NodeId) -> bool {
        self.with(node, |node| node.silent)
    }

    /// Lets time pass on a node. Answers whether there is news.
    pub(crate) fn pass(&self, node: &NodeId) -> bool {
        let now = self.clock.now();
        self.with(node, |node| {
            node.pass(now);
            std::mem::take(&mut node.changed)
        })
    }

    /// A command of a heartbeat's answer.
    pub(crate) fn obey(&self, command: Command) {
        let now = self.clock.now();
        let node = command.node_id.clone();
        // A refusal is told by what the node reports.
        let _ = self.with(&node, |node| node.carry_out(command, now));
    }

    pub(crate) fn report(&self, node: &NodeId, acked: Vec<CommandId>) -> NodeReport {
        let replicas =
            self.with(node, |node| node.runtimes.iter().map(|(id, runtime)| runtime.report(*id)).collect());
        NodeReport { replicas, acked, ..NodeReport::default() }
    }

    /// Whether a request to this replica would be answered: by what generation of it.
    pub(crate) fn answers(&self, node: &NodeId, replica: ReplicaId) -> Option<Generation> {
        let nodes = self.lock();
        let runtime = nodes.get(node).filter(|node| !node.silent)?.runtimes.get(&replica)?;
        matches!(runtime.phase, Phase::Running).then_some(runtime.generation)
    }

    /// Gives a replica so many requests, which stay until others are given.
    pub(crate) fn occupy(&self, node: &NodeId, replica: ReplicaId, requests: u32) {
        self.with(node, |node| {
            if let Some(runtime) = node.runtimes.get_mut(&replica) {
                runtime.requests = requests;
            }
        });
    }

    /// What lives on each node for a deployment.
    pub(crate) fn living(&self, deployment: DeploymentId) -> Vec<(NodeId, ReplicaId)> {
        let nodes = self.lock();
        let of = |(id, node): (&NodeId, &Node)| {
            let here = node.runtimes.iter();
            let here = here.filter(|(_, runtime)| runtime.deployment == deployment && runtime.lives());
            here.map(|(replica, _)| (id.clone(), *replica)).collect::<Vec<_>>()
        };
        nodes.iter().flat_map(of).collect()
    }

    /// GPUs that two living runtimes have at the same time.
    pub(crate) fn shared_gpus(&self) -> Vec<(NodeId, u32)> {
        let mut shared = Vec::new();
        for (id, node) in self.lock().iter() {
            let mut taken = BTreeSet::new();
            for runtime in node.runtimes.values().filter(|runtime| runtime.lives()) {
                let twice = runtime.spec.gpu_devices.iter().filter(|gpu| !taken.insert(**gpu));
                shared.extend(twice.map(|gpu| (id.clone(), *gpu)));
            }
        }
        shared
    }

    /// Which node is called at this address.
    fn node_at(address: &HostPort) -> NodeId {
        address.host().trim_end_matches(".test").parse().expect("a node's address")
    }
}

/// Where a node's agent is called.
pub(crate) fn address_of(node: &str) -> HostPort {
    format!("{node}.test:9091").parse().expect("an address")
}

impl AgentApi for Agents {
    fn deliver(&self, address: &HostPort, command: Command) -> BoxFuture<Result<(), AgentError>> {
        let node = Self::node_at(address);
        let now = self.clock.now();
        let silent = || AgentError::Unreachable("it is silent".to_owned());
        let done =
            self.with(&node, |node| if node.silent { Err(silent()) } else { node.carry_out(command, now) });
        Box::pin(async { done })
    }

    fn logs(&self, _: &HostPort, _: LogQuery) -> BoxFuture<Result<ByteStream, AgentError>> {
        Box::pin(async { Err(AgentError::Rejected("no logs here".to_owned())) })
    }

    fn exec(&self, _: &HostPort, _: ExecQuery) -> BoxFuture<Result<ExecOutcome, Error>> {
        Box::pin(async { Err(Error::new(ErrorClass::Conflict, "nothing runs here")) })
    }

    fn estimate(&self, _: &HostPort, _: EstimateQuery) -> BoxFuture<Result<MemoryHint, AgentError>> {
        Box::pin(async { Err(AgentError::Rejected("no such model here".to_owned())) })
    }
}
