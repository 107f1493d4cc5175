//! What models need is told by their metadata, wherever it is, and by nothing that is large.

use std::path::Path;

use nebula_core::memory::Need;
use nebula_core::runtime::RuntimeKind;
use serde_json::json;

use super::stand_in::{COMMIT, Fault, git_id};
use super::{World, within};
use crate::models::{Kind, ModelError, repository};

const LLAMA: &str = r#"{"model_type": "llama", "torch_dtype": "bfloat16", "num_hidden_layers": 32,
    "hidden_size": 4096, "intermediate_size": 14336, "vocab_size": 128256, "num_attention_heads": 32,
    "num_key_value_heads": 8, "max_position_embeddings": 131072}"#;
const CACHE: &str = "4.0 GiB cache (32768 tokens × 128.0 KiB: 32 layers × 2 × 8 heads × 128 × 16 bits)";
const GGUF_CACHE: &str = "1.0 GiB cache (8192 tokens × 128.0 KiB: 32 layers × 8 heads × 2 × 128 × 16 bits)";

/// The beginning of a GGUF file, and then so many bytes more.
fn gguf(more: usize) -> Vec<u8> {
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    };
    let numbers = [
        ("block_count", 32_u32),
        ("context_length", 8_192),
        ("embedding_length", 4_096),
        ("attention.head_count", 32),
        ("attention.head_count_kv", 8),
    ];
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(291_u64.to_le_bytes());
    bytes.extend((numbers.len() as u64 + 1).to_le_bytes());
    text(&mut bytes, "general.architecture");
    bytes.extend(8_u32.to_le_bytes());
    text(&mut bytes, "llama");
    for (name, value) in numbers {
        text(&mut bytes, &format!("llama.{name}"));
        bytes.extend(4_u32.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    bytes.resize(bytes.len() + more, 0);
    bytes
}

async fn estimate(world: &World, source: &str, runtime: RuntimeKind) -> Result<Need, ModelError> {
    let source = source.parse().expect("a source");
    within("the estimate", world.models.estimate(&source, runtime, &[])).await
}

async fn how(world: &World, source: &str, runtime: RuntimeKind) -> String {
    estimate(world, source, runtime).await.expect("an estimate").how
}

/// A repository of two large files that are only listed, so that nothing could fetch them.
fn list_large_files(world: &World) {
    world.stand_in.file("config.json", LLAMA.as_bytes(), false);
    for part in 1..=2 {
        let name = format!("model-{part:05}-of-00002.safetensors");
        let entry = json!({"rfilename": name, "size": 8_030_261_248_u64, "blobId": git_id(name.as_bytes())});
        world.stand_in.state().listed_too.push(entry);
    }
}

#[tokio::test]
async fn a_repository_is_reckoned_by_its_list_and_its_configuration() {
    let world = World::new().await;
    list_large_files(&world);
    let need = estimate(&world, "hf://org/name", RuntimeKind::Vllm).await.expect("an estimate");
    assert_eq!(need.weights_bytes, 2 * 8_030_261_248);
    let expected =
        format!("15.0 GiB weights (2 files, 16 bits) + {CACHE} + 1.7 GiB for the runtime = 20.7 GiB");
    assert!(need.how.starts_with(&expected), "{}", need.how);
    let lines: Vec<String> = world.stand_in.state().seen.iter().map(|seen| seen.line.clone()).collect();
    assert_eq!(
        lines,
        [
            "GET /api/models/org/name/revision/main".to_owned(),
            format!("GET /org/name/resolve/{COMMIT}/config.json")
        ],
        "no weights are fetched"
    );
    assert_eq!(world.stand_in.asked("config.json")[0].range.as_deref(), Some("bytes=0-1048575"));
    assert_eq!(world.stand_in.asked("config.json")[0].token.as_deref(), Some("Bearer hf_secret"));
    assert!(!world.repo().exists(), "nothing is left on the disk");
}

#[tokio::test]
async fn of_a_gguf_repository_only_the_header_is_read() {
    let world = World::new().await;
    let whole = gguf(2 << 20);
    world.stand_in.file("m-Q4_K_M.gguf", &whole, true);
    world.stand_in.file("m-Q8_0.gguf", &gguf(3 << 20), true);
    let need = estimate(&world, "hf://org/name", RuntimeKind::Llamacpp).await.expect("an estimate");
    assert_eq!(need.weights_bytes, whole.len() as u64);
    assert!(need.how.contains(GGUF_CACHE), "{}", need.how);
    assert_eq!(world.stand_in.ranges("m-Q4_K_M.gguf"), [Some("bytes=0-262143".to_owned())]);
    let other = estimate(&world, "hf://org/name:Q8_0", RuntimeKind::Llamacpp).await.expect("an estimate");
    assert_eq!(other.weights_bytes, gguf(3 << 20).len() as u64);
}

#[tokio::test]
async fn what_is_on_the_node_is_not_asked_for() {
    let world = World::new().await;
    world.stand_in.file("config.json", LLAMA.as_bytes(), false);
    world.stand_in.file("model.safetensors", &[7; 5_000], true);
    let flight = world.models.hub(repository("org/name", None, RuntimeKind::Vllm, None)).expect("begins");
    within("the fetch", flight.outcome()).await.expect("fetched");
    let before = world.stand_in.state().seen.len();
    let told = how(&world, "hf://org/name", RuntimeKind::Vllm).await;
    assert!(told.starts_with(&format!("4.9 KiB weights (1 file, 16 bits) + {CACHE}")), "{told}");
    assert_eq!(world.stand_in.state().seen.len(), before);
    world.stand_in.stop().await;
    assert_eq!(how(&world, "hf://org/name", RuntimeKind::Vllm).await, told);
}

#[tokio::test]
async fn files_of_the_node_are_reckoned_where_they_are() {
    let world = World::new().await;
    let dir = world.dir.path().join("own");
    std::fs::create_dir_all(&dir).expect("made");
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.join(name), bytes).expect("written");
    write("config.json", LLAMA.as_bytes());
    let of_dir = format!("fs://{}", dir.display());
    // A configuration alone counts the weights.
    let told = how(&world, &of_dir, RuntimeKind::Tgi).await;
    assert!(told.starts_with("15.0 GiB weights (8.0 billion parameters, 16 bits) + 4.0 GiB cache"), "{told}");
    write("model.safetensors", &[0; 3 << 10]);
    let told = how(&world, &of_dir, RuntimeKind::Tgi).await;
    assert!(told.starts_with("3.0 KiB weights (1 file, 16 bits) + 4.0 GiB cache"), "{told}");

    write("m-00001-of-00002.gguf", &gguf(0));
    write("m-00002-of-00002.gguf", &[0; 10_000]);
    write("n-00001-of-00002.gguf", &[0; 50_000]);
    let of_file = format!("{of_dir}/m-00001-of-00002.gguf");
    let need = estimate(&world, &of_file, RuntimeKind::Llamacpp).await.expect("an estimate");
    assert_eq!(need.weights_bytes, gguf(0).len() as u64 + 10_000);
    assert!(need.how.contains("weights (2 files)") && need.how.contains(GGUF_CACHE), "{}", need.how);
    let missing = estimate(&world, &format!("{of_dir}/none.gguf"), RuntimeKind::Llamacpp).await;
    assert_eq!(missing.expect_err("not there").kind, Kind::NotFound);
}

#[tokio::test]
async fn objects_are_reckoned_by_their_list() {
    let world = World::new().await;
    world.stand_in.file("m/config.json", LLAMA.as_bytes(), false);
    world.stand_in.file("m/a.safetensors", &[1; 2 << 10], false);
    world.stand_in.file("m/b.safetensors", &[1; 2 << 10], false);
    world.stand_in.file("one.gguf", &gguf(100_000), false);
    let told = how(&world, "s3://bucket/m", RuntimeKind::Tgi).await;
    assert!(told.starts_with(&format!("4.0 KiB weights (2 files, 16 bits) + {CACHE}")), "{told}");
    assert!(world.stand_in.asked("a.safetensors").is_empty());
    let told = how(&world, "s3://bucket/one.gguf", RuntimeKind::Llamacpp).await;
    assert!(told.contains("weights (1 file)") && told.contains(GGUF_CACHE), "{told}");
}

const DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000001";

fn manifest() -> String {
    json!({"layers": [
        {"mediaType": "application/vnd.ollama.image.model", "digest": DIGEST, "size": 4_920_739_232_u64},
        {"mediaType": "application/vnd.ollama.image.params", "digest": DIGEST.replace('1', "2"), "size": 100},
    ]})
    .to_string()
}

#[tokio::test]
async fn models_of_ollama_are_reckoned_by_their_manifest() {
    let world = World::new().await;
    world.stand_in.file("v2/library/llama3.1/manifests/8b", manifest().as_bytes(), false);
    world.stand_in.file(&format!("v2/library/llama3.1/blobs/{DIGEST}"), &gguf(0), false);
    let expected = "4.6 GiB weights (as its manifest says) + 512.0 MiB cache (4096 tokens × 128.0 KiB";
    let told = how(&world, "ollama://llama3.1:8b", RuntimeKind::Ollama).await;
    assert!(told.starts_with(expected), "{told}");
    let error = estimate(&world, "ollama://other", RuntimeKind::Ollama).await.expect_err("not there");
    assert_eq!(error.kind, Kind::NotFound, "{error}");

    // What Ollama has here is enough.
    world.stand_in.stop().await;
    keep(&world.dir.path().join("ollama"), "registry.ollama.ai/library/llama3.1/8b");
    let told = how(&world, "ollama://llama3.1:8b", RuntimeKind::Ollama).await;
    assert!(told.starts_with(expected), "{told}");
}

/// Keeps a model as Ollama does, but for most of its bytes.
fn keep(ollama: &Path, name: &str) {
    let path = ollama.join("manifests").join(name);
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
    std::fs::write(path, manifest()).expect("written");
    std::fs::create_dir_all(ollama.join("blobs")).expect("made");
    std::fs::write(ollama.join("blobs").join(DIGEST.replace(':', "-")), gguf(0)).expect("written");
}

#[tokio::test]
async fn what_goes_wrong_is_a_clear_error_and_never_takes_long() {
    let world = World::new().await;
    world.stand_in.file("README.md", b"x", false);
    let error = estimate(&world, "hf://org/name", RuntimeKind::Vllm).await.expect_err("no weights");
    assert_eq!(error.kind, Kind::NotFound, "{error}");
    world.stand_in.file("config.json", b"{}", false);
    let error = estimate(&world, "hf://org/name", RuntimeKind::Vllm).await.expect_err("nothing is said");
    assert!(error.to_string().contains("nothing says how large"), "{error}");
    world.stand_in.file("config.json", b"<html>", false);
    world.stand_in.file("model.safetensors", &[0; 1 << 10], true);
    let told = how(&world, "hf://org/name", RuntimeKind::Vllm).await;
    assert!(told.starts_with("1.0 KiB weights (1 file) + 1.0 GiB for the runtime"), "{told}");

    // The weights are known by the list; a header that cannot be had is an error, and not a wrong number.
    let world = World::new().await;
    world.stand_in.file("m.gguf", &gguf(0), true);
    (0..3).for_each(|_| world.stand_in.fault("m.gguf", Fault::Stall(10)));
    let error = estimate(&world, "hf://org/name", RuntimeKind::Llamacpp).await.expect_err("it stalls");
    assert!(error.is_retryable(), "{error}");
    (0..3).for_each(|_| world.stand_in.fault("/api/models/org/name/revision/main", Fault::Status(401)));
    let error = estimate(&world, "hf://org/name", RuntimeKind::Llamacpp).await.expect_err("refused");
    assert!(error.to_string().contains("HF_TOKEN"), "{error}");
}
