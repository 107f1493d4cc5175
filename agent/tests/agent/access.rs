//! Who gets through the proxy, and what gets through with them.

use nebula_core::token::TokenHash;
use nebula_proto::{ExecCommandRequest, UpdateAccessRequest};
use tokio::io::AsyncReadExt as _;
use tonic::Code;

use crate::nebulad::Nebulad;
use crate::node::{Home, Node, sim, until};
use crate::web;

#[tokio::test]
async fn private_deployments_take_their_tokens_only() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let mut node = Node::start(&home, nebulad.addr, &[]).await;
    let mut private = sim("org/private");
    private.is_public = false;
    private.access_token_sha256 = TokenHash::of("nbtok_one").to_hex();
    private.gateway_token = "nbgw_gate".to_owned();
    let mut closed = sim("closed");
    closed.is_public = false;
    for start in [&private, &closed] {
        node.api.start_runtime(start.clone()).await.expect("accepted");
        node.until(&start.deployment_id, "running").await;
    }
    let status = async |named: &str, authorization: &str| {
        let mut headers = vec![("x-nebula-deployment", named)];
        headers.extend((!authorization.is_empty()).then_some(("authorization", authorization)));
        web::chat(node.proxy, "org/private", &headers, false).await.status
    };
    for (named, authorization, expected) in [
        ("org/private", "", 401),
        ("org/private", "Bearer nbtok_two", 401),
        ("org/private", "Basic nbtok_one", 401),
        ("org/private", "Bearer nbtok_one", 200),
        (private.deployment_id.as_str(), "Bearer nbtok_one", 200),
        ("org/private", "nbgw_gate", 200),
        ("closed", "", 401),
        ("closed", "Bearer nbtok_one", 401),
        ("nothing", "Bearer nbtok_one", 404),
    ] {
        assert_eq!(status(named, authorization).await, expected, "{named} {authorization}");
    }
    let unnamed = web::chat(node.proxy, "org/private", &[("authorization", "Bearer nbtok_one")], false).await;
    assert_eq!(unnamed.status, 404, "there are two");
    assert!(unnamed.body.contains("X-Nebula-Deployment"), "{}", unnamed.body);
    let denied = web::ask(node.proxy, "GET /d/org%2Fprivate/v1/models", &[], "").await;
    assert_eq!(denied.status, 401);
    assert!(denied.head.contains("www-authenticate: bearer") && denied.body.contains("invalid_api_key"));
    assert_eq!(web::ask(node.proxy, "GET /health", &[], "").await.status, 200, "the proxy's own");

    // What the runtime gets: the path without its beginning, no credential, nothing of ours.
    let headers = [("authorization", "Bearer nbtok_one"), ("x-nebula-anything", "1"), ("x-kept", "yes")];
    let body = web::chat_body("org/private", false);
    let answer = web::ask(node.proxy, "POST /d/org%2Fprivate/v1/chat/completions?a=b", &headers, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let port = node.deployment(&private.deployment_id).await.expect("it is there").port;
    let runtime = ([127, 0, 0, 1], u16::try_from(port).expect("a port")).into();
    let last = web::ask(runtime, "GET /sim/last", &[], "").await.body.to_ascii_lowercase();
    assert!(last.contains("x-kept"), "{last}");
    for hidden in ["nbtok", "authorization", "x-nebula", "/d/"] {
        assert!(!last.contains(hidden), "{hidden} in {last}");
    }

    let rotate = UpdateAccessRequest {
        deployment_id: private.deployment_id.clone(),
        access_token_sha256: vec![TokenHash::of("nbtok_two").to_hex()],
        ..UpdateAccessRequest::default()
    };
    node.api.update_access(rotate).await.expect("accepted");
    assert_eq!(status("org/private", "Bearer nbtok_one").await, 401);
    assert_eq!(status("org/private", "Bearer nbtok_two").await, 200);
    assert_eq!(status("org/private", "Bearer nbgw_gate").await, 200, "the old one stays");
    node.crash().await;
    let node = Node::start(&home, nebulad.addr, &[]).await;
    let headers = |token| [("x-nebula-deployment", "org/private"), ("authorization", token)];
    let old = web::chat(node.proxy, "org/private", &headers("Bearer nbtok_one"), false).await;
    let new = web::chat(node.proxy, "org/private", &headers("Bearer nbtok_two"), false).await;
    assert_eq!((old.status, new.status), (401, 200), "credentials are durable");
    let text = std::fs::read(home.data().join("db/db")).expect("the store's log");
    for token in ["nbtok_one", "nbtok_two", "nbgw_gate"] {
        assert!(!text.windows(token.len()).any(|part| part == token.as_bytes()), "{token} is on disk");
    }
}

#[tokio::test]
async fn streams_pass_as_they_are_made_and_end_when_the_client_leaves() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let mut node = Node::start(&home, nebulad.addr, &[]).await;
    let mut start = sim("slow");
    start.args = ["--ttft", "1ms", "--token-interval", "100ms", "--tokens", "1000"].map(str::to_owned).into();
    node.api.start_runtime(start.clone()).await.expect("accepted");
    let port = node.until(&start.deployment_id, "running").await.port;
    let body = web::chat_body("slow", true);
    let mut stream = web::send(node.proxy, "POST /v1/chat/completions", &[], &body).await;
    let mut read = Vec::new();
    while String::from_utf8_lossy(&read).matches("data: ").count() < 3 {
        assert!(stream.read_buf(&mut read).await.expect("more") > 0);
    }
    assert!(!String::from_utf8_lossy(&read).contains("[DONE]"), "it takes 100 s to the end");
    drop(stream);
    let runtime = ([127, 0, 0, 1], u16::try_from(port).expect("a port")).into();
    until("the runtime stops working", async || {
        let stats = web::ask(runtime, "GET /sim/stats", &[], "").await.body;
        let stats: serde_json::Value = serde_json::from_str(&stats).ok()?;
        (stats["cancelled"] == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn commands_run_beside_a_replica() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let mut node = Node::start(&home, nebulad.addr, &["--join-token", "nbjoin_secret"]).await;
    let mut start = sim("demo");
    start.env.insert("GREETING".to_owned(), "hello {name}".to_owned());
    node.api.start_runtime(start.clone()).await.expect("accepted");
    let running = node.until(&start.deployment_id, "running").await;
    let exec = async |script: &str, timeout_seconds| {
        let request = ExecCommandRequest {
            deployment_id: start.deployment_id.clone(),
            command: ["sh", "-c", script].map(str::to_owned).into(),
            timeout_seconds,
            replica_id: String::new(),
        };
        node.api.clone().exec_command(request).await.map(tonic::Response::into_inner)
    };
    let done = exec("echo $GREETING on $PORT; echo oops >&2; exit 4", 0).await.expect("it runs");
    assert_eq!(done.stdout, format!("hello demo on {}\n", running.port));
    assert_eq!((done.stderr.as_str(), done.exit_code), ("oops\n", 4));
    let cwd = exec("pwd", 0).await.expect("it runs").stdout;
    assert!(cwd.contains(&start.replica_id), "{cwd}");
    let environment = exec("env", 0).await.expect("it runs").stdout;
    assert!(!environment.contains("nbjoin_secret") && !environment.contains("NEBULA_AGENT"), "{environment}");
    let large = exec("head -c 3000000 /dev/zero | tr '\\0' x", 0).await.expect("it runs").stdout;
    assert!(large.len() < 1_100_000 && large.ends_with("[output cut here]\n"));
    let error = exec("sleep 600", 1).await.expect_err("too long");
    assert_eq!(error.code(), Code::DeadlineExceeded);
    until("nothing of it is left", async || {
        (crate::node::processes_of(&start.replica_id).len() == 1).then_some(())
    })
    .await;
}
