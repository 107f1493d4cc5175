//! Makes an engine of known entries and puts it in the place of another, in steps of which each can be the last.
//!
//! 1. `db.creating` is filled, synced, closed, opened again and compared with what it must hold. Nothing that was
//!    acknowledged is only in it: a start that finds it removes it.
//! 2. It is renamed to `db.rebuilt` (or `db.compacted`). From here on the outcome is decided: a start that finds that
//!    name goes on with step 3, and does not have to judge the damage a second time with less to go by.
//! 3. `db` is renamed to `db.corrupt-<time>` and stays (or, when it was compacted, back to `db.creating`, which goes).
//! 4. `db.rebuilt` is renamed to `db`.
//!
//! Each rename is on disk before the next step. Nothing is committed between 2 and 4.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use nebula_core::clock::wall_now;

use crate::{
    engine::{Engine, Writes},
    error::OpenError,
    history::Truth,
    layout::{self, Layout},
    mark::Mark,
    open::make_dir,
    schema, seq,
    sled_engine::SledEngine,
};

/// Bytes that are written in one step.
const CHUNK_BYTES: usize = 1024 * 1024;

/// What becomes of the engine that is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Old {
    /// It is damaged and stays under another name.
    Keep,
    /// It is whole and so is its successor: it goes.
    Remove,
}

/// Puts an engine with `truth` whose last write is `number` in the place of `db`, which nobody may have open.
pub(crate) fn replace(
    layout: &Layout,
    truth: &Truth,
    number: u64,
    old: Old,
    cache_bytes: u64,
) -> Result<(), OpenError> {
    let creating = layout.creating();
    fill(&creating, truth, number, cache_bytes)?;
    check(&creating, truth, number, cache_bytes)?;
    let ready = match old {
        Old::Keep => layout.rebuilt(),
        Old::Remove => layout.compacted(),
    };
    layout::rename(&creating, &ready, &layout.root)?;
    finish(layout)
}

/// Makes `dir` an engine without a record that is complete and on disk. Its name is not.
pub(crate) fn make_empty(dir: &Path, cache_bytes: u64) -> Result<SledEngine, OpenError> {
    layout::remove_all(dir)?;
    make_dir(dir).map_err(|error| OpenError::io(dir, error))?;
    SledEngine::open(dir, cache_bytes)
}

/// Carries out what a process that ended has left to do. Without leftovers nothing is changed.
pub(crate) fn finish(layout: &Layout) -> Result<(), OpenError> {
    let (db, creating) = (layout.engine(), layout.creating());
    layout::remove_all(&creating)?;
    let aside = || layout.aside("db.corrupt", wall_now());
    let swaps: [(PathBuf, &dyn Fn() -> PathBuf); 2] =
        [(layout.rebuilt(), &aside), (layout.compacted(), &|| creating.clone())];
    for (ready, old_name) in swaps {
        if !ready.exists() {
            continue;
        }
        // Missing if the process ended between the two renames.
        if db.exists() {
            let old_name = old_name();
            layout::rename(&db, &old_name, &layout.root)?;
            tracing::info!(path = %old_name.display(), "engine set aside");
        }
        layout::rename(&ready, &db, &layout.root)?;
    }
    layout::remove_all(&creating)
}

fn fill(dir: &Path, truth: &Truth, number: u64, cache_bytes: u64) -> Result<(), OpenError> {
    let mut engine = make_empty(dir, cache_bytes)?;
    let failed = |error| OpenError::engine(dir, error);
    let mut chunk = Writes::new();
    let mut bytes = 0_usize;
    for (key, value) in &truth.entries {
        bytes = bytes.saturating_add(key.len()).saturating_add(value.len());
        chunk.insert(key.clone(), Some(value.clone()));
        if bytes > CHUNK_BYTES {
            engine.apply(std::mem::take(&mut chunk)).map_err(failed)?;
            bytes = 0;
        }
    }
    chunk.insert(seq::KEY.to_vec(), Some(seq::sealed(number)));
    engine.apply(chunk).map_err(failed)?;
    engine.sync().map_err(failed)
}

/// Opens the new engine as the next start will and compares all of it.
fn check(dir: &Path, truth: &Truth, number: u64, cache_bytes: u64) -> Result<(), OpenError> {
    let failed = |error| OpenError::engine(dir, error);
    let mut engine = SledEngine::open(dir, cache_bytes)?;
    schema::check(&mut engine, dir)?;
    let mut wanted = truth.entries.iter();
    let mut same = seq::read(&engine).map_err(failed)? == Some(number);
    engine
        .visit(b"", &mut |key, value| {
            if key != seq::KEY {
                same &= wanted.next().is_some_and(|(k, v)| k == key && v == value);
            }
        })
        .map_err(failed)?;
    if !same || wanted.next().is_some() {
        let reason = "the rebuilt engine does not hold what was written to it".to_owned();
        return Err(OpenError::Damaged { path: dir.to_owned(), reason });
    }
    let mark = Mark::open(dir).and_then(|mark| mark.note(number).and_then(|()| mark.sync()));
    let synced = mark.and_then(|()| File::open(dir)?.sync_all());
    synced.map_err(|error| OpenError::io(dir, error))
}
