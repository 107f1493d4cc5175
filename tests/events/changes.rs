//! What is wanted of deployments, as the management API takes it: changes, numbers of replicas, tokens; and why one
//! stands where it does.

use serde_json::{Value, json};

use super::control_plane::{Nebulad, kinds};

const NODE: &str = "550e8400-e29b-41d4-a716-446655440000";

async fn made(nebulad: &Nebulad, body: Value) -> Value {
    let made = nebulad.post("/api/v1/deployments", &body).await;
    assert_eq!(made.status, 201, "{}", made.text);
    made.body
}

#[actix_rt::test]
async fn a_patch_changes_what_it_says_and_one_of_nothing_changes_nothing() {
    let nebulad = Nebulad::start().await;
    let made = made(
        &nebulad,
        json!({"name": "demo", "model": "m", "runtime": "sim", "replicas": 0, "args": ["a"], "env": {"A": "1"}}),
    )
    .await;
    for nothing in [json!({}), json!({"args": ["a"]}), made["spec"].clone()] {
        let same = nebulad.patch("demo", &nothing).await;
        assert_eq!(same.status, 202, "{}", same.text);
        for field in ["spec", "generation", "updated_at"] {
            assert_eq!(same.body[field], made[field], "{field} after {nothing}");
        }
    }
    let changed = nebulad.patch("demo", &json!({"env": {"A": null, "B": "2"}, "strategy": "recreate"})).await;
    assert_eq!(changed.status, 202, "{}", changed.text);
    let spec = &changed.body["spec"];
    assert_eq!(
        (&spec["env"], &spec["strategy"], &spec["args"]),
        (&json!({"B": "2"}), &json!("recreate"), &json!(["a"]))
    );
    assert_eq!(
        nebulad.get("/api/v1/deployments/demo").await.body["spec"],
        *spec,
        "it is there for the next reader"
    );
    assert!(changed.body["generation"].as_u64() > made["generation"].as_u64());
    let audit = nebulad.list("/api/v1/events?type=audit.deployment.change").await;
    assert!(!audit.is_empty(), "{audit:?}");
    nebulad.stop().await;
}

#[actix_rt::test]
async fn a_patch_that_can_never_be_right_is_refused() {
    let nebulad = Nebulad::start().await;
    nebulad.register(NODE).await;
    let made = made(&nebulad, json!({"name": "demo", "model": "m", "runtime": "sim", "replicas": 0})).await;
    for (patch, status, part) in [
        (json!({"name": "other"}), 422, "name cannot be changed"),
        (json!({"replicas": -1}), 422, "replicas is -1"),
        (json!({"autoscale": {"min": 3, "max": 2}}), 422, "autoscale.max is 2"),
        (json!({"autoscale": {"min": 0, "max": 0}}), 422, "autoscale.max is 0"),
        (json!({"autoscale": {"min": 1, "max": 2}, "replicas": 3}), 422, "autoscale allows 1 to 2"),
        (json!({"drain_timeout": "2h"}), 422, "drain_timeout is 2h, more than"),
        (json!({"node": "nowhere"}), 404, "there is no node \"nowhere\""),
        (json!({"modle": "x"}), 400, "unknown field `modle`"),
        (json!(["x"]), 400, "the body"),
    ] {
        let refused = nebulad.patch("demo", &patch).await;
        let message = refused.body["error"]["message"].as_str().unwrap_or_default().to_owned();
        assert!(
            refused.status == status && message.contains(part),
            "{patch}: {} {}",
            refused.status,
            refused.text
        );
    }
    assert_eq!(nebulad.patch("nobody", &json!({})).await.status, 404);
    assert_eq!(nebulad.get("/api/v1/deployments/demo").await.body["spec"], made["spec"]);
    let pinned = nebulad.patch("demo", &json!({"node": "gpu-1"})).await;
    assert_eq!((pinned.status, &pinned.body["spec"]["node"]), (202, &json!("gpu-1")));
    nebulad.deregister(NODE).await;
    assert_eq!(nebulad.delete(&format!("/api/v1/nodes/{NODE}")).await.status, 204);
    let other = nebulad.patch("demo", &json!({"public": true})).await;
    assert_eq!(other.status, 202, "only a node that is named anew is looked for: {}", other.text);
    nebulad.stop().await;
}

#[actix_rt::test]
async fn changes_of_different_things_at_once_are_all_made() {
    let nebulad = Nebulad::start().await;
    nebulad.create("demo").await;
    let patches: Vec<Value> = (0..8).map(|at| json!({"env": {format!("KEY_{at}"): "1"}})).collect();
    let answers =
        futures_util::future::join_all(patches.iter().map(|patch| nebulad.patch("demo", patch))).await;
    for answer in answers {
        assert_eq!(answer.status, 202, "{}", answer.text);
    }
    let env = nebulad.get("/api/v1/deployments/demo").await.body["spec"]["env"].clone();
    assert_eq!(env.as_object().expect("an object").len(), 8, "{env}");
    nebulad.stop().await;
}

#[actix_rt::test]
async fn an_autoscaled_deployment_is_scaled_within_its_bounds() {
    let nebulad = Nebulad::start().await;
    let auto = json!({"name": "auto", "model": "m", "runtime": "sim", "autoscale": {"min": 0, "max": 3}});
    assert_eq!(made(&nebulad, auto).await["spec"]["replicas"], 1);
    let scale = "/api/v1/deployments/auto/scale";
    for (replicas, status) in [(3, 202), (0, 202), (4, 422), (-1, 422)] {
        let answer = nebulad.post(scale, &json!({"replicas": replicas})).await;
        assert_eq!(answer.status, status, "{replicas}: {}", answer.text);
    }
    let narrowed = nebulad.patch("auto", &json!({"autoscale": {"min": 2}})).await;
    assert_eq!((narrowed.status, &narrowed.body["spec"]["replicas"]), (202, &json!(2)), "{}", narrowed.text);
    nebulad.stop().await;
}

#[actix_rt::test]
async fn a_token_is_rotated_with_or_without_an_overlap() {
    let nebulad = Nebulad::start().await;
    nebulad.create("demo").await;
    let rotate = "/api/v1/deployments/demo/rotate-token";
    for (body, overlaps) in [(Value::Null, false), (json!({"overlap": "1h"}), true), (json!({}), false)] {
        let rotated = nebulad.post(rotate, &body).await;
        assert_eq!(rotated.status, 202, "{}", rotated.text);
        assert!(rotated.body["access_token"].as_str().is_some_and(|token| token.starts_with("nbtok_")));
        assert_eq!(rotated.body["old_token_until"].is_string(), overlaps, "{body}: {}", rotated.text);
    }
    for (body, status) in
        [(json!({"overlap": "soon"}), 422), (json!({"overlap": "400d"}), 422), (json!({"x": 1}), 400)]
    {
        assert_eq!(nebulad.post(rotate, &body).await.status, status, "{body}");
    }
    nebulad.stop().await;
}

#[actix_rt::test]
async fn what_nothing_can_take_waits_and_says_why() {
    let nebulad = Nebulad::start().await;
    nebulad.register(NODE).await;
    made(
        &nebulad,
        json!({"name": "big", "model": "m", "runtime": "sim", "gpu": {"count": 64, "type": "H100"}}),
    )
    .await;
    nebulad.until_deployment(|dep| dep.replicas.iter().any(|one| !one.message.is_empty())).await;
    let why = nebulad.get("/api/v1/deployments/big/why").await;
    assert_eq!(why.status, 200, "{}", why.text);
    let why = why.body;
    let summary = why["summary"].as_str().expect("a line");
    assert!(summary.starts_with("big waits for a place: no node fits: "), "{summary}");
    assert_eq!(why["wanted"]["summary"], "1 replica of m by sim, each with 64 GPUs of type H100");
    assert_eq!((&why["state"], &why["is"]["running"]), (&json!("pending"), &json!(0)));
    let refused = why["refused"].as_array().expect("a list");
    assert_eq!(
        (refused.len(), &refused[0]["node"], &refused[0]["node_id"]),
        (1, &json!("gpu-1"), &json!(NODE))
    );
    assert!(refused[0]["reason"].as_str().is_some_and(|reason| reason.contains("GPU")), "{why}");
    assert_eq!((&why["fits"], &why["refused_more"]), (&json!([]), &json!(0)));
    assert!(!why["next"].as_array().expect("a list").is_empty(), "{why}");
    assert!(why["replicas"][0]["node"].is_null(), "{why}");
    assert_eq!(nebulad.get("/api/v1/deployments/nobody/why").await.status, 404);

    let waiting = nebulad.patch("big", &json!({"gpu": null})).await;
    assert_eq!(waiting.status, 202, "{}", waiting.text);
    nebulad.until_deployment(|dep| dep.replicas.iter().any(|one| one.placement.is_some())).await;
    let events = nebulad.list("/api/v1/deployments/big/events").await;
    assert!(kinds(&events).contains(&"placed".to_owned()), "{events:?}");
    nebulad.stop().await;
}

#[actix_rt::test]
async fn an_action_that_is_none_is_not_found() {
    let nebulad = Nebulad::start().await;
    nebulad.create("demo").await;
    assert_eq!(nebulad.post("/api/v1/deployments/demo/dance", &Value::Null).await.status, 404);
    assert_eq!(nebulad.get("/api/v1/deployments/demo/stop").await.status, 405);
    nebulad.stop().await;
}
