//! Running a command inside a container: a raw session, for whoever speaks with people.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use bollard::exec::{CreateExecOptions, ResizeExecOptions};
use bollard::models::ExecInspectResponse;
use rustix::process::Pid;
use tokio::io::AsyncWrite;

use super::Docker;
use super::engine::{CALL_LIMIT, EngineError};
use super::hijack::{self, Answer};
pub(crate) use super::hijack::{Channel, Output};
use crate::replica::spec::ContainerRef;

/// How often one that is just being started is looked at again before it can be killed.
const START_LOOKS: u32 = 10;
const LOOK_AFTER: Duration = Duration::from_millis(200);

/// What to run.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExecSpec {
    /// The program and its arguments.
    pub(crate) command: Vec<String>,
    /// Whether it gets a terminal.
    pub(crate) tty: bool,
    /// Added to the container's environment.
    pub(crate) env: BTreeMap<String, String>,
}

/// A command that runs. Dropping it hangs up; the command may go on, see [`Docker::kill_exec`].
pub(crate) struct ExecSession {
    /// By which the Engine knows it.
    pub(crate) id: String,
    /// What it reads. Shutting it down is the end of its input.
    pub(crate) input: Pin<Box<dyn AsyncWrite + Send>>,
    /// What it writes. A program that is not there is told here too, and its exit code is 126 or 127.
    pub(crate) output: Output,
}

impl fmt::Debug for ExecSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecSession").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Why a command was not run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ExecError {
    /// The container is gone, has ended or is paused.
    #[error("the container does not run")]
    NotRunning,
    /// The Engine did not do it.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Docker {
    /// Starts a command in a container.
    ///
    /// # Errors
    /// See [`ExecError`].
    pub(crate) async fn exec(
        &self,
        container: ContainerRef,
        spec: ExecSpec,
    ) -> Result<ExecSession, ExecError> {
        let engine = &self.0.engine;
        let (id, tty) = (container.to_hex(), spec.tty);
        let options = CreateExecOptions {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(tty),
            env: Some(spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
            cmd: Some(spec.command),
            ..CreateExecOptions::<String>::default()
        };
        let made =
            engine
                .call("prepare a command", CALL_LIMIT, |docker| async move {
                    docker.create_exec(&id, options).await
                })
                .await;
        let id = match made {
            Ok(made) => made.id,
            Err(error) if error.is_not_found() || error.is_conflict() => return Err(ExecError::NotRunning),
            Err(error) => return Err(error.into()),
        };
        let host = engine.host();
        let (path, body) = (format!("/exec/{id}/start"), format!(r#"{{"Detach":false,"Tty":{tty}}}"#));
        let what = "run a command";
        let answer = tokio::time::timeout(CALL_LIMIT, hijack::post(host, &path, &body)).await;
        match answer {
            Err(_) => Err(EngineError::TimedOut { host: host.to_string(), what, limit: CALL_LIMIT }.into()),
            Ok(Err(error)) => Err(engine.error(error.into(), what, CALL_LIMIT).into()),
            Ok(Ok(Answer::Refused(409, _))) => Err(ExecError::NotRunning),
            Ok(Ok(Answer::Refused(status, message))) => {
                Err(EngineError::Answered { status, message: super::engine::one_line(&message) }.into())
            }
            Ok(Ok(Answer::Open { input, reader })) => {
                let output = if tty { hijack::raw(reader) } else { hijack::framed(reader) };
                Ok(ExecSession { id, input, output })
            }
        }
    }

    /// Tells a command's terminal its size.
    ///
    /// # Errors
    /// When the Engine does not do it.
    pub(crate) async fn resize_exec(&self, id: &str, columns: u16, rows: u16) -> Result<(), EngineError> {
        let size = ResizeExecOptions { width: columns, height: rows };
        self.0
            .engine
            .call("resize a terminal", CALL_LIMIT, |docker| async move { docker.resize_exec(id, size).await })
            .await
    }

    /// The exit code of a command; none: it still runs.
    ///
    /// # Errors
    /// When the Engine does not say.
    pub(crate) async fn exec_exit_code(&self, id: &str) -> Result<Option<i64>, EngineError> {
        let found = self.inspect_exec(id).await?;
        Ok(found.exit_code.filter(|_| found.running != Some(true)))
    }

    /// Kills a command that nobody waits for any more. Only as far as the agent sees its process and may.
    pub(crate) async fn kill_exec(&self, id: &str) {
        let mut looks = 0;
        let found = loop {
            match self.inspect_exec(id).await {
                Ok(found) if found.running == Some(true) && found.pid.is_some_and(|pid| pid > 0) => {
                    break found;
                }
                // The Engine hands its session over before it has started it, and before it knows its number.
                Ok(found) if found.exit_code.is_none() && looks < START_LOOKS => {}
                Ok(_) => return,
                Err(error) => {
                    tracing::warn!(%error, "command in a container may go on");
                    return;
                }
            }
            looks += 1;
            tokio::time::sleep(LOOK_AFTER).await;
        };
        let (Some(pid), Some(container)) =
            (found.pid.and_then(|pid| i32::try_from(pid).ok()), found.container_id)
        else {
            return;
        };
        let killing = tokio::task::spawn_blocking(move || kill_in(pid, &container));
        if let Ok(Err(error)) = killing.await {
            tracing::warn!(%error, exec_id = id, "command in a container may go on");
        }
    }

    async fn inspect_exec(&self, id: &str) -> Result<ExecInspectResponse, EngineError> {
        self.0
            .engine
            .call("describe a command", CALL_LIMIT, |docker| async move { docker.inspect_exec(id).await })
            .await
    }
}

/// Kills a process if it is one of that container.
fn kill_in(pid: i32, container: &str) -> std::io::Result<()> {
    let killed = match std::fs::read_to_string(format!("/proc/{pid}/cgroup")) {
        Ok(groups) if !container.is_empty() && groups.contains(container) => Pid::from_raw(pid)
            .map_or(Ok(()), |pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL))
            .map_err(std::io::Error::from),
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    };
    match killed {
        // It has ended by itself meanwhile.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(()),
        other => other,
    }
}
