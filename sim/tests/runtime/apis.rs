//! Both APIs over the wire, and the bytes as they were received.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nebula_sim::runtime::Args;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::{chat, quick, rest, sim, within};

#[actix_web::test]
async fn openai_chat_with_usage_ends_with_done() {
    let sim = sim(quick());
    let mut request = chat(true);
    request["stream_options"] = json!({ "include_usage": true });
    let reply = sim.post("/v1/chat/completions", &[], &request).await;
    assert_eq!(reply.header("cache-control"), Some("no-cache"));
    let text = reply.text();
    let events: Vec<&str> = text.split_terminator("\n\n").collect();
    let (done, chunks) = events.split_last().expect("events");
    assert_eq!(*done, "data: [DONE]");
    let chunks: Vec<Value> = chunks
        .iter()
        .map(|event| serde_json::from_str(event.strip_prefix("data: ").expect("data")).expect("JSON"))
        .collect();
    assert_eq!(chunks.last().unwrap()["usage"]["completion_tokens"], 32);
    assert!(chunks.iter().all(|chunk| chunk["system_fingerprint"].as_str().unwrap().contains("nebula-sim")));
    let reply = sim.post("/v1/completions", &[], &json!({ "model": "demo", "prompt": "hi" })).await;
    assert_eq!((reply.status, &reply.json()["object"]), (200, &json!("text_completion")));
}

#[actix_web::test]
async fn openai_embeddings_come_as_floats_and_as_base64() {
    let sim = sim(Args { dimensions: 12, ..quick() });
    let mut request = json!({ "model": "demo", "input": ["a", "b"] });
    let floats = sim.post("/v1/embeddings", &[], &request).await.json();
    request["encoding_format"] = json!("base64");
    let base64 = sim.post("/v1/embeddings", &[], &request).await.json();
    for index in [0, 1] {
        let bytes = STANDARD.decode(base64["data"][index]["embedding"].as_str().unwrap()).expect("base64");
        let decoded: Vec<f32> =
            bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
        let plain: Vec<f32> = serde_json::from_value(floats["data"][index]["embedding"].clone()).unwrap();
        assert_eq!((decoded.len(), decoded), (12, plain));
    }
}

#[actix_web::test]
async fn openai_models_are_found_by_names_with_slashes() {
    let sim = sim(Args { model: "org/name".to_owned(), ..quick() });
    assert_eq!(sim.get("/v1/models").await.json()["data"][0]["id"], "org/name");
    for path in ["/v1/models/org/name", "/v1/models/org%2Fname"] {
        assert_eq!(sim.get(path).await.json()["id"], "org/name", "{path}");
    }
    let reply = sim.get("/v1/models/other").await;
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (404, &json!("model_not_found")));
}

#[actix_web::test]
async fn ollama_streams_lines_unless_told_not_to() {
    let sim = sim(quick());
    let mut request = json!({ "model": "demo", "messages": [{ "role": "user", "content": "hi" }] });
    let reply = sim.post("/api/chat", &[], &request).await;
    assert_eq!(reply.header("content-type"), Some("application/x-ndjson"));
    let lines: Vec<Value> =
        reply.text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 33);
    assert_eq!(lines.last().unwrap()["done"], true);
    request["stream"] = json!(false);
    let reply = sim.post("/api/chat", &[], &request).await;
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert!(reply.json()["message"]["content"].as_str().unwrap().contains("simulated"));
    let reply = sim.post("/api/generate", &[], &json!({ "model": "demo", "prompt": "hi" })).await;
    assert_eq!(reply.text().lines().count(), 33);
    let reply = sim.post("/api/embed", &[], &json!({ "model": "demo", "input": "hi" })).await;
    assert_eq!(reply.json()["embeddings"][0].as_array().map(Vec::len), Some(384));
    assert_eq!(sim.get("/api/tags").await.json()["models"][0]["name"], "demo");
    assert_eq!(sim.get("/api/ps").await.json()["models"][0]["name"], "demo");
    assert!(sim.get("/api/version").await.json()["version"].is_string());
    assert_eq!(sim.post("/api/show", &[], &json!({ "model": "demo" })).await.status, 200);
}

#[actix_web::test]
async fn each_api_has_its_own_errors() {
    let sim = sim(quick());
    let mut request = chat(false);
    request["model"] = json!("other");
    let reply = sim.post("/v1/chat/completions", &[], &request).await;
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (404, &json!("model_not_found")));
    let reply = sim.post("/api/chat", &[], &request).await;
    assert_eq!(reply.status, 404);
    assert_eq!(reply.json(), json!({ "error": "model \"other\" not found, try pulling it first" }));
    assert_eq!(sim.get("/v1/nothing").await.json()["error"]["code"], "unknown_url");
    assert!(sim.get("/api/nothing").await.json()["error"].is_string());
    assert_eq!(sim.get("/v1/chat/completions").await.status, 405);
}

#[actix_web::test]
async fn the_last_request_is_shown_as_it_was_received() {
    let sim = sim(quick());
    assert_eq!(sim.get("/sim/last").await.status, 404);
    let body = "{ \"messages\":[ {\"content\":\"é \\u0041\",\"role\":\"user\"}],\t\"mod\\u0065l\":\"demo\", \"x\":1.0e2}\n";
    let mut client = sim.open("/v1/chat/completions?a=b", "x-odd: one\r\nX-Odd: two\r\n", body).await;
    assert!(rest(&mut client).await.starts_with("HTTP/1.1 200"));
    let last = sim.get("/sim/last").await.json();
    assert_eq!(last["body"], body);
    assert_eq!(STANDARD.decode(last["body_base64"].as_str().unwrap()).expect("base64"), body.as_bytes());
    assert_eq!(last["headers"]["x-odd"], "one, two");
    assert_eq!((&last["method"], &last["path"]), (&json!("POST"), &json!("/v1/chat/completions?a=b")));
}

#[actix_web::test]
async fn bodies_are_taken_up_to_64_mib() {
    let sim = sim(quick());
    for (size, status) in [(64 << 20, "HTTP/1.1 400 "), ((64 << 20) + 1, "HTTP/1.1 413 ")] {
        let mut client = TcpStream::connect(sim.address).await.expect("a connection");
        let head = format!(
            "POST /v1/embeddings HTTP/1.1\r\nhost: sim\r\nconnection: close\r\ncontent-length: {size}\r\n\r\n"
        );
        let sending = async {
            client.write_all(head.as_bytes()).await.expect("sent");
            // The answer may come before the last byte is sent.
            let _ = client.write_all(&vec![b' '; size]).await;
        };
        within("sending", sending).await;
        let text = rest(&mut client).await;
        assert!(text.starts_with(status), "{size}: {text}");
    }
}
