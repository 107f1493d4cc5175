//! A control plane without its network, in paused time: real actors, a store in memory, simulated agents that beat.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use nebula_core::clock::{Clock, WallTime};
use nebula_core::ids::{DeploymentId, NodeId, ReplicaId};
use nebula_core::runtime::RuntimeKind;
use nebula_core::timing::{HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT, RESTART_GRACE};
use nebula_core::token::{Secret, TokenKind};
use nebulad::actors::catalog::Create;
use nebulad::actors::deployment::machine::Intent;
use nebulad::actors::registry::machine::{Registration, Timing, Verdict};
use nebulad::actors::registry::{self, Heartbeat, Register};
use nebulad::actors::session::{self, Report};
use nebulad::actors::system::{Edges, Parts, System};
use nebulad::actors::tree::Tree;
use nebulad::domain::deployment::{Deployment, DeploymentSpec, GpuNeed, Phase, Replica};
use nebulad::domain::event::Origin;
use nebulad::domain::node::{Capabilities, Gpu};
use nebulad::domain::route::{Route, RouteTable};
use tokio::task::LocalSet;

use super::agents::{Agents, address_of};
use super::memory::Memory;

/// How often an agent looks whether there is something to tell, and a watch looks at the routes.
const LOOK: Duration = Duration::from_millis(100);
/// How long anything takes at most that waits for no timeout.
pub(crate) const SOON: Duration = Duration::from_secs(60);

pub(crate) struct World {
    pub(crate) system: System,
    pub(crate) agents: Arc<Agents>,
    pub(crate) store: Arc<Memory>,
    pub(crate) clock: Clock,
}

/// Runs a test in paused time: it passes as fast as nobody has anything to do.
pub(crate) fn simulated<F: Future<Output = ()>>(nodes: u32, gpus: u32, test: impl FnOnce(Rc<World>) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let all = async {
        let world = Rc::new(World::new(nodes, gpus).await);
        test(Rc::clone(&world)).await;
        assert_eq!(world.agents.shared_gpus(), [], "each GPU belongs to one");
    };
    let runtime = runtime.expect("a runtime");
    // Actors that are dropped at the end may still want to spawn.
    let _entered = runtime.enter();
    LocalSet::new().block_on(&runtime, all);
}

/// The name and id of the node with this number.
pub(crate) fn node(number: u32) -> String {
    format!("n{number}")
}

impl World {
    /// Nodes `n1` and so on, each with so many GPUs, online.
    async fn new(nodes: u32, gpus: u32) -> Self {
        let clock = Clock::start();
        let (agents, store) = (Arc::new(Agents::new(clock)), Arc::<Memory>::default());
        let parts = Parts {
            tree: Tree::new(clock),
            store: store.clone(),
            agents: agents.clone(),
            routes: Arc::new(ArcSwap::from_pointee(RouteTable::default())),
            timing: Timing {
                heartbeat_interval: HEARTBEAT_INTERVAL,
                heartbeat_timeout: HEARTBEAT_TIMEOUT,
                restart_grace: RESTART_GRACE,
            },
            gateway_domain: "example.com".to_owned(),
            edges: Edges::default(),
        };
        let system = System::start(parts).await.expect("started");
        let world = Self { system, agents, store, clock };
        for number in 1..=nodes {
            actix_rt::spawn(beat(world.system.clone(), world.agents.clone(), node(number), gpus));
        }
        world
            .until("all nodes are online", SOON, async |world| {
                let told = world.system.nodes().await.unwrap_or_default();
                let online = nebulad::domain::node::Availability::Online;
                told.iter().filter(|node| node.update.availability == online).count() == nodes as usize
            })
            .await;
        world
    }

    // Users.

    pub(crate) async fn deploy(&self, name: &str, spec: DeploymentSpec) -> DeploymentId {
        let deployment = Deployment::new(name.to_owned(), spec, secret().hash(), secret(), WallTime(1));
        let id = deployment.id;
        let create = Create { deployment, key: None, origin: Origin::nebulad() };
        self.system.create(create).await.expect("created");
        self.until("it is listed", SOON, async |world| world.find(id).is_some()).await;
        id
    }

    /// Deploys, and waits until all replicas run.
    pub(crate) async fn serve(&self, name: &str, spec: DeploymentSpec) -> DeploymentId {
        let wanted = spec.replicas as usize;
        let id = self.deploy(name, spec).await;
        self.until("it runs", SOON, async |world| world.settled(id, wanted)).await;
        id
    }

    pub(crate) async fn want(&self, id: DeploymentId, intent: Intent) {
        let told = self.system.want(&id.to_string(), intent, Origin::nebulad()).await;
        told.expect("accepted");
    }

    /// The same spec with other arguments.
    pub(crate) fn changed(&self, id: DeploymentId, args: &[&str]) -> Intent {
        let mut spec = self.dep(id).spec.clone();
        spec.args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Intent::Change(Box::new(spec))
    }

    // What is seen.

    fn find(&self, id: DeploymentId) -> Option<Arc<Deployment>> {
        self.system.deployments(None, usize::MAX).into_iter().find(|dep| dep.id == id)
    }

    pub(crate) fn dep(&self, id: DeploymentId) -> Arc<Deployment> {
        self.find(id).expect("it is listed")
    }

    pub(crate) fn replicas(&self, id: DeploymentId) -> Vec<Replica> {
        self.dep(id).replicas.clone()
    }

    pub(crate) fn ids(&self, id: DeploymentId) -> BTreeSet<ReplicaId> {
        self.dep(id).replicas.iter().map(|replica| replica.id).collect()
    }

    /// The nodes of its replicas, in the order of these.
    pub(crate) fn places(&self, id: DeploymentId) -> Vec<NodeId> {
        let places =
            self.dep(id).replicas.iter().filter_map(|replica| replica.placement.clone()).collect::<Vec<_>>();
        places.into_iter().map(|place| place.node_id).collect()
    }

    pub(crate) fn route(&self, id: DeploymentId) -> Option<Arc<Route>> {
        self.system.routes.load().by_id(id).cloned()
    }

    /// Endpoints of the published route that would answer, and those that would not.
    pub(crate) fn endpoints(&self, id: DeploymentId) -> (usize, usize) {
        let Some(route) = self.route(id) else { return (0, 0) };
        let answers = |replica, node: &NodeId| self.agents.answers(node, replica).is_some();
        let good = route.endpoints.iter().filter(|at| answers(at.replica_id, &at.node_id)).count();
        (good, route.endpoints.len() - good)
    }

    /// Whether exactly so many replicas are there, and all of them run what is wanted and are routed to.
    pub(crate) fn settled(&self, id: DeploymentId, wanted: usize) -> bool {
        let dep = self.dep(id);
        let fine = |replica: &&Replica| replica.phase == Phase::Running && replica.revision == dep.revision;
        dep.replicas.len() == wanted
            && dep.replicas.iter().filter(fine).count() == wanted
            && self.endpoints(id) == (wanted, 0)
            && self.agents.living(id).len() == wanted
    }

    pub(crate) fn kinds(&self, id: DeploymentId) -> Vec<String> {
        self.store.kinds(id)
    }

    pub(crate) fn has_told(&self, id: DeploymentId, kind: &str) -> bool {
        self.kinds(id).iter().any(|told| told == kind)
    }

    // Time.

    pub(crate) async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Waits for a state, and says how long that took.
    pub(crate) async fn until(
        &self,
        what: &str,
        within: Duration,
        is: impl AsyncFn(&Self) -> bool,
    ) -> Duration {
        let began = self.clock.now();
        loop {
            let waited = self.clock.now().since(began);
            if is(self).await {
                return waited;
            }
            assert!(waited < within, "{what}: not within {within:?}; {}", self.picture());
            tokio::time::sleep(LOOK).await;
        }
    }

    fn picture(&self) -> String {
        let replica = |replica: &Replica| {
            let node = replica.placement.as_ref().map_or("nowhere", |place| place.node_name.as_str());
            let (phase, leaving) = (replica.phase.as_str(), if replica.leaving { " leaving" } else { "" });
            format!("{phase}{leaving} on {node} r{} \"{}\"", replica.revision, replica.message)
        };
        let one = |dep: &Arc<Deployment>| {
            let replicas: Vec<String> = dep.replicas.iter().map(replica).collect();
            let (revision, endpoints) = (dep.revision, self.endpoints(dep.id));
            let told = self.store.lines_of(dep.id);
            let told: Vec<String> = told
                .iter()
                .rev()
                .take(12)
                .rev()
                .map(|event| format!("{}: {}", event.line.kind, event.line.message))
                .collect();
            format!("{} r{revision} {endpoints:?} {replicas:#?} {told:#?}", dep.name)
        };
        self.system.deployments(None, 4).iter().map(one).collect()
    }

    /// Looks at the routes of a deployment from now on.
    pub(crate) fn watch(self: &Rc<Self>, id: DeploymentId) -> Watch {
        let seen = Rc::new(RefCell::new(Seen { least: usize::MAX, ..Seen::default() }));
        let (world, shared) = (Rc::clone(self), Rc::clone(&seen));
        let task = actix_rt::spawn(async move {
            let mut dead = BTreeMap::new();
            loop {
                shared.borrow_mut().look(&world, id, &mut dead);
                tokio::time::sleep(LOOK).await;
            }
        });
        Watch { seen, task }
    }
}

/// What a watch has seen of a deployment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    /// The fewest endpoints that would answer.
    pub(crate) least: usize,
    /// The most runtimes that lived at once.
    pub(crate) most_living: usize,
    /// The longest that the route named a replica that would not answer.
    pub(crate) longest_dead: Duration,
}

impl Seen {
    /// One look. `dead` counts the looks at which the route named who does not answer.
    fn look(&mut self, world: &World, id: DeploymentId, dead: &mut BTreeMap<ReplicaId, u32>) {
        let (good, _) = world.endpoints(id);
        self.least = self.least.min(good);
        self.most_living = self.most_living.max(world.agents.living(id).len());
        let route = world.route(id);
        let endpoints = route.iter().flat_map(|route| route.endpoints.iter());
        let silent = endpoints.filter(|at| world.agents.answers(&at.node_id, at.replica_id).is_none());
        let now: BTreeSet<ReplicaId> = silent.map(|at| at.replica_id).collect();
        dead.retain(|replica, _| now.contains(replica));
        for replica in now {
            let looks = dead.entry(replica).or_default();
            *looks += 1;
            self.longest_dead = self.longest_dead.max(LOOK * *looks);
        }
    }
}

pub(crate) struct Watch {
    seen: Rc<RefCell<Seen>>,
    task: tokio::task::JoinHandle<()>,
}

impl Watch {
    pub(crate) fn so_far(&self) -> Seen {
        *self.seen.borrow()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn secret() -> Secret {
    Secret::generate(TokenKind::Gateway).expect("randomness")
}

/// A deployment of so many replicas, each with so many GPUs.
pub(crate) fn spec(replicas: u32, gpus: u32) -> DeploymentSpec {
    DeploymentSpec {
        replicas,
        gpu: GpuNeed { count: gpus, ..GpuNeed::default() },
        ..DeploymentSpec::plain("m", RuntimeKind::Sim)
    }
}

/// An agent's life, as the gRPC service conducts it.
async fn beat(system: System, agents: Arc<Agents>, name: String, gpus: u32) {
    let id: NodeId = name.parse().expect("an id");
    let clock = system.tree.clock();
    let mut acked = Vec::new();
    let mut spoke = None;
    loop {
        let news = agents.pass(&id);
        let due = spoke.is_none_or(|at| clock.now().since(at) >= HEARTBEAT_INTERVAL);
        if (news || due || !acked.is_empty()) && !agents.is_silent(&id) {
            spoke = Some(clock.now());
            let heard = Heartbeat { node_id: id.clone(), boot_id: "boot".to_owned() };
            let verdict = system.registry.ask(registry::PATH, heard).await;
            if !matches!(verdict, Ok(Verdict::Known)) {
                let register = Register(registration(&name, &id, gpus));
                let _ = system.registry.ask(registry::PATH, register).await;
            }
            let report = Report(agents.report(&id, std::mem::take(&mut acked)));
            let commands = system.sessions.ask(&session::path(&id), report).await.unwrap_or_default();
            acked.extend(commands.iter().map(|command| command.id));
            commands.into_iter().for_each(|command| agents.obey(command));
        }
        tokio::time::sleep(LOOK).await;
    }
}

pub(crate) fn registration(name: &str, id: &NodeId, gpus: u32) -> Registration {
    let gpu = |index: u32| Gpu {
        uuid: format!("{name}-{index}"),
        name: "A100".to_owned(),
        memory_bytes: 80 << 30,
        index,
        ..Gpu::default()
    };
    Registration {
        node_id: id.clone(),
        name: name.to_owned(),
        version: "0.1.0".to_owned(),
        address: address_of(name),
        proxy_port: 8888,
        capabilities: Capabilities {
            gpus: (0..gpus).map(gpu).collect(),
            cpu_cores: 64,
            ..Capabilities::default()
        },
        labels: BTreeMap::new(),
        boot_id: "boot".to_owned(),
    }
}
