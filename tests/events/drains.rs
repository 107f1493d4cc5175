//! Drains of nodes as the management API shows them, with agents that do at once what they are told.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use nebula_core::ids::ReplicaId;
use nebulad::actors::registry::machine::Registration;
use nebulad::actors::registry::{self, Register};
use nebulad::actors::session::{self, Report};
use nebulad::actors::system::System;
use nebulad::domain::command::Action;
use nebulad::domain::node::Capabilities;
use nebulad::domain::report::{NodeReport, ReplicaReport, ReportedStatus, Seen};
use serde_json::{Value, json};

use super::control_plane::{Nebulad, kinds};

const NODES: &str = "/api/v1/nodes";
const OPERATIONS: &str = "/api/v1/operations";
/// How often an agent reports.
const BEAT: Duration = Duration::from_millis(20);
/// No wait in a test lasts longer.
const DEADLINE: Duration = Duration::from_secs(30);
/// Between two looks at something that is waited for.
const PAUSE: Duration = Duration::from_millis(20);

/// An agent without a machine. It lives until it is dropped.
struct Agent(actix_rt::task::JoinHandle<()>);

type Replicas = Rc<RefCell<BTreeMap<ReplicaId, ReplicaReport>>>;

impl Agent {
    /// An agent on the node with this id, whose name is `gpu-` and the id.
    async fn start(nebulad: &Nebulad, id: &str) -> Self {
        Self::with(nebulad, id, Replicas::default()).await
    }

    async fn with(nebulad: &Nebulad, id: &str, replicas: Replicas) -> Self {
        let system = nebulad.app().system.clone();
        let registration = Registration {
            node_id: id.parse().expect("an id"),
            name: format!("gpu-{id}"),
            version: "0.1.0".to_owned(),
            // Nobody listens there: commands come with the answers to reports.
            address: "127.0.0.1:1".parse().expect("an address"),
            proxy_port: 8888,
            capabilities: Capabilities { cpu_cores: 64, ..Capabilities::default() },
            labels: BTreeMap::new(),
            boot_id: "a".to_owned(),
        };
        system
            .registry
            .ask(registry::PATH, Register(registration))
            .await
            .expect("heard")
            .expect("registered");
        Self(actix_rt::spawn(beat(system, id.to_owned(), replicas)))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn beat(system: System, id: String, replicas: Replicas) {
    let path = session::path(&id.parse().expect("an id"));
    let mut acked = Vec::new();
    loop {
        let all = replicas.borrow().values().cloned().collect();
        let report =
            Report(NodeReport { replicas: all, acked: std::mem::take(&mut acked), ..NodeReport::default() });
        // Its session may just be on its way.
        for command in system.sessions.ask(&path, report).await.unwrap_or_default() {
            acked.push(command.id);
            let mut replicas = replicas.borrow_mut();
            match command.action {
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
        tokio::time::sleep(BEAT).await;
    }
}

impl Nebulad {
    async fn drained(&self, node: &str, body: Value) -> String {
        let answer = self.post(&format!("{NODES}/{node}/drain"), &body).await;
        assert_eq!(answer.status, 202, "{}", answer.text);
        answer.body["operation"].as_str().expect("an operation").to_owned()
    }

    async fn node(&self, name: &str) -> Value {
        self.get(&format!("{NODES}/{name}")).await.body
    }

    async fn operation(&self, id: &str) -> Value {
        let answer = self.get(&format!("{OPERATIONS}/{id}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.body
    }

    /// Waits until what is at `path` is so, and answers it.
    async fn seen(&self, path: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let wait = async {
            loop {
                last = self.get(path).await.body;
                if is(&last) {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        let in_time = tokio::time::timeout(DEADLINE, wait).await.is_ok();
        assert!(in_time, "{path} stays {last}");
        last
    }

    async fn operation_is(&self, id: &str, state: &str) -> Value {
        self.seen(&format!("{OPERATIONS}/{id}"), |operation| operation["state"] == state).await
    }

    /// A deployment of so many replicas, once it runs.
    async fn runs(&self, name: &str, replicas: u32, node: Option<&str>) -> Value {
        let spec =
            json!({"name": name, "model": "demo", "runtime": "sim", "replicas": replicas, "node": node});
        let made = self.post("/api/v1/deployments", &spec).await;
        assert_eq!(made.status, 201, "{}", made.text);
        self.are_running(name, replicas).await
    }

    async fn are_running(&self, name: &str, replicas: u32) -> Value {
        let all_run = |dep: &Value| {
            let all = dep["replicas"].as_array().cloned().unwrap_or_default();
            all.len() == replicas as usize && all.iter().all(|replica| replica["state"] == "running")
        };
        self.seen(&format!("/api/v1/deployments/{name}"), all_run).await
    }
}

#[actix_rt::test]
async fn an_empty_node_is_drained_until_it_is_given_back() {
    let nebulad = Nebulad::start().await;
    let _agent = Agent::start(&nebulad, "n1").await;
    assert_eq!(nebulad.node("gpu-n1").await["operation"], Value::Null);
    let id = nebulad.drained("gpu-n1", json!({"timeout": "10m"})).await;
    let done = nebulad.operation_is(&id, "done").await;
    assert_eq!(
        (&done["kind"], &done["node"], &done["node_name"], &done["total"], &done["left"], &done["blocked"]),
        (&json!("drain"), &json!("n1"), &json!("gpu-n1"), &json!(0), &json!(0), &json!([]))
    );
    let node = nebulad.seen(&format!("{NODES}/n1"), |node| node["scheduling"] == "drained").await;
    assert_eq!(node["operation"], Value::Null, "none runs");
    assert_eq!(nebulad.drained("n1", Value::Null).await, id, "it is drained");

    let nebulad = nebulad.restart().await;
    assert_eq!(nebulad.node("n1").await["scheduling"], "drained");
    assert_eq!(nebulad.drained("n1", Value::Null).await, id);
    let back = nebulad.post(&format!("{NODES}/n1/uncordon"), &Value::Null).await;
    assert_eq!((back.status, &back.body["scheduling"]), (200, &json!("schedulable")));
    let told = kinds(&nebulad.list("/api/v1/events?node=n1").await);
    let expected = [
        "registered",
        "online",
        "audit.node.drain",
        "drain_started",
        "drained",
        "audit.node.uncordon",
        "uncordoned",
    ];
    assert_eq!(told, expected, "what changed nothing leaves no line");
    nebulad.stop().await;
}

#[actix_rt::test]
async fn what_is_on_a_drained_node_moves_and_what_has_no_room_elsewhere_waits() {
    let nebulad = Nebulad::start().await;
    let _first = Agent::start(&nebulad, "n1").await;
    nebulad.runs("moves", 2, None).await;
    let id = nebulad.drained("n1", Value::Null).await;
    let path = format!("{OPERATIONS}/{id}");
    let waits = |operation: &Value| {
        let whys = operation["blocked"].as_array().into_iter().flatten();
        whys.filter_map(|blocked| blocked["why"].as_str())
            .any(|why| why.contains("waits for a place: no node"))
    };
    let shown = nebulad.seen(&path, waits).await;
    assert_eq!((&shown["left"], &shown["total"]), (&json!(2), &json!(2)));
    let _second = Agent::start(&nebulad, "n2").await;
    nebulad.operation_is(&id, "done").await;
    let moved = nebulad.are_running("moves", 2).await;
    for replica in moved["replicas"].as_array().expect("replicas") {
        assert_eq!(replica["node_id"], "n2");
    }
    assert_eq!(nebulad.node("n1").await["replicas"], json!([]));
    nebulad.stop().await;
}

#[actix_rt::test]
async fn what_cannot_move_is_named_and_the_drain_outlives_a_restart() {
    let nebulad = Nebulad::start().await;
    let replicas = Replicas::default();
    let agent = Agent::with(&nebulad, "n1", replicas.clone()).await;
    nebulad.runs("stays", 2, Some("gpu-n1")).await;
    let id = nebulad.drained("n1", Value::Null).await;
    let path = format!("{OPERATIONS}/{id}");
    let shown = nebulad.seen(&path, |operation| operation["left"] == 2).await;
    assert_eq!((&shown["state"], &shown["total"]), (&json!("running"), &json!(2)));
    for blocked in shown["blocked"].as_array().expect("a list") {
        assert_eq!(blocked["deployment"], "stays");
        assert!(blocked["why"].as_str().expect("a reason").contains("pinned to this node"), "{blocked}");
    }
    let node = nebulad.node("n1").await;
    assert_eq!((&node["scheduling"], &node["operation"]), (&json!("draining"), &json!(id)));
    assert_eq!(nebulad.drained("gpu-n1", json!({"timeout": 1})).await, id, "it is the same one");

    drop(agent);
    let nebulad = nebulad.restart().await;
    let _agent = Agent::with(&nebulad, "n1", replicas).await;
    let again = nebulad.operation(&id).await;
    assert_eq!((&again["state"], &again["until"]), (&json!("running"), &shown["until"]));
    assert_eq!(nebulad.node("n1").await["scheduling"], "draining");
    nebulad.act("stays", "scale", json!({"replicas": 0})).await;
    let done = nebulad.operation_is(&id, "done").await;
    assert_eq!((&done["total"], &done["left"]), (&json!(2), &json!(0)));
    nebulad.seen(&format!("{NODES}/n1"), |node| node["scheduling"] == "drained").await;
    nebulad.stop().await;
}

#[actix_rt::test]
async fn a_drain_is_cancelled_by_whoever_wants_the_node_otherwise() {
    let nebulad = Nebulad::start().await;
    let _agent = Agent::start(&nebulad, "n1").await;
    nebulad.runs("stays", 1, Some("n1")).await;
    for (action, scheduling) in [("uncordon", "schedulable"), ("cordon", "cordoned")] {
        let id = nebulad.drained("n1", Value::Null).await;
        let answer = nebulad.post(&format!("{NODES}/n1/{action}"), &Value::Null).await;
        assert_eq!((answer.status, &answer.body["scheduling"]), (200, &json!(scheduling)));
        assert_eq!(answer.body["operation"], Value::Null);
        assert_eq!(nebulad.operation(&id).await["state"], "cancelled");
    }
    let id = nebulad.drained("n1", Value::Null).await;
    let path = format!("{OPERATIONS}/{id}");
    assert_eq!(nebulad.delete(&path).await.status, 204);
    assert_eq!(nebulad.operation(&id).await["state"], "cancelled");
    assert_eq!(nebulad.node("n1").await["scheduling"], "cordoned");
    let late = nebulad.delete(&path).await;
    assert_eq!((late.status, &late.body["error"]["code"]), (409, &json!("conflict")));
    nebulad.are_running("stays", 1).await;

    let told = kinds(&nebulad.list("/api/v1/events?node=n1").await);
    let of_the_last = ["audit.operation.cancel", "drain_cancelled", "cordoned"];
    assert_eq!(told[told.len() - 3..], of_the_last, "{told:?}");
    assert!(told.contains(&"audit.node.uncordon".to_owned()), "{told:?}");
    nebulad.stop().await;
}

#[actix_rt::test]
async fn a_drain_that_takes_too_long_fails_and_its_node_stays_cordoned() {
    let nebulad = Nebulad::start().await;
    let _agent = Agent::start(&nebulad, "n1").await;
    nebulad.runs("stays", 1, Some("n1")).await;
    let id = nebulad.drained("n1", json!({"timeout": "1s"})).await;
    let failed = nebulad.operation_is(&id, "failed").await;
    let message = failed["message"].as_str().expect("a message");
    assert!(message.contains("1 replica is left (stays: "), "{message}");
    assert_eq!((&failed["left"], failed["blocked"].as_array().map(Vec::len)), (&json!(1), Some(1)));
    nebulad.seen(&format!("{NODES}/n1"), |node| node["scheduling"] == "cordoned").await;
    let nebulad = nebulad.restart().await;
    assert_eq!(nebulad.operation(&id).await, failed, "it is remembered");
    let second = nebulad.drained("n1", Value::Null).await;
    assert_ne!(second, id);
    nebulad.stop().await;
}

#[actix_rt::test]
async fn a_node_that_is_away_is_drained_too_and_its_deletion_ends_the_drain() {
    let nebulad = Nebulad::start().await;
    let agent = Agent::start(&nebulad, "n1").await;
    nebulad.runs("stays", 1, Some("n1")).await;
    drop(agent);
    nebulad.deregister("n1").await;
    let id = nebulad.drained("n1", Value::Null).await;
    let shown = nebulad.seen(&format!("{OPERATIONS}/{id}"), |operation| operation["left"] == 1).await;
    assert_eq!(shown["state"], "running");
    let node = nebulad.node("n1").await;
    assert_eq!((&node["state"], &node["scheduling"]), (&json!("offline"), &json!("draining")));
    assert_eq!(nebulad.delete(&format!("{NODES}/n1")).await.status, 204);
    let cancelled = nebulad.operation_is(&id, "cancelled").await;
    assert_eq!(cancelled["message"], "the node was deleted");
    let _agent = Agent::start(&nebulad, "n1").await;
    assert_eq!(nebulad.node("n1").await["scheduling"], "schedulable", "it is a new one");
    nebulad.stop().await;
}

#[actix_rt::test]
async fn operations_are_listed_newest_first_and_wrong_wishes_are_refused() {
    let nebulad = Nebulad::start().await;
    let mut agents = Vec::new();
    let mut ids = Vec::new();
    for name in ["n1", "n2", "n3"] {
        agents.push(Agent::start(&nebulad, name).await);
        ids.insert(0, nebulad.drained(name, Value::Null).await);
    }
    let listed = nebulad.list(&format!("{OPERATIONS}?limit=2")).await;
    let sorted = |all: Vec<String>| std::collections::BTreeSet::from_iter(all);
    let shown: Vec<String> = listed.iter().map(|row| row["id"].as_str().expect("an id").to_owned()).collect();
    assert_eq!((shown.len(), sorted(shown)), (3, sorted(ids)), "page by page");
    let began: Vec<&str> = listed.iter().map(|row| row["started_at"].as_str().expect("a time")).collect();
    assert!(began.is_sorted_by(|newer, older| newer >= older), "{began:?}");

    for (path, body, status) in [
        ("nope/drain", Value::Null, 404),
        ("n1/drain", json!({"timeout": "soon"}), 422),
        ("n1/drain", json!({"timeout": "8d"}), 422),
        ("n1/drain", json!({"timeout": -1}), 422),
        ("n1/drain", json!({"force": true}), 400),
    ] {
        let answer = nebulad.post(&format!("{NODES}/{path}"), &body).await;
        assert_eq!(answer.status, status, "{path} {body}: {}", answer.text);
    }
    for id in ["nope", "5b8a3a5c-0000-4000-8000-000000000001"] {
        let path = format!("{OPERATIONS}/{id}");
        assert_eq!((nebulad.get(&path).await.status, nebulad.delete(&path).await.status), (404, 404));
    }
    assert_eq!(nebulad.get(&format!("{OPERATIONS}?cursor=x")).await.status, 400);
    nebulad.stop().await;
}
