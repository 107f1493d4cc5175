//! What `POST /deployments` takes, and what it refuses.

use super::*;

fn create(json: &str) -> Result<(Deployment, Secret), Error> {
    deployment(serde_json::from_str(json).expect("well formed"), WallTime(1))
}

#[test]
fn what_is_not_said_is_found_out() {
    let (dep, token) = create(r#"{"model":"llama3.2:1b"}"#).expect("valid");
    assert_eq!(dep.name, "llama3.2-1b");
    assert_eq!(dep.spec.runtime, RuntimeKind::Ollama);
    assert_eq!(dep.spec.source.as_ref().map(ToString::to_string).as_deref(), Some("ollama://llama3.2:1b"));
    assert_eq!((dep.spec.replicas, dep.spec.gpu.count), (1, 0));
    assert_eq!((dep.spec.lost_after, dep.spec.routing), (LostAfter::DEFAULT, Balance::LeastOutstanding));
    assert!(dep.token.matches(token.expose()));
    let (dep, _) = create(r#"{"model":"meta-llama/Llama-3.1-8B"}"#).expect("valid");
    assert_eq!((dep.spec.runtime, dep.spec.gpu.count), (RuntimeKind::Vllm, 1));
}

#[test]
fn what_can_never_be_right_is_refused() {
    for (json, part) in [
        (r#"{"model":"m","runtime":"vlm"}"#, "unknown runtime \"vlm\""),
        (r#"{"model":"demo"}"#, "cannot tell the runtime"),
        (r#"{"model":" ","runtime":"sim"}"#, "model is empty"),
        (r#"{"model":"m","runtime":"sim","replicas":-1}"#, "replicas is -1"),
        (r#"{"model":"m","runtime":"sim","gpu":{"count":-1}}"#, "gpu.count is -1"),
        (r#"{"model":"m","runtime":"sim","name":"a b"}"#, "name \"a b\""),
        (r#"{"model":"ftp://x","runtime":"sim"}"#, "unknown model source"),
        (r#"{"model":"m","runtime":"sim","lost_after":"soon"}"#, "lost_after"),
        (r#"{"model":"m","runtime":"sim","lost_after":true}"#, "like \"5m\", or \"never\""),
        (r#"{"model":"m","runtime":"sim","routing":"random"}"#, "routing \"random\" is none of"),
        (r#"{"model":"m","runtime":"sim","placement":"best"}"#, "unknown placement \"best\""),
        (r#"{"model":"m","runtime":"sim","strategy":"blue"}"#, "unknown strategy \"blue\""),
        (r#"{"model":"m","runtime":"sim","drain_timeout":-1}"#, "drain_timeout: \"-1\""),
        (r#"{"model":"m","runtime":"sim","drain_timeout":3601}"#, "drain_timeout is 3601, more than 1h"),
        (r#"{"model":"m","runtime":"sim","env":{"A=B":"c"}}"#, "environment"),
        (r#"{"model":"m","runtime":"sim","image":"Bad Image"}"#, "image \"Bad Image\" has capital letters"),
        (r#"{"model":"m","runtime":"sim","image":"a","driver":"process"}"#, "needs the driver docker"),
        (r#"{"model":"m","runtime":"sim","driver":"podman"}"#, "podman"),
        (r#"{"model":"m","runtime":"sim","command":[""]}"#, "names no program"),
        (r#"{"model":"m","runtime":"sim","args":["a\u0000"]}"#, "zero byte"),
    ] {
        let error = create(json).expect_err(json);
        assert_eq!(error.class, ErrorClass::Unprocessable, "{json}");
        assert!(error.message.contains(part), "{}", error.message);
    }
}

#[test]
fn requests_are_spread_as_it_was_said() {
    for balance in Balance::ALL {
        let (dep, _) =
            create(&format!(r#"{{"model":"m","runtime":"sim","routing":"{balance}"}}"#)).expect("valid");
        assert_eq!(dep.spec.routing, balance);
    }
}

#[test]
fn zero_replicas_and_never_lost_are_right() {
    let (dep, _) =
        create(r#"{"model":"m","runtime":"sim","replicas":0,"lost_after":"never"}"#).expect("valid");
    assert_eq!((dep.spec.replicas, dep.spec.lost_after), (0, LostAfter::Never));
}

#[test]
fn how_it_is_placed_changed_and_drained_is_understood() {
    let (dep, _) = create(
        r#"{"model":"m","runtime":"sim","placement":"spread","strategy":"recreate","drain_timeout":"2m"}"#,
    )
    .expect("valid");
    assert_eq!((dep.spec.placement, dep.spec.strategy), (Policy::Spread, Strategy::Recreate));
    assert_eq!(dep.spec.drain, Duration::from_secs(120));
    let (dep, _) = create(r#"{"model":"m","runtime":"sim","drain_timeout":0}"#).expect("valid");
    assert_eq!(dep.spec.drain, Duration::ZERO);
}

#[test]
fn more_gpus_than_there_may_be_are_a_wish_to_wait_with() {
    let (dep, _) = create(r#"{"model":"m","runtime":"sim","gpu":{"count":64}}"#).expect("valid");
    assert_eq!(dep.spec.gpu.count, 64);
}

fn autoscaled(fields: &str) -> Result<DeploymentSpec, Error> {
    create(&format!(r#"{{"model":"m","runtime":"sim",{fields}}}"#)).map(|(dep, _)| dep.spec)
}

#[test]
fn an_autoscaled_deployment_starts_with_as_many_replicas_as_are_allowed() {
    for (fields, replicas) in [
        (r#""autoscale":{"min":0,"max":4}"#, 1),
        (r#""autoscale":{"min":2,"max":4}"#, 2),
        (r#""autoscale":{"min":2,"max":4},"replicas":3"#, 3),
        (r#""autoscale":{"min":0,"max":4},"replicas":0"#, 0),
    ] {
        assert_eq!(autoscaled(fields).expect(fields).replicas, replicas, "{fields}");
    }
    let auto = autoscaled(r#""autoscale":{"min":0,"max":1}"#).expect("valid").autoscale.expect("one");
    let seconds = [auto.cooldown, auto.idle_after].map(|time| time.as_secs());
    assert_eq!((auto.target, seconds), (8, [60, 300]));
    let auto = r#""autoscale":{"min":1,"max":2,"target_inflight":1,"cooldown":0,"idle_after":"1h"}"#;
    let auto = autoscaled(auto).expect("valid").autoscale.expect("one");
    assert_eq!((auto.target, auto.cooldown, auto.idle_after.as_secs()), (1, Duration::ZERO, 3_600));
}

#[test]
fn an_autoscale_that_can_never_be_right_is_refused() {
    for (fields, part) in [
        (r#""autoscale":{"min":3,"max":2}"#, "autoscale.max is 2, less than autoscale.min, which is 3"),
        (r#""autoscale":{"min":0,"max":0}"#, "autoscale.max is 0"),
        (r#""autoscale":{"min":-1,"max":2}"#, "autoscale.min is -1"),
        (r#""autoscale":{"min":0,"max":1001}"#, "autoscale.max is 1001"),
        (r#""autoscale":{"min":0,"max":1,"target_inflight":0}"#, "autoscale.target_inflight is 0"),
        (r#""autoscale":{"min":0,"max":1,"cooldown":"soon"}"#, "autoscale.cooldown: \"soon\""),
        (r#""autoscale":{"min":0,"max":1,"idle_after":"31d"}"#, "autoscale.idle_after is 31d, more than"),
        (r#""autoscale":{"min":1,"max":2},"replicas":3"#, "replicas is 3, and autoscale allows 1 to 2; "),
        (r#""autoscale":{"min":1,"max":2},"replicas":0"#, "replicas is 0, and autoscale allows 1 to 2; "),
    ] {
        let error = autoscaled(fields).expect_err(fields);
        assert_eq!(error.class, ErrorClass::Unprocessable, "{fields}");
        assert!(error.message.contains(part), "{}", error.message);
    }
}
