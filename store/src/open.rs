//! From a locked directory to an engine, in an order that survives a crash at any step.
//!
//! 1. What an ended process left to do is done ([`rebuild::finish`]), its unfinished files go.
//! 2. The log of batches and the names of the exports are read, the engine is opened and all of it is read.
//! 3. An engine that ends before what is known to be durable gets the missing batches from the log.
//! 4. If that cannot be, or it could not be read, it is rebuilt from the newest good export and the log, and the whole
//!    starts again.
//! 5. The log goes on in a new file. If it does not reach from the newest export to the engine's last write, a new
//!    export is made first of all.
//! 6. Records that do not check out are put right from export and log; those that cannot be are left to whoever reads
//!    them, who sets them aside.
//! 7. An engine that has become much larger than what is in it is compacted.
//!
//! Nothing here deletes what was acknowledged: steps 3 to 7 only add until their successor is complete and on disk.

use std::{
    fs::{DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::Path,
};

use nebula_core::clock::wall_now;

use crate::{
    durable::{Durable, REDO_MAX_BYTES},
    engine::{Engine, EngineError, Exports, Opened, Trouble, Writes},
    envelope,
    error::OpenError,
    exports,
    history::{History, Truth},
    info::{RESTORED_KEY, Restored},
    inspect::{self, Census, Found, Sound},
    layout::{self, Layout},
    mark::{self, Mark},
    options::{OnDamage, Options},
    rebuild::{self, Old},
    record::MAX_BATCH_BYTES,
    redo::Redo,
    restored, schema, seq,
    sled_engine::SledEngine,
};

/// Only the owner: tokens' hashes and keys are nobody else's business.
const DIR_MODE: u32 = 0o700;
/// Created, rebuilt, compacted: no start needs more turns.
const TURNS: u32 = 4;
/// More files of the log than this are joined into an export at a start.
const REDO_FILES: usize = 64;
/// An engine is compacted if it takes up so many times what is in it.
const COMPACT_TIMES: u64 = 8;

/// The engine that a store in a directory has.
pub(crate) type Disk = Durable<SledEngine>;

/// Opens the engine in `dir`, which is locked by us, or makes it.
pub(crate) fn open_engine(dir: &Path, options: &Options) -> Result<Opened<Disk>, OpenError> {
    let layout = Layout::new(dir);
    rebuild::finish(&layout)?;
    exports::remove_unfinished(&layout.exports()).map_err(|error| OpenError::io(layout.exports(), error))?;
    let mut compacted = false;
    for _ in 0..TURNS {
        let history = History::read(&layout)?;
        let Some(sound) = sound_engine(&layout, &history, options)? else { continue };
        let size = sound.engine.size_bytes();
        let limit = options.compact_above_bytes.max(sound.census.live_bytes.saturating_mul(COMPACT_TIMES));
        let mut engine = go_on(&layout, &history, sound)?;
        if size <= limit || compacted {
            return opened(&layout, engine);
        }
        compacted = true;
        tracing::info!(size_bytes = size, limit_bytes = limit, "engine is compacted");
        export_now(&mut engine).map_err(|error| OpenError::engine(dir, error))?;
        drop(engine);
        compact(&layout, options)?;
    }
    Err(OpenError::Damaged {
        path: layout.engine(),
        reason: "it is damaged again after every repair".to_owned(),
    })
}

fn opened(layout: &Layout, engine: Disk) -> Result<Opened<Disk>, OpenError> {
    let restored = restored::read(&engine).map_err(|error| OpenError::engine(layout.engine(), error))?;
    if let Some(restored) = &restored {
        tracing::warn!(reason = %restored.why, "store was restored and may lack writes, which nobody has accepted yet");
    }
    Ok(Opened { engine, restored, last_export: exports::newest(&layout.exports()) })
}

/// An engine in which everything that was durable is; nothing if it has to be looked at again.
fn sound_engine(layout: &Layout, history: &History, options: &Options) -> Result<Option<Sound>, OpenError> {
    let db = layout.engine();
    let noted = mark::read(&db);
    let mut sound = match inspect::engine(&db, options.cache_bytes)? {
        Found::Nothing if history.is_empty() => {
            create(layout, options.cache_bytes)?;
            return Ok(None);
        }
        Found::Nothing => {
            let reason = "its files are missing".to_owned();
            return replace(layout, history, history.top(noted), reason, options).map(|()| None);
        }
        Found::Damaged(reason) => {
            return replace(layout, history, history.top(noted), reason, options).map(|()| None);
        }
        Found::Sound(sound) => sound,
    };
    let top = history.top(noted.max(sound.seq));
    if history.redo.covers(sound.seq, top) {
        replay(&mut sound, history, top).map_err(|error| OpenError::engine(&db, error))?;
        return Ok(Some(sound));
    }
    let reason = format!("it ends at write {}, but write {top} was durable", sound.seq);
    drop(sound);
    replace(layout, history, top, reason, options).map(|()| None)
}

/// Makes an engine without a record that appears at its place complete and durable, or not at all: sled refuses its own
/// files if it is killed while it makes them.
fn create(layout: &Layout, cache_bytes: u64) -> Result<(), OpenError> {
    let creating = layout.creating();
    drop(rebuild::make_empty(&creating, cache_bytes)?);
    layout::sync_dir(&creating).map_err(|error| OpenError::io(&creating, error))?;
    layout::rename(&creating, &layout.engine(), &layout.root)
}

/// Gives the engine the batches it lacks up to `top`. Killed in between, it lacks fewer.
fn replay(sound: &mut Sound, history: &History, top: u64) -> Result<(), EngineError> {
    if sound.seq >= top {
        return Ok(());
    }
    let engine = &mut sound.engine;
    history.redo.replay(sound.seq, top, |number, mut writes| {
        writes.insert(seq::KEY.to_vec(), Some(seq::sealed(number)));
        engine.apply(writes)
    })?;
    engine.sync()?;
    tracing::info!(from = sound.seq, to = top, "batches that the engine lacked were replayed");
    sound.seq = top;
    Ok(())
}

/// Puts a rebuilt engine in the place of one that is damaged because of `reason`. `top`: the last write known.
fn replace(
    layout: &Layout,
    history: &History,
    top: u64,
    mut reason: String,
    options: &Options,
) -> Result<(), OpenError> {
    let damaged = |reason| OpenError::Damaged { path: layout.engine(), reason };
    if options.on_damage == OnDamage::Refuse {
        return Err(damaged(reason));
    }
    let mut truth = match history.truth(layout, top)? {
        Some(truth) => truth,
        None if options.on_damage == OnDamage::StartEmpty => {
            tracing::error!(%reason, "store is damaged and cannot be rebuilt: it starts empty");
            let entries = schema::entry().map_err(|error| damaged(error.to_string()))?;
            Truth { entries: [entries].into(), ..Truth::default() }
        }
        None => {
            let reason = format!("{reason}; there is no good export, and no log back to the first write");
            return Err(damaged(reason));
        }
    };
    if truth.whole && history.may_lack_more(mark::read(&layout.engine()), top) {
        truth.whole = false;
        reason.push_str("; nothing tells which write was the last");
    }
    let mut number = top;
    if truth.whole {
        tracing::warn!(%reason, "store is damaged: rebuilt from export and log, nothing is lost");
    } else {
        tracing::error!(%reason, "store is damaged: rebuilt from what there is, writes may be missing");
        // A number of its own: it is another state than the one that had this number, and no export or batch that is
        // still around may be taken for its past.
        number = top.max(history.named()).saturating_add(1);
        let restored = Restored {
            at: wall_now(),
            export: truth
                .export
                .as_ref()
                .and_then(|export| Some(export.path.file_name()?.to_str()?.to_owned())),
            export_at: truth.export.as_ref().map(|export| export.at),
            why: reason,
        };
        let value = restored::sealed(&restored).map_err(|error| damaged(error.to_string()))?;
        truth.entries.insert(RESTORED_KEY.to_vec(), value);
    }
    rebuild::replace(layout, &truth, number, Old::Keep, options.cache_bytes)
}

/// Starts to log after what the engine holds; puts the log and the records right.
fn go_on(layout: &Layout, history: &History, sound: Sound) -> Result<Disk, OpenError> {
    let Sound { engine, seq, census } = sound;
    let db = layout.engine();
    let failed = |error| OpenError::io(&db, error);
    // All that the engine holds was synced by now: what was replayed by that, the rest before it was opened.
    let mark = Mark::open(&db).map_err(failed)?;
    mark.note(seq).and_then(|()| mark.sync()).map_err(failed)?;
    // What the last process appended may not be on disk yet, and counts from now on.
    let last = history.redo.files.last().map_or(Ok(()), |(_, last)| File::open(last)?.sync_all());
    let redo = last.and_then(|()| Redo::start(&layout.redo(), seq.saturating_add(1)));
    let redo = redo.map_err(|error| OpenError::io(layout.redo(), error))?;
    let exported = history.exported();
    let whole = history.redo.covers(exported, seq);
    let large = history.redo.files.len() > REDO_FILES || history.redo.bytes > REDO_MAX_BYTES;
    for flaw in &history.redo.flaws {
        tracing::info!(%flaw, "part of the log of batches cannot be read");
    }
    let mut engine =
        Durable::new(engine, layout.clone(), redo, mark, seq).found_redo(history.redo.bytes, !whole);
    heal(&mut engine, layout, history, &census)?;
    schema::check(&mut engine, &db)?;
    if !whole || large {
        tracing::info!(exported, last_write = seq, "log of batches starts anew with an export");
        match export_now(&mut engine) {
            // With no space left nothing may grow, so the engine alone has to do until there is.
            Err(error) if error.trouble == Trouble::NoSpace => tracing::warn!(%error, "store not exported"),
            outcome => outcome.map_err(|error| OpenError::engine(&db, error))?,
        }
    }
    Ok(engine)
}

/// Writes good values over those that do not check out, if export and log tell what they were.
fn heal(engine: &mut Disk, layout: &Layout, history: &History, census: &Census) -> Result<(), OpenError> {
    let failed = |error| OpenError::engine(layout.engine(), error);
    if census.bad.is_empty() {
        return Ok(());
    }
    let truth = history.truth(layout, engine.seq())?.filter(|truth| truth.whole).unwrap_or_default();
    let mut healed = Writes::new();
    let mut bytes = 0_usize;
    for key in &census.bad {
        let value = truth.entries.get(key).filter(|value| envelope::unseal(key, value).is_ok());
        let Some(value) = value else {
            tracing::error!(key = %key.escape_ascii(), "bad record, and its value is not known");
            continue;
        };
        tracing::warn!(key = %key.escape_ascii(), "bad record put right");
        bytes = bytes.saturating_add(key.len()).saturating_add(value.len());
        healed.insert(key.clone(), Some(value.clone()));
        if bytes > MAX_BATCH_BYTES {
            engine.apply(std::mem::take(&mut healed)).map_err(failed)?;
            bytes = 0;
        }
    }
    if !healed.is_empty() {
        engine.apply(healed).map_err(failed)?;
    }
    engine.sync().map_err(failed)
}

/// Makes an export among the store's own, and waits for it.
pub(crate) fn export_now(engine: &mut Disk) -> Result<(), EngineError> {
    let finish = engine.begin_export(None)?;
    let export = finish().map_err(|error| EngineError::io("export", &error))?;
    engine.exported(&export)
}

/// Builds the engine anew from the export that was just made of it, which is read back and so proved. The old one goes
/// when the new one is complete.
fn compact(layout: &Layout, options: &Options) -> Result<(), OpenError> {
    let history = History::read(layout)?;
    let number = history.exported();
    match history.truth(layout, number)? {
        Some(truth) if truth.whole => {
            rebuild::replace(layout, &truth, number, Old::Remove, options.cache_bytes)
        }
        // The engine itself is sound: it stays as it is.
        _ => {
            tracing::warn!("engine not compacted: its export cannot be read back");
            Ok(())
        }
    }
}

/// Makes sure that `dir` is a directory. One that is made here is on disk when this returns.
pub(crate) fn make_dir(dir: &Path) -> io::Result<()> {
    match dir.metadata() {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent)?;
    match DirBuilder::new().mode(DIR_MODE).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    File::open(parent)?.sync_all()
}
