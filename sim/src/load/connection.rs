//! One connection: sends requests and reads answers, one after the other.

use std::time::Duration;

use nebula_core::address::HostPort;
use nebula_core::clock::{Clock, wall_micros};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::answer::Answer;
use super::events::Seen;
use super::failure::Failure;
use super::figures::Done;
use crate::latency::Latency;

/// How much is read at once, in bytes.
const READ_BYTES: usize = 64 << 10;

/// What is sent, and what is to come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) request: &'a [u8],
    /// Whether the answer is to be a stream.
    pub(crate) stream: bool,
    /// When the request was due, by the connection's clock.
    pub(crate) due: Duration,
}

/// A connection that is made when it is needed.
#[derive(Debug)]
pub(crate) struct Connection<'a> {
    server: &'a HostPort,
    clock: Clock,
    timeout: Duration,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
    /// How often the server had closed the connection after an answer.
    pub(crate) reconnects: u64,
    /// How long events were on their way, where they say so.
    pub(crate) delay: Latency,
}

/// Why an exchange failed, and whether the server had said anything.
struct Broken {
    failure: Failure,
    silent: bool,
}

impl<'a> Connection<'a> {
    pub(crate) fn new(server: &'a HostPort, clock: Clock, timeout: Duration) -> Self {
        let (stream, delay) = (None, Latency::default());
        Self { server, clock, timeout, stream, buffer: vec![0; READ_BYTES], reconnects: 0, delay }
    }

    /// Sends a request and reads the answer to its end.
    pub(crate) async fn ask(&mut self, ask: Ask<'_>) -> Result<Done, Failure> {
        let result = timeout(self.timeout, self.ask_within_time(ask)).await;
        let result = result.unwrap_or(Err(Failure::Timeout));
        if result.is_err() {
            self.stream = None;
        }
        result
    }

    /// The connection itself, after an answer that left it open.
    pub(crate) fn into_stream(self) -> Option<TcpStream> {
        self.stream
    }

    async fn ask_within_time(&mut self, ask: Ask<'_>) -> Result<Done, Failure> {
        if let Some(stream) = self.stream.take() {
            match self.exchange(stream, ask).await {
                // Servers may close a connection that they have answered on. The request was not taken.
                Err(Broken { failure: Failure::Closed, silent: true }) => self.reconnects += 1,
                other => return other.map_err(|broken| broken.failure),
            }
        }
        let stream = self.connect().await?;
        self.exchange(stream, ask).await.map_err(|broken| broken.failure)
    }

    async fn connect(&self) -> Result<TcpStream, Failure> {
        let stream = TcpStream::connect((self.server.host(), self.server.port())).await;
        let stream = stream.map_err(|_| Failure::Connect)?;
        stream.set_nodelay(true).map_err(|_| Failure::Connect)?;
        Ok(stream)
    }

    /// One request and its answer. The connection is kept if it can be used again.
    async fn exchange(&mut self, mut stream: TcpStream, ask: Ask<'_>) -> Result<Done, Broken> {
        let broken = |failure, silent| Broken { failure, silent };
        // A server that answers before it has read all may close: what it said is still to be read.
        let sent = stream.write_all(ask.request).await;
        let (mut answer, mut seen, mut first) = (Answer::new(), Seen::default(), None);
        let mut silent = true;
        loop {
            let read = stream.read(&mut self.buffer).await.unwrap_or(0);
            if read == 0 {
                if sent.is_err() || !answer.closed() {
                    return Err(broken(Failure::Closed, silent));
                }
                break;
            }
            silent = false;
            let bytes = self.buffer.get(..read).unwrap_or_default();
            let delay = &mut self.delay;
            let over = answer.feed(bytes, |events, data| {
                if events {
                    seen.stream(data, |sent| delay.add(since(sent)))
                } else {
                    seen.whole(data);
                    Ok(())
                }
            });
            let over = over.map_err(|failure| broken(failure, false))?;
            if first.is_none() && seen.events > 0 {
                first = Some(self.clock.elapsed().saturating_sub(ask.due));
            }
            if over {
                break;
            }
        }
        let took = self.clock.elapsed().saturating_sub(ask.due);
        let (status, keep) = (answer.status, answer.keep);
        if status != 200 {
            return Err(broken(Failure::Status(status), false));
        }
        if answer.events != ask.stream {
            return Err(broken(Failure::Body, false));
        }
        seen.check(ask.stream).map_err(|failure| broken(failure, false))?;
        if keep && sent.is_ok() {
            self.stream = Some(stream);
        }
        Ok(Done { took, first, seen })
    }
}

/// The time since a moment on the wall clock, in microseconds since 1970.
fn since(sent: u64) -> Duration {
    Duration::from_micros(wall_micros().saturating_sub(sent))
}
