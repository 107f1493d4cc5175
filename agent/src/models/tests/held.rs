//! What this node holds completely is known, and what is only half here is not told.

use nebula_core::runtime::RuntimeKind;

use super::stand_in::{COMMIT, Fault, content};
use super::{World, until, within};
use crate::models::{Objects, Purpose, repository};

async fn fetch(world: &World, revision: Option<&str>, runtime: RuntimeKind) -> bool {
    let flight = world.models.hub(repository("org/name", revision, runtime, None)).expect("begins");
    within("the fetch", flight.outcome()).await.is_ok()
}

#[tokio::test]
async fn models_are_told_when_they_are_whole_and_the_disk_at_once() {
    let world = World::new().await;
    let models = world.models.clone();
    let watching = tokio::spawn(async move { models.watch().await });
    until("the disk is told", || world.models.held().disk.is_some_and(|(free, all)| 0 < free && free <= all))
        .await;
    assert!(world.models.held().models.is_empty());

    world.stand_in.file("config.json", b"{}", false);
    world.stand_in.file("model.safetensors", &content(5_000), true);
    (0..3).for_each(|_| world.stand_in.fault("model.safetensors", Fault::Cut(100)));
    assert!(!fetch(&world, None, RuntimeKind::Vllm).await, "half of it is here");
    assert!(fetch(&world, Some("dev"), RuntimeKind::Vllm).await);
    until("a branch is held", || world.models.held().models == ["hf://org/name@dev"]).await;
    assert!(fetch(&world, None, RuntimeKind::Vllm).await);
    let both = ["hf://org/name", "hf://org/name@dev"];
    until("both are held", || {
        let mut names = world.models.held().models.clone();
        names.sort();
        names == both
    })
    .await;
    watching.abort();
    // The next agent knows it too, and what was removed is told no more.
    let seen = crate::models::held::look(&world.again().0.settings);
    assert_eq!(seen.models.len(), 2);
    std::fs::remove_dir_all(world.repo().join("blobs")).expect("removed");
    assert!(crate::models::held::look(&world.again().0.settings).models.is_empty());
}

#[tokio::test]
async fn commits_quantizations_objects_and_ollamas_own_are_told() {
    let world = World::new().await;
    world.stand_in.file("m-Q8_0.gguf", &content(3_000), true);
    world.stand_in.file("m-Q4_0.gguf", &content(2_000), true);
    let quantized = repository("org/name:Q8_0", Some(COMMIT), RuntimeKind::Llamacpp, None);
    let flight = world.models.hub(quantized).expect("begins");
    within("the fetch", flight.outcome()).await.expect("fetched");
    let (bucket, key) = ("bucket".to_owned(), "m-Q4_0.gguf".to_owned());
    let objects = Objects { bucket, key, purpose: Purpose::Gguf(None) };
    let flight = world.models.s3(objects).expect("begins");
    within("the fetch", flight.outcome()).await.expect("fetched");

    let ollama = world.dir.path().join("ollama");
    let digest = "sha256:0000000000000000000000000000000000000000000000000000000000000003";
    let manifest = format!(
        r#"{{"layers": [{{"mediaType": "application/vnd.ollama.image.model", "digest": "{digest}", "size": 3}}]}}"#
    );
    let names = ollama.join("manifests/registry.ollama.ai/library/llama3.2");
    std::fs::create_dir_all(&names).expect("made");
    std::fs::create_dir_all(ollama.join("blobs")).expect("made");
    std::fs::write(names.join("1b"), manifest).expect("written");
    let look = || {
        let mut names = crate::models::held::look(&world.models.0.settings).models;
        names.sort();
        names
    };
    let quantized = format!("hf://org/name:Q8_0@{COMMIT}");
    assert_eq!(look(), [quantized.clone(), "s3://bucket/m-Q4_0.gguf".to_owned()], "its layer is not here");
    std::fs::write(ollama.join("blobs").join(digest.replace(':', "-")), "abc").expect("written");
    assert_eq!(look(), [quantized, "ollama://llama3.2:1b".to_owned(), "s3://bucket/m-Q4_0.gguf".to_owned()]);
}
