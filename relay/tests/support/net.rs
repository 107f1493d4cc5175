//! A scripted upstream and a client that sees every byte.

#![allow(unreachable_pub, reason = "a module of a test")]

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// No wait in a test lasts longer.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// How soon an upstream must notice that the client has left.
pub const CANCELLED: Duration = Duration::from_millis(250);

/// One accepted connection of the scripted upstream.
pub struct Peer {
    pub stream: TcpStream,
    read: Vec<u8>,
}

impl Peer {
    /// The next request: its head and its body as they came, or nothing when the connection ended first.
    pub async fn request(&mut self) -> Option<(String, Vec<u8>)> {
        loop {
            if let Some(end) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8(self.read.drain(..end + 4).collect()).expect("a text");
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "))
                    .map_or(0, |length| length.parse().expect("a number"));
                while self.read.len() < length {
                    self.fill().await?;
                }
                return Some((head, self.read.drain(..length).collect()));
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Option<()> {
        match tokio::time::timeout(DEADLINE, self.stream.read_buf(&mut self.read)).await.expect("in time") {
            Ok(count) if count > 0 => Some(()),
            _ => None,
        }
    }

    pub async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.expect("sent");
    }

    /// Waits until the other side has closed or reset the connection.
    pub async fn gone(&mut self) {
        while self.fill().await.is_some() {}
    }
}

/// A server whose connections are handled by a script.
pub struct Script {
    pub address: SocketAddr,
    pub connections: Rc<Cell<u32>>,
}

impl Script {
    pub async fn start<F: Future<Output = ()> + 'static>(script: impl Fn(Peer) -> F + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let connections = Rc::new(Cell::new(0));
        let count = Rc::clone(&connections);
        actix_rt::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).expect("a socket");
                count.set(count.get() + 1);
                actix_rt::spawn(script(Peer { stream, read: Vec::new() }));
            }
        });
        Self { address, connections }
    }
}

/// A client's connection to the front server.
pub struct Caller {
    pub stream: TcpStream,
    read: Vec<u8>,
}

impl Caller {
    pub async fn connect(server: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(server).await.expect("a connection"), read: Vec::new() }
    }

    pub async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.expect("sent");
    }

    /// Reads until what came ends with `end`, and returns and forgets all of it.
    pub async fn until(&mut self, end: &str) -> String {
        while !self.read.ends_with(end.as_bytes()) {
            assert!(self.fill().await, "ended with {:?}", String::from_utf8_lossy(&self.read));
        }
        String::from_utf8(std::mem::take(&mut self.read)).expect("a text")
    }

    /// Reads one answer, whose body is chunked or has a length.
    pub async fn answer(&mut self) -> String {
        loop {
            let text = String::from_utf8_lossy(&self.read);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let whole = match length {
                    Some(length) => body.len() >= length.parse::<usize>().expect("a number"),
                    None => body.ends_with("0\r\n\r\n"),
                };
                if whole {
                    return String::from_utf8(std::mem::take(&mut self.read)).expect("a text");
                }
            }
            assert!(self.fill().await, "ended with {:?}", String::from_utf8_lossy(&self.read));
        }
    }

    /// Reads until the server closes.
    pub async fn rest(&mut self) -> String {
        while self.fill().await {}
        String::from_utf8(std::mem::take(&mut self.read)).expect("a text")
    }

    async fn fill(&mut self) -> bool {
        let read = tokio::time::timeout(DEADLINE, self.stream.read_buf(&mut self.read));
        matches!(read.await.expect("in time"), Ok(count) if count > 0)
    }
}
