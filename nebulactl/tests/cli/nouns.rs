//! Each noun's commands: what is sent, and how the answer is shown.

use serde_json::{Value, json};

use crate::run;
use crate::server::{Answer, Piece, Server};

fn deployment(name: &str, state: &str) -> Value {
    json!({
        "id": "0b0e6a54-6f0c-4a3a-9a6e-0d2f8f6f0001", "name": name, "model": "llama3.2:1b", "runtime": "ollama",
        "state": state, "desired_state": "running", "message": "", "image": null, "public": true, "generation": 3,
        "replicas": [{"index": 0, "id": "r-1", "node_name": "gpu-1", "state": state, "restarts": 1,
                      "gpu_devices": [0, 1], "message": null}],
        "spec": {"replicas": 2}, "created_at": "2020-01-01T00:00:00Z",
    })
}

#[test]
fn deployments_are_listed_in_aligned_columns() {
    let server = Server::start(|_| {
        Answer::list(&json!([deployment("demo", "running"), deployment("much-longer-name", "starting")]))
    });
    let ended = run(&server, &["list"]);

    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    let lines: Vec<&str> = ended.out.lines().collect();
    assert!(lines[0].starts_with("NAME              STATE     REPLICAS  MODEL"), "{}", ended.out);
    assert!(lines[1].starts_with("demo              running   1/2       llama3.2:1b  ollama   yes     "));
    assert!(lines[2].starts_with("much-longer-name  starting  0/2       llama3.2:1b"));
    assert!(!ended.out.contains("MESSAGE"), "a column with nothing in it is left out");
    assert!(!ended.out.contains('\u{1b}'));
    let request = &server.requests()[0];
    assert_eq!(request.line(), "GET /api/v1/deployments?limit=500");
    assert_eq!(request.authorization.as_deref(), Some("Bearer nbadm_test"));
}

#[test]
fn json_is_the_array_of_all_pages_as_the_api_wrote_it() {
    let server = Server::start(|request| {
        let body = if request.target.contains("cursor=a%2Fb") {
            r#"{"data":[{"name":"c"}],"next_cursor":null}"#
        } else {
            r#"{"data":[{"name":"b","cost":1.50,"id":7}],"next_cursor":"a/b"}"#
        };
        Answer::new("200 OK", "application/json", body)
    });
    let ended = run(&server, &["list", "-o", "json"]);

    let expected = "[\n  {\n    \"name\": \"b\",\n    \"cost\": 1.50,\n    \"id\": 7\n  },\n  {\n    \"name\": \"c\"\n  }\n]\n";
    assert_eq!((ended.code, ended.out.as_str()), (0, expected));
}

#[test]
fn a_list_without_items_says_what_to_do_on_standard_error() {
    let server = Server::start(|_| Answer::list(&json!([])));
    let ended = run(&server, &["list"]);
    assert_eq!(ended.out, "NAME  STATE  REPLICAS  MODEL  RUNTIME  PUBLIC  AGE  MESSAGE\n");
    assert!(ended.err.contains("nebulactl deploy"));
    assert_eq!(run(&server, &["list", "-o", "json"]).out, "[]\n");
}

#[test]
fn one_deployment_is_shown_with_its_replicas() {
    let server = Server::start(|_| Answer::json("200 OK", &deployment("demo", "running")));
    let ended = run(&server, &["get", "demo"]);
    assert!(ended.out.starts_with("Name:        demo\nId:          0b0e6a54"), "{}", ended.out);
    assert!(ended.out.contains("\nGeneration:  3\n"));
    assert!(!ended.out.contains("Image:"), "{}", ended.out);
    assert!(ended.out.contains(
        "\nREPLICA  STATE    NODE   GPUS  RESTARTS  ID\n0        running  gpu-1  0,1   1         r-1\n"
    ));
    let json: Value = serde_json::from_str(&run(&server, &["get", "demo", "-o", "json"]).out).expect("json");
    assert_eq!(json, deployment("demo", "running"));
}

#[test]
fn a_replica_shows_how_far_it_has_got() {
    let server = Server::start(|_| {
        let mut shown = deployment("demo", "preparing");
        shown["replicas"][0]["progress"] =
            json!({"percent": 30, "message": "pulling image x: 1.2 of 4.0 GB"});
        Answer::json("200 OK", &shown)
    });
    let ended = run(&server, &["get", "demo"]);
    assert!(ended.out.ends_with("  r-1  pulling image x: 1.2 of 4.0 GB, 30 %\n"), "{}", ended.out);
}

#[test]
fn actions_are_sent_and_the_deployment_shown() {
    let server = Server::start(|_| Answer::json("202 Accepted", &deployment("demo", "stopping")));
    for (args, line, body) in [
        (&["start", "demo"][..], "POST /api/v1/deployments/demo/start", ""),
        (&["stop", "demo"], "POST /api/v1/deployments/demo/stop", ""),
        (&["restart", "demo"], "POST /api/v1/deployments/demo/restart", ""),
        (&["scale", "demo", "4"], "POST /api/v1/deployments/demo/scale", r#"{"replicas":4}"#),
        (&["delete", "demo"], "DELETE /api/v1/deployments/demo", ""),
        (&["delete", "a/b c?#%", "--yes"], "DELETE /api/v1/deployments/a%2Fb%20c%3F%23%25", ""),
    ] {
        let ended = run(&server, args);
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(ended.out.contains("demo  stopping"), "{ended:?}");
        let request = server.requests().pop().expect("a request");
        assert_eq!((request.line().as_str(), request.body.as_str()), (line, body));
    }
}

#[test]
fn names_that_would_leave_their_path_are_refused_here() {
    let server = Server::start(|_| Answer::json("202 Accepted", &json!({})));
    for name in ["", ".", ".."] {
        let ended = run(&server, &["delete", name]);
        assert_eq!(ended.code, 2, "{ended:?}");
    }
    assert!(server.requests().is_empty());
}

#[test]
fn logs_are_passed_on_as_they_come() {
    let server = Server::start(|_| Answer::new("200 OK", "text/plain", "one\n\u{1b}[1mtwo\n"));
    let ended = run(&server, &["logs", "demo", "--tail", "5", "--replica", "r 1", "--previous"]);
    assert_eq!((ended.code, ended.out.as_str()), (0, "one\n\u{1b}[1mtwo\n"));
    assert_eq!(server.lines(), ["GET /api/v1/deployments/demo/logs?tail=5&replica=r+1&previous=true"]);
    run(&server, &["logs", "-f", "demo"]);
    assert_eq!(server.lines()[1], "GET /api/v1/deployments/demo/logs?follow=true");
}

#[test]
fn a_log_that_breaks_off_is_an_error() {
    let server =
        Server::start(|_| Answer::pieces("text/plain", vec![Piece::Bytes(b"one\n".to_vec()), Piece::Cut]));
    let ended = run(&server, &["logs", "-f", "demo"]);
    assert_eq!((ended.code, ended.out.as_str()), (1, "one\n"));
    assert!(ended.err.starts_with("error: the answer of http://127.0.0.1:"), "{}", ended.err);
}

fn node() -> Value {
    json!({
        "id": "n-1", "name": "gpu-1", "address": "10.0.0.1:9091", "state": "online", "scheduling": "schedulable",
        "version": "0.1.0", "labels": {"zone": "a"}, "last_heartbeat_age_seconds": 3.7, "replicas": 2,
        "health": {"status": "degraded", "issues": ["disk is nearly full"]},
        "capabilities": {"os": "linux", "arch": "x86_64", "cpu_cores": 16, "total_memory_bytes": 137_438_953_472_u64,
                         "gpus": [{"uuid": "GPU-a", "name": "NVIDIA H200", "index": 0, "memory_bytes": 151_397_597_184_u64},
                                  {"uuid": "GPU-b", "name": "NVIDIA H200", "index": 1, "memory_bytes": 151_397_597_184_u64}]},
        "stats": {"gpu_stats": [{"uuid": "GPU-b", "utilization_percent": 41.6, "memory_used_bytes": 1_073_741_824,
                                 "memory_used_by_others_bytes": 1_048_576, "problem": ""},
                                {"uuid": "GPU-c", "name": "NVIDIA H200", "utilization_percent": 0.0,
                                 "memory_used_bytes": 0, "memory_total_bytes": 151_397_597_184_u64,
                                 "memory_used_by_others_bytes": 0, "problem": "fell off the bus"}]},
    })
}

#[test]
fn nodes_are_listed_shown_and_managed() {
    let server = Server::start(|request| match request.line().as_str() {
        "GET /api/v1/nodes?limit=500" => Answer::list(&json!([node()])),
        "DELETE /api/v1/nodes/gpu-1" => Answer::new("204 No Content", "", ""),
        _ => Answer::json("200 OK", &node()),
    });
    let list = run(&server, &["nodes", "list"]).out;
    let row =
        "gpu-1  online  schedulable  2 x NVIDIA H200  2         3s ago     0.1.0    10.0.0.1:9091  n-1\n";
    assert!(list.ends_with(row), "{list}");
    let shown = run(&server, &["nodes", "get", "gpu-1"]).out;
    for part in [
        "Issues:      disk is nearly full\n",
        "Memory:      128.0 GiB\n",
        "Labels:      zone=a\n",
        "\n1    NVIDIA H200  141.0 GiB  1.0 GiB  1.0 MiB    42 %  GPU-b  -\n",
        "\n-    NVIDIA H200  141.0 GiB  0 B      -          0 %   GPU-c  fell off the bus\n",
    ] {
        assert!(shown.contains(part), "{part:?} in {shown}");
    }
    assert!(run(&server, &["nodes", "cordon", "gpu-1"]).out.ends_with(row));
    assert!(run(&server, &["nodes", "uncordon", "gpu-1"]).out.ends_with(row));
    let deleted = run(&server, &["nodes", "delete", "gpu-1"]);
    assert_eq!(
        (deleted.code, deleted.out.as_str(), deleted.err.as_str()),
        (0, "", "node gpu-1 is deleted\n")
    );
    assert_eq!(
        server.lines()[2..],
        [
            "POST /api/v1/nodes/gpu-1/cordon",
            "POST /api/v1/nodes/gpu-1/uncordon",
            "DELETE /api/v1/nodes/gpu-1",
        ]
    );
}

#[test]
fn models_come_from_the_gateway() {
    let server = Server::start(|_| {
        Answer::json(
            "200 OK",
            &json!({"object": "list", "data": [{"id": "demo", "object": "model", "owned_by": "nebula"}]}),
        )
    });
    assert_eq!(run(&server, &["models"]).out, "MODEL  OWNED BY\ndemo   nebula\n");
    assert!(server.lines()[0].starts_with("GET /v1/models"));
}

#[test]
fn actors_are_an_indented_tree() {
    let actor = |path: &str, state: &str, last_exit: Value, children: Value| {
        json!({"path": path, "kind": "k", "state": state, "restarts": 2, "mailbox_depth": 0,
               "messages_total": 9, "age_seconds": 61, "last_exit": last_exit, "children": children})
    };
    let died = json!({"cause": "panicked: no\nsuch thing", "at": "2026-01-02T03:04:05.000Z"});
    let session = actor("/registry/sessions/n-1", "crashed", died, json!([]));
    let registry = actor("/registry", "running", Value::Null, json!([session]));
    let roots = json!([registry, actor("/router", "running", Value::Null, json!([]))]);
    let expected = "ACTOR           KIND  STATE    RESTARTS  MAILBOX  MESSAGES  AGE  LAST EXIT\n\
                    /registry       k     running  2         0        9         61s  -\n  \
                      sessions/n-1  k     crashed  2         0        9         61s  panicked: no such thing\n\
                    /router         k     running  2         0        9         61s  -\n";
    for body in [roots.clone(), json!({"data": roots})] {
        let server = Server::start(move |_| Answer::json("200 OK", &body));
        assert_eq!(run(&server, &["actors"]).out, expected);
        assert_eq!(server.lines(), ["GET /admin/actors"]);
    }
    let one = actor("/", "running", Value::Null, roots);
    let server = Server::start(move |_| Answer::json("200 OK", &one));
    let lines = run(&server, &["actors"]).out;
    assert!(
        lines.contains("\n/ ") && lines.contains("\n  registry ") && lines.contains("\n    sessions/n-1 ")
    );
}

#[test]
fn status_tells_health_readiness_and_counts() {
    let server = |ready: bool| {
        Server::start(move |request| match request.target.as_str() {
            "/health" => Answer::json("200 OK", &json!({"status": "ok"})),
            "/ready" if ready => Answer::json("200 OK", &json!({"status": "ready"})),
            "/ready" => {
                Answer::json("503 Service Unavailable", &json!({"reasons": ["the store is opening"]}))
            }
            "/api/v1/nodes?limit=500" => Answer::list(&json!([{"state": "online"}, {"state": "suspect"}])),
            _ => Answer::list(&json!([])),
        })
    };
    let good = server(true);
    let ended = run(&good, &["status"]);
    let expected = format!(
        "Server:       {}\nHealth:       ok\nReady:        ready\nNodes:        2 (1 online, 1 suspect)\nDeployments:  0\n",
        good.url()
    );
    assert_eq!((ended.code, ended.out), (0, expected));
    let bad = run(&server(false), &["status", "-o", "json"]);
    let json: Value = serde_json::from_str(&bad.out).expect("json");
    assert_eq!((bad.code, &json["ready"], &json["nodes"]["states"]["online"]), (1, &json!(false), &json!(1)));
    assert!(bad.err.contains("is not ready: the store is opening\n"), "{}", bad.err);
}

#[test]
fn version_and_completion_need_no_server() {
    let server = Server::start(|_| Answer::json("200 OK", &json!({})));
    assert!(run(&server, &["version"]).out.starts_with("nebulactl 0."));
    assert!(run(&server, &["version", "-o", "json"]).out.contains("\"version\": \"0."));
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(&server, &["completion", shell]).out.contains("uncordon"), "{shell}");
    }
    assert!(server.requests().is_empty());
}
