//! Looks at a store that is not running.

use std::{io, path::Path};

use crate::{
    engine::{Engine, EngineError, Exports},
    error::OpenError,
    exports::file,
    history::History,
    info::{ExportInfo, StoreInfo},
    inspect::{self, Found, Sound},
    layout::Layout,
    lock::{self, DirLock},
    mark, open,
    options::{OnDamage, Options},
    quarantine, rebuild, restored,
};

/// Checks every record, batch and export of the store in `dir`. Changes nothing but what its engine does whenever it is
/// opened, and what a process that was killed had begun.
///
/// # Errors
/// If anything is damaged, also what the next start would put right; if a store has the directory, or there is none.
pub fn verify_store(dir: &Path) -> Result<StoreInfo, OpenError> {
    let (layout, _lock) = existing(dir)?;
    rebuild::finish(&layout)?;
    let history = History::read(&layout)?;
    let damaged = |reason: String| OpenError::Damaged { path: dir.to_owned(), reason };
    let sound = match inspect::engine(&layout.engine(), Options::default().cache_bytes)? {
        Found::Sound(sound) => sound,
        Found::Damaged(reason) => return Err(damaged(reason)),
        Found::Nothing => return Err(damaged("its files are missing".to_owned())),
    };
    let flaws = flaws(&layout, &history, &sound);
    if !flaws.is_empty() {
        return Err(damaged(flaws.join("; ")));
    }
    let failed = |error| OpenError::engine(layout.engine(), error);
    Ok(StoreInfo {
        seq: sound.seq,
        records: sound.census.records,
        live_bytes: sound.census.live_bytes,
        size_bytes: sound.engine.size_bytes(),
        set_aside: quarantine::count(&sound.engine).map_err(failed)?,
        restored: restored::read(&sound.engine).map_err(failed)?,
    })
}

/// Exports the store in `dir`, which must not be running, to `file`. Batches that its engine lacks are replayed first.
///
/// # Errors
/// If the store is damaged, has to be rebuilt first, or is not there; if `file` cannot be written.
pub fn export_dir(dir: &Path, file: &Path) -> Result<ExportInfo, OpenError> {
    let (_, _lock) = existing(dir)?;
    let options =
        Options { on_damage: OnDamage::Refuse, compact_above_bytes: u64::MAX, ..Options::default() };
    let mut engine = open::open_engine(dir, &options)?.engine;
    let finish = engine.begin_export(Some(file.to_owned()));
    let finished = finish.and_then(|finish| finish().map_err(|error| EngineError::io("export", &error)));
    finished.map_err(|error| OpenError::target(file, &error))
}

/// The directory of a store, locked. One that holds none is left as it is.
fn existing(dir: &Path) -> Result<(Layout, DirLock), OpenError> {
    let layout = Layout::new(dir);
    let parts = [layout.engine(), layout.rebuilt(), layout.compacted(), layout.redo(), layout.exports()];
    let mut any = false;
    for part in parts {
        // One that must not be looked at is not missing.
        any |= part.try_exists().map_err(|error| OpenError::io(part, error))?;
    }
    if !any {
        let nothing = io::Error::new(io::ErrorKind::NotFound, "there is no store");
        return Err(OpenError::io(dir, nothing));
    }
    let lock = lock::acquire(dir)?;
    Ok((layout, lock))
}

/// What is wrong besides the engine's own files, one line each.
fn flaws(layout: &Layout, history: &History, sound: &Sound) -> Vec<String> {
    let mut flaws = Vec::new();
    for key in &sound.census.bad {
        flaws.push(format!("record {} does not check out", key.escape_ascii()));
    }
    let top = history.top(mark::read(&layout.engine()).max(sound.seq));
    if !history.redo.covers(sound.seq, top) {
        flaws.push(format!("it ends at write {}, but write {top} was durable", sound.seq));
    }
    if !history.redo.covers(history.exported(), sound.seq) {
        let exported = history.exported();
        flaws.push(format!("the log of batches lacks some between write {exported} and write {}", sound.seq));
    }
    let bad = history.exports.iter().filter_map(|export| file::verify_export(&export.path).err());
    flaws.extend(bad.map(|error| error.to_string()));
    flaws
}
