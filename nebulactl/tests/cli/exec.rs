//! `exec`: the command's outputs and its exit code.

use serde_json::json;

use crate::run;
use crate::server::{Answer, Server};

fn server(exit_code: i32) -> Server {
    Server::start(move |_| {
        let ended = json!({"exit_code": exit_code, "stdout": "out\n", "stderr": "no end of line"});
        Answer::json("200 OK", &ended)
    })
}

#[test]
fn outputs_stay_apart_and_the_exit_code_is_the_commands() {
    for (there, here) in [(0, 0), (7, 7), (137, 137), (255, 255), (-1, 1), (256, 1)] {
        let server = server(there);
        let ended = run(&server, &["exec", "demo", "--", "sh", "-c", "exit 7"]);
        assert_eq!((ended.code, ended.out.as_str(), ended.err.as_str()), (here, "out\n", "no end of line"));
        assert_eq!(server.lines(), ["POST /api/v1/deployments/demo/exec"]);
        let sent = server.requests()[0].json();
        assert_eq!(sent, json!({"command": ["sh", "-c", "exit 7"], "timeout_seconds": 60}));
    }
}

#[test]
fn a_replica_and_a_time_can_be_named_and_json_is_the_answer() {
    let server = server(3);
    let args = ["exec", "demo", "--replica", "1", "--timeout", "5m", "-o", "json", "--", "ls", "--all"];
    let ended = run(&server, &args);
    assert_eq!((ended.code, ended.err.as_str()), (3, ""));
    assert!(ended.out.contains("\"exit_code\": 3"), "{}", ended.out);
    let sent = server.requests()[0].json();
    assert_eq!(sent, json!({"command": ["ls", "--all"], "timeout_seconds": 300, "replica": "1"}));
}

#[test]
fn what_cannot_be_run_is_said() {
    let refusing = Server::start(|_| {
        Answer::error("503 Service Unavailable", "agent_unreachable", "node \"gpu-1\" is offline")
    });
    let ended = run(&refusing, &["exec", "demo", "--", "ls"]);
    assert_eq!((ended.code, ended.out.as_str()), (1, ""));
    assert!(ended.err.starts_with("error: node \"gpu-1\" is offline\n"), "{}", ended.err);

    let nonsense = Server::saying("200 OK", "application/json", "{}");
    let ended = run(&nonsense, &["exec", "demo", "--", "ls"]);
    assert!(ended.code == 1 && ended.err.contains("did not say how the command ended"), "{ended:?}");

    for usage in [&["exec", "demo"][..], &["exec", "demo", "--"], &["exec", "demo", "ls"]] {
        assert_eq!(run(&nonsense, usage).code, 2, "{usage:?}");
    }
}
