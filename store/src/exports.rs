//! The store's own exports: `exports/<utc>-<number of the last write>.export`, which of them stay, when one is due.

pub(crate) mod file;

use std::{
    collections::BTreeSet,
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use nebula_core::clock::{Clock, WallTime, wall_now};

use crate::{
    engine::{EngineError, FinishExport},
    info::ExportInfo,
    layout::{Layout, stamp, sync_dir},
    redo,
};

/// The newest exports that stay.
const KEEP_NEWEST: usize = 12;
/// Days of which the newest export stays, today included.
const KEEP_DAYS: u64 = 7;
const DAY_MS: u64 = 86_400_000;
/// The name of an export that is not whole yet ends so.
const UNFINISHED: &str = ".unfinished";

/// A file among the store's own exports, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// The number of the last write in it.
    pub(crate) seq: u64,
    /// `yyyymmdd`.
    day: String,
    pub(crate) path: PathBuf,
}

/// The exports in `dir`, newest first; none if it is missing.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<Listed>> {
    let entries = match dir.read_dir() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        found.extend(listed(entry?.path()));
    }
    // The number is the order in which they were made, whatever the clock said.
    found.sort_by(|a, b| (b.seq, &b.path).cmp(&(a.seq, &a.path)));
    Ok(found)
}

fn listed(path: PathBuf) -> Option<Listed> {
    let name = path.file_name()?.to_str()?.strip_suffix(".export")?;
    let (stamp, number) = name.split_once('-')?;
    Some(Listed { seq: number.parse().ok()?, day: stamp.get(..8)?.to_owned(), path: path.clone() })
}

/// The newest export in `dir`, by its first and last bytes.
pub(crate) fn newest(dir: &Path) -> Option<ExportInfo> {
    list(dir).ok()?.first().and_then(|newest| file::peek(&newest.path))
}

/// Writes all entries that `show` shows into a file beside its final name; what is returned makes it durable and gives it its name.
/// Without a target the export is one of the store's own, and older ones that are not needed go when it is finished.
pub(crate) fn begin(
    show: impl FnOnce(&mut dyn FnMut(&[u8], &[u8])) -> Result<(), EngineError>,
    number: u64,
    layout: &Layout,
    target: Option<PathBuf>,
) -> Result<FinishExport, EngineError> {
    let clock = Clock::start();
    let at = wall_now();
    let failed = |error: io::Error| EngineError::io("export", &error);
    let own = target.is_none().then(|| layout.clone());
    let path = match target {
        Some(path) => path,
        None => own_path(&layout.exports(), number, at).map_err(failed)?,
    };
    let mut unfinished = path.clone().into_os_string();
    unfinished.push(UNFINISHED);
    let unfinished = PathBuf::from(unfinished);
    remove_if_there(&unfinished).map_err(failed)?;
    let written = file::write(show, number, at, &unfinished);
    let (file, mut info) = written.inspect_err(|_| drop(std::fs::remove_file(&unfinished)))?;
    Ok(Box::new(move || {
        // The name appears only when all bytes are on disk: what has the name is whole, unless it is damaged later.
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let named = file
            .sync_all()
            .and_then(|()| std::fs::rename(&unfinished, &path))
            .and_then(|()| sync_dir(parent));
        named.inspect_err(|_| drop(std::fs::remove_file(&unfinished)))?;
        if let Some(Err(error)) = own.map(|layout| prune(&layout, at)) {
            // What stays too long is removed after the next export.
            tracing::warn!(%error, "old exports not removed");
        }
        info.path = path;
        info.took_ms = clock.now().0;
        Ok(info)
    }))
}

/// The path of an own export; its directory is there, with its name on disk.
pub(crate) fn own_path(dir: &Path, number: u64, at: WallTime) -> io::Result<PathBuf> {
    if !dir.exists() {
        DirBuilder::new().mode(0o700).create(dir)?;
        dir.parent().map_or(Ok(()), sync_dir)?;
    }
    Ok(dir.join(format!("{}-{number:020}.export", stamp(at))))
}

/// Removes what a process left that ended while it exported.
pub(crate) fn remove_unfinished(dir: &Path) -> io::Result<()> {
    let entries = match dir.read_dir() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(UNFINISHED) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Removes exports that need not stay, and the batches that the two newest exports both hold: with a damaged newest
/// export, the one before it and the log are still all there was.
pub(crate) fn prune(layout: &Layout, now: WallTime) -> io::Result<()> {
    let exports = list(&layout.exports())?;
    let keep = kept(&exports, now);
    for export in exports.iter().filter(|export| !keep.contains(&export.path)) {
        std::fs::remove_file(&export.path)?;
    }
    match exports.get(1) {
        Some(second) => redo::prune(&layout.redo(), second.seq),
        None => Ok(()),
    }
}

/// The exports that stay, of `exports` in their order from the newest.
fn kept(exports: &[Listed], now: WallTime) -> BTreeSet<PathBuf> {
    let newest = exports.iter().take(KEEP_NEWEST);
    let days = (0..KEEP_DAYS).map(|back| stamp(WallTime(now.0.saturating_sub(back * DAY_MS))));
    let daily = days.filter_map(|day| exports.iter().find(|export| day.starts_with(&export.day)));
    newest.chain(daily).map(|export| export.path.clone()).collect()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
