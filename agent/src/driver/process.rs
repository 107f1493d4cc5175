//! Making, watching and ending a replica's process.

use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nebula_core::ids::ReplicaId;
use rustix::process::Pid;
use tokio::process::{Child, Command};

use super::logs::Log;
use super::procfs;
use crate::replica::machine::Signal;
use crate::replica::spec::{Ended, ProcessRef};
use crate::runtimes::Plan;

/// How often the log is looked at, and an adopted process.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// What is kept of a runtime's last words.
const LAST_LINES: usize = 20;
const LAST_BYTES: usize = 4 * 1024;

/// The directory in which a replica's process works; the one above it has the replica's id.
pub(crate) const WORK_DIR: &str = "work";
/// The marks in a process's environment.
const REPLICA_MARK: &str = "NEBULA_REPLICA";
const ATTEMPT_MARK: &str = "NEBULA_ATTEMPT";
/// The settings of Nebula's programs, among them the join token and nebulactl's admin token, are no runtime's business.
const OWN_SETTINGS: [&str; 3] = ["NEBULA_AGENT_", "NEBULAD_", "NEBULA_TOKEN"];

/// A process that is watched.
pub(crate) enum Watched {
    /// Our own child.
    Child(Child),
    /// One that an earlier agent left.
    Adopted(ProcessRef),
}

/// A command that runs a plan, without its output.
pub(crate) fn command(program: &Path, plan: &Plan, replica: ReplicaId, attempt: u32, cwd: &Path) -> Command {
    let mut command = Command::new(program);
    hide_own_settings(command.as_std_mut());
    command
        .envs(&plan.env)
        .env(REPLICA_MARK, replica.to_string())
        .env(ATTEMPT_MARK, attempt.to_string())
        .current_dir(cwd)
        .stdin(Stdio::null())
        .process_group(0);
    command
}

/// Takes the agent's own settings out of what a command inherits.
pub(super) fn hide_own_settings(command: &mut std::process::Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| OWN_SETTINGS.iter().any(|own| name.starts_with(own))) {
            command.env_remove(name);
        }
    }
}

/// Whether a process says that it belongs to a replica.
pub(super) fn is_marked(pid: u32, replica: ReplicaId) -> bool {
    procfs::carries(pid, &[(REPLICA_MARK, replica.to_string().as_str())])
}

/// Whether a process that has lost its mark belongs to a replica: it works in the replica's directory, and the leader of
/// its group is gone or has the mark. One that gives itself a title (`setproctitle`, as vLLM's engine and workers do)
/// writes it over its environment. A person's shell in that directory has a leader without a mark.
fn is_left(pid: u32, replica: ReplicaId) -> bool {
    let home = Path::new(&replica.to_string()).join(WORK_DIR);
    procfs::directory(pid).is_some_and(|directory| directory.ends_with(home))
        && procfs::group(pid)
            .is_some_and(|group| procfs::process(group).is_none() || is_marked(group, replica))
}

/// Starts a plan. Its output goes straight into `output`, so that it does not depend on this agent.
///
/// # Errors
/// When the operating system refuses.
pub(crate) fn spawn(
    plan: &Plan,
    replica: ReplicaId,
    attempt: u32,
    cwd: &Path,
    output: File,
) -> io::Result<(Child, ProcessRef)> {
    let errors = output.try_clone()?;
    let child = command(&plan.program, plan, replica, attempt, cwd)
        .args(&plan.args)
        .stdout(output)
        .stderr(errors)
        .spawn()?;
    let pid = child.id().ok_or_else(|| io::Error::other("the process has no number"))?;
    // One that has ended already is not collected yet, so its number is still its own; it only has no start time
    // that would matter any more.
    let process = procfs::process(pid).unwrap_or(ProcessRef { pid, started: 0, boot: procfs::boot() });
    Ok((child, process))
}

/// The process of a replica's attempt, when an agent died between making it and writing down its number.
pub(crate) fn find(replica: ReplicaId, attempt: u32) -> Option<ProcessRef> {
    procfs::marked_leader(&[
        (REPLICA_MARK, replica.to_string().as_str()),
        (ATTEMPT_MARK, attempt.to_string().as_str()),
    ])
}

/// Sends a signal to the process's group, if it is still that process.
pub(crate) fn signal(process: ProcessRef, signal: Signal) {
    let signal = match signal {
        Signal::Term => rustix::process::Signal::TERM,
        Signal::Kill => rustix::process::Signal::KILL,
    };
    let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid.filter(|_| procfs::is_alive(process)) {
        // It may have ended in between, which is what was wanted.
        let _ = rustix::process::kill_process_group(pid, signal);
    }
}

/// Ends what is left of a replica: processes that its runtime started and did not take with it.
pub(crate) fn sweep(replica: ReplicaId) {
    let mut left = procfs::numbers();
    left.retain(|pid| *pid != std::process::id() && (is_marked(*pid, replica) || is_left(*pid, replica)));
    for pid in left {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Waits for the end of a process and keeps its log within bounds meanwhile.
pub(crate) async fn watch(mut watched: Watched, replica: ReplicaId, log: Arc<Log>) -> Ended {
    let (code, signal) = loop {
        let look = tokio::time::sleep(LOOK_EVERY);
        match &mut watched {
            Watched::Child(child) => tokio::select! {
                status = child.wait() => match status {
                    Ok(status) => break (status.code(), status.signal()),
                    Err(error) => {
                        tracing::warn!(replica_id = %replica, %error, "exit of a process not seen");
                        break (None, None);
                    }
                },
                () = look => {}
            },
            Watched::Adopted(process) => {
                look.await;
                if !procfs::is_alive(*process) {
                    break (None, None);
                }
            }
        }
        let log = Arc::clone(&log);
        // A log that cannot be cut is tried again; the panic of a blocking task has been logged.
        let _ = tokio::task::spawn_blocking(move || log.cut()).await;
    };
    let output = tokio::task::spawn_blocking(move || {
        sweep(replica);
        // It may have written more than its share since the last look.
        log.cut();
        log.last_words(LAST_LINES, LAST_BYTES)
    });
    Ended { code, signal, output: output.await.unwrap_or_default(), ..Ended::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::logs::Logs;

    #[tokio::test]
    async fn what_a_runtime_leaves_is_ended_also_without_its_mark() {
        let dir = tempfile::tempdir().expect("a directory");
        let replica = ReplicaId::random();
        let home = dir.path().join(replica.to_string()).join(WORK_DIR);
        std::fs::create_dir_all(&home).expect("a directory");
        // An empty environment is what a title leaves of one. The other one is as a person's shell.
        let script = "env -i sleep 60 & echo $! >left; kill -9 $$";
        let mut person =
            Command::new("sleep").arg("60").current_dir(&home).process_group(0).spawn().expect("it starts");
        let mut runtime = Command::new("sh");
        runtime.args(["-c", script]).env(REPLICA_MARK, replica.to_string()).current_dir(&home);
        let child = runtime.process_group(0).spawn().expect("it starts");
        let (log, _output) = Logs::open(dir.path().join("r")).begin(1).expect("begins");

        let ended = watch(Watched::Child(child), replica, log).await;

        assert_eq!(ended.signal, Some(9));
        let left = std::fs::read_to_string(home.join("left")).expect("a number");
        let left: u32 = left.trim().parse().expect("a number");
        let gone = async {
            while procfs::process(left).is_some() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone).await.expect("what it has left is ended");
        assert_eq!(person.try_wait().expect("it is ours"), None);
        person.kill().await.expect("it ends");
    }

    #[tokio::test]
    async fn what_a_short_life_wrote_is_cut_too() {
        let dir = tempfile::tempdir().expect("a directory");
        let (log, output) = Logs::open(dir.path().join("r")).begin(1).expect("begins");
        let child = Command::new("sh")
            .args(["-c", "head -c 3000000 /dev/zero | tr '\\0' x; echo; echo the end; exit 7"])
            .stdout(output)
            .spawn()
            .expect("it starts");
        let ended = watch(Watched::Child(child), ReplicaId::random(), log).await;
        assert_eq!((ended.code, ended.output.lines().last()), (Some(7), Some("the end")));
        let files = std::fs::read_dir(dir.path().join("r")).expect("a directory");
        let sizes = files.map(|file| file.and_then(|file| file.metadata()).expect("a file").len());
        assert!(sizes.sum::<u64>() < 2_000_000);
    }
}
