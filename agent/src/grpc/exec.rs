//! Commands beside replicas: whole ones, and sessions in which somebody types.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use nebula_proto::exec_stream_input::Input as Said;
use nebula_proto::exec_stream_output::Output as Told;
use nebula_proto::{
    ExecCommandRequest, ExecCommandResponse, ExecResize, ExecStart, ExecStreamInput, ExecStreamOutput,
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tonic::Status;

use super::error::{bad_request, exec as failed};
use crate::agent::Agent;
use crate::driver::exec::{self, Beside, Command, ExecError, Input, Output, Session, Window};
use crate::replica::spec::Instance;
use crate::request;

/// How long a command may take when nothing is said, and at most.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
const COMMAND_TIMEOUT_MAX: Duration = Duration::from_secs(3_600);
/// What is kept of each of a command's two outputs, in bytes.
const KEPT_MAX: usize = 1024 * 1024;
/// Commands at a time on this node.
const COMMANDS_MAX: usize = 32;
/// How long the first message of a session may take.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the size of a terminal's window is waited for before the command starts.
const WINDOW_WAIT: Duration = Duration::from_millis(100);
/// How long a session may be silent in both directions.
const IDLE_MAX: Duration = Duration::from_secs(30 * 60);
/// Answers of a session that may wait for the reader.
const ANSWERS_WAITING: usize = 2;

/// Runs commands, not too many at a time.
pub(super) struct Execs {
    agent: Arc<Agent>,
    room: Arc<Semaphore>,
    /// Says when the agent stops.
    stop: watch::Receiver<bool>,
}

/// The answers of a session.
pub(super) type Answers = mpsc::Receiver<Result<ExecStreamOutput, Status>>;

impl Execs {
    pub(super) fn new(agent: Arc<Agent>, stop: watch::Receiver<bool>) -> Self {
        Self { agent, room: Arc::new(Semaphore::new(COMMANDS_MAX)), stop }
    }

    fn enter(&self) -> Result<OwnedSemaphorePermit, Status> {
        Arc::clone(&self.room).try_acquire_owned().map_err(|_| {
            let many = format!("{COMMANDS_MAX} commands run beside replicas of this node already");
            Status::resource_exhausted(many)
        })
    }

    /// Runs a command without input and waits for its end.
    pub(super) async fn command(&self, request: ExecCommandRequest) -> Result<ExecCommandResponse, Status> {
        let _room = self.enter()?;
        let timeout = match u64::try_from(request.timeout_seconds) {
            Ok(0) | Err(_) => COMMAND_TIMEOUT,
            Ok(seconds) => Duration::from_secs(seconds).min(COMMAND_TIMEOUT_MAX),
        };
        let command = Command { words: request.command, tty: None };
        let session = self.open(&request.deployment_id, &request.replica_id, &command).await?;
        match tokio::time::timeout(timeout, gather(session)).await {
            Ok(gathered) => gathered.map_err(|error| failed(&error)),
            Err(_) => Err(failed(&ExecError::TimedOut(timeout.as_secs()))),
        }
    }

    /// Starts what the first message says and joins its input and its outputs to the caller.
    pub(super) async fn stream(
        &self,
        mut said: impl Stream<Item = Result<ExecStreamInput, Status>> + Send + Unpin + 'static,
    ) -> Result<Answers, Status> {
        let room = self.enter()?;
        let first = tokio::time::timeout(START_TIMEOUT, said.next()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("nothing was said to start"))?;
        let start = match first.transpose()?.and_then(|first| first.input) {
            Some(Said::Start(start)) => start,
            _ => return Err(Status::invalid_argument("the first message of ExecStream is start")),
        };
        let ExecStart { deployment_id, command, tty, replica_id } = start;
        let (window, early) = if tty { first_window(&mut said).await? } else { (None, None) };
        let command = Command { words: command, tty: tty.then(|| window.unwrap_or_default()) };
        let session = self.open(&deployment_id, &replica_id, &command).await?;
        let (answers, receiver) = mpsc::channel(ANSWERS_WAITING);
        let said = futures_util::stream::iter(early.map(Ok)).chain(said);
        let mut stop = self.stop.clone();
        tokio::spawn(async move {
            let _room = room;
            let stopping = async move {
                // The sender only goes away with the agent.
                let _ = stop.wait_for(|stop| *stop).await;
                Status::unavailable("the agent is stopping")
            };
            let end = tokio::select! {
                end = join(session, said, &answers) => end,
                end = stopping => Err(end),
            };
            if let Err(end) = end {
                // Who has gone meanwhile does not miss it.
                let _ = answers.send(Err(end)).await;
            }
        });
        Ok(receiver)
    }

    /// Starts a command beside the first replica that is meant.
    async fn open(&self, deployment: &str, replica: &str, command: &Command) -> Result<Session, Status> {
        if command.words.first().is_none_or(String::is_empty) {
            return Err(Status::invalid_argument("the command is empty"));
        }
        if command.words.iter().any(|word| word.contains('\0')) {
            return Err(Status::invalid_argument("the command holds a zero byte"));
        }
        let meant = request::selector(deployment, replica).map_err(bad_request)?;
        let replicas = &self.agent.replicas;
        let found = replicas.find(meant).into_iter().next();
        let (snapshot, _) =
            found.ok_or_else(|| Status::not_found(format!("deployment {deployment} is not on this node")))?;
        let Some(instance) = snapshot.view.instance else {
            let status = snapshot.view.status.as_str();
            return Err(Status::failed_precondition(format!("nothing runs: the replica is {status}")));
        };
        tracing::info!(
            deployment_id = %snapshot.deployment,
            replica_id = %snapshot.replica,
            program = command.words.first(),
            tty = command.tty.is_some(),
            "command beside a replica"
        );
        let session = match instance {
            Instance::Process(runtime) => {
                let beside = Beside { runtime, cwd: replicas.work_dir(snapshot.replica) };
                exec::run(&beside, command)
            }
            Instance::Container(container) => {
                exec::run_in(replicas.shared().drivers.docker(), container, command).await
            }
        };
        session.map_err(|error| failed(&error))
    }
}

/// Waits a moment for the size of a window, so that the command sees it from its beginning. What came instead is for
/// later.
async fn first_window(
    said: &mut (impl Stream<Item = Result<ExecStreamInput, Status>> + Unpin),
) -> Result<(Option<Window>, Option<ExecStreamInput>), Status> {
    let Ok(Some(next)) = tokio::time::timeout(WINDOW_WAIT, said.next()).await else {
        return Ok((None, None));
    };
    let next = next?;
    match &next.input {
        Some(Said::Resize(size)) => Ok((Some(window(size)?), None)),
        _ => Ok((None, Some(next))),
    }
}

fn window(size: &ExecResize) -> Result<Window, Status> {
    let side = |number: u32| u16::try_from(number).ok().filter(|number| *number > 0);
    match (side(size.columns), side(size.rows)) {
        (Some(columns), Some(rows)) => Ok(Window { columns, rows }),
        _ => Err(Status::invalid_argument("a window has from 1 to 65535 columns and rows")),
    }
}

/// Carries input and outputs until the command has ended, the caller is gone, or both were silent for too long.
async fn join(
    session: Session,
    said: impl Stream<Item = Result<ExecStreamInput, Status>> + Unpin,
    answers: &mpsc::Sender<Result<ExecStreamOutput, Status>>,
) -> Result<(), Status> {
    let Session { input, mut output } = session;
    let touched = Notify::new();
    let telling = async {
        while let Some(next) = output.recv().await {
            touched.notify_one();
            let told = match next.map_err(|error| failed(&error))? {
                Output::Stdout(bytes) => Told::Stdout(bytes),
                Output::Stderr(bytes) => Told::Stderr(bytes),
                Output::Exit(code) => Told::ExitCode(code),
            };
            if answers.send(Ok(ExecStreamOutput { output: Some(told) })).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    };
    let idle = async {
        while tokio::time::timeout(IDLE_MAX, touched.notified()).await.is_ok() {}
        let minutes = IDLE_MAX.as_secs() / 60;
        Err(Status::deadline_exceeded(format!("nothing was typed or written for {minutes} min")))
    };
    tokio::select! {
        end = telling => end,
        end = listen(said, input, &touched) => end,
        end = idle => end,
        () = answers.closed() => Ok(()),
    }
}

/// Passes on what the caller says. Resolves only with what ends the session: a caller who has no more to say, or a
/// command that takes no more, may still have something to read.
async fn listen(
    mut said: impl Stream<Item = Result<ExecStreamInput, Status>> + Unpin,
    input: mpsc::Sender<Input>,
    touched: &Notify,
) -> Result<(), Status> {
    while let Some(next) = said.next().await {
        // An error here: the caller has hung up.
        let next = match next?.input {
            Some(Said::Stdin(bytes)) => Input::Data(bytes),
            Some(Said::Resize(size)) => Input::Resize(window(&size)?),
            Some(Said::CloseStdin(true)) => Input::Close,
            Some(Said::CloseStdin(false)) => continue,
            Some(Said::Start(_)) => return Err(Status::invalid_argument("the session has started already")),
            None => return Err(Status::invalid_argument("the message says nothing")),
        };
        touched.notify_one();
        // A command that takes no more does not end the session.
        let _ = input.send(next).await;
    }
    let _ = input.send(Input::Close).await;
    std::future::pending().await
}

/// Reads a command's outputs to its end and keeps their beginnings.
async fn gather(session: Session) -> Result<ExecCommandResponse, ExecError> {
    let Session { input, mut output } = session;
    drop(input);
    let (mut stdout, mut stderr) = (Kept::default(), Kept::default());
    while let Some(next) = output.recv().await {
        match next? {
            Output::Stdout(bytes) => stdout.add(&bytes),
            Output::Stderr(bytes) => stderr.add(&bytes),
            Output::Exit(exit_code) => {
                return Ok(ExecCommandResponse { exit_code, stdout: stdout.text(), stderr: stderr.text() });
            }
        }
    }
    Err(ExecError::Gone)
}

/// The beginning of an output.
#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    cut: bool,
}

impl Kept {
    fn add(&mut self, bytes: &[u8]) {
        let room = KEPT_MAX.saturating_sub(self.bytes.len()).min(bytes.len());
        self.bytes.extend_from_slice(bytes.get(..room).unwrap_or_default());
        self.cut |= room < bytes.len();
    }

    /// As text, which must stay within its bounds also when the bytes are none.
    fn text(self) -> String {
        let mut text = String::from_utf8_lossy(&self.bytes).into_owned();
        let whole = text.len();
        text = crate::text::clip(text, KEPT_MAX);
        if self.cut || text.len() < whole {
            text.push_str("\n[output cut here]\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_whatever_the_bytes() {
        let mut kept = Kept::default();
        kept.add(b"short");
        assert_eq!(kept.text(), "short");
        for byte in [b'x', 0xff] {
            let mut kept = Kept::default();
            for _ in 0..40 {
                kept.add(&[byte; 100_000]);
            }
            let text = kept.text();
            assert!(text.len() <= KEPT_MAX + 32 && text.ends_with("\n[output cut here]\n"));
        }
    }

    #[test]
    fn windows_have_sides() {
        assert!(window(&ExecResize { columns: 80, rows: 0 }).is_err());
        assert!(window(&ExecResize { columns: 70_000, rows: 1 }).is_err());
        let size = window(&ExecResize { columns: 132, rows: 43 }).expect("a size");
        assert_eq!((size.columns, size.rows), (132, 43));
    }
}
