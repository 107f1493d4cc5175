//! Connections that are only held open: idle ones after one answer, and streams that are read as they come.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use nebula_core::clock::Clock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::answer::Answer;
use super::args::Args;
use super::connection::{Ask, Connection};
use super::failure::Failure;
use super::figures::Held;

/// Connections that are opened at the same time.
const OPENING_MAX: usize = 64;
/// How much is read of a held stream at once, in bytes.
const READ_BYTES: usize = 4 << 10;

/// What is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Idle,
    Stream,
}

/// Connections that are held until this is dropped.
pub(crate) struct Holding {
    held: Rc<RefCell<Held>>,
    /// Ended when dropped.
    _tasks: JoinSet<()>,
}

impl Holding {
    /// Opens so many connections, and returns when each is open or could not be opened. Failures are handed to `failed`.
    pub(crate) async fn open(
        args: &Args,
        request: Rc<Vec<u8>>,
        kind: Kind,
        wanted: u32,
        mut failed: impl FnMut(Failure),
    ) -> Self {
        let held = Rc::new(RefCell::new(Held { wanted, ..Held::default() }));
        let opening = Rc::new(Semaphore::new(OPENING_MAX));
        let (told, mut opened) = tokio::sync::mpsc::channel(OPENING_MAX);
        let mut tasks = JoinSet::new();
        for _ in 0..wanted {
            let (opening, request, held) = (opening.clone(), request.clone(), held.clone());
            let (told, server, limit) = (told.clone(), args.url.server().clone(), args.timeout);
            tasks.spawn_local(async move {
                let place = opening.acquire().await;
                let opened = match kind {
                    Kind::Idle => idle(Connection::new(&server, Clock::start(), limit), &request).await,
                    Kind::Stream => open_stream((server.host(), server.port()), &request, limit).await,
                };
                drop(place);
                let result = opened.as_ref().map(|_| ()).map_err(|failure| *failure);
                // Nobody listens only when the run is over.
                let _ = told.send(result).await;
                if let Ok(opened) = opened {
                    opened.last().await;
                    held.borrow_mut().lost += 1;
                }
            });
        }
        drop(told);
        for _ in 0..wanted {
            match opened.recv().await {
                Some(Ok(())) => held.borrow_mut().opened += 1,
                Some(Err(failure)) => failed(failure),
                None => break,
            }
        }
        Self { held, _tasks: tasks }
    }

    /// How they are now.
    pub(crate) fn held(&self) -> Held {
        *self.held.borrow()
    }
}

/// A connection that is to stay as it is.
struct Opened {
    stream: TcpStream,
    /// The answer that is to go on; none: the connection is idle.
    answer: Option<Answer>,
    /// The answer was over when its first bytes came.
    over: bool,
}

impl Opened {
    /// Reads until the server ends the connection or the answer.
    async fn last(mut self) {
        let mut buffer = vec![0; READ_BYTES];
        if self.over {
            return;
        }
        while let Ok(read) = self.stream.read(&mut buffer).await {
            let bytes = buffer.get(..read).unwrap_or_default();
            let goes_on = match &mut self.answer {
                Some(answer) => answer.feed(bytes, |_, _| Ok(())) == Ok(false),
                None => true,
            };
            if read == 0 || !goes_on {
                return;
            }
        }
    }
}

/// A connection after one answer.
async fn idle(mut connection: Connection<'_>, request: &[u8]) -> Result<Opened, Failure> {
    connection.ask(Ask { request, stream: false, due: Duration::ZERO }).await?;
    let stream = connection.into_stream().ok_or(Failure::Closed)?;
    Ok(Opened { stream, answer: None, over: false })
}

/// A connection on which the first bytes of a stream have come.
async fn open_stream(server: (&str, u16), request: &[u8], limit: Duration) -> Result<Opened, Failure> {
    let opening = async {
        let mut stream = TcpStream::connect(server).await.map_err(|_| Failure::Connect)?;
        stream.write_all(request).await.map_err(|_| Failure::Closed)?;
        let (mut buffer, mut answer, mut over) = (vec![0; READ_BYTES], Answer::new(), false);
        while answer.status == 0 {
            let read = stream.read(&mut buffer).await.map_err(|_| Failure::Closed)?;
            let bytes = buffer.get(..read).filter(|bytes| !bytes.is_empty()).ok_or(Failure::Closed)?;
            over = answer.feed(bytes, |_, _| Ok(()))?;
        }
        match (answer.status, answer.events) {
            (200, true) => Ok(Opened { stream, answer: Some(answer), over }),
            (200, false) => Err(Failure::Body),
            (status, _) => Err(Failure::Status(status)),
        }
    };
    timeout(limit, opening).await.unwrap_or(Err(Failure::Timeout))
}
