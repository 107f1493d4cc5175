//! What tells a command's processes from all others: a word in the environment that all of them inherit.

use crate::driver::procfs;

/// The variable's name.
pub(super) const NAME: &str = "NEBULA_EXEC";

/// The mark of one command.
pub(super) struct Mark(String);

impl Mark {
    pub(super) fn new() -> Self {
        Self(uuid::Uuid::new_v4().to_string())
    }

    pub(super) fn value(&self) -> &str {
        &self.0
    }

    /// Kills whatever carries the mark, as far as the agent sees it and may. Looking takes some milliseconds and is
    /// done elsewhere.
    pub(super) fn sweep(&self) {
        let value = self.0.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || {
                for pid in procfs::marked(&[(NAME, value.as_str())]) {
                    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
                        // It may have ended in between, which is what was wanted.
                        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                    }
                }
            });
        }
    }
}
