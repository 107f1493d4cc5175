//! From a path to a running store: directory, file system, lock, engine, thread.

use std::{path::Path, sync::Arc};

use crate::{
    ballast::{self, Ballast},
    disk::{Disk, space_of},
    engine::Opened,
    error::OpenError,
    filesystem,
    handle::Store,
    lock,
    open::{self, Disk as DiskEngine, open_engine},
    options::Options,
    status::Shared,
    writer::{Start, Writer},
};

impl Store {
    /// Opens the store in `dir`, which is made (mode 0700) when it is missing. Blocks, at worst for some seconds, or for
    /// as long as a rebuild takes.
    ///
    /// # Errors
    /// See [`OpenError`]; each becomes a `Fatal` with its exit code. No data is deleted in any case.
    pub fn open(dir: &Path, options: Options) -> Result<Self, OpenError> {
        let io = |error| OpenError::io(dir, error);
        open::make_dir(dir).map_err(io)?;
        filesystem::check(dir, options.allow_any_filesystem)?;
        let lock = lock::acquire(dir)?;
        let opened = open_with_reserve(dir, &options)?;
        let volume = space_of(dir).map_err(io)?;
        let ballast = Ballast::find(dir, options.ballast_bytes, volume.total);
        let probed = dir.to_owned();
        let disk = Disk::new(Box::new(move || space_of(&probed)), ballast);
        let export_every = options.export_every;
        let reopened = dir.to_owned();
        let reopen = Box::new(move || open_engine(&reopened, &options));
        let shared = Arc::<Shared>::default();
        let writer = Writer::new(Start { opened, reopen, disk, export_every }, shared.clone())
            .map_err(|error| OpenError::Damaged { path: dir.to_owned(), reason: error.to_string() })?;
        Self::spawn(writer, shared, lock).map_err(io)
    }
}

/// Opens the engine; if there is no space for that, once more with the space that was kept in reserve.
fn open_with_reserve(dir: &Path, options: &Options) -> Result<Opened<DiskEngine>, OpenError> {
    match open_engine(dir, options) {
        Err(OpenError::DiskFull { .. }) if ballast::release_in(dir) => open_engine(dir, options),
        opened => opened,
    }
}
