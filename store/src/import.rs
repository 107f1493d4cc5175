//! Brings an export into a data directory.
//!
//! The file is copied among the directory's own exports, under a number beyond all that the directory holds. The moment
//! that copy has its name is the moment of the import: any start from there on finds an engine that ends before what
//! is known to be durable, and rebuilds it from the newest export, which is this one. A process that is killed before
//! has changed nothing, one that is killed after is completed by the next start.

use std::path::{Path, PathBuf};

use nebula_core::{
    clock::wall_now,
    exit::{Exit, Fatal},
};

use crate::{
    engine::Entries,
    error::OpenError,
    exports::{
        self,
        file::{self, ExportError},
    },
    history::{History, Truth},
    info::{ExportInfo, RESTORED_KEY, Restored},
    inspect::{self, Found},
    layout::{self, Layout},
    lock, mark, open,
    options::Options,
    rebuild::{self, Old},
    restored,
};

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The directory holds a store, and nobody said to replace it.
    #[error("data directory {} already holds a store", path.display())]
    NotEmpty {
        /// The data directory.
        path: PathBuf,
    },
    /// The file is no good export.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The data directory cannot be used.
    #[error(transparent)]
    Store(#[from] OpenError),
}

impl From<ImportError> for Fatal {
    fn from(error: ImportError) -> Self {
        let message = error.to_string();
        match error {
            ImportError::NotEmpty { .. } => Self::new(Exit::DataDir, message)
                .hint("choose an empty directory, or replace the store with --force; it is set aside then"),
            ImportError::Export(error) => error.into(),
            ImportError::Store(error) => error.into(),
        }
    }
}

/// Makes a store of the export `file` in `dir`, which must hold none; with `force` the one it holds is set aside as
/// `db.replaced-<time>`. Blocks until all is on disk. The store is marked as restored: what was acknowledged after
/// the export is not in it.
///
/// # Errors
/// See [`ImportError`]. After an error of the directory the import may be completed by the next start.
pub fn import(dir: &Path, file: &Path, force: bool) -> Result<ExportInfo, ImportError> {
    let (mut info, mut entries) = file::checked(file)?;
    mark_restored(&mut entries, file, &info)?;
    open::make_dir(dir).map_err(|error| OpenError::io(dir, error))?;
    let _lock = lock::acquire(dir)?;
    let layout = Layout::new(dir);
    rebuild::finish(&layout)?;
    let options = Options::default();
    let history = History::read(&layout)?;
    let holds_store = layout.engine().exists() || !history.is_empty();
    if holds_store && !force {
        return Err(ImportError::NotEmpty { path: dir.to_owned() });
    }
    info.seq = highest(&layout, &history, options.cache_bytes)?.max(info.seq).saturating_add(1);
    info.path = place(&layout, &entries, info.seq)?;
    if layout.engine().exists() {
        let aside = layout.aside("db.replaced", wall_now());
        layout::rename(&layout.engine(), &aside, &layout.root)?;
    }
    let truth = Truth { entries: entries.into_iter().collect(), whole: true, export: Some(info.clone()) };
    rebuild::replace(&layout, &truth, info.seq, Old::Keep, options.cache_bytes)?;
    open::open_engine(dir, &options)?;
    Ok(info)
}

/// Says in `entries` where they come from, until somebody accepts it.
fn mark_restored(entries: &mut Entries, file: &Path, info: &ExportInfo) -> Result<(), OpenError> {
    let restored = Restored {
        at: wall_now(),
        export: file.file_name().map(|name| name.to_string_lossy().into_owned()),
        export_at: Some(info.at),
        why: "an export was imported".to_owned(),
    };
    let record = restored::sealed(&restored)
        .map_err(|error| OpenError::Damaged { path: file.to_owned(), reason: error.to_string() })?;
    let place = entries.binary_search_by(|(key, _)| key.as_slice().cmp(RESTORED_KEY));
    match place {
        Ok(at) => entries.splice(at..=at, [(RESTORED_KEY.to_vec(), record)]).for_each(drop),
        Err(at) => entries.insert(at, (RESTORED_KEY.to_vec(), record)),
    }
    Ok(())
}

/// The highest number in the directory, whatever it was given to and whether or not that can be read.
fn highest(layout: &Layout, history: &History, cache_bytes: u64) -> Result<u64, OpenError> {
    let in_engine = match inspect::engine(&layout.engine(), cache_bytes)? {
        Found::Sound(sound) => sound.seq,
        Found::Nothing | Found::Damaged(_) => 0,
    };
    let all = [in_engine, mark::read(&layout.engine()), history.redo.last(), history.exported()];
    Ok(all.into_iter().fold(0, u64::max))
}

/// Writes `entries` as the directory's newest export and returns its path. It is on disk then.
fn place(layout: &Layout, entries: &Entries, number: u64) -> Result<PathBuf, OpenError> {
    let show = |see: &mut dyn FnMut(&[u8], &[u8])| {
        entries.iter().for_each(|(key, value)| see(key, value));
        Ok(())
    };
    let finish = exports::begin(show, number, layout, None)
        .map_err(|error| OpenError::engine(layout.exports(), error))?;
    finish().map(|info| info.path).map_err(|error| OpenError::io(layout.exports(), error))
}
