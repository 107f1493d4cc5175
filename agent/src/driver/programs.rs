//! Looking for programs on this machine.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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
    let run = Command::new(python)
        .args(["-c", &look])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    run.is_ok_and(|status| status.success())
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
}
