//! Models over gRPC: looked for on the node, and fetched by an Ollama that runs there.

use nebula_proto::{
    EstimateModelRequest, HfDownloadRequest, OllamaPullProgress, OllamaPullRequest, PrepareModelRequest,
};
use tonic::{Code, Status};

use super::nebulad::Nebulad;
use super::node::{Home, Node, sim};

const TAG: &str = "llama3.2:1b";

async fn pull(node: &Node, model: &str, deployment_id: &str) -> Result<Vec<OllamaPullProgress>, Status> {
    let request = OllamaPullRequest { model: model.to_owned(), deployment_id: deployment_id.to_owned() };
    let mut answers = node.api.clone().stream_ollama_pull(request).await?.into_inner();
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await? {
        all.push(answer);
    }
    Ok(all)
}

async fn prepare(node: &Node, model_path: &str) -> Result<String, Status> {
    let request = PrepareModelRequest { model_path: model_path.to_owned(), runtime: String::new() };
    node.api.clone().prepare_model(request).await.map(|answer| answer.into_inner().local_path)
}

#[tokio::test]
async fn a_running_ollama_fetches_and_its_progress_is_passed_on() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let node = Node::start(&home, nebulad.addr, &[]).await;
    let none = pull(&node, TAG, "").await.expect_err("no Ollama runs");
    assert_eq!(none.code(), Code::FailedPrecondition);
    assert!(none.message().contains("nebulactl deploy"), "{none}");
    let mut start = sim("ollama");
    start.runtime = "ollama".to_owned();
    start.model = TAG.to_owned();
    start.command = [env!("CARGO_BIN_EXE_nebula-agent"), "sim-runtime"].map(str::to_owned).into();
    start.args = ["--model", TAG, "--token-interval", "100ms"].map(str::to_owned).into();
    let deployment = start.deployment_id.clone();
    node.api.clone().start_runtime(start).await.expect("accepted");
    node.until(&deployment, "running").await;
    for named in ["", deployment.as_str()] {
        let all = pull(&node, TAG, named).await.expect("pulled");
        assert_eq!(all.last().map(|last| last.status.as_str()), Some("success"));
        let layers: Vec<i64> =
            all.iter().filter(|one| !one.digest.is_empty()).map(|one| one.completed).collect();
        assert!(layers.len() >= 2 && layers.is_sorted(), "{all:?}");
        assert_eq!(layers.last(), all.iter().map(|one| one.total).max().as_ref());
    }
    assert_eq!(prepare(&node, &format!("ollama://{TAG}")).await.expect("pulled"), "");
    let unknown = pull(&node, "other", "").await.expect_err("unknown");
    assert_eq!(unknown.code(), Code::NotFound, "{unknown}");
    let elsewhere = pull(&node, TAG, &sim("x").deployment_id).await.expect_err("not here");
    assert_eq!(elsewhere.code(), Code::NotFound, "{elsewhere}");
    node.stop().await;
}

#[tokio::test]
async fn what_cannot_be_a_model_is_refused() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let root = home.path().join("models");
    std::fs::create_dir_all(&root).expect("made");
    std::fs::write(root.join("a.gguf"), "a").expect("written");
    let words = ["--model-root", &root.display().to_string()];
    let node = Node::start(&home, nebulad.addr, &words).await;
    let there = prepare(&node, &format!("fs://{}/a.gguf", root.display())).await.expect("it is there");
    assert!(there.ends_with("/a.gguf"), "{there}");
    for (path, code) in [
        (format!("fs://{}/none.gguf", root.display()), Code::NotFound),
        ("fs:///etc/hostname".to_owned(), Code::NotFound),
        ("ftp://x".to_owned(), Code::InvalidArgument),
        ("s3://bucket/../x".to_owned(), Code::InvalidArgument),
        ("ollama://x".to_owned(), Code::FailedPrecondition),
    ] {
        let error = prepare(&node, &path).await.expect_err(&path);
        assert_eq!(error.code(), code, "{path}: {error}");
    }
    for (repo, revision) in [("../x", ""), ("a/b/c", ""), ("a/b", "../../x"), ("", "")] {
        let request = HfDownloadRequest {
            repo_id: repo.to_owned(),
            revision: revision.to_owned(),
            token: "hf_secret".to_owned(),
        };
        let error = match node.api.clone().stream_hf_download(request).await {
            Ok(answers) => answers.into_inner().message().await.map(drop),
            Err(error) => Err(error),
        };
        let error = error.expect_err(repo);
        assert_eq!(error.code(), Code::InvalidArgument, "{repo} {revision}: {error}");
        assert!(!error.message().contains("hf_secret"), "{error}");
    }
    node.stop().await;
}

#[tokio::test]
async fn what_a_model_needs_and_what_the_disk_has_is_told() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let dir = home.path().join("model");
    std::fs::create_dir_all(&dir).expect("made");
    let config = serde_json::json!({
        "model_type": "qwen2", "torch_dtype": "bfloat16", "num_hidden_layers": 24, "hidden_size": 896,
        "intermediate_size": 4864, "vocab_size": 151_936, "num_attention_heads": 14, "num_key_value_heads": 2,
        "max_position_embeddings": 32_768, "tie_word_embeddings": true
    });
    std::fs::write(dir.join("config.json"), config.to_string()).expect("written");
    std::fs::write(dir.join("model.safetensors"), vec![0; 1 << 20]).expect("written");
    // As an earlier agent has fetched it.
    let ollama = home.data().join("models/ollama");
    let digest = format!("sha256:{}", "0".repeat(64));
    let manifest = serde_json::json!({"layers": [
        {"mediaType": "application/vnd.ollama.image.model", "digest": digest, "size": 3}
    ]});
    let names = ollama.join("manifests/registry.ollama.ai/library/llama3.2");
    std::fs::create_dir_all(&names).expect("made");
    std::fs::create_dir_all(ollama.join("blobs")).expect("made");
    std::fs::write(names.join("1b"), manifest.to_string()).expect("written");
    std::fs::write(ollama.join("blobs").join(digest.replace(':', "-")), "abc").expect("written");
    let node = Node::start(&home, nebulad.addr, &[]).await;
    let estimate = async |model_path: String, args: &[&str]| {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let request = EstimateModelRequest { model_path, runtime: "vllm".to_owned(), args };
        node.api.clone().estimate_model(request).await.map(tonic::Response::into_inner)
    };
    let path = format!("fs://{}", dir.display());
    let found = estimate(path.clone(), &["--max-model-len", "4096"]).await.expect("an estimate");
    assert_eq!(found.weights_bytes, 1 << 20);
    assert_eq!(
        found.how,
        "1.0 MiB weights (1 file, 16 bits) + 48.0 MiB cache (4096 tokens × 12.0 KiB: 24 layers × 2 × 2 heads × 64 × 16 \
         bits) + 1.0 GiB for the runtime = 1.0 GiB; vllm uses 90 % of a GPU, so 1.2 GiB"
    );
    for (path, code) in [
        (format!("{path}/none"), Code::NotFound),
        ("ftp://x".to_owned(), Code::InvalidArgument),
        ("ollama://../x".to_owned(), Code::InvalidArgument),
    ] {
        assert_eq!(estimate(path.clone(), &[]).await.expect_err("refused").code(), code, "{path}");
    }
    nebulad
        .hears("the disk and the model", |book| {
            let stats = book.heartbeats.last().and_then(|beat| beat.stats.as_ref());
            stats.is_some_and(|stats| {
                stats.models == ["ollama://llama3.2:1b"]
                    && stats.disk_free_bytes.is_some_and(|free| free > 0)
                    && stats.disk_total_bytes >= stats.disk_free_bytes
            })
        })
        .await;
    node.stop().await;
}
