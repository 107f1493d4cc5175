//! The gateway between real sockets: its errors, what reaches the runtime byte for byte, streams and hang-ups.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "that is how a test fails")]

#[path = "gateway/aliases.rs"]
mod aliases;
#[path = "gateway/forms.rs"]
mod forms;
#[path = "gateway/front.rs"]
mod front;
#[path = "gateway/keys.rs"]
mod keys;
#[path = "../relay/tests/support/net.rs"]
mod net;
#[path = "gateway/routing.rs"]
mod routing;
#[path = "gateway/waking.rs"]
mod waking;

use front::{Answer, Front, Upstream, private, public, request};
use nebulad::http::openai::{AllowOrigins, OutcomeKind};
use net::{CANCELLED, Caller, Script};
use serde_json::json;
use tokio::sync::mpsc;

const CHAT: &str = "/v1/chat/completions";
const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: a\n\n\r\n";

#[actix_rt::test]
async fn every_row_of_the_error_table() {
    let up = Upstream::answering("{}").await;
    let front = Front::before(vec![
        public("open", &[up.address]),
        private("closed", "nbtok_c", &[up.address]),
        private("other", "nbtok_o", &[up.address]),
        public("empty", &[]),
    ])
    .await;
    let closed = r#"{"model":"closed"}"#;
    let open = r#"{"model":"open"}"#;
    let none = r#"{"model":"none"}"#;
    let large = format!(r#"{{"model":"open","x":"{}"}}"#, "x".repeat(front::MAX_BODY));
    let token = Some("nbtok_c");
    let cases = [
        ("POST", CHAT, None, "[]", 400, "invalid_json"),
        ("POST", CHAT, None, "", 400, "invalid_json"),
        ("POST", CHAT, None, r#"{"model":"open"} x"#, 400, "invalid_json"),
        ("POST", CHAT, None, "{}", 400, "missing_required_parameter"),
        ("POST", CHAT, None, r#"{"model":1}"#, 400, "missing_required_parameter"),
        ("POST", CHAT, None, closed, 401, "invalid_api_key"),
        ("POST", CHAT, None, none, 401, "invalid_api_key"),
        ("POST", CHAT, Some("nbtok_wrong"), closed, 401, "invalid_api_key"),
        ("POST", CHAT, Some("nbtok_wrong"), none, 401, "invalid_api_key"),
        ("POST", CHAT, token, none, 404, "model_not_found"),
        ("POST", CHAT, token, r#"{"model":"other"}"#, 404, "model_not_found"),
        ("POST", CHAT, Some(front::ADMIN), none, 404, "model_not_found"),
        ("GET", "/v1/models/none", None, "", 401, "invalid_api_key"),
        ("GET", "/v1/models/closed", None, "", 401, "invalid_api_key"),
        ("GET", "/v1/models/other", token, "", 404, "model_not_found"),
        ("GET", "/v1/nothing", None, "", 404, "unknown_url"),
        ("POST", "/v1/nothing", token, closed, 404, "unknown_url"),
        ("GET", "/v1", None, "", 404, "unknown_url"),
        ("GET", "/v1/models/", None, "", 404, "unknown_url"),
        ("GET", CHAT, None, "", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", None, "", 405, "method_not_allowed"),
        ("POST", CHAT, None, &large, 413, "request_too_large"),
        ("POST", CHAT, None, r#"{"model":"empty"}"#, 503, "model_not_ready"),
        ("GET", "/v1/models/empty", None, "", 503, "model_not_ready"),
    ];
    for (method, path, token, body, status, code) in cases {
        let answer = front.ask(&request(method, path, token, body)).await;
        let what = format!("{method} {path} {token:?} {}: {}", &body[..body.len().min(40)], answer.body);
        assert_eq!((answer.status, answer.error()["code"].as_str()), (status, Some(code)), "{what}");
        assert_eq!(answer.header("content-type"), Some("application/json"), "{what}");
        assert!(answer.header("x-request-id").is_some_and(|id| id.len() == 36), "{what}");
        let kind = if status == 503 { "server_error" } else { "invalid_request_error" };
        assert_eq!(answer.error()["type"], kind, "{what}");
        let param = if code == "missing_required_parameter" { json!("model") } else { json!(null) };
        assert_eq!(answer.error()["param"], param, "{what}");
        assert_eq!(answer.header("www-authenticate"), (status == 401).then_some("Bearer"), "{what}");
        assert_eq!(answer.header("retry-after").is_some(), status == 503, "{what}");
        assert_eq!(answer.header("allow").is_some(), status == 405, "{what}");
    }
    for (token, body) in
        [(None, open), (Some("nbtok_wrong"), open), (token, closed), (Some(front::ADMIN), closed)]
    {
        let answer = front.ask(&request("POST", CHAT, token, body)).await;
        assert_eq!(answer.status, 200, "{token:?} {body}: {}", answer.body);
    }
    front.stop().await;
}

#[actix_rt::test]
async fn a_body_over_the_limit_is_refused_while_it_comes_and_the_answer_arrives() {
    let front = Front::before(vec![public("open", &[])]).await;
    let mut caller = Caller::connect(front.address).await;
    caller.send(&format!("POST {CHAT} HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n")).await;
    let chunk = format!("{:x}\r\n{}\r\n", front::MAX_BODY / 2, "x".repeat(front::MAX_BODY / 2));
    for _ in 0..3 {
        caller.send(&chunk).await;
    }
    let answer = caller.until("}}").await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("request_too_large"), "{answer}");
    front.stop().await;
}

#[actix_rt::test]
async fn the_runtime_gets_the_body_unchanged_and_our_credential() {
    let up = Upstream::answering("{}").await;
    let front = Front::before(vec![private("org/closed", "nbtok_c", &[up.address])]).await;
    let body = "{ \"seed\":12345678901234567, \"model\" : \"org/closed\",\"t\":0.30000000000000004,\"t\":null, \
                \"unknown\":{\"b\":1,\"a\":\"\\u00e4ä\"} }";
    let text = request("POST", &format!("{CHAT}?a=%20b"), Some("nbtok_c"), body).replace(
        "host: t\r\n",
        "host: t\r\nx-api-key: nbtok_c\r\ncookie: nbtok_c\r\nx-nebula-replica: forged\r\naccept-encoding: gzip\r\nx-custom: 1\r\n",
    );
    let answer = front.ask(&text).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let (head, got) = up.last();
    assert_eq!(got, body);
    assert!(head.starts_with("POST /v1/chat/completions?a=%20b HTTP/1.1\r\n"), "{head}");
    let id = front.routes[0].to_string();
    for present in ["authorization: Bearer nbgw_secret", "x-custom: 1", &id] {
        assert!(head.contains(present), "{present} in {head}");
    }
    for absent in ["nbtok_c", "forged", "gzip"] {
        assert!(!head.contains(absent), "{absent} in {head}");
    }
    front.stop().await;
}

#[actix_rt::test]
async fn the_runtime_gets_a_uuid_for_an_id_and_the_client_its_own_back() {
    let up = Upstream::answering("{}").await;
    let front = Front::before(vec![public("open", &[up.address])]).await;
    let plain = "3F2504E04F8941D39A0C0305E82C3301";
    let hyphens = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";
    for (given, back, passed) in [
        (Some(plain), Some(plain), Some(plain)),
        (Some(hyphens), Some(hyphens), Some(hyphens)),
        (Some("my.id:1"), Some("my.id:1"), None),
        (Some("3f2504e0-4f89-41d3-9a0c-0305e82c330"), Some("3f2504e0-4f89-41d3-9a0c-0305e82c330"), None),
        (Some("not legal"), None, None),
        (None, None, None),
    ] {
        let header = given.map(|id| format!("host: t\r\nx-request-id: {id}\r\n"));
        let text = request("POST", CHAT, None, r#"{"model":"open"}"#);
        let text = header.map_or(text.clone(), |header| text.replace("host: t\r\n", &header));
        let answer = front.ask(&text).await;
        let (head, _) = up.last();
        let sent = head.lines().find_map(|line| line.strip_prefix("x-request-id: ")).expect("an id");
        let hyphens: Vec<usize> = sent.match_indices('-').map(|(at, _)| at).collect();
        match passed {
            Some(passed) => assert_eq!(sent, passed),
            None => assert_eq!((sent.len(), hyphens), (36, vec![8, 13, 18, 23]), "{given:?}: {sent}"),
        }
        assert_eq!(answer.header("x-request-id"), back.or(Some(sent)), "{given:?}");
    }
    front.stop().await;
}

#[actix_rt::test]
async fn a_credential_may_come_as_an_api_key() {
    let up = Upstream::answering("{}").await;
    let front = Front::before(vec![private("closed", "nbtok_c", &[up.address])]).await;
    for (headers, status) in [
        ("x-api-key: nbtok_c\r\n", 200),
        ("x-api-key: nbtok_wrong\r\n", 401),
        ("authorization: Bearer nbtok_wrong\r\nx-api-key: nbtok_c\r\n", 401),
        ("authorization: Bearer nbtok_c\r\nx-api-key: nbtok_wrong\r\n", 200),
    ] {
        let text = request("POST", "/v1/messages", None, r#"{"model":"closed"}"#)
            .replace("host: t\r\n", &format!("host: t\r\n{headers}"));
        assert_eq!(front.ask(&text).await.status, status, "{headers}");
    }
    assert_eq!(up.count(), 2);
    assert!(!up.last().0.contains("nbtok"), "{}", up.last().0);
    front.stop().await;
}

#[actix_rt::test]
async fn a_deployments_id_is_replaced_by_the_name_the_runtime_serves() {
    let up = Upstream::answering("{}").await;
    let front = Front::before(vec![public("open", &[up.address])]).await;
    let id = front.routes[0];
    let answer =
        front.ask(&request("POST", CHAT, None, &format!("{{\"a\":1.0,\"model\":\"{id}\" ,\"b\":[]}}"))).await;
    assert_eq!(answer.status, 200);
    assert_eq!(up.last().1, "{\"a\":1.0,\"model\":\"open\" ,\"b\":[]}");
    front.stop().await;
}

#[actix_rt::test]
async fn of_two_models_the_last_is_the_one_that_needs_the_credential() {
    let up = Upstream::answering("{}").await;
    let front =
        Front::before(vec![public("open", &[up.address]), private("closed", "nbtok_c", &[up.address])]).await;
    let answer = front.ask(&request("POST", CHAT, None, r#"{"model":"open","mod\u0065l":"closed"}"#)).await;
    assert_eq!(answer.status, 401);
    let answer = front.ask(&request("POST", CHAT, None, r#"{"model":"closed","model":"open"}"#)).await;
    assert_eq!(answer.status, 200);
    front.stop().await;
}

#[actix_rt::test]
async fn models_are_listed_for_whom_may_use_them() {
    let address = Upstream::answering("{}").await.address;
    let front = Front::before(vec![
        public("open", &[address]),
        private("org/closed", "nbtok_c", &[address]),
        private("other", "nbtok_o", &[address]),
        public("empty", &[]),
    ])
    .await;
    for (token, names) in [
        (None, vec!["open"]),
        (Some("nbtok_wrong"), vec!["open"]),
        (Some("nbtok_c"), vec!["open", "org/closed"]),
        (Some(front::ADMIN), vec!["open", "org/closed", "other"]),
    ] {
        let list = front.ask(&request("GET", "/v1/models", token, "")).await.json();
        let listed: Vec<_> =
            list["data"].as_array().expect("a list").iter().map(|m| m["id"].clone()).collect();
        assert_eq!(listed, names, "{token:?}");
        assert_eq!((&list["object"], &list["data"][0]["created"]), (&json!("list"), &json!(1_700_000_000)));
    }
    for path in ["/v1/models/org/closed", "/v1/models/org%2Fclosed"] {
        let answer = front.ask(&request("GET", path, Some("nbtok_c"), "")).await;
        let model =
            json!({"id": "org/closed", "object": "model", "created": 1_700_000_000, "owned_by": "nebula"});
        assert_eq!((answer.status, answer.json()), (200, model), "{path}");
    }
    front.stop().await;
}

#[actix_rt::test]
async fn a_stream_passes_event_by_event_and_its_break_is_told() {
    let (next, proceed) = mpsc::channel::<()>(1);
    let proceed = std::rc::Rc::new(tokio::sync::Mutex::new(proceed));
    let up = Script::start(move |mut peer| {
        let proceed = std::rc::Rc::clone(&proceed);
        async move {
            peer.request().await;
            peer.send(STREAM).await;
            proceed.lock().await.recv().await;
        }
    })
    .await;
    let front = Front::before(vec![public("open", &[up.address])]).await;
    let mut caller = Caller::connect(front.address).await;
    caller.send(&request("POST", CHAT, None, r#"{"model":"open","stream":true}"#)).await;
    let head = caller.until("data: a\n\n\r\n").await;
    for header in ["text/event-stream", "cache-control: no-cache", "x-accel-buffering: no"] {
        assert!(head.contains(header), "{header} in {head}");
    }
    assert_eq!(front.inflight(), 1);
    next.send(()).await.expect("the upstream waits");
    let end = caller.until("0\r\n\r\n").await;
    assert!(end.contains("data: {\"error\":{") && end.contains("\"code\":\"upstream_error\""), "{end}");
    assert!(!end.contains("[DONE]"), "{end}");
    assert_eq!(front.outcomes(), [OutcomeKind::ServerError], "said once, at the end");
    assert_eq!(front.inflight(), 0);
    front.stop().await;
}

#[actix_rt::test]
async fn a_silent_stream_ends_with_a_timeout_event() {
    let up = Script::start(|mut peer| async move {
        peer.request().await;
        peer.send(STREAM).await;
        peer.gone().await;
    })
    .await;
    let front = Front::before(vec![public("open", &[up.address])]).await;
    let mut caller = Caller::connect(front.address).await;
    caller.send(&request("POST", CHAT, None, r#"{"model":"open"}"#)).await;
    let answer = caller.until("0\r\n\r\n").await;
    assert!(answer.contains("\"code\":\"upstream_timeout\""), "{answer}");
    front.stop().await;
}

#[actix_rt::test]
async fn only_streams_that_end_with_done_miss_it() {
    let up = Script::start(|mut peer| async move {
        peer.request().await;
        peer.send(STREAM).await;
        peer.send("0\r\n\r\n").await;
    })
    .await;
    let front = Front::before(vec![public("open", &[up.address])]).await;
    for (path, told) in [(CHAT, true), ("/v1/completions", true), ("/v1/responses", false)] {
        let answer = front.ask(&request("POST", path, None, r#"{"model":"open"}"#)).await;
        assert_eq!(answer.body.contains("upstream_error"), told, "{path}: {}", answer.body);
    }
    front.stop().await;
}

/// A client leaves once `seen` has come of the upstream's `answer`.
async fn hang_up(answer: &'static str, seen: &'static str) {
    let (gone, mut noticed) = mpsc::channel(1);
    let (asked, mut request_came) = mpsc::channel(1);
    let up = Script::start(move |mut peer| {
        let (gone, asked) = (gone.clone(), asked.clone());
        async move {
            peer.request().await.expect("a request");
            peer.send(answer).await;
            asked.send(()).await.expect("the test waits");
            peer.gone().await;
            gone.send(()).await.expect("the test waits");
        }
    })
    .await;
    let front = Front::before(vec![public("open", &[up.address])]).await;
    let mut caller = Caller::connect(front.address).await;
    caller.send(&request("POST", CHAT, None, r#"{"model":"open"}"#)).await;
    request_came.recv().await.expect("a request");
    if !seen.is_empty() {
        caller.until(seen).await;
    }
    drop(caller);
    tokio::time::timeout(CANCELLED, noticed.recv()).await.expect("cancelled in time");
    front.idle().await;
    assert_eq!(up.connections.get(), 1, "nobody else is asked");
    front.stop().await;
}

#[actix_rt::test]
async fn a_client_that_leaves_cancels_the_upstream() {
    hang_up("", "").await;
    hang_up(STREAM, "data: a\n\n\r\n").await;
    hang_up("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", "{").await;
}

#[actix_rt::test]
async fn an_upstreams_error_passes_as_it_is_or_in_the_known_shape() {
    let cases = [
        (400, "{ \"error\": {\"message\":\"too long\",\"type\":\"BadRequestError\",\"code\":400} }", None),
        (400, "{\"error\":\"bad\"}", Some(("invalid_request_error", "bad"))),
        (500, "{\"detail\":\"at http://10.0.0.7:30001/x\"}", Some(("server_error", "status 500"))),
        (404, "<html>", Some(("invalid_request_error", "status 404"))),
        (429, "", Some(("rate_limit_error", "status 429"))),
    ];
    for (status, body, wrapped) in cases {
        let up = Upstream::with(&format!("HTTP/1.1 {status} X\r\nretry-after: 7\r\nx-kept: 1"), body).await;
        let front = Front::before(vec![public("open", &[up.address])]).await;
        let answer = front.ask(&request("POST", CHAT, None, r#"{"model":"open"}"#)).await;
        assert_eq!((answer.status, answer.header("retry-after")), (status, Some("7")), "{body}");
        assert_eq!(up.count(), 1, "a lone replica is asked once: {status}");
        match wrapped {
            None => assert_eq!(answer.body, body),
            Some((kind, text)) => {
                assert_eq!(answer.error()["type"], kind, "{}", answer.body);
                assert!(
                    answer.error()["message"].as_str().is_some_and(|m| m.contains(text)),
                    "{}",
                    answer.body
                );
                assert!(!answer.body.contains("10.0.0.7"));
            }
        }
        front.stop().await;
    }
}

#[actix_rt::test]
async fn another_replica_is_asked_before_the_first_byte() {
    let ok = r#"{"ok":true}"#;
    for head in ["HTTP/1.1 503 X", "HTTP/1.1 429 X\r\nretry-after: 1", "HTTP/1.1 502 X", "HTTP/1.1 504 X"] {
        let bad = Upstream::with(head, "{}").await;
        let good = Upstream::answering(ok).await;
        let front = Front::before(vec![public("open", &[bad.address, good.address])]).await;
        for _ in 0..8 {
            let answer = front.ask(&request("POST", CHAT, None, r#"{"model":"open"}"#)).await;
            assert_eq!((answer.status, answer.body.as_str()), (200, ok), "{head:?}");
        }
        assert_eq!(good.count(), 8, "{head:?}");
        front.stop().await;
    }
    let dead = front::unused_address();
    let good = Upstream::answering(ok).await;
    let front = Front::before(vec![public("open", &[dead, good.address])]).await;
    for _ in 0..8 {
        assert_eq!(front.ask(&request("POST", CHAT, None, r#"{"model":"open"}"#)).await.status, 200);
    }
    assert!(front.outcomes().iter().all(|kind| [OutcomeKind::Ok, OutcomeKind::ConnectFailed].contains(kind)));
    front.stop().await;
}

#[actix_rt::test]
async fn a_500_is_not_tried_again() {
    let bad = Upstream::with("HTTP/1.1 500 X", "{}").await;
    let front = Front::before(vec![public("open", &[bad.address, bad.address])]).await;
    assert_eq!(front.ask(&request("POST", CHAT, None, r#"{"model":"open"}"#)).await.status, 500);
    assert_eq!(bad.count(), 1);
    assert_eq!(front.outcomes(), [], "it may be the prompt's fault");
    front.stop().await;
}

/// How often `upstreams` that all do the same are asked for one request, and what is thought of each.
async fn asked(path: &str, head: &str) -> (usize, Vec<OutcomeKind>) {
    let bad = Upstream::with(head, "{}").await;
    let front = Front::before(vec![public("open", &[bad.address; 3])]).await;
    let answer = front.ask(&request("POST", path, None, r#"{"model":"open"}"#)).await;
    assert!(
        answer.status >= 500 && answer.error()["type"] == "server_error",
        "{path} {head}: {}",
        answer.body
    );
    assert_eq!(answer.header("x-nebula-proxy-error"), None);
    let outcomes = front.outcomes();
    front.stop().await;
    (bad.count(), outcomes)
}

#[actix_rt::test]
async fn a_prompt_that_breaks_a_runtime_goes_to_one_more_and_is_not_passed_around() {
    let broken = "HTTP/1.1 502 X\r\nx-nebula-proxy-error: upstream_broken";
    for head in ["", broken] {
        for path in [CHAT, "/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings"] {
            assert_eq!(asked(path, head).await, (2, vec![OutcomeKind::ServerError; 2]), "{path} {head}");
        }
    }
}

#[actix_rt::test]
async fn what_has_not_reached_a_runtime_goes_to_another() {
    for (head, count, outcome) in [
        ("502 X\r\nx-nebula-proxy-error: upstream_connect", 3, OutcomeKind::ConnectFailed),
        ("503 X\r\nx-nebula-proxy-error: model_not_ready", 3, OutcomeKind::ConnectFailed),
        ("404 X\r\nx-nebula-proxy-error: model_not_found", 3, OutcomeKind::ConnectFailed),
        ("401 X\r\nx-nebula-proxy-error: invalid_api_key", 3, OutcomeKind::ConnectFailed),
        ("504 X\r\nx-nebula-proxy-error: upstream_timeout", 1, OutcomeKind::Timeout),
        ("502 X\r\nx-nebula-proxy-error: something_new", 2, OutcomeKind::ServerError),
    ] {
        let asked = asked(CHAT, &format!("HTTP/1.1 {head}")).await;
        assert_eq!(asked, (count, vec![outcome; count]), "{head}");
    }
}

#[actix_rt::test]
async fn what_no_replica_takes_is_told_without_addresses() {
    let dead = front::unused_address();
    let silent = Script::start(|mut peer| async move { peer.gone().await }).await.address;
    let unknown = "HTTP/1.1 404 X\r\nx-nebula-proxy-error: model_not_found";
    let missing = Upstream::with(unknown, "{}").await.address;
    let redirect = Upstream::with("HTTP/1.1 302 X\r\nlocation: http://10.0.0.7/", "").await.address;
    for (upstreams, status, code, outcome) in [
        (vec![dead, dead], 502, "upstream_error", OutcomeKind::ConnectFailed),
        (vec![silent], 504, "upstream_timeout", OutcomeKind::Timeout),
        (vec![missing], 503, "model_not_ready", OutcomeKind::ConnectFailed),
        (vec![redirect], 502, "upstream_error", OutcomeKind::Ok),
    ] {
        let front = Front::before(vec![public("open", &upstreams)]).await;
        let answer: Answer = front.ask(&request("POST", CHAT, None, r#"{"model":"open"}"#)).await;
        assert_eq!((answer.status, &answer.error()["code"]), (status, &json!(code)));
        assert!(!answer.body.contains("127.0.0.1") && answer.header("location").is_none(), "{}", answer.body);
        assert_eq!(front.outcomes(), vec![outcome; upstreams.len()]);
        front.stop().await;
    }
}

#[actix_rt::test]
async fn options_says_which_methods_a_path_takes() {
    let front = Front::before(Vec::new()).await;
    for (path, status, allow) in [
        (CHAT, 204, Some("POST, OPTIONS")),
        ("/v1/models", 204, Some("GET, HEAD, OPTIONS")),
        ("/v1/models/a", 204, Some("GET, HEAD, OPTIONS")),
        ("/v1/nothing", 404, None),
    ] {
        let answer = front.ask(&request("OPTIONS", path, None, "")).await;
        assert_eq!((answer.status, answer.header("allow")), (status, allow), "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "{path}");
    }
    front.stop().await;
}

#[actix_rt::test]
async fn pages_may_call_from_the_origins_that_are_allowed() {
    let front = Front::before(Vec::new()).await;
    let preflight = "OPTIONS /v1/chat/completions HTTP/1.1\r\nhost: t\r\norigin: https://a.example\r\n\
                     access-control-request-method: POST\r\n\
                     access-control-request-headers: authorization,content-type\r\nconnection: close\r\n\r\n";
    let answer = front.ask(preflight).await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(answer.header("access-control-allow-headers"), Some("authorization,content-type"));
    assert!(answer.header("access-control-allow-methods").is_some_and(|methods| methods.contains("POST")));
    let answer = front.ask(&request("GET", "/v1/nothing", None, "")).await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert!(
        answer.header("access-control-expose-headers").is_some_and(|names| names.contains("x-request-id"))
    );
    front.stop().await;

    let origins = AllowOrigins::new(["https://a.example".to_owned()]);
    let front = Front::with(Vec::new(), origins).await;
    for (origin, allowed) in [("https://a.example", Some("https://a.example")), ("https://b.example", None)] {
        let text = request("GET", "/v1/models", None, "")
            .replace("host: t\r\n", &format!("host: t\r\norigin: {origin}\r\n"));
        let answer = front.ask(&text).await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, allowed));
        assert_eq!(answer.header("vary"), Some("origin"));
    }
    front.stop().await;
}
