//! Metadata of models that are files of this node.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nebula_core::memory::{Gguf, Shape, Weights};

use super::{File, Files, Found, HEADER_BYTES, is_gguf, read, sum};
use crate::models::choose::{Purpose, choose};
use crate::models::download::blocking;
use crate::models::error::{Kind, ModelError};
use crate::models::{Inner, find_path, paths};

/// How many files of a directory are looked at.
const FILES_MAX: usize = 10_000;

/// The files below a directory.
pub(super) struct Dir(pub(super) PathBuf);

impl Files for Dir {
    async fn begin(&self, name: &str, most: usize) -> Result<Vec<u8>, ModelError> {
        begin(self.0.join(paths::below(name)?), most).await
    }
}

/// The first bytes of a file.
pub(super) async fn begin(path: PathBuf, most: usize) -> Result<Vec<u8>, ModelError> {
    blocking("read a file", move || {
        let mut bytes = Vec::new();
        let most = u64::try_from(most).unwrap_or(u64::MAX);
        let read = std::fs::File::open(&path).and_then(|file| file.take(most).read_to_end(&mut bytes));
        read.map(|_| bytes)
            .map_err(|error| ModelError::files(&format!("{} cannot be read", path.display()), &error))
    })
    .await?
}

pub(super) async fn find(inner: &Arc<Inner>, path: &str, purpose: &Purpose) -> Result<Found, ModelError> {
    let path = find_path(inner, path).await?;
    let is_dir = path.is_dir();
    let parent = if is_dir { path.clone() } else { path.parent().unwrap_or(&path).to_owned() };
    let looked = parent.clone();
    let listed = blocking("looked at the files", move || list(&looked)).await?;
    if is_dir {
        return read(&listed, purpose, &Dir(path)).await;
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    of_file(&listed, name, &Dir(parent)).await
}

/// One file, or the parts of which it is the first.
async fn of_file(listed: &[File], name: &str, dir: &Dir) -> Result<Found, ModelError> {
    let names: Vec<&str> = listed.iter().map(|file| file.name.as_str()).collect();
    let parts = match name.rsplit_once("-of-") {
        Some((stem, _)) if is_gguf(name) => {
            let stem = stem.rsplit_once('-').map_or(stem, |(stem, _)| stem);
            let set: Vec<&str> = names.into_iter().filter(|other| other.starts_with(stem)).collect();
            let first = choose(&set, &Purpose::Gguf(None)).map(|choice| choice.names);
            first.ok().filter(|parts| parts.contains(&name)).unwrap_or_else(|| vec![name])
        }
        _ => vec![name],
    };
    let files: Vec<&File> = listed.iter().filter(|file| parts.contains(&file.name.as_str())).collect();
    let missing = || ModelError::new(Kind::NotFound, format!("{name} is no model file"));
    let weights: Weights = sum(&files).ok_or_else(missing)?;
    let mut shape = Shape::default();
    if is_gguf(name) {
        let head = dir.begin(parts.first().copied().unwrap_or(name), HEADER_BYTES).await?;
        shape = Gguf::read(&head).map(|gguf| gguf.shape).unwrap_or_default();
    }
    Ok(Found { weights, shape })
}

/// The files of a directory, with their sizes; links are followed.
fn list(dir: &Path) -> Vec<File> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().take(FILES_MAX);
    let file = |entry: std::fs::DirEntry| {
        let found = std::fs::metadata(entry.path()).ok().filter(std::fs::Metadata::is_file)?;
        Some(File { name: entry.file_name().into_string().ok()?, size: Some(found.len()) })
    };
    entries.filter_map(file).collect()
}
