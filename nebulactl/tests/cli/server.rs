//! A small HTTP server whose answers a test writes, down to where the pieces of a body are cut.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

/// How long a gate or a client may keep a connection waiting.
const PATIENCE: Duration = Duration::from_secs(20);

/// One request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) authorization: Option<String>,
    pub(crate) last_event_id: Option<String>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("a JSON body")
    }
}

/// An answer: a head, then pieces of a body.
pub(crate) struct Answer {
    status: &'static str,
    content_type: &'static str,
    header: &'static str,
    pieces: Vec<Piece>,
}

/// A step in sending a body.
pub(crate) enum Piece {
    Bytes(Vec<u8>),
    /// Wait until the test opens the gate.
    Gate(Receiver<()>),
    /// Break the connection.
    Cut,
}

impl Answer {
    pub(crate) fn new(status: &'static str, content_type: &'static str, body: &str) -> Self {
        Self { status, content_type, header: "", pieces: vec![Piece::Bytes(body.into())] }
    }

    pub(crate) fn json(status: &'static str, body: &Value) -> Self {
        Self::new(status, "application/json", &body.to_string())
    }

    pub(crate) fn error(status: &'static str, code: &str, message: &str) -> Self {
        let error = json!({"message": message, "code": code, "request_id": "req-7"});
        Self::json(status, &json!({ "error": error }))
    }

    pub(crate) fn list(items: &Value) -> Self {
        Self::json("200 OK", &json!({"data": items, "next_cursor": null}))
    }

    pub(crate) fn pieces(content_type: &'static str, pieces: Vec<Piece>) -> Self {
        Self { status: "200 OK", content_type, header: "", pieces }
    }

    pub(crate) fn header(mut self, header: &'static str) -> Self {
        self.header = header;
        self
    }
}

/// The server. Stops when dropped.
pub(crate) struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    stopped: Arc<AtomicBool>,
}

impl Server {
    pub(crate) fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (requests, stopped) = (Arc::default(), Arc::<AtomicBool>::default());
        let (log, stop, answer) = (Arc::clone(&requests), Arc::clone(&stopped), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                // A client that hangs up ends its connection only.
                std::thread::spawn(move || serve(stream?, &log, &*answer));
            }
        });
        Self { address, requests, stopped }
    }

    /// A server that gives this one answer's parts to everybody.
    pub(crate) fn saying(status: &'static str, content_type: &'static str, body: &str) -> Self {
        let body = body.to_owned();
        Self::start(move |_| Answer::new(status, content_type, &body))
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no panic").clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.requests().iter().map(Request::line).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(
    stream: TcpStream,
    log: &Mutex<Vec<Request>>,
    answer: &dyn Fn(&Request) -> Answer,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = read(&mut BufReader::new(&stream))?;
    log.lock().expect("no panic").push(request.clone());
    let answer = answer(&request);
    let mut out = &stream;
    write!(out, "HTTP/1.1 {}\r\nconnection: close\r\n{}", answer.status, answer.header)?;
    if answer.status.starts_with("204") {
        return write!(out, "\r\n");
    }
    if !answer.content_type.is_empty() {
        write!(out, "content-type: {}\r\n", answer.content_type)?;
    }
    write!(out, "transfer-encoding: chunked\r\n\r\n")?;
    for piece in answer.pieces {
        match piece {
            Piece::Bytes(bytes) if bytes.is_empty() => {}
            Piece::Bytes(bytes) => {
                let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
                chunk.extend_from_slice(&bytes);
                chunk.extend_from_slice(b"\r\n");
                out.write_all(&chunk)?;
            }
            Piece::Gate(gate) => gate.recv_timeout(PATIENCE).map_err(std::io::Error::other)?,
            Piece::Cut => return Ok(()),
        }
    }
    write!(out, "0\r\n\r\n")
}

fn read(reader: &mut impl BufRead) -> std::io::Result<Request> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (mut authorization, mut last_event_id, mut length) = (None, None, 0);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => authorization = Some(value.to_owned()),
            "last-event-id" => last_event_id = Some(value.to_owned()),
            "content-length" => length = value.parse().expect("a length"),
            _ => {}
        }
    }
    let mut body = String::new();
    reader.take(length).read_to_string(&mut body)?;
    Ok(Request { method, target, authorization, last_event_id, body })
}
