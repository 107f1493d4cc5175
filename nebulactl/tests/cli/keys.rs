//! API keys and usage: what is sent, and how the answers are shown.

use serde_json::{Value, json};

use crate::run;
use crate::server::{Answer, Server};

fn key(name: &str) -> Value {
    json!({
        "id": "5b8a3a5c-0000-4000-8000-000000000001", "name": name, "state": "active",
        "models": ["demo", "other"], "rpm": 60, "tpm": 100_000, "max_concurrent": null,
        "budget": {"tokens": 5_000_000, "period": "month", "spent": 1_234},
        "expires_at": "2099-01-01T00:00:00.000Z", "created_at": "2020-01-01T00:00:00.000Z",
        "old_secret_until": null,
    })
}

fn with_secret() -> Value {
    let mut key = key("ci");
    key["key"] = json!("nbkey_0123");
    key
}

#[test]
fn the_secret_of_a_new_key_is_alone_on_standard_output() {
    let server = Server::start(|_| Answer::json("201 Created", &with_secret()));
    let ended = run(&server, &["keys", "create", "ci"]);
    assert_eq!((ended.code, ended.out.as_str()), (0, "nbkey_0123\n"));
    assert_eq!(
        ended.err,
        "this is the secret of key ci (5b8a3a5c-0000-4000-8000-000000000001); it is not shown again\n"
    );
    let request = &server.requests()[0];
    assert_eq!((request.line().as_str(), request.json()), ("POST /api/v1/keys", json!({"name": "ci"})));
    let shown: Value =
        serde_json::from_str(&run(&server, &["keys", "create", "ci", "-o", "json"]).out).expect("json");
    assert_eq!(shown, with_secret());
}

#[test]
fn all_limits_of_a_new_key_are_sent() {
    let server = Server::start(|_| Answer::json("201 Created", &with_secret()));
    let line = "keys create ci --model demo --model org/x --expires-in 30d --rpm 60 --tpm 9000000000 \
                --max-concurrent 4 --budget 1000 --budget-period day";
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(run(&server, &words).code, 0);
    let expected = json!({
        "name": "ci", "models": ["demo", "org/x"], "expires_in": "2592000000ms", "rpm": 60, "tpm": 9_000_000_000_u64,
        "max_concurrent": 4, "budget": {"tokens": 1_000, "period": "day"},
    });
    assert_eq!(server.requests()[0].json(), expected);
}

#[test]
fn keys_are_listed_with_their_limits() {
    let server = Server::start(|_| {
        let mut plain = key("everything");
        for limit in ["models", "rpm", "tpm", "budget", "expires_at"] {
            plain[limit] = Value::Null;
        }
        Answer::list(&json!([key("ci"), plain]))
    });
    let ended = run(&server, &["keys", "list"]);
    let lines: Vec<&str> = ended.out.lines().collect();
    for (line, begin) in [
        "NAME        STATE   MODELS      RPM  TPM      BUDGET                      EXPIRES                   AGE",
        "ci          active  demo,other  60   100,000  1,234 of 5,000,000 a month  2099-01-01T00:00:00.000Z  ",
        "everything  active  all         -    -        -                           -                         ",
    ]
    .iter()
    .enumerate()
    {
        assert!(lines[line].starts_with(begin), "{}", ended.out);
    }
    assert_eq!(server.lines(), ["GET /api/v1/keys?limit=500"]);
    let none = Server::start(|_| Answer::list(&json!([])));
    assert!(run(&none, &["keys", "list"]).err.contains("nebulactl keys create"));
}

#[test]
fn keys_are_rotated_and_revoked_by_name_or_id() {
    let server = Server::start(|request| match request.method.as_str() {
        "DELETE" => Answer::new("204 No Content", "", ""),
        _ => {
            let mut key = with_secret();
            key["old_secret_until"] = json!("2026-01-02T00:00:00.000Z");
            Answer::json("200 OK", &key)
        }
    });
    let ended = run(&server, &["keys", "rotate", "a/b"]);
    assert_eq!((ended.code, ended.out.as_str()), (0, "nbkey_0123\n"));
    assert!(
        ended.err.ends_with("\nthe old secret is valid until 2026-01-02T00:00:00.000Z\n"),
        "{}",
        ended.err
    );
    run(&server, &["keys", "rotate", "ci", "--overlap", "1h"]);
    let ended = run(&server, &["keys", "revoke", "ci"]);
    assert_eq!((ended.code, ended.out.as_str(), ended.err.as_str()), (0, "", "key ci is revoked\n"));
    let requests = server.requests();
    assert_eq!(
        server.lines(),
        ["POST /api/v1/keys/a%2Fb/rotate", "POST /api/v1/keys/ci/rotate", "DELETE /api/v1/keys/ci"]
    );
    assert_eq!((requests[0].body.as_str(), requests[1].json()), ("", json!({"overlap": "3600000ms"})));
}

#[test]
fn a_key_that_is_not_there_is_1_with_advice() {
    let server = Server::start(|_| Answer::error("404 Not Found", "not_found", "there is no key \"nope\""));
    let ended = run(&server, &["keys", "revoke", "nope", "--yes"]);
    assert_eq!(ended.code, 1);
    assert!(ended.err.starts_with("error: there is no key \"nope\"\n\nhint: "), "{}", ended.err);
    assert!(ended.err.contains("keys list"), "{}", ended.err);
}

#[test]
fn usage_is_shown_with_names_and_sums() {
    let server = Server::start(|request| {
        if request.target.starts_with("/api/v1/keys") {
            return Answer::list(&json!([key("ci")]));
        }
        let row = |key: Value, model: &str, requests: u64| {
            json!({"key_id": key, "model": model, "from": "2026-01-01T10:00:00.000Z", "span": "hour",
                   "requests": requests, "prompt_tokens": 1_500, "completion_tokens": 20, "aborted": 0})
        };
        let gone = "ffffffff-0000-4000-8000-000000000002";
        Answer::list(&json!([
            row(key("ci")["id"].clone(), "demo", 12),
            row(json!(gone), "demo", 1),
            row(Value::Null, "other", 2)
        ]))
    });
    let ended = run(&server, &["usage"]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    let expected = "\
FROM                      SPAN  KEY                                   MODEL  REQUESTS  PROMPT  COMPLETION  ABORTED
2026-01-01T10:00:00.000Z  hour  ci                                    demo   12        1,500   20          0
2026-01-01T10:00:00.000Z  hour  ffffffff-0000-4000-8000-000000000002  demo   1         1,500   20          0
2026-01-01T10:00:00.000Z  hour  -                                     other  2         1,500   20          0
total                     -     -                                     -      15        4,500   60          0
";
    assert_eq!(ended.out, expected);
    assert_eq!(server.lines()[0], "GET /api/v1/usage?limit=500");
}

#[test]
fn what_is_wanted_of_usage_is_sent() {
    let server = Server::start(|_| Answer::list(&json!([])));
    let ended = run(
        &server,
        &["usage", "--from", "2026-01-01", "--to", "2026-01-31T12:00:00+02:00", "--by", "model"],
    );
    assert!(ended.err.contains("nothing was used"), "{}", ended.err);
    run(&server, &["usage", "--by", "none", "-o", "json"]);
    let expected = [
        "GET /api/v1/usage?limit=500&from=2026-01-01T00%3A00%3A00Z&to=2026-01-31T12%3A00%3A00%2B02%3A00&by=model",
        "GET /api/v1/usage?limit=500&by=",
    ];
    assert_eq!(server.lines(), expected);
}
