//! What many deployments cost: making them all at once until they run, publishing one route beside them, and listing
//! them in pages. It prints figures and asserts nothing about them.
//!
//! `cargo bench --bench deployments`, or with `--profile dev` for ratios without an optimised build.
//! `NEBULA_BENCH_DEPLOYMENTS` says how many (10,000), `NEBULA_BENCH_NODES` on how many nodes (10).
#![expect(clippy::expect_used, clippy::print_stdout, reason = "that is how a bench speaks")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::App;
use actix_web::test::{TestRequest, call_service, init_service, read_body};
use arc_swap::ArcSwap;
use nebula_core::address::HostPort;
use nebula_core::clock::{Clock, WallTime};
use nebula_core::ids::{CommandId, DeploymentId, Generation, NodeId, ReplicaId};
use nebula_core::runtime::RuntimeKind;
use nebula_core::token::{Secret, TokenHash};
use nebulad::actors::catalog::Create;
use nebulad::actors::deployment::route::{EndpointSpec, RouteSpec};
use nebulad::actors::registry::machine::{Registration, Timing};
use nebulad::actors::registry::{self, Heartbeat, Register};
use nebulad::actors::router::machine::Machine;
use nebulad::actors::session::{self, Report};
use nebulad::actors::system::{Edges, Parts, System};
use nebulad::actors::tree::Tree;
use nebulad::domain::command::{Action, Command};
use nebulad::domain::deployment::{Deployment, DeploymentSpec, MemoryHint};
use nebulad::domain::error::{Error, ErrorClass};
use nebulad::domain::event::Origin;
use nebulad::domain::node::Capabilities;
use nebulad::domain::report::{NodeReport, ReplicaReport, ReportedStatus, Seen};
use nebulad::domain::route::RouteTable;
use nebulad::http::api::{self, Api};
use nebulad::ports::{
    AgentApi, AgentError, BoxFuture, ByteStream, EstimateQuery, ExecOutcome, ExecQuery, LogQuery,
};
use nebulad::store::{EmbeddedStore, Options};

/// How often each agent reports.
const BEAT: Duration = Duration::from_secs(5);
/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(600);
/// Pages measured of each kind.
const PAGES: usize = 20;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn main() {
    // cargo hands over flags of its own, and the test runner asks benches for a list of tests.
    if std::env::args().any(|arg| arg == "--list" || arg == "--test") {
        return;
    }
    let count = number("NEBULA_BENCH_DEPLOYMENTS", 10_000);
    publications(count);
    actix_rt::System::new().block_on(deployments(count, number("NEBULA_BENCH_NODES", 10)));
}

/// One route changes beside so many others.
fn publications(count: usize) {
    for count in [count / 100, count / 10, count] {
        let mut machine = Machine::load((0..count).map(|n| route(n, 1)).collect(), &RouteTable::default());
        let clock = Clock::start();
        let _first = machine.publication();
        let first = clock.elapsed();
        let changes = 200;
        let mut tables = machine.publication().table;
        let clock = Clock::start();
        for n in 0..changes {
            machine.publish(route(n % count, 2 + n as u64));
            tables = machine.publication().table;
        }
        let each = clock.elapsed() / changes as u32;
        assert!(tables.get("d0").is_some(), "the table is used");
        println!("publication of 1 of {count} routes: {each:?} (of all: {first:?})");
    }
}

fn route(n: usize, generation: u64) -> RouteSpec {
    let id = (n as u128 + 1).to_be_bytes();
    RouteSpec {
        deployment_id: DeploymentId::from_bytes(id),
        name: format!("d{n}"),
        served_name: format!("d{n}"),
        runtime: RuntimeKind::Sim,
        public: false,
        tokens: vec![TokenHash::of(&format!("nbtok_{n}"))],
        gateway_token: Secret::from_text("nbgw_x"),
        created_at: WallTime(1),
        balance: Default::default(),
        coming: false,
        wakes: false,
        endpoints: vec![EndpointSpec {
            replica_id: ReplicaId::from_bytes(id),
            generation: Generation(generation),
            node_id: "n".parse().expect("an id"),
            address: "127.0.0.1:8888".parse().expect("an address"),
        }],
    }
}

async fn deployments(count: usize, nodes: usize) {
    let data = tempfile::tempdir().expect("a directory");
    let store =
        EmbeddedStore::open(data.path(), Options { ballast_bytes: 0, ..Options::default() }).expect("opened");
    let agents: Arc<Agents> = Arc::default();
    let parts = Parts {
        tree: Tree::new(Clock::start()),
        store: Arc::new(store.clone()),
        agents: agents.clone(),
        routes: Arc::new(ArcSwap::from_pointee(RouteTable::default())),
        timing: Timing {
            heartbeat_interval: Duration::from_secs(30),
            heartbeat_timeout: Duration::from_secs(90),
            restart_grace: Duration::from_secs(120),
        },
        gateway_domain: "example.com".to_owned(),
        edges: Edges::default(),
    };
    let system = System::start(parts).await.expect("started");
    for n in 0..nodes {
        let node: NodeId = format!("node-{n:05}").parse().expect("an id");
        register(&system, &node).await;
        actix_rt::spawn(beat(system.clone(), agents.clone(), node));
    }

    let clock = Clock::start();
    let creates = (0..count).map(|n| system.create(create(n)));
    let answers = futures_util::future::join_all(creates).await;
    let refused = answers.iter().filter(|answer| answer.is_err()).count();
    let why = answers.iter().find_map(|answer| answer.as_ref().err()).map(|error| error.message.clone());
    println!(
        "{count} deployments at once: {:?} until all are answered, {refused} refused {why:?}",
        clock.elapsed()
    );
    let serving = || {
        let table = system.routes.load();
        table.iter().filter(|route| !route.endpoints.is_empty()).count()
    };
    while serving() < count - refused && clock.elapsed() < DEADLINE {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("{} of them run on {nodes} nodes after {:?}", serving(), clock.elapsed());
    pages(&system).await;
    tokio::task::spawn_blocking(move || store.close()).await.expect("closed");
}

/// Lists through the whole API but its sockets.
async fn pages(system: &System) {
    let token = "nbadm_x";
    let api = Api {
        system: system.clone(),
        admin: TokenHash::of(token),
        gateway_url: "http://localhost:8080/v1".to_owned(),
        config: serde_json::Value::Null,
    };
    let service = init_service(App::new().configure(|cfg| api::configure(cfg, api))).await;
    for (what, path) in [
        ("deployments, 100 a page", "/api/v1/deployments?limit=100"),
        ("deployments, 500 a page", "/api/v1/deployments?limit=500"),
        ("nodes", "/api/v1/nodes"),
        ("one node", "/api/v1/nodes/node-00000"),
    ] {
        let (mut times, mut cursor, mut bytes) = (Vec::new(), None::<String>, 0);
        for _ in 0..PAGES {
            let uri = match &cursor {
                Some(cursor) => format!("{path}&cursor={cursor}"),
                None => path.to_owned(),
            };
            let request =
                TestRequest::get().uri(&uri).insert_header(("authorization", format!("Bearer {token}")));
            let clock = Clock::start();
            let response = call_service(&service, request.to_request()).await;
            assert!(response.status().is_success(), "{uri}: {}", response.status());
            let body = read_body(response).await;
            times.push(clock.elapsed());
            bytes = bytes.max(body.len());
            let page: serde_json::Value = serde_json::from_slice(&body).expect("json");
            cursor = page.get("next_cursor").and_then(|cursor| cursor.as_str()).map(str::to_owned);
        }
        times.sort_unstable();
        let (median, most) = (times.get(times.len() / 2), times.last());
        println!("{what}: median {median:?}, most {most:?}, {bytes} bytes at most");
    }
}

fn create(n: usize) -> Create {
    let token = Secret::from_text(format!("nbgw_{n:048}"));
    let spec = DeploymentSpec::plain("m", RuntimeKind::Sim);
    let deployment =
        Deployment::new(format!("d{n}"), spec, TokenHash::of(&format!("nbtok_{n}")), token, WallTime(1));
    Create { deployment, key: None, origin: Origin::nebulad() }
}

async fn register(system: &System, node: &NodeId) {
    let registration = Registration {
        node_id: node.clone(),
        name: node.to_string(),
        version: "0.1.0".to_owned(),
        address: "127.0.0.1:9091".parse().expect("an address"),
        proxy_port: 8888,
        capabilities: Capabilities { cpu_cores: 4_096, ..Capabilities::default() },
        labels: BTreeMap::new(),
        boot_id: "boot".to_owned(),
    };
    system.registry.ask(registry::PATH, Register(registration)).await.expect("answered").expect("registered");
}

/// An agent's life, as the gRPC service conducts it.
async fn beat(system: System, agents: Arc<Agents>, node: NodeId) {
    let (path, mut acked) = (session::path(&node), Vec::new());
    loop {
        let heard = Heartbeat { node_id: node.clone(), boot_id: "boot".to_owned() };
        let _ = system.registry.ask(registry::PATH, heard).await;
        let report = Report(agents.report(&node, std::mem::take(&mut acked)));
        let commands = system.sessions.ask(&path, report).await.unwrap_or_default();
        commands.iter().for_each(|command| agents.carry_out(command));
        acked.extend(commands.iter().map(|command| command.id));
        tokio::time::sleep(BEAT).await;
    }
}

/// Agents that do at once what they are told.
#[derive(Default)]
struct Agents {
    nodes: Mutex<BTreeMap<NodeId, BTreeMap<ReplicaId, ReplicaReport>>>,
}

impl Agents {
    fn carry_out(&self, command: &Command) {
        let mut nodes = self.nodes.lock().expect("a lock");
        let replicas = nodes.entry(command.node_id.clone()).or_default();
        match &command.action {
            Action::Start(_) => drop(replicas.insert(command.replica_id, running(command))),
            Action::Stop | Action::Delete => drop(replicas.remove(&command.replica_id)),
            Action::Access { .. } => {}
        }
    }

    fn report(&self, node: &NodeId, acked: Vec<CommandId>) -> NodeReport {
        let nodes = self.nodes.lock().expect("a lock");
        let replicas = nodes.get(node).map(|replicas| replicas.values().cloned().collect());
        NodeReport { replicas: replicas.unwrap_or_default(), acked, ..NodeReport::default() }
    }
}

fn running(command: &Command) -> ReplicaReport {
    ReplicaReport {
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
