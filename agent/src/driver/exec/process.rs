//! Commands beside a runtime that is a process: in its environment and directory, in a process group or a session
//! of their own.

use std::ffi::{OsStr, OsString};
use std::future::pending;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use pty_process::{OwnedReadPty, OwnedWritePty, Size};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin};
use tokio::sync::{mpsc, watch};

use super::mark::{self, Mark};
use super::pump::pump;
use super::{Command, ExecError, Input, Inside, Output, Session, Window, end_of_input};
use crate::driver::{process, procfs, programs};
use crate::replica::machine::Signal;
use crate::replica::spec::ProcessRef;

/// What a terminal says that it is where the runtime's environment does not say it.
const TERM: &str = "xterm";

/// Beside what a command runs.
#[derive(Clone, Debug)]
pub(crate) struct Beside {
    pub(crate) runtime: ProcessRef,
    /// The runtime's directory.
    pub(crate) cwd: PathBuf,
}

/// Starts a command.
///
/// # Errors
/// When there is no such program, or the operating system refuses.
pub(crate) fn run(beside: &Beside, command: &Command) -> Result<Session, ExecError> {
    let environment = environment(beside.runtime)?;
    let path = environment.iter().find(|(name, _)| name == "PATH").and_then(|(_, path)| path.to_str());
    let name = command.words.first().map(String::as_str).unwrap_or_default();
    let program = programs::find(name, path).ok_or_else(|| ExecError::NoProgram(name.to_owned()))?;
    let mark = Mark::new();
    let mut spawning = tokio::process::Command::new(program);
    spawning.args(command.words.iter().skip(1)).env_clear();
    if command.tty.is_some() {
        spawning.env("TERM", TERM);
    }
    spawning.envs(environment).env(mark::NAME, mark.value()).current_dir(&beside.cwd);
    let made = match command.tty {
        None => with_pipes(spawning)?,
        Some(window) => with_terminal(spawning, window)?,
    };
    let remains = Remains { leader: made.child.id().and_then(procfs::process), mark };
    let (session, inside) = Session::new();
    tokio::spawn(drive(made, remains, inside));
    Ok(session)
}

/// The environment in which the runtime was started, which is the replica's.
fn environment(runtime: ProcessRef) -> Result<Vec<(OsString, OsString)>, ExecError> {
    let bytes = match std::fs::read(format!("/proc/{}/environ", runtime.pid)) {
        Ok(bytes) if procfs::is_alive(runtime) => bytes,
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => return Err(ExecError::Gone),
    };
    let pair = |pair: &[u8]| {
        let at = pair.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
        let (name, value) = pair.split_at(at);
        Some((OsStr::from_bytes(name).to_owned(), OsString::from_vec(value.get(1..)?.to_vec())))
    };
    Ok(bytes.split(|byte| *byte == 0).filter_map(pair).collect())
}

/// A child with the ends of its input and outputs that are ours.
struct Made {
    child: Child,
    stdin: Stdin,
    terminal: Option<OwnedReadPty>,
}

enum Stdin {
    Pipe(Option<ChildStdin>),
    Terminal { pty: OwnedWritePty, last: Option<u8> },
}

fn with_pipes(mut command: tokio::process::Command) -> Result<Made, ExecError> {
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.process_group(0).spawn()?;
    let stdin = Stdin::Pipe(child.stdin.take());
    Ok(Made { child, stdin, terminal: None })
}

/// The child leads a new session whose terminal this is.
fn with_terminal(command: tokio::process::Command, window: Window) -> Result<Made, ExecError> {
    let (ours, theirs) = pty_process::open().map_err(refused)?;
    ours.resize(size(window)).map_err(refused)?;
    let child = pty_process::Command::from(command).spawn(theirs).map_err(refused)?;
    let (output, input) = ours.into_split();
    Ok(Made { child, stdin: Stdin::Terminal { pty: input, last: None }, terminal: Some(output) })
}

fn size(window: Window) -> Size {
    Size::new(window.rows, window.columns)
}

fn refused(error: pty_process::Error) -> ExecError {
    match error {
        pty_process::Error::Io(error) => ExecError::Io(error),
        other => ExecError::Io(io::Error::other(other.to_string())),
    }
}

/// Kills the command and what it has started, unless it has ended by itself.
struct Remains {
    leader: Option<ProcessRef>,
    mark: Mark,
}

impl Drop for Remains {
    fn drop(&mut self) {
        let Some(leader) = self.leader else { return };
        process::signal(leader, Signal::Kill);
        // A shell gives each of its jobs a group of its own.
        self.mark.sweep();
    }
}

/// Joins a child to its session until it has ended and all that it wrote is told, or until nobody listens.
async fn drive(made: Made, mut remains: Remains, inside: Inside) {
    let Made { mut child, stdin, terminal } = made;
    let Inside { input, output } = inside;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (ended, seen) = watch::channel(false);
    let waiting = async {
        let status = child.wait().await;
        remains.leader = None;
        ended.send_replace(true);
        status
    };
    let running = async {
        let (status, (), (), ()) = tokio::join!(
            waiting,
            pump(terminal, Output::Stdout, &output, seen.clone()),
            pump(stdout, Output::Stdout, &output, seen.clone()),
            pump(stderr, Output::Stderr, &output, seen.clone()),
        );
        status
    };
    let status = tokio::select! {
        status = running => status,
        () = output.closed() => return,
        () = feed(stdin, input) => return,
    };
    // Who has gone meanwhile does not miss it.
    let _ = output.send(status.map(|status| Output::Exit(exit_code(status))).map_err(ExecError::Io)).await;
}

/// Gives the child what comes in. Never resolves: a child that reads no more may still write.
async fn feed(mut stdin: Stdin, mut input: mpsc::Receiver<Input>) {
    while let Some(next) = input.recv().await {
        let taken = match (&mut stdin, next) {
            (Stdin::Pipe(Some(pipe)), Input::Data(data)) => write(pipe, &data).await,
            (Stdin::Pipe(pipe), Input::Close) => {
                *pipe = None;
                break;
            }
            (Stdin::Terminal { pty, last }, Input::Data(data)) => {
                *last = data.last().copied().or(*last);
                write(pty, &data).await
            }
            (Stdin::Terminal { pty, last }, Input::Close) => write(pty, end_of_input(last.take())).await,
            (Stdin::Terminal { pty, .. }, Input::Resize(window)) => pty.resize(size(window)).is_ok(),
            (Stdin::Pipe(None), Input::Data(_)) | (Stdin::Pipe(_), Input::Resize(_)) => true,
        };
        if !taken {
            break;
        }
    }
    // Whoever still has something to say hears that nobody listens; what has no window to close stays open.
    drop(input);
    if let Stdin::Pipe(pipe) = &mut stdin {
        *pipe = None;
    }
    pending().await
}

async fn write(sink: &mut (impl AsyncWrite + Unpin), data: &[u8]) -> bool {
    sink.write_all(data).await.is_ok()
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}
