//! The program itself: what it prints and how it ends.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::support::{client, within};

fn program(flags: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nebula-sim"));
    command.args(["runtime", "--bind", "127.0.0.1"]).args(flags.split_whitespace());
    command.env_remove("PORT").kill_on_drop(true);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Starts the program and waits for its line; gives its address too.
async fn started(command: &mut Command) -> (Child, String) {
    let mut child = command.spawn().expect("the program");
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("stdout"));
    within("the line", stdout.read_line(&mut line)).await.expect("a line");
    let address = line.split_once("http://").and_then(|(_, rest)| rest.split_whitespace().next());
    assert!(line.starts_with("nebula-sim serves the simulated model demo on "), "{line}");
    (child, address.expect("an address").to_owned())
}

/// How the program ended, and what it said on stderr.
async fn ended(mut child: Child) -> (Option<i32>, String) {
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        within("stderr", stderr.read_to_string(&mut said)).await.expect("text");
    }
    (within("the end", child.wait()).await.expect("a status").code(), said)
}

async fn signal(child: &Child, signal: &str) {
    let pid = child.id().expect("a process").to_string();
    let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status().await;
    assert!(sent.expect("kill").success());
}

#[actix_web::test]
async fn signals_end_it_well() {
    for name in ["TERM", "INT"] {
        let (child, address) = started(&mut program("--port 0")).await;
        let health = client().get(format!("http://{address}/health")).send();
        assert_eq!(within("health", health).await.expect("an answer").status().as_u16(), 200);
        signal(&child, name).await;
        assert_eq!(ended(child).await, (Some(0), String::new()), "{name}");
    }
}

#[actix_web::test]
async fn a_stream_is_let_end_after_the_signal() {
    let (child, address) = started(&mut program("--port 0 --ttft 0 --token-interval 10ms --tokens 30")).await;
    let body = r#"{"model":"demo","messages":[{"role":"user","content":"hi"}],"stream":true}"#;
    let sent = client().post(format!("http://{address}/v1/chat/completions")).body(body).send();
    let response = within("the head", sent).await.expect("an answer");
    signal(&child, "TERM").await;
    let body = within("the rest", response.bytes()).await.expect("a body");
    assert!(body.ends_with(b"data: [DONE]\n\n"));
    assert_eq!(ended(child).await.0, Some(0));
}

#[actix_web::test]
async fn the_port_may_come_from_the_environment() {
    let (child, address) = started(program("").env("PORT", "0")).await;
    assert!(!address.ends_with(":8000"), "{address}");
    signal(&child, "TERM").await;
    assert_eq!(ended(child).await.0, Some(0));
    let child = program("").env("PORT", "http").spawn().expect("the program");
    let (code, said) = ended(child).await;
    assert_eq!(code, Some(78));
    assert!(said.contains("PORT"), "{said}");
}

#[actix_web::test]
async fn failures_end_it_with_a_line_and_a_code() {
    let (code, said) = ended(program("--fail exit-at-start").spawn().expect("the program")).await;
    assert_eq!((code, said.as_str()), (Some(1), "error: simulated failure: exit-at-start\n"));
    let (child, address) = started(&mut program("--port 0 --fail exit-after:0")).await;
    let port = address.rsplit_once(':').expect("a port").1;
    let second = program(&format!("--port {port}")).spawn().expect("the program");
    let (code, said) = ended(second).await;
    assert_eq!(code, Some(71));
    assert!(said.contains(&format!("port {port} on 127.0.0.1 is taken")), "{said}");
    let sent = client().post(format!("http://{address}/v1/embeddings")).body("{}").send();
    assert!(within("the break", sent).await.is_err());
    assert_eq!(ended(child).await, (Some(1), "error: simulated failure: exit-after:0\n".to_owned()));
}
