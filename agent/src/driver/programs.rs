//! Looking for programs on this machine.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal};

use super::process;

/// How long a program may take that is asked what it can do.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the end of one that was killed is waited for.
const KILLED_WITHIN: Duration = Duration::from_secs(1);

/// The file that `name` would run: the path itself when it has a slash, else the first one on `PATH` (or on `path`
/// instead, when that is given).
pub(crate) fn find(name: &str, path: Option<&str>) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|file| is_program(file));
    }
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let path = path.map_or(inherited, Into::into);
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// The Python to use: `chosen` if that is a program, else `python3` of `PATH`.
pub(crate) fn python(chosen: Option<&Path>) -> Option<PathBuf> {
    match chosen {
        Some(chosen) => find(&chosen.display().to_string(), None),
        None => find("python3", None),
    }
}

/// Whether a Python can import a module, found without importing it.
pub(crate) fn has_module(python: &Path, module: &str) -> bool {
    let look = format!("import importlib.util, sys; sys.exit(importlib.util.find_spec({module:?}) is None)");
    let mut command = Command::new(python);
    process::hide_own_settings(&mut command);
    command.args(["-c", &look]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    succeeds(command, LOOK_TIMEOUT)
}

/// Whether a command ends well within a time. One that takes longer is killed with its process group.
fn succeeds(mut command: Command, limit: Duration) -> bool {
    let Ok(mut child) = command.process_group(0).spawn() else { return false };
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let (told, ended) = mpsc::channel();
    // The wait ends with the process, which ends within the limit.
    std::thread::spawn(move || {
        // Nobody listens any more when it took too long.
        let _ = told.send(child.wait().is_ok_and(|status| status.success()));
    });
    match ended.recv_timeout(limit) {
        Ok(well) => well,
        Err(_) => {
            // Not collected before the wait above, so the number is still its own.
            let _ = group.map(|group| rustix::process::kill_process_group(group, Signal::KILL));
            let _ = ended.recv_timeout(KILLED_WITHIN);
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_name_and_by_path() {
        let sh = find("sh", None).expect("a shell");
        assert_eq!(find(&sh.display().to_string(), None), Some(sh.clone()));
        assert_eq!(find("sh", Some("/nowhere")), None);
        assert_eq!(find("no-such-program", None), None);
        assert_eq!(find("/etc/passwd", None), None, "no program");
        assert_eq!(find("/", None), None, "a directory");
    }

    #[test]
    fn a_program_that_takes_too_long_is_killed() {
        let run = |words: &str, limit| {
            let mut command = Command::new("sh");
            command.args(["-c", words]);
            succeeds(command, limit)
        };
        assert!(run("exit 0", LOOK_TIMEOUT));
        assert!(!run("exit 1", LOOK_TIMEOUT));
        // It writes its number down and lives on.
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("pid");
        let words = format!("echo $$ > {}; exec sleep 60", file.display());
        assert!(!run(&words, Duration::from_millis(500)));
        let pid: u32 = std::fs::read_to_string(file).expect("written").trim().parse().expect("a number");
        assert_eq!(crate::driver::procfs::process(pid), None);
    }
}
