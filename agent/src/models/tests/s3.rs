//! S3: objects and prefixes, changes, and what is here already.

use std::path::PathBuf;

use nebula_core::runtime::RuntimeKind;
use rusty_s3::Credentials;

use super::stand_in::{Fault, StandIn, content};
use super::{World, spec, within};
use crate::models::{Kind, ModelError, Models};
use crate::progress::Reporter;

async fn world() -> World {
    let world = World::new().await;
    for (name, size) in [("m/config.json", 10), ("m/a.safetensors", 30_000), ("m/sub/b.safetensors", 5_000)] {
        world.stand_in.file(name, &content(size), false);
    }
    world.stand_in.file("m/", b"", false);
    world.stand_in.file("model-2/x.gguf", &content(7), false);
    world
}

async fn fetch(models: &Models, runtime: RuntimeKind, source: &str) -> Result<Option<PathBuf>, ModelError> {
    within("the fetch", models.fetch(&spec(runtime, source), &Reporter::default())).await
}

async fn fetched(models: &Models, source: &str) -> PathBuf {
    fetch(models, RuntimeKind::Vllm, source).await.expect("fetched").expect("a path")
}

#[tokio::test]
async fn a_prefix_becomes_a_directory_over_all_pages() {
    let world = world().await;
    for source in ["s3://bucket/m", "s3://bucket/m/"] {
        let path = fetched(&world.models, source).await;
        assert_eq!(path, world.dir.path().join("s3/bucket/m"));
        for (name, size) in [("config.json", 10), ("a.safetensors", 30_000), ("sub/b.safetensors", 5_000)] {
            assert_eq!(std::fs::read(path.join(name)).expect(name), content(size), "{name}");
        }
    }
    assert_eq!(
        world.stand_in.asked("GET /bucket/m/a.safetensors").len(),
        1,
        "what is here is not fetched again"
    );
    assert!(!world.dir.path().join("s3/bucket/model-2").exists());
}

#[tokio::test]
async fn an_object_becomes_a_file() {
    let world = world().await;
    let path = fetched(&world.models, "s3://bucket/model-2/x.gguf").await;
    assert_eq!(std::fs::read(&path).expect("a file"), content(7));
    let gguf = fetch(&world.models, RuntimeKind::Llamacpp, "s3://bucket/model-2").await;
    assert_eq!(gguf.expect("fetched"), Some(path));
    let none = fetch(&world.models, RuntimeKind::Vllm, "s3://bucket/none").await.expect_err("not there");
    assert_eq!(none.kind, Kind::NotFound);
}

#[tokio::test]
async fn an_object_that_breaks_off_is_gone_on_with() {
    let world = world().await;
    world.stand_in.fault("m/a.safetensors", Fault::Stall(12_000));
    let path = fetched(&world.models, "s3://bucket/m").await;
    assert_eq!(std::fs::read(path.join("a.safetensors")).expect("a file"), content(30_000));
    let asked = world.stand_in.asked("GET /bucket/m/a.safetensors");
    let ranges: Vec<_> = asked.into_iter().map(|seen| seen.range).collect();
    assert_eq!(ranges, [None, Some("bytes=12000-".to_owned())]);
}

#[tokio::test]
async fn objects_that_changed_are_fetched_again_and_those_that_are_gone_are_removed() {
    let world = world().await;
    let path = fetched(&world.models, "s3://bucket/m").await;
    // As long as before, so that only the version tells.
    world.stand_in.file("m/config.json", &[7; 10], false);
    world.stand_in.state().files.remove("m/sub/b.safetensors");
    fetched(&world.models, "s3://bucket/m").await;
    assert_eq!(std::fs::read(path.join("config.json")).expect("a file"), [7; 10]);
    assert!(!path.join("sub/b.safetensors").exists());
    assert_eq!(world.stand_in.asked("GET /bucket/m/a.safetensors").len(), 1);
}

#[tokio::test]
async fn wrong_bytes_are_noticed_by_either_checksum() {
    for crc64 in [None, Some(1)] {
        let world = world().await;
        world.stand_in.state().crc64 = crc64;
        if crc64.is_none() {
            (0..2).for_each(|_| world.stand_in.fault("model-2/x.gguf", Fault::Wrong));
        }
        let error =
            fetch(&world.models, RuntimeKind::Vllm, "s3://bucket/model-2/x.gguf").await.expect_err("wrong");
        assert_eq!(error.kind, Kind::Damaged, "{error}");
    }
}

#[tokio::test]
async fn without_s3_what_was_whole_is_enough() {
    let world = world().await;
    let path = fetched(&world.models, "s3://bucket/m").await;
    world.stand_in.stop().await;
    assert_eq!(fetched(&world.again(), "s3://bucket/m").await, path);
    std::fs::remove_file(path.join("config.json")).expect("removed");
    let error = fetch(&world.again(), RuntimeKind::Vllm, "s3://bucket/m").await.expect_err("not whole");
    assert!(error.is_retryable(), "{error}");
}

#[tokio::test]
async fn requests_are_signed_with_credentials_only_and_errors_hold_no_signature() {
    let world = world().await;
    fetched(&world.models, "s3://bucket/m").await;
    assert!(world.stand_in.state().seen.iter().all(|seen| !seen.query.contains("X-Amz")));
    let world = World::with(StandIn::start().await, |settings| {
        settings.s3.credentials = Some(Credentials::new("AKEY", "very-secret"));
    });
    world.stand_in.file("m/a.safetensors", &content(10), false);
    fetched(&world.models, "s3://bucket/m").await;
    for seen in &world.stand_in.state().seen {
        assert!(seen.query.contains("X-Amz-Signature=") && seen.query.contains("AKEY"), "{seen:?}");
    }
    world.stand_in.stop().await;
    let error = fetch(&world.models, RuntimeKind::Vllm, "s3://bucket/other").await.expect_err("away");
    assert!(error.is_retryable(), "{error}");
    assert!(!error.to_string().contains("X-Amz") && !error.to_string().contains("AKEY"), "{error}");
}

#[tokio::test]
async fn keys_that_lead_outside_are_refused() {
    let world = world().await;
    world.stand_in.file("m/../../evil", b"x", false);
    let error = fetch(&world.models, RuntimeKind::Vllm, "s3://bucket/m").await.expect_err("refused");
    assert_eq!(error.kind, Kind::Invalid);
    for source in ["s3://bucket/../x", "s3://../x", "s3://bucket/a//b"] {
        let error = fetch(&world.models, RuntimeKind::Vllm, source).await.expect_err(source);
        assert_eq!(error.kind, Kind::Invalid, "{source}");
    }
}
