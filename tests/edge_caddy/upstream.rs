//! A small HTTP server in the place of an agent's proxy: it says what it was asked, counts what it is sent, and streams
//! what the test tells it to.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};

/// A stream that a client asked for, in the test's hand.
pub(crate) struct Streamed {
    /// What is to be sent next; dropping it ends the stream.
    pub(crate) events: mpsc::Sender<String>,
    /// Yields nothing more once the connection is closed from the other side.
    pub(crate) closed: mpsc::Receiver<()>,
}

/// A running one.
pub(crate) struct Upstream {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    streams: Mutex<mpsc::Receiver<Streamed>>,
}

impl Upstream {
    /// Starts one that calls itself `name`; nothing when there is no such address on this machine.
    pub(crate) async fn start(name: &'static str, at: &str) -> Option<Self> {
        let listener = TcpListener::bind(at).await.ok()?;
        let address = listener.local_addr().expect("an address");
        let (begun, streams) = mpsc::channel(8);
        let begun = Arc::new(begun);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, name, Arc::clone(&begun)));
            }
        });
        Some(Self { address, streams: Mutex::new(streams) })
    }

    /// The next stream that is asked for.
    pub(crate) async fn stream(&self) -> Streamed {
        self.streams.lock().await.recv().await.expect("it runs")
    }
}

async fn serve(mut stream: TcpStream, name: &str, begun: Arc<mpsc::Sender<Streamed>>) -> std::io::Result<()> {
    let mut read = Vec::new();
    let end = loop {
        if let Some(at) = read.windows(4).position(|end| end == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut read).await? == 0 {
            return Ok(());
        }
    };
    let head = String::from_utf8_lossy(&read[..end]).into_owned();
    if head.starts_with("GET /stream ") {
        return streamed(stream, &begun).await;
    }
    let length = head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().expect("a length"))
    });
    while read.len() < end + length.unwrap_or(0) {
        if stream.read_buf(&mut read).await? == 0 {
            return Ok(());
        }
    }
    let body = json!({"name": name, "head": head, "bytes": read.len() - end}).to_string();
    let answer =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

async fn streamed(mut stream: TcpStream, begun: &mpsc::Sender<Streamed>) -> std::io::Result<()> {
    let (events, mut coming) = mpsc::channel::<String>(8);
    let (gone, closed) = mpsc::channel(1);
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    if begun.send(Streamed { events, closed }).await.is_err() {
        return Ok(());
    }
    let mut rest = [0; 64];
    loop {
        tokio::select! {
            event = coming.recv() => match event {
                Some(event) => {
                    let chunk = format!("{:x}\r\n{event}\r\n", event.len());
                    stream.write_all(chunk.as_bytes()).await?;
                }
                None => return stream.write_all(b"0\r\n\r\n").await,
            },
            read = stream.read(&mut rest) => if matches!(read, Ok(0) | Err(_)) {
                drop(gone);
                return Ok(());
            },
        }
    }
}
