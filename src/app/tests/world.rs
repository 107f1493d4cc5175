//! A control plane without its network: real actors on a real store, and agents that do at once what they are told.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use nebula_core::address::HostPort;
use nebula_core::clock::{Clock, WallTime};
use nebula_core::ids::{CommandId, DeploymentId, Generation, NodeId, ReplicaId};
use nebula_core::runtime::RuntimeKind;
use nebula_core::token::{Secret, TokenKind};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::actors::catalog::{self, Create};
use crate::actors::deployment::machine::Intent;
use crate::actors::registry::machine::{Registration, Timing, Verdict};
use crate::actors::registry::{self, Heartbeat, Register};
use crate::actors::session::{self, Report};
use crate::actors::system::{Edges, Parts, System};
use crate::actors::tree::{Life, Tree};
use crate::domain::command::{Action, Command};
use crate::domain::deployment::{Deployment, DeploymentSpec, Desired, MemoryHint, Phase};
use crate::domain::error::{Error, ErrorClass};
use crate::domain::event::Origin;
use crate::domain::node::Capabilities;
use crate::domain::report::{NodeReport, ReplicaReport, ReportedStatus, Seen};
use crate::domain::route::RouteTable;
use crate::ports::{
    AgentApi, AgentError, BoxFuture, ByteStream, EstimateQuery, ExecOutcome, ExecQuery, LogQuery,
};
use crate::store::{EmbeddedStore, Options};

use super::doubtful::Doubtful;

pub(super) const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// The deployments of the test, with their replicas; all others are made by the load.
pub(super) const DEPLOYMENTS: [(&str, u32); 2] = [("victim", 2), ("neighbour", 1)];
/// How often an agent reports.
const BEAT: Duration = Duration::from_millis(20);
/// How long anything may take.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);

/// All agents.
#[derive(Default)]
pub(super) struct Agents {
    nodes: Mutex<BTreeMap<NodeId, BTreeMap<ReplicaId, ReplicaReport>>>,
}

impl Agents {
    fn carry_out(&self, command: &Command) {
        let mut nodes = self.nodes.lock().expect("a lock");
        let replicas = nodes.entry(command.node_id.clone()).or_default();
        match &command.action {
            Action::Start(_) => {
                let report = ReplicaReport {
                    deployment_id: command.deployment_id,
                    replica_id: command.replica_id,
                    generation: command.generation,
                    status: ReportedStatus::Running,
                    container_id: "c".to_owned(),
                    port: 30_000,
                    message: String::new(),
                    restarts: 0,
                    exit_code: None,
                    seen: Seen::default(),
                };
                replicas.insert(command.replica_id, report);
            }
            Action::Stop => {
                if let Some(replica) = replicas.get_mut(&command.replica_id) {
                    replica.status = ReportedStatus::Stopped;
                }
            }
            Action::Delete => drop(replicas.remove(&command.replica_id)),
            Action::Access { .. } => {}
        }
    }

    fn report(&self, node: &NodeId, acked: Vec<CommandId>) -> NodeReport {
        let nodes = self.nodes.lock().expect("a lock");
        let replicas = nodes.get(node).map(|replicas| replicas.values().cloned().collect());
        NodeReport { replicas: replicas.unwrap_or_default(), acked, ..NodeReport::default() }
    }
}

impl AgentApi for Agents {
    fn deliver(&self, _: &HostPort, command: Command) -> BoxFuture<Result<(), AgentError>> {
        self.carry_out(&command);
        Box::pin(async { Ok(()) })
    }

    fn logs(&self, _: &HostPort, _: LogQuery) -> BoxFuture<Result<ByteStream, AgentError>> {
        Box::pin(async { Err(AgentError::Rejected("no logs here".to_owned())) })
    }

    fn exec(&self, _: &HostPort, _: ExecQuery) -> BoxFuture<Result<ExecOutcome, Error>> {
        Box::pin(async { Err(Error::new(ErrorClass::Conflict, "nothing runs here")) })
    }

    fn estimate(&self, _: &HostPort, _: EstimateQuery) -> BoxFuture<Result<MemoryHint, AgentError>> {
        Box::pin(async { Err(AgentError::Rejected("no models here".to_owned())) })
    }
}

/// What was asked, of whom, and what went wrong.
#[derive(Default)]
pub(super) struct Log {
    pub(super) asked: BTreeMap<String, u32>,
    pub(super) failed: Vec<(String, Error)>,
}

pub(super) struct World {
    pub(super) system: System,
    pub(super) store: EmbeddedStore,
    /// See [`Doubtful`].
    pub(super) keys_in_doubt: Arc<AtomicBool>,
    pub(super) log: Rc<RefCell<Log>>,
    agents: Arc<Agents>,
    data: TempDir,
}

impl World {
    /// Three nodes that beat and two deployments that run.
    pub(super) async fn new() -> Self {
        let data = tempfile::tempdir().expect("a directory");
        let world = Self::in_dir(data, Arc::default()).await;
        for (name, replicas) in DEPLOYMENTS {
            world.create(name, replicas).await.expect("created");
        }
        world
            .until("everything runs", || {
                let all = world.system.deployments(None, usize::MAX);
                let running =
                    |dep: &Arc<Deployment>| dep.replicas.iter().filter(|r| r.phase == Phase::Running).count();
                all.iter().map(running).sum::<usize>() == 3
                    && world.system.routes.load().iter().map(|route| route.endpoints.len()).sum::<usize>()
                        == 3
                    && world.nothing_waits()
            })
            .await;
        world
    }

    /// Whether every node has settled what it was told: a replica may be seen to run before its start is.
    fn nothing_waits(&self) -> bool {
        let mut waiting = 0;
        flatten(&self.view(), &mut |_, actor| {
            waiting += actor["status"]["commands_waiting"].as_u64().unwrap_or_default();
        });
        waiting == 0
    }

    async fn in_dir(data: TempDir, agents: Arc<Agents>) -> Self {
        let options = Options { ballast_bytes: 0, ..Options::default() };
        let store = EmbeddedStore::open(data.path(), options).expect("opened");
        let keys_in_doubt = Arc::<AtomicBool>::default();
        let parts = Parts {
            tree: Tree::new(Clock::start()),
            store: Arc::new(Doubtful { store: store.clone(), keys_in_doubt: keys_in_doubt.clone() }),
            agents: agents.clone(),
            routes: Arc::new(ArcSwap::from_pointee(RouteTable::default())),
            timing: Timing {
                heartbeat_interval: Duration::from_secs(1),
                heartbeat_timeout: Duration::from_secs(3),
                restart_grace: Duration::from_secs(60),
            },
            gateway_domain: "example.com".to_owned(),
            edges: Edges::default(),
        };
        let system = System::start(parts).await.expect("started");
        let world = Self { system, store, keys_in_doubt, log: Rc::default(), agents, data };
        for node in NODES {
            actix_rt::spawn(beat(world.system.clone(), world.agents.clone(), node, world.log.clone()));
        }
        world
    }

    /// The same store and agents under a new control plane.
    pub(super) async fn started_again(self) -> Self {
        let Self { store, agents, data, .. } = self;
        let closing = store.clone();
        tokio::task::spawn_blocking(move || closing.close()).await.expect("closed");
        Self::in_dir(data, agents).await
    }

    /// Asks, and notes how it went.
    pub(super) async fn noted<T>(
        &self,
        path: &str,
        ask: impl Future<Output = Result<T, Error>>,
    ) -> Option<T> {
        note(&self.log, path, ask).await
    }

    pub(super) fn create_message(name: &str, replicas: u32) -> Create {
        let token = || Secret::generate(TokenKind::Gateway).expect("randomness");
        let deployment = Deployment {
            revision: Generation::FIRST,
            previous: None,
            old_token: None,
            hint: None,
            id: DeploymentId::random(),
            name: name.to_owned(),
            spec: DeploymentSpec { replicas, ..DeploymentSpec::plain("m", RuntimeKind::Sim) },
            desired: Desired::Running,
            generation: Generation(1),
            token: token().hash(),
            gateway_token: token(),
            created_at: WallTime(1),
            updated_at: WallTime(1),
            replicas: Vec::new(),
        };
        Create { deployment, key: None, origin: Origin::nebulad() }
    }

    pub(super) async fn create(&self, name: &str, replicas: u32) -> Result<DeploymentId, Error> {
        let create = Self::create_message(name, replicas);
        let id = create.deployment.id;
        self.system.catalog.ask(catalog::PATH, create).await??;
        Ok(id)
    }

    pub(super) async fn scale(&self, name: &str, replicas: u32) -> Result<Deployment, Error> {
        self.system.want(name, Intent::Scale(replicas), Origin::nebulad()).await
    }

    /// Waits for a state.
    pub(super) async fn until(&self, what: &str, mut is: impl FnMut() -> bool) {
        let began = self.system.tree.clock().now();
        while !is() {
            let waited = self.system.tree.clock().now().since(began);
            assert!(waited < DEADLINE, "{what}: not after {waited:?}:\n{:#}", self.view());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Which incarnation each actor is in, without what the load makes.
    pub(super) fn incarnations(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        flatten(&self.view(), &mut |path, actor| {
            all.insert(path.to_owned(), actor["incarnation"].as_u64().unwrap_or_default());
        });
        all.retain(|path, _| self.lasts(path));
        all
    }

    /// Everything that actors, the API and the gateway show and that should not change by itself.
    pub(super) async fn picture(&self) -> Value {
        let mut actors = BTreeMap::new();
        flatten(&self.view(), &mut |path, actor| {
            if self.lasts(path) && path != "/store" && path != "/core" {
                let mut status = actor["status"].clone();
                strip(&mut status);
                actors.insert(path.to_owned(), status);
            }
        });
        let nodes = self.system.nodes().await.map(|nodes| {
            let row = |node: crate::actors::queries::NodePicture| {
                format!(
                    "{} {:?} {:?}",
                    node.update.node.id, node.update.availability, node.update.node.scheduling
                )
            };
            nodes.into_iter().map(row).collect::<Vec<_>>()
        });
        let table = self.system.routes.load();
        let routes: Vec<String> =
            table.iter().map(|route| format!("{} {:?}", route.name, route.endpoints)).collect();
        json!({"actors": actors, "nodes": nodes.map_err(|error| error.message), "routes": routes})
    }

    /// Whether the actor is there from the beginning to the end of a test.
    fn lasts(&self, path: &str) -> bool {
        let Some(id) = path.strip_prefix("/deployments/") else { return !path.contains("/made-") };
        let known = self.system.deployments(None, usize::MAX);
        known.iter().any(|dep| dep.id.to_string() == id && !dep.name.starts_with("made-"))
    }

    fn view(&self) -> Value {
        serde_json::to_value(self.system.tree.view("/")).expect("json")[0].clone()
    }
}

/// Notes how a request went.
pub(super) async fn note<T>(
    log: &RefCell<Log>,
    path: &str,
    ask: impl Future<Output = Result<T, Error>>,
) -> Option<T> {
    let answer = ask.await;
    let mut log = log.borrow_mut();
    *log.asked.entry(path.to_owned()).or_default() += 1;
    match answer {
        Ok(answer) => Some(answer),
        Err(error) => {
            log.failed.push((path.to_owned(), error));
            None
        }
    }
}

/// An agent's life, as the gRPC service conducts it.
async fn beat(system: System, agents: Arc<Agents>, name: &str, log: Rc<RefCell<Log>>) {
    let node: NodeId = name.parse().expect("an id");
    let mut acked = Vec::new();
    loop {
        let heard = Heartbeat { node_id: node.clone(), boot_id: "boot".to_owned() };
        let verdict = note(&log, registry::PATH, system.registry.ask(registry::PATH, heard)).await;
        if verdict == Some(Verdict::Unknown) {
            let registration = Registration {
                node_id: node.clone(),
                name: name.to_owned(),
                version: "0.1.0".to_owned(),
                address: "127.0.0.1:9091".parse().expect("an address"),
                proxy_port: 8888,
                capabilities: Capabilities { cpu_cores: 64, ..Capabilities::default() },
                labels: BTreeMap::new(),
                boot_id: "boot".to_owned(),
            };
            let registered = async { system.registry.ask(registry::PATH, Register(registration)).await? };
            note(&log, registry::PATH, registered).await;
        }
        let path = session::path(&node);
        // One that was never there cannot be missed.
        if system.tree.cell(&path).is_some_and(|cell| cell.incarnation() > 1 || cell.life() == Life::Running)
        {
            let report = Report(agents.report(&node, std::mem::take(&mut acked)));
            let commands = note(&log, &path, system.sessions.ask(&path, report)).await.unwrap_or_default();
            commands.iter().for_each(|command| agents.carry_out(command));
            acked.extend(commands.iter().map(|command| command.id));
        }
        tokio::time::sleep(BEAT).await;
    }
}

fn flatten(actor: &Value, each: &mut impl FnMut(&str, &Value)) {
    each(actor["path"].as_str().unwrap_or_default(), actor);
    for child in actor["children"].as_array().into_iter().flatten() {
        flatten(child, each);
    }
}

/// Leaves out what counts and what is measured.
fn strip(status: &mut Value) {
    match status {
        Value::Object(fields) => {
            for counter in
                ["reports", "publications", "stats", "health", "inflight", "updated_at", "generation"]
            {
                fields.remove(counter);
            }
            fields.values_mut().for_each(strip);
        }
        Value::Array(all) => all.iter_mut().for_each(strip),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
