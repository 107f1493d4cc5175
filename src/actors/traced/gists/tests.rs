use std::collections::BTreeMap;

use std::time::Duration;

use nebula_core::clock::WallTime;
use nebula_core::ids::{CommandId, DeploymentId, Generation, ReplicaId};
use nebula_core::runtime::RuntimeKind;
use nebula_core::token::{Secret, TokenHash, TokenKind};

use crate::actors::catalog::Create;
use crate::actors::deployment::Want;
use crate::actors::deployment::machine::Intent;
use crate::actors::deployment::route::RouteSpec;
use crate::actors::registry::machine::Registration;
use crate::actors::registry::{Change, Register};
use crate::actors::router::Publish;
use crate::actors::session::{Enqueue, Report};
use crate::actors::traced::{Subject, Traced, text_of};
use crate::domain::command::{Action, Command, StartSpec};
use crate::domain::deployment::{Deployment, DeploymentSpec, Desired};
use crate::domain::event::Origin;
use crate::domain::node::{Capabilities, NodeStats, Scheduling};
use crate::domain::report::{NodeReport, ReplicaReport, ReportedStatus, Seen};

const SECRET: &str = "hf_do_not_show_this";

fn origin(request: &str) -> Origin {
    Origin { request_id: request.to_owned(), ..Origin::nebulad() }
}

fn same<M: Traced>(a: &M, b: &M) -> bool {
    Subject::of(a) == Subject::of(b)
}

fn deployment(name: &str) -> Deployment {
    let token = || Secret::generate(TokenKind::Gateway).expect("randomness");
    let mut spec = DeploymentSpec::plain("org/model", RuntimeKind::Sim);
    spec.env = BTreeMap::from([("HF_TOKEN".to_owned(), SECRET.to_owned())]);
    Deployment {
        revision: Generation::FIRST,
        previous: None,
        old_token: None,
        hint: None,
        id: DeploymentId::random(),
        name: name.to_owned(),
        spec,
        desired: Desired::Running,
        generation: Generation(1),
        token: token().hash(),
        gateway_token: token(),
        created_at: WallTime(rand::random::<u32>().into()),
        updated_at: WallTime(2),
        replicas: Vec::new(),
    }
}

fn create(name: &str, request: &str) -> Create {
    Create { deployment: deployment(name), key: Some((request.to_owned(), [1; 32])), origin: origin(request) }
}

fn enqueue(replica: ReplicaId, action: Action) -> Enqueue {
    Enqueue(Command {
        drain: Duration::ZERO,
        id: CommandId::random(),
        node_id: "n".parse().expect("an id"),
        deployment_id: DeploymentId::from_bytes([1; 16]),
        replica_id: replica,
        generation: Generation(1),
        action,
        created_at: WallTime(rand::random::<u32>().into()),
    })
}

fn start() -> Action {
    let dep = deployment("a");
    Action::Start(Box::new(StartSpec {
        runtime: dep.spec.runtime,
        driver: None,
        image: String::new(),
        model: dep.spec.model,
        source: None,
        command: Vec::new(),
        args: Vec::new(),
        env: dep.spec.env,
        gpu_devices: Vec::new(),
        served_name: dep.name,
        public: false,
        token: Some(dep.token),
        gateway_token: dep.gateway_token,
    }))
}

fn report(container: &str, restarts: u32, cpu: f32) -> Report {
    Report(NodeReport {
        stats: Some(NodeStats { cpu_usage_percent: cpu, ..NodeStats::default() }),
        replicas: vec![ReplicaReport {
            deployment_id: DeploymentId::from_bytes([1; 16]),
            replica_id: ReplicaId::from_bytes([2; 16]),
            generation: Generation(3),
            status: ReportedStatus::Running,
            container_id: container.to_owned(),
            port: 30_000,
            message: format!("{restarts}"),
            restarts,
            exit_code: None,
            seen: Seen::default(),
        }],
        ..NodeReport::default()
    })
}

fn register(id: &str, name: &str, free: u64) -> Register {
    Register(Registration {
        node_id: id.parse().expect("an id"),
        name: name.to_owned(),
        version: "1".to_owned(),
        address: "10.0.0.1:9091".parse().expect("an address"),
        proxy_port: 8888,
        capabilities: Capabilities { available_memory_bytes: free, ..Capabilities::default() },
        labels: BTreeMap::new(),
        boot_id: id.to_owned(),
    })
}

#[test]
fn a_client_that_asks_again_is_known_again() {
    assert!(same(&create("a", "1"), &create("a", "2")));
    assert!(!same(&create("a", "1"), &create("b", "1")));
    let want = |intent, request| Want { intent, origin: origin(request) };
    let rotate = |token: &str| Intent::Rotate { token: TokenHash::of(token), overlap: Duration::ZERO };
    assert!(same(&want(rotate("a"), "1"), &want(rotate("b"), "2")));
    assert!(!same(&want(Intent::Scale(1), "1"), &want(Intent::Scale(2), "1")));
    let node = || "n".parse().expect("an id");
    let cordon = |request| Change::Schedule(node(), Scheduling::Cordoned, origin(request));
    assert!(same(&cordon("1"), &cordon("2")));
    assert!(!same(&cordon("1"), &Change::Schedule(node(), Scheduling::Schedulable, origin("1"))));
}

#[test]
fn an_agent_that_says_the_same_again_is_known_again() {
    assert!(same(&report("x", 1, 0.5), &report("x", 2, 0.7)));
    assert!(!same(&report("x", 1, 0.5), &report("y", 1, 0.5)));
    assert!(same(&register("a", "gpu-1", 1), &register("b", "gpu-1", 2)));
    assert!(!same(&register("a", "gpu-1", 1), &register("a", "gpu-2", 1)));
}

#[test]
fn a_command_that_is_given_again_is_known_again() {
    let replica = ReplicaId::random();
    assert!(same(&enqueue(replica, start()), &enqueue(replica, start())));
    assert!(!same(&enqueue(replica, start()), &enqueue(replica, Action::Stop)));
}

#[test]
fn no_message_shows_a_secret() {
    let dep = deployment("a");
    let secrets = [SECRET.to_owned(), dep.gateway_token.expose().to_owned(), dep.token.to_hex()];
    let texts = [
        text_of(&Create { deployment: dep.clone(), key: None, origin: origin("1") }),
        text_of(&Want { intent: Intent::Change(Box::new(dep.spec.clone())), origin: origin("1") }),
        text_of(&Want {
            intent: Intent::Rotate { token: dep.token, overlap: Duration::ZERO },
            origin: origin("1"),
        }),
        text_of(&Publish(RouteSpec::of(&dep))),
        text_of(&enqueue(ReplicaId::random(), start())),
        text_of(&enqueue(ReplicaId::random(), Action::Access { tokens: vec![dep.token], public: false })),
    ];
    for text in texts {
        assert!(!text.is_empty() && secrets.iter().all(|secret| !text.contains(secret)), "{text}");
    }
    assert!(text_of(&create("a", "1")).contains("HF_TOKEN"));
}
