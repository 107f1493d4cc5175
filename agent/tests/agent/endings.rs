//! What fails says so: replicas in their message, the program in its exit code.

use std::net::TcpListener;

use nebula_proto::PrepareModelRequest;
use tonic::Code;

use crate::nebulad::Nebulad;
use crate::node::{Home, Node, processes_of, program, sim};

#[tokio::test]
async fn a_replica_that_cannot_run_fails_at_once_and_says_why() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let mut node = Node::start(&home, nebulad.addr, &["--start-timeout", "500ms"]).await;
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();

    let mut exits = sim("a");
    (exits.command, exits.args) = (words(&["sh", "-c", "echo cannot find the GPU; exit 3"]), Vec::new());
    let mut no_program = sim("b");
    no_program.command = words(&["no-such-engine"]);
    let mut no_file = sim("c");
    (no_file.runtime, no_file.model_path) = ("llamacpp".to_owned(), "fs:///no/such.gguf".to_owned());
    // llama.cpp itself need not be here.
    no_file.command = words(&["sh", "-c", "exec sleep 60"]);
    let mut never = sim("d");
    never.args = words(&["--fail", "never-ready"]);
    for (start, code, parts) in [
        (exits, Some(3), &["exited with code 3 before it was healthy", "cannot find the GPU"][..]),
        (
            no_program,
            None,
            &["the program \"no-such-engine\" is not on this node", "correct the deployment's command"],
        ),
        (no_file, None, &["there is no model file /no/such.gguf"]),
        (never, None, &["was not healthy within 500 ms"]),
    ] {
        node.api.start_runtime(start.clone()).await.expect("accepted");
        let failed = node.until(&start.deployment_id, "failed").await;
        assert_eq!((failed.exit_code, failed.restarts), (code, 0), "{failed:?}");
        for part in parts {
            assert!(failed.error_message.contains(part), "{part} in {}", failed.error_message);
        }
        assert!(processes_of(&start.replica_id).is_empty());
        nebulad.hears("failed", |book| book.status(&start.deployment_id) == Some("failed")).await;
    }
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let mut node = Node::start(&home, nebulad.addr, &[]).await;
    let mut unknown = sim("a");
    unknown.runtime = "vlm".to_owned();
    assert_eq!(node.api.start_runtime(unknown).await.expect_err("refused").code(), Code::InvalidArgument);
    let (mut driver, mut image) = (sim("a"), sim("a"));
    driver.driver = "lxc".to_owned();
    image.image = "an image".to_owned();
    for (start, part) in [(driver, "unknown driver \"lxc\""), (image, "may not contain spaces")] {
        let error = node.api.start_runtime(start).await.expect_err("refused");
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.message().contains(part), "{}", error.message());
    }
    let mut large = sim("a");
    large.args = vec!["x".repeat(10_000)];
    let error = node.api.start_runtime(large).await.expect_err("refused");
    assert_eq!(error.code(), Code::InvalidArgument);
    let prepare = |path: &str| PrepareModelRequest { model_path: path.to_owned(), runtime: String::new() };
    let missing = node.api.prepare_model(prepare("fs:///no/such.gguf")).await.expect_err("refused");
    assert_eq!(missing.code(), Code::NotFound);
    assert!(node.api.prepare_model(prepare("fs:///etc/hostname")).await.expect("there").into_inner().success);
}

/// The exit code and the log of an agent that ends by itself.
fn ends(words: &[&str]) -> (i32, String) {
    let output = program(words).output().expect("it runs");
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn a_program_that_cannot_start_says_why() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = listener.local_addr().expect("an address").port().to_string();
    let data = home.path().join("other").display().to_string();
    let free = ["--grpc-port", "0", "--metrics-port", "0", "--data-dir", &data];
    let (code, text) = ends(&[&free[..], &["--proxy-port", &taken]].concat());
    assert_eq!(code, 71, "{text}");
    assert!(text.contains(&format!("port {taken} of 127.0.0.1 is taken")) && text.contains("--proxy-port"));

    let node = Node::start(&home, nebulad.addr, &[]).await;
    let used = home.data().display().to_string();
    let (code, text) = ends(&["--data-dir", &used]);
    assert_eq!(code, 75, "{text}");
    assert!(text.contains("is in use by process"), "{text}");
    drop(node);

    let file = home.path().join("file");
    std::fs::write(&file, "").expect("writes");
    let (code, text) = ends(&["--data-dir", &file.display().to_string()]);
    assert_eq!(code, 73, "{text}");
    let (code, text) = ends(&["--bind", "0.0.0.0"]);
    assert_eq!(code, 78, "{text}");
    assert!(text.contains("--insecure"), "{text}");
    let (code, _) = ends(&["--control-plane", "https://10.0.0.1:9090"]);
    assert_eq!(code, 78);
    let (code, _) = ends(&["--no-such-flag"]);
    assert_eq!(code, 2);
}

#[tokio::test]
async fn the_environment_is_read_with_forgiveness() {
    let home = Home::new();
    let file = home.path().join("file");
    std::fs::write(&file, "").expect("writes");
    let data = file.display().to_string();
    let ends_with = |name: &str, value: &str| {
        let mut program = program(&["--bind", "0.0.0.0", "--data-dir", &data]);
        program.env("NEBULA_AGENT_PYTHON", "").env("NEBULA_AGENT_GRPC_PORT", "").env(name, value);
        program.output().expect("it runs").status.code()
    };
    // The data directory is none, which is found out after the settings are accepted.
    for value in ["1", "true", "yes"] {
        assert_eq!(ends_with("NEBULA_AGENT_INSECURE", value), Some(73), "{value}");
    }
    for value in ["0", "false", ""] {
        assert_eq!(ends_with("NEBULA_AGENT_INSECURE", value), Some(78), "{value}");
    }
    assert_eq!(ends_with("NEBULA_AGENT_INSECURE", "maybe"), Some(2));
}
