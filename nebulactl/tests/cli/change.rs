//! `update`, `rotate-token` and `why`.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::run;
use crate::server::{Answer, Request, Server};

fn deployment(args: &str, revision: u64, changing: bool, new: usize) -> Value {
    let replica = |index: usize| json!({"index": index, "state": "running", "revision": if index < new { revision } else { revision - 1 }});
    json!({"id": "d-1", "name": "demo", "state": "running", "desired_state": "running", "message": "", "model": "m",
           "runtime": "sim", "revision": revision, "changing": changing, "replicas": [replica(0), replica(1)],
           "spec": {"replicas": 2, "args": [args]}})
}

/// A server that accepts a change and then shows these pictures, one per look, the last for ever.
fn server(pictures: Vec<Value>) -> Server {
    let looks = AtomicUsize::new(0);
    Server::start(move |request: &Request| match request.line().as_str() {
        "PATCH /api/v1/deployments/demo" => Answer::json("202 Accepted", &deployment("new", 2, true, 0)),
        "GET /api/v1/deployments/d-1" => {
            let look = looks.fetch_add(1, Ordering::SeqCst).min(pictures.len() - 1);
            Answer::json("200 OK", &pictures[look])
        }
        "GET /api/v1/deployments/demo/why" => {
            let message = "the new version did not become ready: exited: exit code 3";
            Answer::json("200 OK", &json!({"last_change": {"type": "rolled_back", "message": message}}))
        }
        other => panic!("unexpected {other}"),
    })
}

#[test]
fn an_update_sends_what_was_said_and_shows_the_deployment() {
    let server = server(vec![]);
    let ended =
        run(&server, &["update", "demo", "--arg", "new", "--unset", "env.A", "--drain-timeout", "90"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.out.contains("demo  running  2/2"), "{}", ended.out);
    assert_eq!(ended.err, "\nfollow it: nebulactl why demo\n");
    let sent = server.requests()[0].json();
    assert_eq!(sent, json!({"args": ["new"], "env": {"A": null}, "drain_timeout": "90000ms"}));
}

#[test]
fn an_update_of_nothing_is_a_usage_error() {
    let server = server(vec![]);
    let ended = run(&server, &["update", "demo"]);
    assert_eq!((ended.code, ended.out.as_str()), (2, ""));
    assert!(ended.err.starts_with("error: nothing that is to change was named\n"), "{}", ended.err);
    assert!(server.requests().is_empty());
}

#[test]
fn waiting_for_a_change_tells_how_far_it_has_got() {
    let server = server(vec![deployment("new", 2, true, 1), deployment("new", 2, false, 2)]);
    let ended = run(&server, &["update", "demo", "--arg", "new", "--wait"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(ended.err, "changing: 1 of 2 replicas run the new version\nrunning\n");
    assert!(ended.out.contains("demo  running  2/2"), "{}", ended.out);
}

#[test]
fn a_change_that_is_taken_back_is_a_failure_with_its_reason() {
    let server = server(vec![deployment("new", 2, true, 0), deployment("old", 3, false, 2)]);
    let ended = run(&server, &["update", "demo", "--arg", "new", "--wait"]);
    assert_eq!(ended.code, 1);
    let error = "error: the change of deployment demo was taken back: the new version did not become ready: exited: exit \
                 code 3\n\nhint: `nebulactl why demo`";
    assert!(ended.err.contains(error), "{}", ended.err);
}

#[test]
fn waiting_for_a_change_is_bounded() {
    let server = server(vec![deployment("new", 2, true, 1)]);
    let ended = run(&server, &["update", "demo", "--arg", "new", "--wait", "--wait-timeout", "300ms"]);
    assert_eq!(ended.code, 1);
    let error =
        "error: deployment demo is still changing: 1 of 2 replicas run the new version after 300 ms\n";
    assert!(ended.err.contains(error), "{}", ended.err);
}

#[test]
fn a_new_token_stands_alone_on_standard_output() {
    let server = Server::start(|_| {
        let until = "2026-01-31T12:00:00.000Z";
        Answer::json(
            "202 Accepted",
            &json!({"name": "demo", "access_token": "nbtok_1", "old_token_until": until}),
        )
    });
    let ended = run(&server, &["rotate-token", "demo", "--overlap", "1h"]);
    assert_eq!((ended.code, ended.out.as_str()), (0, "nbtok_1\n"));
    assert!(ended.err.contains("valid until 2026-01-31T12:00:00.000Z"), "{}", ended.err);
    let request = &server.requests()[0];
    assert_eq!(request.line(), "POST /api/v1/deployments/demo/rotate-token");
    assert_eq!(request.json(), json!({"overlap": "3600000ms"}));
    run(&server, &["rotate-token", "demo"]);
    assert_eq!(server.requests()[1].body, "");
}

fn why() -> Value {
    json!({
        "summary": "demo runs in part: 1 of 3 replicas runs; replica 1 on gpu-1 has failed", "state": "running",
        "wanted": {"summary": "3 replicas of m by vllm"}, "is": {"summary": "running: 1 of 3 replicas run"},
        "replicas": [
            {"index": 0, "id": "r-0", "state": "running", "node": "gpu-0", "message": "", "restarts": 0,
             "attempts": [{"time": "T0", "type": "running", "message": ""}], "log_tail": []},
            {"index": 1, "id": "r-1", "state": "failed", "node": "gpu-1", "restarts": 2,
             "message": "exited; its last lines:\nloading",
             "attempts": [{"time": "T1", "type": "placed", "message": "on gpu-1"},
                          {"time": "T2", "type": "failed", "message": "exited", "exit_code": 3}],
             "log_tail": ["loading", "out of \u{1b}[31mmemory"]},
            {"index": 2, "id": "r-2", "state": "pending", "node": null, "message": "no node fits", "restarts": 0,
             "attempts": [], "log_tail": []},
            {"index": 2, "id": "r-3", "state": "stopping", "node": "gpu-0", "message": "", "restarts": 0,
             "leaving": true, "attempts": [], "log_tail": []},
            {"index": 1, "id": "r-4", "state": "stopping", "node": "gpu-0", "message": "waits for 1 request",
             "restarts": 0, "leaving": true, "attempts": [], "log_tail": []},
        ],
        "refused": [{"node": "gpu-0", "node_id": "n-0", "reason": "has 0 free GPUs"}], "refused_more": 7,
        "fits": ["gpu-9"], "hint": {"bytes": 17_179_869_184_u64, "how": "8B weights"},
        "next": [{"what": "asks for a place again"}, {"what": "rolls back", "at": "2020-01-01T00:00:00.000Z"}],
    })
}

#[test]
fn why_is_told_in_the_order_of_the_questions() {
    let server = Server::start(|_| Answer::json("200 OK", &why()));
    let ended = run(&server, &["why", "demo"]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    let expected = "\
demo runs in part: 1 of 3 replicas runs; replica 1 on gpu-1 has failed

State:        running
Wanted:       3 replicas of m by vllm
Is:           running: 1 of 3 replicas run
Memory hint:  about 16.0 GiB: 8B weights

REPLICA  STATE     NODE   RESTARTS  ID   MESSAGE
0        running   gpu-0  0         r-0  -
1        failed    gpu-1  2         r-1  exited
2        pending   -      0         r-2  no node fits
2        stopping  gpu-0  0         r-3  leaves
1        stopping  gpu-0  0         r-4  leaves; waits for 1 request

Replica 1 so far:
  T1  placed  on gpu-1
  T2  failed  exited (exit code 3)

Last lines of the log of replica 1:
  loading
  out of [31mmemory

NODE   DOES NOT TAKE IT BECAUSE
gpu-0  has 0 free GPUs
and 7 more nodes

Nodes that would take it: gpu-9

Next:
  asks for a place again
  now: rolls back
";
    assert_eq!(ended.out, expected);
    assert_eq!(server.lines(), ["GET /api/v1/deployments/demo/why"]);
    let json: Value = serde_json::from_str(&run(&server, &["why", "demo", "-o", "json"]).out).expect("json");
    assert_eq!(json, why());
}

#[test]
fn a_deployment_shows_its_bounds_and_its_hint() {
    let server = Server::start(|_| {
        let mut shown = deployment("a", 1, false, 2);
        shown["spec"]["autoscale"] = json!({"min": 0, "max": 4, "target_inflight": 8});
        shown["hint"] = json!({"bytes": 17_179_869_184_u64, "weights_bytes": 1, "how": "8B weights"});
        shown["replicas"][1]["leaving"] = true.into();
        Answer::json("200 OK", &shown)
    });
    let ended = run(&server, &["get", "demo"]);
    assert!(ended.out.contains("\nReplicas:     1/2\n"), "{}", ended.out);
    assert!(
        ended.out.contains("\nBy load:      0 to 4 replicas, 8 requests in flight each\n"),
        "{}",
        ended.out
    );
    assert!(ended.out.contains("\nMemory hint:  about 16.0 GiB: 8B weights\n"), "{}", ended.out);
}
