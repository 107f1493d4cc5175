//! Models over gRPC: looked for on the node, and fetched by an Ollama that runs there.

use nebula_proto::{HfDownloadRequest, OllamaPullProgress, OllamaPullRequest, PrepareModelRequest};
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
