//! The commits of a group: preconditions, one atomic write, one sync.

use nebula_core::clock::Clock;

use super::group::Commit;
use crate::{
    batch::{Batch, Expected, Purpose},
    engine::{Engine, EngineError, Writes},
    envelope,
    error::CommitError,
    info::RESTORED_KEY,
    status::Shared,
};

/// What each batch comes to, in their order, once the good ones are durable.
pub(super) type Verdicts = Vec<Result<(), CommitError>>;

/// Commits what holds and is allowed of `commits`. Their writes are taken out of them.
pub(super) fn commit(
    engine: &mut impl Engine,
    commits: &mut [Commit],
    allows: impl Fn(Purpose) -> bool,
    shared: &Shared,
) -> Result<Verdicts, EngineError> {
    let clock = Clock::start();
    let mut staged = Writes::new();
    let mut verdicts = Vec::with_capacity(commits.len());
    for (batch, _) in commits {
        let verdict = if !allows(batch.purpose()) {
            Err(CommitError::DiskFull)
        } else if let Some(key) = first_broken(engine, &staged, batch)? {
            Err(CommitError::Conflict { key })
        } else {
            staged.extend(std::mem::take(&mut batch.writes));
            Ok(())
        };
        verdicts.push(verdict);
    }
    if !staged.is_empty() {
        let accepted = staged.get(RESTORED_KEY) == Some(&None);
        engine.apply(staged)?;
        engine.sync()?;
        let applied = verdicts.iter().filter(|verdict| verdict.is_ok()).count();
        shared.committed(u64::try_from(applied).unwrap_or(u64::MAX), clock.elapsed());
        if accepted {
            shared.set_restored(None);
        }
    }
    Ok(verdicts)
}

/// The first key in `batch` whose precondition does not hold after the batches `staged` before it.
///
/// A bad record is neither absent nor present: every precondition on it breaks, and the caller's next read sets it aside.
fn first_broken(
    engine: &impl Engine,
    staged: &Writes,
    batch: &Batch,
) -> Result<Option<Vec<u8>>, EngineError> {
    for (key, expected) in &batch.conditions {
        let stored = match staged.get(key) {
            Some(value) => value.clone(),
            None => engine.get(key)?,
        };
        let record = stored.as_ref().and_then(|bytes| envelope::unseal(key, bytes).ok());
        let holds = match expected {
            Expected::Absent => stored.is_none(),
            Expected::Present => record.is_some(),
            Expected::Value(wanted) => record.as_ref() == Some(wanted),
        };
        if !holds {
            return Ok(Some(key.clone()));
        }
    }
    Ok(None)
}
