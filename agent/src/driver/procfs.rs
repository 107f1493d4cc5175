//! Processes as `/proc` shows them.

use std::fs;
use std::path::PathBuf;

use crate::replica::spec::ProcessRef;

/// What of `/proc/<pid>/stat` matters here.
struct Stat {
    dead: bool,
    group: u32,
    started: u64,
}

/// The boot of this machine; zeros where there is no such thing.
pub(crate) fn boot() -> [u8; 16] {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    uuid::Uuid::parse_str(text.trim()).unwrap_or_default().into_bytes()
}

/// The process with this number, unless it has ended (also when nobody has collected it yet).
pub(crate) fn process(pid: u32) -> Option<ProcessRef> {
    let stat = stat(pid).filter(|stat| !stat.dead)?;
    Some(ProcessRef { pid, started: stat.started, boot: boot() })
}

/// Whether this very process runs.
pub(crate) fn is_alive(process: ProcessRef) -> bool {
    self::process(process.pid) == Some(process)
}

/// The processes that carry `NAME=value` pairs in their environment, as far as we may look, without ourselves.
pub(crate) fn marked(marks: &[(&str, &str)]) -> Vec<u32> {
    numbers().into_iter().filter(|pid| *pid != std::process::id() && carries(*pid, marks)).collect()
}

/// The numbers of all processes.
pub(crate) fn numbers() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// The process group of a process.
pub(crate) fn group(pid: u32) -> Option<u32> {
    stat(pid).map(|stat| stat.group)
}

/// The directory that a process works in; none when we may not look.
pub(crate) fn directory(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

/// The inodes of the sockets that a process holds; none when we may not look.
pub(crate) fn sockets(pid: u32) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let inode = |path: PathBuf| {
        let target = fs::read_link(path).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    entries.filter_map(|entry| inode(entry.ok()?.path())).collect()
}

/// The leader of a process group among the processes with these marks.
pub(crate) fn marked_leader(marks: &[(&str, &str)]) -> Option<ProcessRef> {
    marked(marks).into_iter().find(|pid| stat(*pid).is_some_and(|stat| stat.group == *pid)).and_then(process)
}

/// Whether a process carries `NAME=value` pairs in its environment, as far as we may look.
pub(crate) fn carries(pid: u32, marks: &[(&str, &str)]) -> bool {
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    let mut wanted = marks.iter().map(|(name, value)| format!("{name}={value}"));
    wanted.all(|mark| environment.split(|byte| *byte == 0).any(|pair| pair == mark.as_bytes()))
}

fn stat(pid: u32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in the second field may hold anything, so fields are counted from its closing parenthesis.
fn parse(line: &str) -> Option<Stat> {
    let (_, fields) = line.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?;
    let group = fields.nth(1)?.parse().ok()?;
    let started = fields.nth(16)?.parse().ok()?;
    Some(Stat { dead: matches!(state, "Z" | "X" | "x"), group, started })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_are_read_whatever_the_name() {
        let line = "4242 (a) b) c) S 1 4242 4242 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2 3";
        let stat = parse(line).expect("a stat line");
        assert!(!stat.dead);
        assert_eq!((stat.group, stat.started), (4242, 987_654));
        assert!(parse(&line.replace(") S ", ") Z ")).expect("a stat line").dead);
        assert!(parse("").is_none());
    }

    #[test]
    fn this_process_is_alive_and_another_with_its_number_is_not() {
        let process = process(std::process::id()).expect("this process");
        assert!(is_alive(process));
        assert!(!is_alive(ProcessRef { started: process.started + 1, ..process }));
        assert!(!is_alive(ProcessRef { boot: [1; 16], ..process }));
    }
}
