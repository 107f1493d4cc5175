//! `edge status` and `edge plan`, and the edge in `status`.

use serde_json::{Value, json};

use crate::run;
use crate::server::{Answer, Server};

fn off(name: &str) -> Value {
    json!({
        "name": name, "configured": false, "target": "", "state": "off", "wanted": 0, "observed": 0,
        "differences": {"add": 0, "change": 0, "remove": 0, "blocked": 0, "first": []}, "blocked": [],
        "last_error": null, "failures": 0, "circuit": "closed", "last_success_age_seconds": null,
        "lag_seconds": 0, "next_round_in_seconds": null, "rounds_total": 0, "failed_rounds_total": 0,
        "changes_total": 0,
    })
}

fn edge(name: &str, target: &str, state: &str, more: &Value) -> Value {
    let mut edge = off(name);
    edge["configured"] = json!(true);
    edge["target"] = json!(target);
    edge["state"] = json!(state);
    edge["wanted"] = json!(3);
    edge["observed"] = json!(2);
    for (field, value) in more.as_object().expect("fields") {
        edge[field] = value.clone();
    }
    edge
}

fn failing() -> Value {
    let more = json!({
        "differences": {"add": 1, "change": 1, "remove": 1, "blocked": 0, "first": []},
        "last_error": {"message": "http://localhost:2019 refuses connections", "hint": "start Caddy",
                       "trouble": "unreachable", "age_seconds": 4},
        "failures": 5, "circuit": "open", "last_success_age_seconds": 200, "lag_seconds": 61,
        "next_round_in_seconds": 8,
    });
    edge("caddy", "http://localhost:2019", "failing", &more)
}

fn blocked() -> Value {
    let more = json!({
        "differences": {"add": 0, "change": 0, "remove": 0, "blocked": 3, "first": []},
        "blocked": [{"name": "a.example.com", "why": "a CNAME is there that is not ours"},
                    {"name": "b.example.com", "why": "an A record is there that is not ours"}],
    });
    edge("route53", "zone Z123", "blocked", &more)
}

fn serving(edges: Value) -> Server {
    Server::start(move |_| Answer::list(&edges))
}

#[test]
fn what_is_not_configured_says_which_flag_does_it() {
    let server = serving(json!([off("caddy"), off("route53")]));
    let ended = run(&server, &["edge", "status"]);
    let expected = "EDGE     STATE  TARGET\n\
                    caddy    off    not configured (--caddy-admin-url)\n\
                    route53  off    not configured (--route53-hosted-zone-id)\n";
    assert_eq!((ended.code, ended.out.as_str(), ended.err.as_str()), (0, expected, ""));
    assert_eq!(server.lines(), ["GET /api/v1/edge?limit=500"]);
}

#[test]
fn an_edge_in_trouble_says_why_and_what_to_do() {
    let server = serving(json!([failing(), blocked()]));
    let ended = run(&server, &["edge", "status"]);
    let expected = "\
EDGE     STATE    TARGET                 NODES  OBJECTS  LEFT  BLOCKED  LAG
caddy    failing  http://localhost:2019  3      2        3     0        61s
route53  blocked  zone Z123              3      2        0     3        -

caddy: http://localhost:2019 refuses connections (5 rounds failed in a row, the last good one was 3m ago, the next comes in 8s)
  hint: start Caddy

EDGE     BLOCKED NAME   WHY
route53  a.example.com  a CNAME is there that is not ours
route53  b.example.com  an A record is there that is not ours
and 1 more; `nebulactl edge plan` shows them
";
    assert_eq!((ended.code, ended.out.as_str(), ended.err.as_str()), (0, expected, ""));
    let shown: Value =
        serde_json::from_str(&run(&server, &["edge", "status", "-o", "json"]).out).expect("json");
    assert_eq!(shown, json!([failing(), blocked()]));
}

fn plan(name: &str, more: &Value) -> Value {
    let mut plan = json!({"name": name, "target": format!("the {name}"), "changes": [], "changes_total": 0,
                          "blocked": [], "blocked_total": 0, "error": null});
    for (field, value) in more.as_object().expect("fields") {
        plan[field] = value.clone();
    }
    plan
}

fn full() -> Value {
    let changes = json!([
        {"verb": "add", "kind": "route", "name": "550e8400.gateway.example.com", "to": "10.0.0.7:8888"},
        {"verb": "change", "kind": "server", "name": "nebula", "to": ":443"},
        {"verb": "remove", "kind": "route", "name": "650e8400.gateway.example.com", "to": ""},
    ]);
    let blocked = json!([{"name": "750e8400.gateway.example.com", "why": "somebody else's"}]);
    plan("caddy", &json!({"changes": changes, "changes_total": 5, "blocked": blocked, "blocked_total": 1}))
}

const LINES: &str = "+ route 550e8400.gateway.example.com -> 10.0.0.7:8888\n\
                     ~ server nebula -> :443\n\
                     - route 650e8400.gateway.example.com\n\
                     and 2 more changes\n\
                     ! 750e8400.gateway.example.com: somebody else's\n";

fn away(name: &str, hint: &str) -> Value {
    plan(name, &json!({"error": {"message": format!("the {name} cannot be reached"), "hint": hint}}))
}

#[test]
fn a_plan_is_a_line_per_change() {
    let server = serving(json!([full()]));
    let ended = run(&server, &["edge", "plan", "caddy"]);
    assert_eq!((ended.code, ended.out.as_str(), ended.err.as_str()), (0, LINES, ""));
    assert_eq!(server.lines(), ["GET /api/v1/edge/plan?edge=caddy"]);

    let server = serving(json!([full(), plan("route53", &json!({}))]));
    let both = format!("caddy (the caddy):\n{LINES}\nroute53 (the route53):\nnothing would change\n");
    let ended = run(&server, &["edge", "plan"]);
    assert_eq!((ended.code, ended.out.as_str(), ended.err.as_str()), (0, both.as_str(), ""));
    assert_eq!(server.lines(), ["GET /api/v1/edge/plan"]);
    let shown: Value =
        serde_json::from_str(&run(&server, &["edge", "plan", "-o", "json"]).out).expect("json");
    assert_eq!(shown, json!([full(), plan("route53", &json!({}))]));

    let none = run(&serving(json!([])), &["edge", "plan"]);
    assert_eq!((none.code, none.out.as_str()), (0, ""));
    assert!(none.err.contains("--caddy-admin-url"), "{}", none.err);
}

#[test]
fn a_plan_that_cannot_be_made_is_1_and_the_other_one_is_shown() {
    let ended = run(&serving(json!([away("caddy", "start it")])), &["edge", "plan"]);
    let said = "error: caddy: the caddy cannot be reached\n\nhint: start it\n";
    assert_eq!((ended.code, ended.out.as_str(), ended.err.as_str()), (1, "", said));

    let server = serving(json!([full(), away("route53", "")]));
    let ended = run(&server, &["edge", "plan"]);
    let shown = format!("caddy (the caddy):\n{LINES}\nroute53 (the route53):\nunknown\n");
    let said = "error: route53: the route53 cannot be reached\n";
    assert_eq!((ended.code, ended.out.as_str(), ended.err.as_str()), (1, shown.as_str(), said));
    let ended = run(&server, &["edge", "plan", "-o", "json"]);
    let json: Value = serde_json::from_str(&ended.out).expect("json");
    assert_eq!((ended.code, json), (1, json!([full(), away("route53", "")])));

    let refusing = Server::start(|_| {
        Answer::error("409 Conflict", "conflict", "caddy is not configured: nebulad needs --caddy-admin-url")
    });
    let ended = run(&refusing, &["edge", "plan", "caddy"]);
    assert_eq!(ended.code, 1);
    assert_eq!(ended.err, "error: caddy is not configured: nebulad needs --caddy-admin-url\n");
}

#[test]
fn the_overview_has_a_line_per_configured_edge() {
    let well = |edges: Value| {
        Server::start(move |request| match request.target.as_str() {
            "/health" => Answer::json("200 OK", &json!({"status": "ok"})),
            "/ready" => Answer::json("200 OK", &json!({"status": "ready"})),
            "/api/v1/edge?limit=500" => Answer::list(&edges),
            _ => Answer::list(&json!([])),
        })
    };
    let in_sync = edge("route53", "zone Z123", "in_sync", &json!({}));
    let server = well(json!([failing(), in_sync]));
    let ended = run(&server, &["status"]);
    let lines = "Caddy:        failing: http://localhost:2019 refuses connections\nRoute 53:     in_sync\n";
    assert!(ended.code == 0 && ended.out.ends_with(lines), "{ended:?}");
    let shown: Value = serde_json::from_str(&run(&server, &["status", "-o", "json"]).out).expect("json");
    assert_eq!(shown["edge"], json!([failing(), in_sync]));

    let none = run(&well(json!([off("caddy"), off("route53")])), &["status"]);
    assert!(none.code == 0 && !none.out.contains("Caddy"), "{none:?}");
    let older = Server::start(|request| match request.target.as_str() {
        "/api/v1/edge?limit=500" => Answer::error("404 Not Found", "not_found", "there is nothing"),
        "/health" | "/ready" => Answer::json("200 OK", &json!({"status": "ok"})),
        _ => Answer::list(&json!([])),
    });
    assert_eq!(run(&older, &["status"]).code, 0, "one without an edge is well");
}
