//! Commands inside a runtime's container, by the Docker Engine.

use std::collections::BTreeMap;
use std::future::pending;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use super::mark::{self, Mark};
use super::{Command, ExecError, Input, Inside, Output, Session, end_of_input};
use crate::driver::docker::{Channel, Docker, ExecError as Refused, ExecSession, ExecSpec};
use crate::replica::spec::ContainerRef;

/// How often the Engine is asked for the exit code of a command that writes no more.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// With this the Engine begins what it writes instead of a program that it cannot start, and so the program ends.
const NOT_STARTED: &str = "OCI runtime exec failed";
const NOT_STARTED_CODES: [i32; 2] = [126, 127];
/// It is no longer than this, in bytes.
const NOT_STARTED_MAX: usize = 4 * 1024;

/// Starts a command.
///
/// # Errors
/// When the container does not run, or the Engine does not do it.
pub(crate) async fn run_in(
    docker: &Docker,
    container: ContainerRef,
    command: &Command,
) -> Result<Session, ExecError> {
    let mark = Mark::new();
    let env = BTreeMap::from([(mark::NAME.to_owned(), mark.value().to_owned())]);
    let spec = ExecSpec { command: command.words.clone(), tty: command.tty.is_some(), env };
    let program = command.words.first().cloned().unwrap_or_default();
    let running = docker.exec(container, spec).await.map_err(|error| refused(error, &program))?;
    if let Some(window) = command.tty {
        resize(docker, &running.id, window.columns, window.rows).await;
    }
    let (session, inside) = Session::new();
    let (docker, tty) = (docker.clone(), command.tty.is_some());
    tokio::spawn(async move {
        let ExecSession { id, input, output } = running;
        let Inside { input: typed, output: told } = inside;
        let ended = tokio::select! {
            ended = forward(&docker, &id, output, &told, &program) => ended,
            () = told.closed() => None,
            () = feed(&docker, &id, input, typed, tty) => None,
        };
        match ended {
            // Who has gone meanwhile does not miss it.
            Some(ended) => drop(told.send(ended).await),
            None => {
                docker.kill_exec(&id).await;
                mark.sweep();
            }
        }
    });
    Ok(session)
}

/// Newer Engines say at once that there is no such program; older ones say it in its place.
fn refused(error: Refused, program: &str) -> ExecError {
    match error {
        Refused::NotRunning => ExecError::Gone,
        Refused::Engine(error) => {
            let said = error.to_string();
            if said.contains(NOT_STARTED) { not_started(program, &said) } else { ExecError::Engine(said) }
        }
    }
}

async fn resize(docker: &Docker, id: &str, columns: u16, rows: u16) {
    if let Err(error) = docker.resize_exec(id, columns, rows).await {
        tracing::debug!(%error, "a terminal in a container keeps its size");
    }
}

/// Tells what the command writes, and how it ended. None: nobody listens any more.
async fn forward(
    docker: &Docker,
    id: &str,
    mut output: impl Stream<Item = io::Result<(Channel, Bytes)>> + Unpin,
    told: &mpsc::Sender<Result<Output, ExecError>>,
    program: &str,
) -> Option<Result<Output, ExecError>> {
    let mut first = true;
    let mut refusal = BytesMut::new();
    while let Some(piece) = output.next().await {
        let (channel, bytes) = match piece {
            Ok(piece) => piece,
            Err(error) => return Some(Err(ExecError::Engine(format!("the connection broke: {error}")))),
        };
        if std::mem::take(&mut first) && bytes.starts_with(NOT_STARTED.as_bytes()) || !refusal.is_empty() {
            refusal.extend_from_slice(&bytes);
            if refusal.len() <= NOT_STARTED_MAX {
                continue;
            }
        }
        let bytes = if refusal.is_empty() { bytes } else { refusal.split().freeze() };
        told.send(Ok(written(channel, bytes))).await.ok()?;
    }
    let code = match exit_code(docker, id).await {
        Ok(code) => code,
        Err(error) => return Some(Err(error)),
    };
    if !refusal.is_empty() {
        if NOT_STARTED_CODES.contains(&code) {
            return Some(Err(not_started(program, &String::from_utf8_lossy(&refusal))));
        }
        told.send(Ok(Output::Stdout(refusal.freeze()))).await.ok()?;
    }
    Some(Ok(Output::Exit(code)))
}

fn written(channel: Channel, bytes: Bytes) -> Output {
    match channel {
        Channel::Out => Output::Stdout(bytes),
        Channel::Err => Output::Stderr(bytes),
    }
}

/// The same words as for a program that is not on the node.
fn not_started(program: &str, said: &str) -> ExecError {
    let missing = ["not found", "no such file", "permission denied", "is a directory"];
    if missing.iter().any(|part| said.contains(part)) {
        return ExecError::NoProgram(program.to_owned());
    }
    ExecError::Io(io::Error::other(said.trim().to_owned()))
}

/// Waits for the end of a command that writes no more.
async fn exit_code(docker: &Docker, id: &str) -> Result<i32, ExecError> {
    loop {
        match docker.exec_exit_code(id).await {
            Ok(Some(code)) => return Ok(i32::try_from(code).unwrap_or(-1)),
            Ok(None) => tokio::time::sleep(LOOK_EVERY).await,
            Err(error) if error.is_not_found() => return Err(ExecError::Gone),
            Err(error) => return Err(ExecError::Engine(error.to_string())),
        }
    }
}

/// Gives the command what comes in. Never resolves: one that reads no more may still write.
async fn feed(
    docker: &Docker,
    id: &str,
    mut sink: std::pin::Pin<Box<dyn tokio::io::AsyncWrite + Send>>,
    mut input: mpsc::Receiver<Input>,
    tty: bool,
) {
    let mut last = None;
    while let Some(next) = input.recv().await {
        let taken = match next {
            Input::Data(data) => {
                last = data.last().copied().or(last);
                sink.write_all(&data).await.is_ok() && sink.flush().await.is_ok()
            }
            Input::Close if tty => sink.write_all(end_of_input(last.take())).await.is_ok(),
            Input::Close => false,
            Input::Resize(window) => {
                if tty {
                    resize(docker, id, window.columns, window.rows).await;
                }
                true
            }
        };
        if !taken {
            break;
        }
    }
    drop(input);
    if !tty {
        // The end of its input; where it fails the command has ended.
        let _ = sink.shutdown().await;
    }
    pending().await
}
