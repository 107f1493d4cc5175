//! Opens an engine and looks at every record in it, so that damage is found at the start and not weeks later.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use crate::{
    engine::{Engine, EngineError},
    envelope,
    error::OpenError,
    schema, seq,
    sled_engine::SledEngine,
    status::panic_text,
};

/// What is in an engine's directory.
pub(crate) enum Found {
    /// There is no such directory.
    Nothing,
    /// The engine cannot read all of what is there; why, in one line.
    Damaged(String),
    /// Every record could be read.
    Sound(Sound),
}

/// An engine that reads all of what is there. What it forgot without a word shows in its number.
pub(crate) struct Sound {
    pub(crate) engine: SledEngine,
    /// The number of its last write, 0 if there was none.
    pub(crate) seq: u64,
    pub(crate) census: Census,
}

/// What was counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Census {
    /// Good records, the store's own not among them.
    pub(crate) records: u64,
    /// Bytes of all keys and values.
    pub(crate) live_bytes: u64,
    /// Keys of records that do not check out.
    pub(crate) bad: Vec<Vec<u8>>,
}

/// Opens the engine in `dir` and reads all of it.
///
/// # Errors
/// If the directory cannot be used, or a newer version of the program wrote it: damage is no error here.
pub(crate) fn engine(dir: &Path, cache_bytes: u64) -> Result<Found, OpenError> {
    if !dir.exists() {
        return Ok(Found::Nothing);
    }
    let engine = match SledEngine::open(dir, cache_bytes) {
        Ok(engine) => engine,
        Err(OpenError::Damaged { reason, .. }) => return Ok(Found::Damaged(reason)),
        Err(error) => return Err(error),
    };
    // The engine also panics on bytes it does not understand.
    let counted = catch_unwind(AssertUnwindSafe(|| {
        schema::refuse_newer(&engine, dir)?;
        Ok(count(&engine))
    }));
    match counted {
        Ok(Ok(Ok((seq, census)))) => Ok(Found::Sound(Sound { engine, seq, census })),
        Ok(Ok(Err(error))) => Ok(Found::Damaged(error.to_string())),
        Ok(Err(newer)) => Err(newer),
        Err(panic) => {
            close(engine);
            Ok(Found::Damaged(format!("the engine panicked: {}", panic_text(panic.as_ref()))))
        }
    }
}

/// Drops an engine that may panic once more.
fn close(engine: SledEngine) {
    if catch_unwind(AssertUnwindSafe(|| drop(engine))).is_err() {
        tracing::error!("damaged engine panicked while closing");
    }
}

fn count(engine: &impl Engine) -> Result<(u64, Census), EngineError> {
    let number = seq::read(engine)?;
    let mut census = Census::default();
    let mut any = false;
    engine.visit(b"", &mut |key, value| {
        any = true;
        let bytes = key.len().saturating_add(value.len());
        census.live_bytes = census.live_bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        match envelope::unseal(key, value) {
            Ok(_) if key.starts_with(b"m/") || key.starts_with(b"q/") => {}
            Ok(_) => census.records += 1,
            Err(_) => census.bad.push(key.to_owned()),
        }
    })?;
    match number {
        None if any => Err(EngineError::other("it has records but no number of the last write")),
        number => Ok((number.unwrap_or(0), census)),
    }
}
