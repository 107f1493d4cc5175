//! What can be done with the store while nebulad is stopped: `nebulad store export|import|verify`.

use std::path::Path;

use nebula_core::exit::{Exit, Fatal};
use nebula_store::{ExportError, ExportInfo, ImportError, OpenError};

/// Writes all that the store in `dir` holds to the new file `file`; answers in one line. Blocks.
///
/// # Errors
/// When the store is in use or damaged, or `file` is there already or cannot be written.
pub fn export(dir: &Path, file: &Path) -> Result<String, Fatal> {
    if file.exists() {
        return Err(Fatal::new(Exit::Failed, format!("{} is there already", file.display()))
            .hint("name a file that does not exist yet"));
    }
    let info = nebula_store::export_dir(dir, file).map_err(unsound)?;
    Ok(format!("exported to {}: {}", file.display(), summary(&info)))
}

/// Fills `dir` from the export `file`; answers in one line. With `force` a store that is there is set aside. Blocks.
///
/// # Errors
/// When `file` is no whole export, or `dir` holds a store and `force` is not given.
pub fn import(dir: &Path, file: &Path, force: bool) -> Result<String, Fatal> {
    let info = nebula_store::import(dir, file, force).map_err(|error| {
        let message = error.to_string();
        match error {
            ImportError::NotEmpty { .. } => Fatal::new(Exit::DataDir, message)
                .hint("name an empty directory with --data-dir, or set that store aside with --force"),
            ImportError::Export(error) => unusable(&error),
            ImportError::Store(error) => error.into(),
        }
    })?;
    Ok(format!("imported {} into {}: {}", file.display(), dir.display(), summary(&info)))
}

/// Checks the export `file`; answers in one line. Blocks.
///
/// # Errors
/// When it is no whole export.
pub fn verify_export(file: &Path) -> Result<String, Fatal> {
    let info = nebula_store::verify_export(file).map_err(|error| unusable(&error))?;
    Ok(format!("{} is whole: {}", file.display(), summary(&info)))
}

/// Checks every record of the store in `dir` and changes nothing; answers in one line. Blocks.
///
/// # Errors
/// When the store is in use or damaged.
pub fn verify(dir: &Path) -> Result<String, Fatal> {
    let info = nebula_store::verify_store(dir).map_err(unsound)?;
    let aside = match info.set_aside {
        0 => String::new(),
        count => format!(", {count} bad records set aside"),
    };
    let restored = match &info.restored {
        None => String::new(),
        Some(restored) => format!("; rebuilt and not accepted yet: {}", restored.why),
    };
    Ok(format!(
        "the store in {} is whole: {} records, {} of {} bytes live, write number {}{aside}{restored}",
        dir.display(),
        info.records,
        info.live_bytes,
        info.size_bytes,
        info.seq
    ))
}

fn summary(info: &ExportInfo) -> String {
    format!("{} records, {} bytes, made {}", info.records, info.bytes, info.at.rfc3339())
}

/// A store that was only looked at may be one that the next start puts right.
fn unsound(error: OpenError) -> Fatal {
    match error {
        OpenError::Damaged { .. } => Fatal::new(Exit::Disk, error.to_string())
            .hint("nothing was deleted; start nebulad: it puts right what its exports and its log tell"),
        error => error.into(),
    }
}

fn unusable(error: &ExportError) -> Fatal {
    let message = error.to_string();
    match error {
        ExportError::Unreadable { .. } => Fatal::new(Exit::Failed, message).hint("check the path"),
        ExportError::Damaged { .. } => Fatal::new(Exit::Disk, message)
            .hint("take another one: nebulad keeps several under <data-dir>/exports"),
        ExportError::Newer { .. } => {
            Fatal::new(Exit::Failed, message).hint("read it with the version that wrote it, or a newer one")
        }
    }
}
