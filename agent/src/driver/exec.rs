//! Running a command beside a replica: in its environment and directory, bounded in time and output.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nebula_core::ids::ReplicaId;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{process, procfs, programs};
use crate::replica::machine::Signal;
use crate::replica::spec::ProcessRef;
use crate::runtimes::Plan;

/// What is kept of each of the two outputs, in bytes.
const OUTPUT_MAX: usize = 1024 * 1024;
/// How long the outputs may stay open after the command has ended, held by a process that it left.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) exit_code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Why it did not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecError {
    /// There is no such program.
    #[error("the program \"{0}\" is not on this node")]
    NoProgram(String),
    /// It took too long and was killed.
    #[error("the command did not end within {0} s and was killed")]
    TimedOut(u64),
    /// The operating system refused.
    #[error("the command cannot be run")]
    Io(#[from] io::Error),
}

/// Kills the command's process group when nobody waits for it any more.
struct Group(Option<ProcessRef>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(process) = self.0 {
            process::signal(process, Signal::Kill);
        }
    }
}

/// Runs `words` and waits for its end.
///
/// # Errors
/// See [`ExecError`].
pub(crate) async fn run(
    plan: &Plan,
    replica: ReplicaId,
    attempt: u32,
    cwd: &Path,
    words: &[String],
    timeout: Duration,
) -> Result<Outcome, ExecError> {
    let name = words.first().cloned().unwrap_or_default();
    let program =
        programs::find(&name, plan.env.get("PATH").map(String::as_str)).ok_or(ExecError::NoProgram(name))?;
    let mut child = process::command(&program, plan, replica, attempt, cwd)
        .args(words.iter().skip(1))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut group = Group(child.id().and_then(procfs::process));
    let stdout = tokio::spawn(gather(child.stdout.take()));
    let stderr = tokio::spawn(gather(child.stderr.take()));
    let status = tokio::time::timeout(timeout, child.wait()).await;
    let Ok(status) = status else {
        return Err(ExecError::TimedOut(timeout.as_secs()));
    };
    let status = status?;
    group.0 = None;
    let exit_code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(-1);
    Ok(Outcome { exit_code, stdout: output(stdout).await, stderr: output(stderr).await })
}

async fn output(mut gathering: tokio::task::JoinHandle<String>) -> String {
    let gathered = tokio::time::timeout(OUTPUT_GRACE, &mut gathering).await;
    gathering.abort();
    gathered.ok().and_then(Result::ok).unwrap_or_else(|| "[output still open]".to_owned())
}

/// Reads to the end and keeps the beginning.
async fn gather(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut pipe) = pipe else { return String::new() };
    let mut kept = Vec::new();
    let mut cut = false;
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        let room = OUTPUT_MAX.saturating_sub(kept.len()).min(count);
        kept.extend_from_slice(buffer.get(..room).unwrap_or_default());
        cut |= room < count;
    }
    let mut text = String::from_utf8_lossy(&kept).into_owned();
    if cut {
        text.push_str("\n[output cut here]\n");
    }
    text
}
