//! What a merge patch makes of a spec, and what is refused.

use std::time::Duration;

use nebula_core::clock::WallTime;
use nebula_core::runtime::RuntimeKind;

use super::*;
use crate::domain::deployment::{Autoscale, Strategy};

fn created(json: &str) -> DeploymentSpec {
    let body = serde_json::from_str(json).expect("well formed");
    create::deployment(body, WallTime(1)).expect(json).0.spec
}

fn patched(present: &DeploymentSpec, patch: &str) -> Result<DeploymentSpec, Error> {
    Patch::read(patch.as_bytes())?.apply(present)
}

const FULL: &str = r#"{"name":"a","model":"org/m","runtime":"vllm","source":"hf://org/other@v1","image":"img:1",
    "driver":"docker","command":["a"],"args":["--x"],"env":{"A":"1","B":"2"},"node":"n","labels":{"t":"x"},
    "replicas":3,"gpu":{"count":2,"type":"H100","memory_bytes":80000000000},"cpu":{"cores":4},"public":true,
    "lost_after":"never","routing":"prefix","placement":"binpack","strategy":"recreate","drain_timeout":"1500ms",
    "autoscale":{"min":2,"max":4,"target_inflight":3,"cooldown":"90500ms","idle_after":"10m"}}"#;

#[test]
fn a_patch_of_nothing_or_of_what_is_there_changes_nothing() {
    for json in [
        FULL,
        r#"{"model":"llama3.2:1b"}"#,
        r#"{"model":"demo","runtime":"sim","replicas":0,"lost_after":"1ms"}"#,
        r#"{"model":"fs:///m/a.gguf","autoscale":{"min":0,"max":1}}"#,
        r#"{"model":"meta-llama/Llama-3.1-8B","gpu":{"count":0}}"#,
    ] {
        let present = created(json);
        assert_eq!(patched(&present, "{}").expect("valid"), present, "{json}");
        let shown = serde_json::to_string(&created(json)).expect("JSON");
        let whole_seconds = patched(&present, &shown).expect("valid");
        let again = patched(&whole_seconds, &shown).expect("valid");
        assert_eq!(again, whole_seconds, "what the API shows can be sent back");
    }
}

#[test]
fn what_is_said_changes_and_the_rest_stays() {
    let present = created(FULL);
    let changed = patched(
        &present,
        r#"{"args":["--y"],"env":{"A":null,"C":"3"},"gpu":{"type":null},"strategy":null,"drain_timeout":5,
            "autoscale":{"max":9}}"#,
    )
    .expect("valid");
    let env = [("B", "2"), ("C", "3")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let expected = DeploymentSpec {
        args: vec!["--y".to_owned()],
        env: env.into_iter().collect(),
        gpu: GpuNeed { kind: None, ..present.gpu.clone() },
        strategy: Strategy::Rolling,
        drain: Duration::from_secs(5),
        autoscale: present.autoscale.map(|auto| Autoscale { max: 9, ..auto }),
        ..present.clone()
    };
    assert_eq!(changed, expected);
    let plain = patched(&present, r#"{"autoscale":null,"replicas":7,"labels":null}"#).expect("valid");
    assert_eq!((plain.autoscale, plain.replicas, plain.labels.len()), (None, 7, 0));
}

#[test]
fn what_followed_from_the_model_or_runtime_follows_the_new_one() {
    let present = created(r#"{"model":"llama3.2:1b"}"#);
    let other = patched(&present, r#"{"model":"llama3.2:3b"}"#).expect("valid");
    assert_eq!(other.source.map(|source| source.to_string()).as_deref(), Some("ollama://llama3.2:3b"));
    let other = patched(&present, r#"{"model":"org/m","runtime":"vllm"}"#).expect("valid");
    assert_eq!((other.runtime, other.gpu.count), (RuntimeKind::Vllm, 1));
    assert_eq!(other.source.map(|source| source.to_string()).as_deref(), Some("hf://org/m"));
    let kept = patched(&created(FULL), r#"{"model":"org/n"}"#).expect("valid");
    assert_eq!(kept.source, created(FULL).source, "what was said stays");
}

#[test]
fn replicas_stay_within_what_autoscale_allows() {
    let auto = |min: u32, max: u32| format!(r#"{{"autoscale":{{"min":{min},"max":{max}}}}}"#);
    let present = created(r#"{"model":"m","runtime":"sim","replicas":5}"#);
    assert_eq!(patched(&present, &auto(1, 2)).expect("valid").replicas, 2);
    assert_eq!(patched(&present, &auto(6, 9)).expect("valid").replicas, 6);
    let asleep = DeploymentSpec { replicas: 0, ..patched(&present, &auto(0, 2)).expect("valid") };
    assert_eq!(patched(&asleep, r#"{"public":true}"#).expect("valid").replicas, 0);
    let error = patched(&asleep, r#"{"replicas":3}"#).expect_err("too many");
    assert_eq!(error.class, ErrorClass::Unprocessable);
    assert!(error.message.starts_with("replicas is 3, and autoscale allows 0 to 2; "), "{error}");
}

#[test]
fn the_rules_of_create_hold_for_the_result() {
    let present = created(r#"{"model":"m","runtime":"sim","image":"a"}"#);
    for (patch, class, part) in [
        (r#"{"name":"b"}"#, ErrorClass::Unprocessable, "name cannot be changed"),
        (r#"{"name":null}"#, ErrorClass::Unprocessable, "name cannot be changed"),
        (r#"{"driver":"process"}"#, ErrorClass::Unprocessable, "needs the driver docker"),
        (r#"{"replicas":-1}"#, ErrorClass::Unprocessable, "replicas is -1"),
        (r#"{"model":" "}"#, ErrorClass::Unprocessable, "model is empty"),
        (r#"{"model":null}"#, ErrorClass::Invalid, "missing field `model`"),
        (r#"{"modle":"x"}"#, ErrorClass::Invalid, "unknown field `modle`"),
        (r#"{"modle":null}"#, ErrorClass::Invalid, "unknown field `modle`"),
        (r#"{"gpu":{"cuont":1}}"#, ErrorClass::Invalid, "unknown field `gpu.cuont`"),
        (r#"{"autoscale":{"max":2}}"#, ErrorClass::Invalid, "the body: autoscale: missing field `min`"),
        (
            r#"{"public":true,"replicas":"x"}"#,
            ErrorClass::Invalid,
            "replicas: invalid type: string \"x\", expected a whole number",
        ),
        (r#"{"runtime":null}"#, ErrorClass::Unprocessable, "cannot tell the runtime"),
        (r#"["a"]"#, ErrorClass::Invalid, "it is an array, not an object"),
        ("null", ErrorClass::Invalid, "the body: "),
        ("", ErrorClass::Invalid, "the body: "),
    ] {
        let error = patched(&present, patch).expect_err(patch);
        assert!(error.class == class && error.message.contains(part), "{patch}: {error:?}");
    }
}
