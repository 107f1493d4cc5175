//! Drains of nodes, and the operations that they are.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::run;
use crate::server::{Answer, Server};

const ID: &str = "5b8a3a5c-0000-4000-8000-000000000009";

fn node(scheduling: &str) -> Value {
    json!({"id": "n-1", "name": "gpu-1", "state": "online", "scheduling": scheduling, "operation": ID,
           "replicas": []})
}

fn operation(state: &str, left: u32, message: &str) -> Value {
    let ended = if state == "running" { Value::Null } else { json!("2026-01-02T00:00:00.000Z") };
    let blocked = json!([{"deployment": "demo", "deployment_id": "d-1", "replica": "r-1",
                          "why": "its successor waits for a place: no node fits"}]);
    json!({
        "id": ID, "kind": "drain", "node": "n-1", "node_name": "gpu-1", "state": state,
        "started_at": "2026-01-01T00:00:00.000Z", "until": "2026-01-01T01:00:00.000Z", "ended_at": ended,
        "total": 3, "left": left, "blocked": if left > 0 { blocked } else { json!([]) }, "message": message,
    })
}

#[test]
fn a_drain_says_how_it_is_followed_and_cancelled() {
    let server = Server::start(|_| Answer::json("202 Accepted", &node("draining")));
    let ended = run(&server, &["nodes", "drain", "gpu-1", "--timeout", "10m"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.out.contains("gpu-1  online  draining"), "{}", ended.out);
    for part in [format!("nebulactl operations get {ID}"), "nebulactl nodes uncordon gpu-1".to_owned()] {
        assert!(ended.err.contains(&part), "{}", ended.err);
    }
    let request = &server.requests()[0];
    assert_eq!(request.line(), "POST /api/v1/nodes/gpu-1/drain");
    assert_eq!(request.json(), json!({"timeout": "600000ms"}));
    let shown: Value =
        serde_json::from_str(&run(&server, &["nodes", "drain", "gpu-1", "-o", "json"]).out).expect("json");
    assert_eq!(shown, node("draining"));
    assert_eq!(server.requests()[1].body, "", "nebulad says how long, if nobody else does");
}

/// A server on which a drain runs for two looks and then ends like this.
fn drained(end: Value) -> Server {
    let looks = AtomicUsize::new(0);
    Server::start(move |request| match request.method.as_str() {
        "POST" => Answer::json("202 Accepted", &node("draining")),
        _ if looks.fetch_add(1, Ordering::SeqCst) < 2 => {
            Answer::json("200 OK", &operation("running", 2, "2 of 3 replicas are left"))
        }
        _ => Answer::json("200 OK", &end),
    })
}

#[test]
fn a_drain_is_waited_for_and_told() {
    let server = drained(operation("done", 0, "nothing is left on it"));
    let ended = run(&server, &["nodes", "drain", "gpu-1", "--wait"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let told = "2 of 3 replicas are left; demo: its successor waits for a place: no node fits\n";
    assert_eq!(ended.err, told, "told once as long as nothing changes");
    assert!(ended.out.contains("State:    done\n") && ended.out.contains("Left:     0/3\n"), "{}", ended.out);
    let look = format!("GET /api/v1/operations/{ID}");
    assert_eq!(server.lines()[1..], [look.as_str(), look.as_str(), look.as_str()]);
}

#[test]
fn a_drain_that_does_not_empty_its_node_is_1() {
    let server = drained(operation("failed", 2, "not empty after 10m 00s: 2 replicas are left"));
    let ended = run(&server, &["nodes", "drain", "gpu-1", "--wait"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    let expected =
        "error: the drain of node gpu-1 failed: not empty after 10m 00s: 2 replicas are left\n\nhint: ";
    assert!(ended.err.contains(expected), "{}", ended.err);
    assert!(ended.err.contains("nebulactl nodes uncordon gpu-1"), "{}", ended.err);
    assert!(
        ended.out.ends_with("demo        r-1      its successor waits for a place: no node fits\n"),
        "{}",
        ended.out
    );
    let server = drained(operation("cancelled", 2, "cancelled by an operator"));
    let ended = run(&server, &["nodes", "drain", "gpu-1", "--wait", "-o", "json"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    let shown: Value = serde_json::from_str(&ended.out).expect("json");
    assert_eq!(shown["state"], "cancelled");
    assert!(ended.err.contains("error: the drain of node gpu-1 was cancelled: cancelled by an operator\n"));
}

#[test]
fn operations_are_listed_shown_and_cancelled() {
    let server = Server::start(|request| match request.line().as_str() {
        "GET /api/v1/operations?limit=500" => Answer::list(&json!([
            operation("running", 2, "2 of 3 replicas are left"),
            operation("done", 0, "nothing is left on it")
        ])),
        "DELETE /api/v1/operations/op" => Answer::new("204 No Content", "", ""),
        "DELETE /api/v1/operations/old" => {
            Answer::error("409 Conflict", "conflict", "operation old has ended")
        }
        _ => Answer::json("200 OK", &operation("running", 2, "2 of 3 replicas are left")),
    });
    let list = run(&server, &["operations", "list"]).out;
    let lines: Vec<&str> = list.lines().collect();
    assert!(lines[0].starts_with("NODE   KIND   STATE    LEFT  AGE"), "{list}");
    assert!(lines[1].starts_with("gpu-1  drain  running  2/3 "), "{list}");
    assert!(lines[2].starts_with("gpu-1  drain  done     0/3 "), "{list}");
    assert!(lines[1].ends_with(&format!("{ID}  2 of 3 replicas are left")), "{list}");
    let shown = run(&server, &["operations", "get", ID]).out;
    for part in [
        "State:    running\n",
        "Until:    2026-01-01T01:00:00.000Z\n",
        "\nDEPLOYMENT  REPLICA  WHY IT IS LEFT\ndemo        r-1      its successor waits for a place: no node fits\n",
    ] {
        assert!(shown.contains(part), "{part:?} in {shown}");
    }
    let cancelled = run(&server, &["operations", "cancel", "op"]);
    assert_eq!(
        (cancelled.code, cancelled.out.as_str(), cancelled.err.as_str()),
        (0, "", "operation op is cancelled; its node stays cordoned\n")
    );
    let late = run(&server, &["operations", "cancel", "old"]);
    assert_eq!((late.code, late.err.as_str()), (1, "error: operation old has ended\n"));
    let none = Server::start(|_| Answer::list(&json!([])));
    assert!(run(&none, &["operations", "list"]).err.contains("nebulactl nodes drain"));
}
