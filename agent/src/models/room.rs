//! Whether what is to be fetched fits on the disk.

use std::path::{Path, PathBuf};

use nebula_core::bytes::human as size;
use rustix::fs::StatVfs;

use super::error::{Kind, ModelError};

/// What stays free beside a model, in bytes.
const SPARE: u64 = 1 << 30;
/// And the part of the model's size that stays free too: one in so many.
const SPARE_PART: u64 = 20;

/// Whether `needed` bytes can be written into `dir`, beside `promised` bytes that others are still writing.
/// Nothing needed always fits. Blocks on the file system.
///
/// # Errors
/// When they cannot, with all figures; or when nobody can say.
pub(super) fn check(dir: &Path, needed: u64, promised: u64) -> Result<(), ModelError> {
    if needed == 0 {
        return Ok(());
    }
    let free = free(dir).map_err(|error| {
        ModelError::files(&format!("the free space at {} cannot be found out", dir.display()), &error)
    })?;
    if fits(needed, promised, free) {
        return Ok(());
    }
    let others = if promised > 0 { format!(" and {} for others", size(promised)) } else { String::new() };
    Err(ModelError::new(
        Kind::NoRoom,
        format!(
            "it needs {}{others}, and {} has {} free, of which {} stay free; make room there, or choose another \
             --model-dir",
            size(needed),
            dir.display(),
            size(free),
            size(spare(needed)),
        ),
    ))
}

fn fits(needed: u64, promised: u64, free: u64) -> bool {
    needed.saturating_add(spare(needed)).saturating_add(promised) <= free
}

fn spare(needed: u64) -> u64 {
    SPARE.saturating_add(needed / SPARE_PART)
}

/// Free and all bytes of the file system of a directory. Blocks on it.
///
/// # Errors
/// When nobody can say.
pub(super) fn space(dir: &Path) -> std::io::Result<(u64, u64)> {
    let found = statvfs(dir)?;
    Ok((found.f_bavail.saturating_mul(found.f_frsize), found.f_blocks.saturating_mul(found.f_frsize)))
}

/// Bytes that this process may still write to the file system of a directory that need not exist yet.
fn free(dir: &Path) -> std::io::Result<u64> {
    space(dir).map(|(free, _)| free)
}

fn statvfs(dir: &Path) -> std::io::Result<StatVfs> {
    let mut at: PathBuf = dir.to_owned();
    loop {
        match rustix::fs::statvfs(&at) {
            Ok(found) => return Ok(found),
            Err(rustix::io::Errno::NOENT) if at.pop() => {
                if at.as_os_str().is_empty() {
                    at.push(".");
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gibibyte_and_a_twentieth_stay_free() {
        const GIB: u64 = 1 << 30;
        for (needed, promised, free, expected) in [
            (20 * GIB, 0, 22 * GIB, true),
            (20 * GIB, 0, 22 * GIB - 1, false),
            (20 * GIB, GIB, 22 * GIB, false),
            (20 * GIB, GIB, 23 * GIB, true),
            (1, 0, GIB, false),
            (1, 0, GIB + 1, true),
            (u64::MAX, u64::MAX, u64::MAX - 1, false),
        ] {
            assert_eq!(fits(needed, promised, free), expected, "{needed} {promised} {free}");
        }
    }

    #[test]
    fn the_error_has_all_figures_and_the_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let missing = dir.path().join("not/yet");
        check(&missing, 0, 0).expect("nothing always fits");
        let error = check(&missing, 1 << 60, 0).expect_err("an exbibyte does not fit");
        assert_eq!(error.kind, Kind::NoRoom);
        let text = error.to_string();
        assert!(text.contains("1048576.0 TiB") && text.contains("free"), "{text}");
        assert!(text.contains(&missing.display().to_string()), "{text}");
    }
}
