//! What a real nebulad says of itself: the journal, page by page and as server-sent events; API keys and usage; its
//! metrics; drains of nodes; the edge; changes of deployments; its description of its own API.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "that is how a test fails")]

#[path = "events/changes.rs"]
mod changes;
#[path = "events/control_plane.rs"]
mod control_plane;
#[path = "events/drains.rs"]
mod drains;
#[path = "events/edge.rs"]
mod edge;
#[path = "events/keys.rs"]
mod keys;
#[path = "events/metrics.rs"]
mod metrics;
#[path = "events/openapi.rs"]
mod openapi;

use control_plane::{Nebulad, kinds, seqs};
use nebulad::actors::journal::FOLLOWERS_MAX;
use nebulad::domain::event::{AUDIT_LINES_MAX, EVENTS_PER_DEPLOYMENT_MAX, Origin};
use serde_json::{Value, json};

const ALL: &str = "/api/v1/events";

fn demo() -> Value {
    json!({"name": "demo", "model": "demo", "runtime": "sim", "replicas": 0})
}

#[actix_rt::test]
async fn what_operators_do_is_audited_once_with_who_and_from_where() {
    let nebulad = Nebulad::start().await;
    let made = nebulad.post_as("req-create", "/api/v1/deployments", &demo()).await;
    assert_eq!((made.status, made.request_id.as_deref()), (201, Some("req-create")));
    let (id, token) =
        (made.body["id"].clone(), made.body["access_token"].as_str().expect("a token").to_owned());
    assert_eq!(nebulad.post("/api/v1/deployments", &demo()).await.status, 409, "the name is taken");
    for (action, body) in [
        ("scale", json!({"replicas": 2})),
        ("rotate-token", Value::Null),
        ("stop", Value::Null),
        ("stop", Value::Null),
        ("start", Value::Null),
        ("restart", Value::Null),
    ] {
        let path = format!("/api/v1/deployments/demo/{action}");
        assert_eq!(nebulad.post_as(&format!("req-{action}"), &path, &body).await.status, 202, "{action}");
    }
    assert_eq!(nebulad.post("/api/v1/deployments/none/stop", &Value::Null).await.status, 404);
    assert_eq!(nebulad.post("/api/v1/deployments/demo/scale", &json!({"replicas": -1})).await.status, 422);
    for (actor, status) in [("scheduler", 409), ("store", 409), ("nobody", 404)] {
        let path = format!("/admin/actors/{actor}/restart");
        assert_eq!(nebulad.post(&path, &Value::Null).await.status, status, "{actor}");
    }

    let audit = nebulad.list(&format!("{ALL}?type=audit.")).await;
    let expected = ["create", "scale", "rotate-token", "stop", "stop", "start", "restart"];
    let expected: Vec<String> = expected.iter().map(|verb| format!("audit.deployment.{verb}")).collect();
    assert_eq!(kinds(&audit), expected, "what was refused leaves no line");
    assert_eq!(audit[0]["request_id"], "req-create");
    assert_eq!(audit[1]["message"], "deployment \"demo\": scale to 2 replicas");
    for line in &audit {
        assert_eq!((&line["deployment"], &line["by"]), (&id, &json!("admin token")), "{line}");
        assert_eq!(line["address"], "127.0.0.1", "{line}");
    }
    let all = nebulad.get(ALL).await.text;
    for secret in [token.as_str(), "nbtok_", "nbgw_", nebulad.admin_token()] {
        assert!(!all.contains(secret), "{secret} in {all}");
    }
    nebulad.stop().await;
}

#[actix_rt::test]
async fn a_page_goes_on_where_the_last_one_ended() {
    let nebulad = Nebulad::start().await;
    nebulad.create("demo").await;
    for replicas in 1..=8 {
        nebulad.act("demo", "scale", json!({"replicas": replicas % 2})).await;
    }
    let all = nebulad.list(ALL).await;
    assert!(seqs(&all).is_sorted_by(|a, b| a < b) && all.len() > 16, "{all:?}");
    let own = nebulad.list("/api/v1/deployments/demo/events").await;
    assert_eq!(kinds(&own).iter().filter(|kind| *kind == "scaled").count(), 8);
    assert!(own.iter().all(|line| all.contains(line)));
    for path in [ALL, "/api/v1/deployments/demo/events", "/api/v1/events?type=audit.&"] {
        let (path, whole) = (path.trim_end_matches('&'), nebulad.list(path.trim_end_matches('&')).await);
        let join = if path.contains('?') { '&' } else { '?' };
        let (mut pages, mut cursor) = (Vec::new(), "0".to_owned());
        loop {
            let page = nebulad.get(&format!("{path}{join}limit=5&cursor={cursor}")).await.body;
            let data = page["data"].as_array().expect("a list");
            assert!(data.len() <= 5);
            pages.extend(data.clone());
            match page["next_cursor"].as_str() {
                Some(next) => next.clone_into(&mut cursor),
                None => break,
            }
        }
        assert_eq!(pages, whole, "{path}");
    }
    let tail = nebulad.list(&format!("{ALL}?tail=3")).await;
    assert_eq!(tail, all[all.len() - 3..]);
    for wrong in ["limit=0", "limit=501", "cursor=x", "node=%20", "follow=1"] {
        assert_eq!(nebulad.get(&format!("{ALL}?{wrong}")).await.status, 400, "{wrong}");
    }
    assert_eq!(nebulad.get(&format!("{ALL}?deployment=none")).await.status, 404);
    nebulad.stop().await;
}

#[actix_rt::test]
async fn a_deployment_keeps_its_newest_lines_also_over_a_restart() {
    let nebulad = Nebulad::start().await;
    nebulad.create("demo").await;
    for _ in 0..EVENTS_PER_DEPLOYMENT_MAX + 9 {
        nebulad.act("demo", "rotate-token", Value::Null).await;
    }
    let own = nebulad.list("/api/v1/deployments/demo/events").await;
    assert_eq!(own.len(), EVENTS_PER_DEPLOYMENT_MAX);
    assert_eq!(kinds(&own)[0], "token_rotated", "the first lines have gone");
    let all = nebulad.list(ALL).await;
    assert_eq!(kinds(&all).iter().filter(|kind| *kind == "audit.deployment.rotate-token").count(), 209);
    let nebulad = nebulad.restart().await;
    assert_eq!(nebulad.list("/api/v1/deployments/demo/events").await, own);
    assert_eq!(nebulad.list(ALL).await, all);
    nebulad.act("demo", "rotate-token", Value::Null).await;
    let newer = nebulad.list("/api/v1/deployments/demo/events").await;
    assert_eq!((newer.len(), &newer[..199]), (EVENTS_PER_DEPLOYMENT_MAX, &own[1..]));
    assert!(seqs(&newer)[199] > seqs(&all)[all.len() - 1], "numbers go on");
    nebulad.stop().await;
}

#[actix_rt::test]
async fn a_follower_sees_what_happens_and_goes_on_after_its_last_line() {
    let nebulad = Nebulad::start().await;
    nebulad.create("demo").await;
    let mut follower = nebulad.follow(&format!("{ALL}?follow=true"), None).await;
    let before = nebulad.list(ALL).await;
    assert_eq!(follower.lines(before.len()).await, before, "what was there comes first");
    nebulad.act("demo", "rotate-token", Value::Null).await;
    let live = follower.lines(2).await;
    assert_eq!(kinds(&live), ["audit.deployment.rotate-token", "token_rotated"]);
    assert_eq!(follower.ids(), seqs(&nebulad.list(ALL).await), "ids are the numbers");
    drop(follower);

    nebulad.act("demo", "stop", Value::Null).await;
    let nebulad = nebulad.restart().await;
    nebulad.act("demo", "start", Value::Null).await;
    let all = nebulad.list(ALL).await;
    let missed = all.iter().filter(|line| line["seq"].as_u64() > live[1]["seq"].as_u64());
    let missed: Vec<Value> = missed.cloned().collect();
    let last = live[1]["seq"].to_string();
    let mut resumed = nebulad.follow(&format!("{ALL}?follow=true"), Some(&last)).await;
    assert_eq!(resumed.lines(missed.len()).await, missed);
    let mut by_cursor = nebulad.follow(&format!("{ALL}?follow=true&cursor={last}"), None).await;
    assert_eq!(by_cursor.lines(missed.len()).await, missed);
    let mut tail = nebulad.follow(&format!("{ALL}?follow=true&tail=1&type=audit."), None).await;
    assert_eq!(kinds(&tail.lines(1).await), ["audit.deployment.start"]);
    nebulad.stop().await;
}

#[actix_rt::test]
async fn followers_see_every_line_in_order_while_many_write() {
    let nebulad = Nebulad::start().await;
    let mut follower = nebulad.follow(&format!("{ALL}?follow=true"), None).await;
    let names: Vec<String> = (0..8).map(|n| format!("d{n}")).collect();
    let work = names.iter().map(async |name| {
        nebulad.create(name).await;
        for _ in 0..5 {
            nebulad.act(name, "rotate-token", Value::Null).await;
        }
    });
    futures_util::future::join_all(work).await;
    let all = nebulad.list(ALL).await;
    assert_eq!(follower.lines(all.len()).await, all);
    assert_eq!(kinds(&all).iter().filter(|kind| *kind == "token_rotated").count(), 40);
    nebulad.stop().await;
}

#[actix_rt::test]
async fn a_deleted_deployment_leaves_its_audit_and_ends_its_followers() {
    let nebulad = Nebulad::start().await;
    let id = nebulad.create("demo").await;
    nebulad.create("other").await;
    let mut follower = nebulad.follow("/api/v1/deployments/demo/events?follow=true", None).await;
    assert_eq!(kinds(&follower.lines(1).await), ["created"]);
    let gone = nebulad.delete("/api/v1/deployments/demo").await;
    assert_eq!(gone.status, 202);
    let last = follower.rest().await;
    assert_eq!(kinds(&last).last().map(String::as_str), Some("audit.deployment.deleted"), "{last:?}");
    assert_eq!(nebulad.get("/api/v1/deployments/demo/events").await.status, 404);
    let expected = ["audit.deployment.create", "audit.deployment.delete", "audit.deployment.deleted"];
    let of_it = format!("{ALL}?deployment={id}");
    assert_eq!(kinds(&nebulad.list(&of_it).await), expected);
    let nebulad = nebulad.restart().await;
    assert_eq!(kinds(&nebulad.list(&of_it).await), expected);
    assert_eq!(
        kinds(&nebulad.list(&format!("{ALL}?deployment=other")).await),
        ["audit.deployment.create", "created"]
    );
    nebulad.stop().await;
}

#[actix_rt::test]
async fn nodes_have_lines_that_go_with_them() {
    let nebulad = Nebulad::start().await;
    nebulad.register("node-1").await;
    for action in ["cordon", "uncordon"] {
        assert_eq!(nebulad.post(&format!("/api/v1/nodes/gpu-1/{action}"), &Value::Null).await.status, 200);
    }
    let told = ["registered", "online", "audit.node.cordon", "cordoned", "audit.node.uncordon", "uncordoned"];
    let of_it = format!("{ALL}?node=node-1");
    let lines = nebulad.list(&of_it).await;
    assert_eq!(kinds(&lines), told);
    assert!(lines.iter().all(|line| line["node"] == "node-1"));
    assert_eq!(nebulad.delete("/api/v1/nodes/gpu-1").await.status, 409, "it is online");
    nebulad.deregister("node-1").await;
    let nebulad = nebulad.restart().await;
    assert_eq!(kinds(&nebulad.list(&of_it).await).last().map(String::as_str), Some("deregistered"));
    assert_eq!(nebulad.delete("/api/v1/nodes/gpu-1").await.status, 204);
    let stay = ["audit.node.cordon", "audit.node.uncordon", "audit.node.delete"];
    assert_eq!(kinds(&nebulad.list(&of_it).await), stay);
    let all = nebulad.list(ALL).await;
    assert_eq!(kinds(&all).last().map(String::as_str), Some("forgotten"), "{all:?}");
    nebulad.stop().await;
}

#[actix_rt::test]
async fn a_client_that_leaves_makes_room_for_another() {
    let nebulad = Nebulad::start().await;
    let path = format!("{ALL}?follow=true");
    let mut followers = Vec::new();
    for _ in 0..FOLLOWERS_MAX {
        followers.push(nebulad.follow(&path, None).await);
    }
    let refused = nebulad.get(&path).await;
    assert_eq!((refused.status, &refused.body["error"]["code"]), (503, &json!("overloaded")));
    assert_eq!(nebulad.app().system.journal.followers(), FOLLOWERS_MAX);
    followers.pop();
    nebulad.until(|app| app.system.journal.followers() < FOLLOWERS_MAX).await;
    followers.push(nebulad.follow(&path, None).await);
    drop(followers);
    nebulad.until(|app| app.system.journal.followers() == 0).await;
    nebulad.stop().await;
}

#[actix_rt::test]
async fn a_silent_stream_says_that_it_lives_and_ends_when_nebulad_does() {
    let nebulad = Nebulad::start().await;
    let mut follower = nebulad.follow(&format!("{ALL}?follow=true"), None).await;
    follower.until(": nothing new\n\n").await;
    let (rest, ()) = tokio::join!(follower.rest(), nebulad.stop_at_once());
    assert!(rest.is_empty(), "{rest:?}");
}

#[actix_rt::test]
async fn the_audit_is_bounded_and_who_comes_back_too_late_is_told() {
    const MORE: usize = 700;
    let nebulad = Nebulad::start().await;
    nebulad.create("demo").await;
    let system = &nebulad.app().system;
    let numbers: Vec<usize> = (0..AUDIT_LINES_MAX + MORE).collect();
    for some in numbers.chunks(500) {
        let lines = some.iter().map(|n| system.audit(Origin::nebulad(), "test", format!("line {n}")));
        for written in futures_util::future::join_all(lines).await {
            written.expect("written");
        }
    }
    let audit = nebulad.list(&format!("{ALL}?type=audit.")).await;
    assert_eq!(audit.len(), AUDIT_LINES_MAX);
    assert_eq!(audit[AUDIT_LINES_MAX - 1]["message"], format!("line {}", AUDIT_LINES_MAX + MORE - 1));
    assert_eq!(audit[0]["message"], format!("line {MORE}"));
    let created = nebulad.list("/api/v1/deployments/demo/events").await;
    assert_eq!(kinds(&created), ["created"], "it is not in memory any more");

    let mut late = nebulad.follow(&format!("{ALL}?follow=true&cursor=1"), None).await;
    late.until("event: skipped\n").await;
    let all = nebulad.list(ALL).await;
    assert_eq!(seqs(&all)[0], 2, "the created line is older than all others");
    assert_eq!(late.lines(all.len()).await, all);
    nebulad.stop().await;
}
