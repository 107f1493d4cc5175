//! Starts runtimes, asks them, and waits for what should come.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use nebula_sim::runtime::{Args, start};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// Nothing that a test waits for takes this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A client that keeps no connection, so that tests share nothing.
pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().expect("a client")
}

/// Waits, but not for ever.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("{what} took too long"))
}

/// A runtime in this process, stopped when it is dropped.
pub(crate) struct Sim {
    pub(crate) client: reqwest::Client,
    pub(crate) address: SocketAddr,
    pub(crate) server: JoinHandle<std::io::Result<()>>,
    handle: ServerHandle,
}

impl Drop for Sim {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
    }
}

/// Settings for a runtime on a free port that loses no time.
pub(crate) fn quick() -> Args {
    Args {
        port: Some(0),
        ttft: Duration::ZERO,
        token_interval: Duration::ZERO,
        workers: 1,
        ..Args::default()
    }
}

pub(crate) fn sim(args: Args) -> Sim {
    let (server, address) = start(args).expect("a runtime");
    let handle = server.handle();
    Sim { client: client(), address, server: tokio::spawn(server), handle }
}

/// A status, its headers and its body.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("UTF-8")
    }
}

impl Sim {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        let sent = self.client.get(self.url(path)).send();
        reply(within(path, sent).await.expect("an answer")).await
    }

    /// Posts JSON, with further headers.
    pub(crate) async fn post(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Reply {
        let mut request = self.client.post(self.url(path)).json(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        reply(within(path, request.send()).await.expect("an answer")).await
    }

    /// Sends a request on a connection of its own, to read from or to hang up on.
    pub(crate) async fn open(&self, path: &str, headers: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.expect("a connection");
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: sim\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        stream
    }

    /// Waits until the books say `wanted` in the field `name`.
    pub(crate) async fn until(&self, name: &str, wanted: u64) -> Value {
        let looking = async {
            loop {
                let stats = self.get("/sim/stats").await.json();
                if stats[name] == wanted {
                    return stats;
                }
            }
        };
        within(name, looking).await
    }
}

async fn reply(response: reqwest::Response) -> Reply {
    let status = response.status().as_u16();
    let text = |value: &reqwest::header::HeaderValue| value.to_str().expect("text").to_owned();
    let headers = response.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    let body = within("the body", response.bytes()).await.expect("a body");
    Reply { status, headers, body: body.to_vec() }
}

/// Reads what is left on a connection.
pub(crate) async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A break may come as a reset; what came before it counts.
    let _ = within("the end of the connection", stream.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads until `wanted` has come.
pub(crate) async fn until_text(stream: &mut TcpStream, wanted: &str) -> String {
    let mut bytes = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&bytes).contains(wanted) {
            assert!(stream.read_buf(&mut bytes).await.expect("bytes") > 0, "no {wanted}");
        }
    };
    within(wanted, reading).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A chat request for the model `demo`.
pub(crate) fn chat(stream: bool) -> Value {
    json!({ "model": "demo", "messages": [{ "role": "user", "content": "hi" }], "stream": stream })
}
