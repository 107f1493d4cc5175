//! As much HTTP as the tests need.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::node::PATIENCE;

/// An answer: its status, its head and its body as they came, chunk sizes and all.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Sends a request on a connection of its own.
pub(crate) async fn send(addr: SocketAddr, line: &str, headers: &[(&str, &str)], body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.expect("somebody listens");
    let mut request = format!("{line} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        request.push_str(&format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len()));
    }
    request.push_str(&format!("\r\n{body}"));
    stream.write_all(request.as_bytes()).await.expect("it reads");
    stream
}

/// Sends a request and reads the whole answer.
pub(crate) async fn ask(addr: SocketAddr, line: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut stream = send(addr, line, headers, body).await;
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    read.expect("an answer in time").expect("an answer");
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

/// Asks for a chat completion.
pub(crate) async fn chat(addr: SocketAddr, model: &str, headers: &[(&str, &str)], stream: bool) -> Answer {
    let body = chat_body(model, stream);
    ask(addr, "POST /v1/chat/completions", headers, &body).await
}

pub(crate) fn chat_body(model: &str, stream: bool) -> String {
    serde_json::json!({
        "model": model, "stream": stream, "messages": [{ "role": "user", "content": "hello" }],
    })
    .to_string()
}

/// A program that has nothing to do with the agent, says to everybody that all is well, and counts how often.
pub(crate) struct Stranger(Arc<AtomicUsize>);

impl Stranger {
    pub(crate) async fn start(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.expect("the port is free");
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
                count.fetch_add(1, Ordering::AcqRel);
            }
        });
        Self(asked)
    }

    pub(crate) fn asked(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}
