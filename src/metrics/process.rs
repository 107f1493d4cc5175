//! What the kernel says of this process, under the names that dashboards know. What it does not say is left out.

use std::fs;
use std::sync::LazyLock;

use super::Page;

/// How the kernel counts time in `/proc`, in ticks a second: the same on all machines that we run on.
const TICKS: f64 = 100.0;

/// The fields of `/proc/self/stat` behind the program's name, which may hold anything.
const UTIME: usize = 11;
const STIME: usize = 12;
const STARTED: usize = 19;

/// Seconds since 1970 when this process began; read once, as the kernel's answer wavers.
static BEGAN: LazyLock<Option<f64>> = LazyLock::new(|| {
    let kernel = fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = field(&kernel, "btime")?;
    Some(boot + stat()?.get(STARTED)? / TICKS)
});

pub(super) fn put(page: &mut Page) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(kilobytes) = field(&status, "VmRSS:") {
        let bytes = kilobytes * 1024.0;
        page.gauge("process_resident_memory_bytes", "Memory in use.", bytes);
    }
    if let Some(threads) = field(&status, "Threads:") {
        page.gauge("process_threads", "Threads.", threads);
    }
    if let Some(cpu) = stat().and_then(|stat| Some(stat.get(UTIME)? + stat.get(STIME)?)) {
        page.counter("process_cpu_seconds_total", "Time spent on processors.", cpu / TICKS);
    }
    if let Some(open) = fs::read_dir("/proc/self/fd").ok().and_then(|files| u32::try_from(files.count()).ok())
    {
        page.gauge("process_open_fds", "Open files and sockets.", f64::from(open));
    }
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    if let Some(most) = field(&limits, "Max open files") {
        page.gauge("process_max_fds", "Most open files and sockets.", most);
    }
    if let Some(began) = *BEGAN {
        page.gauge("process_start_time_seconds", "When the process began, in seconds since 1970.", began);
    }
}

/// The number behind a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

fn stat() -> Option<Vec<f64>> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    // The first field is a letter.
    Some(fields.split_whitespace().map(|field| field.parse().unwrap_or_default()).collect())
}
