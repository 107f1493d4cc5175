//! From a path to a running store, in the order that survives a crash at any step:
//! directory, lock, engine, format version, thread.

use std::{
    fs::{DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::Path,
    sync::atomic::Ordering::Relaxed,
};

use crate::{
    engine::Engine, error::OpenError, handle::Store, lock, quarantine, schema, sled_engine::SledEngine,
    status::Shared,
};

/// The engine's directory inside the data directory.
const ENGINE_DIR: &str = "db";
/// The engine's directory while it is made.
const CREATING_DIR: &str = "db.creating";
/// Only the owner: tokens' hashes and keys are nobody else's business.
const DIR_MODE: u32 = 0o700;

/// How to open a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// The most memory the engine's page cache may take, in bytes.
    pub cache_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache_bytes: 16 * 1024 * 1024 }
    }
}

impl Store {
    /// Opens the store in `dir`, which is made (mode 0700) when it is missing. Blocks, at worst for some seconds.
    ///
    /// # Errors
    /// See [`OpenError`]; each becomes a `Fatal` with its exit code. Nothing is deleted in any case.
    pub fn open(dir: &Path, options: Options) -> Result<Self, OpenError> {
        make_dir(dir).map_err(|error| OpenError::io(dir, error))?;
        let lock = lock::acquire(dir)?;
        let engine_dir = dir.join(ENGINE_DIR);
        if !engine_dir.exists() {
            create(dir, &engine_dir, &options)?;
        }
        let mut engine = SledEngine::open(&engine_dir, options.cache_bytes)?;
        schema::check(&mut engine, &engine_dir)?;
        let kept = quarantine::count(&engine)
            .map_err(|error| OpenError::Damaged { path: engine_dir, reason: error.to_string() })?;
        let shared = Shared::default();
        shared.set_aside.store(kept, Relaxed);
        shared.size_bytes.store(engine.size_bytes(), Relaxed);
        Self::start(engine, shared, lock).map_err(|error| OpenError::io(dir, error))
    }
}

/// Makes an empty store that appears at `engine_dir` complete and durable, or not at all: sled refuses its own files if
/// it is killed while it makes them.
fn create(dir: &Path, engine_dir: &Path, options: &Options) -> Result<(), OpenError> {
    let unfinished = dir.join(CREATING_DIR);
    let failed = |error| OpenError::io(&unfinished, error);
    if unfinished.exists() {
        // Nothing was ever committed to it.
        std::fs::remove_dir_all(&unfinished).map_err(failed)?;
        tracing::info!(path = %unfinished.display(), "unfinished first store removed");
    }
    make_dir(&unfinished).map_err(failed)?;
    let mut engine = SledEngine::open(&unfinished, options.cache_bytes)?;
    schema::check(&mut engine, &unfinished)?;
    drop(engine);
    File::open(&unfinished).and_then(|file| file.sync_all()).map_err(failed)?;
    std::fs::rename(&unfinished, engine_dir).map_err(failed)?;
    File::open(dir).and_then(|file| file.sync_all()).map_err(failed)
}

/// Makes sure that `dir` is a directory. One that is made here is on disk when this returns.
fn make_dir(dir: &Path) -> io::Result<()> {
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
