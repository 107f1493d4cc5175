//! Aliases: what is sent, and how the answers are shown.

use serde_json::{Value, json};

use crate::run;
use crate::server::{Answer, Server};

fn alias() -> Value {
    json!({
        "name": "chat",
        "targets": [
            {"deployment": "old", "id": "x", "weight": 90, "share_percent": 90.0, "state": "running", "serves": true},
            {"deployment": "new", "id": null, "weight": 10, "share_percent": 10.0, "state": "missing", "serves": false},
        ],
        "fallback": {"deployment": "spare", "id": "y", "state": "stopped", "serves": false},
        "created_at": "2020-01-01T00:00:00.000Z", "updated_at": "2020-01-01T00:00:00.000Z",
    })
}

const MISSING: &str = "404 Not Found";

#[test]
fn set_makes_an_alias_that_is_not_there() {
    let server = Server::start(|request| match request.line().as_str() {
        "GET /api/v1/aliases/chat" => Answer::json(
            MISSING,
            &json!({"error": {"message": "there is no alias \"chat\"", "code": "not_found", "request_id": "r"}}),
        ),
        _ => Answer::json("201 Created", &alias()),
    });
    let ended = run(&server, &["aliases", "set", "chat", "old=90", "new=10", "--fallback", "spare"]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(server.lines(), ["GET /api/v1/aliases/chat", "POST /api/v1/aliases"]);
    let expected = json!({
        "name": "chat", "fallback": "spare",
        "targets": [{"deployment": "old", "weight": 90}, {"deployment": "new", "weight": 10}],
    });
    assert_eq!(server.requests()[1].json(), expected);
    let lines: Vec<String> = ended.out.lines().map(|line| line.trim_end().to_owned()).collect();
    assert_eq!(
        lines,
        [
            "DEPLOYMENT  WEIGHT  SHARE  STATE    SERVES",
            "old         90      90 %   running  yes",
            "new         10      10 %   missing  no",
            "spare       -       else   stopped  no",
        ]
    );
}

#[test]
fn set_changes_an_alias_and_leaves_what_was_not_said() {
    let server = Server::start(|_| Answer::json("200 OK", &alias()));
    assert_eq!(run(&server, &["aliases", "set", "org/chat", "new=1"]).code, 0);
    assert_eq!(run(&server, &["aliases", "set", "chat", "new=1", "--no-fallback"]).code, 0);
    let targets = json!([{"deployment": "new", "weight": 1}]);
    let patches: Vec<(String, Value)> = server
        .requests()
        .iter()
        .filter(|request| request.line().starts_with("PATCH"))
        .map(|request| (request.line(), request.json()))
        .collect();
    assert_eq!(
        patches,
        [
            ("PATCH /api/v1/aliases/org%2Fchat".to_owned(), json!({"targets": targets})),
            ("PATCH /api/v1/aliases/chat".to_owned(), json!({"targets": targets, "fallback": null})),
        ]
    );
}

#[test]
fn aliases_are_listed_with_shares_and_deleted() {
    let server = Server::start(|request| match request.line().as_str() {
        "DELETE /api/v1/aliases/chat" => Answer::new("204 No Content", "text/plain", ""),
        _ => Answer::list(&json!([alias()])),
    });
    let ended = run(&server, &["aliases", "list"]);
    assert!(ended.out.contains("chat  old 90 %, new 10 % (missing)  spare"), "{}", ended.out);
    let ended = run(&server, &["aliases", "delete", "chat", "--yes"]);
    assert_eq!((ended.code, ended.err.as_str()), (0, "alias chat is deleted; its deployments stay\n"));
    let none = Server::start(|_| Answer::list(&json!([])));
    assert!(run(&none, &["aliases", "list"]).err.contains("nebulactl aliases set"));
}

#[test]
fn a_target_is_a_name_and_a_weight() {
    let server = Server::start(|_| Answer::json("200 OK", &alias()));
    for wrong in ["old", "=1", "old=", "old=-1", "old=1.5", "old=10001"] {
        assert_eq!(run(&server, &["aliases", "set", "chat", wrong]).code, 2, "{wrong}");
    }
    assert_eq!(run(&server, &["aliases", "set", "chat"]).code, 2, "no target");
    assert!(server.requests().is_empty());
}
