//! Open files: how many this process may have.

use nebula_core::exit::{Exit, Fatal};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit of open files as far as it is allowed; `fewer` says what to ask less of when that is not enough.
pub(crate) fn allow(wanted: u64, fewer: &str) -> Result<(), Fatal> {
    let limit = getrlimit(Resource::Nofile);
    let enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= wanted);
    if enough(limit.current) {
        return Ok(());
    }
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    if enough(limit.maximum) && raised.is_ok() {
        return Ok(());
    }
    let most = limit.maximum.unwrap_or(u64::MAX);
    Err(Fatal::new(Exit::Failed, format!("{wanted} open files are needed, and the limit is {most}"))
        .hint(format!("{fewer}, or raise the limit (ulimit -Hn as root)")))
}
