//! What is known of the files that came from S3, in `<model-dir>/s3/.state`: which version of its object each is, and
//! which models were whole. All methods but the plain paths block.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::models::error::ModelError;
use crate::models::held::{Dated, entries};
use crate::models::writer::write_whole;

/// Bytes of a name's checksum that are enough to tell names apart.
const NAME_BYTES: usize = 20;

#[derive(Clone, Debug)]
pub(super) struct State(PathBuf);

/// A model that was whole.
#[derive(Serialize, Deserialize)]
struct Whole {
    /// Its source; none in those of earlier versions.
    #[serde(default)]
    source: Option<String>,
    path: PathBuf,
    /// Each with its size in bytes.
    files: Vec<(PathBuf, u64)>,
}

impl State {
    pub(super) fn new(home: &Path) -> Self {
        Self(home.join(".state"))
    }

    pub(super) fn partial(&self, bucket: &str, key: &str, etag: &str) -> PathBuf {
        self.0.join(format!("{}.incomplete", name(&[bucket, key, etag])))
    }

    pub(super) fn lock(&self, bucket: &str, key: &str) -> PathBuf {
        self.0.join(format!("{}.lock", name(&[bucket, key])))
    }

    fn etag(&self, bucket: &str, key: &str) -> PathBuf {
        self.0.join(format!("{}.etag", name(&[bucket, key])))
    }

    /// Whether `target` is the object's present version; what is another one is removed.
    pub(super) fn keep_if_same(
        &self,
        bucket: &str,
        key: &str,
        etag: &str,
        target: &Path,
    ) -> Result<bool, ModelError> {
        let known = std::fs::read_to_string(self.etag(bucket, key)).ok();
        let is_there = target.is_file();
        if known.as_deref() == Some(etag) && is_there {
            return Ok(true);
        }
        if let Some(old) = known.filter(|old| old != etag) {
            // It may not be there; the next one has another name.
            let _ = std::fs::remove_file(self.partial(bucket, key, &old));
        }
        if is_there {
            std::fs::remove_file(target).map_err(|error| {
                ModelError::files(&format!("{} cannot be replaced", target.display()), &error)
            })?;
        }
        Ok(false)
    }

    /// Notes which version of its object a file is.
    pub(super) fn set_etag(&self, bucket: &str, key: &str, etag: &str) -> Result<(), ModelError> {
        let path = self.etag(bucket, key);
        if std::fs::read_to_string(&path).is_ok_and(|known| known == etag) {
            return Ok(());
        }
        write(&path, etag.as_bytes())
    }

    /// Notes that a model is whole.
    pub(super) fn set_whole(
        &self,
        model: &str,
        source: &str,
        files: Vec<(PathBuf, u64)>,
        path: PathBuf,
    ) -> Result<(), ModelError> {
        let bytes = serde_json::to_vec(&Whole { source: Some(source.to_owned()), path, files })
            .map_err(|_| ModelError::lost("wrote a list of files"))?;
        write(&self.list(model), &bytes)
    }

    /// Where a model is that was whole once and still is.
    pub(super) fn whole(&self, model: &str) -> Option<PathBuf> {
        let bytes = std::fs::read(self.list(model)).ok()?;
        let whole: Whole = serde_json::from_slice(&bytes).ok()?;
        whole.is_there().then_some(whole.path)
    }

    /// The models that were whole once and still are, and since when.
    pub(super) fn held(&self) -> Vec<Dated> {
        let lists = entries(&self.0).into_iter().filter(|(name, _)| name.ends_with(".json"));
        let held = |(name, since): (String, _)| {
            let whole: Whole = serde_json::from_slice(&std::fs::read(self.0.join(name)).ok()?).ok()?;
            whole.is_there().then_some((since, whole.source?))
        };
        lists.filter_map(held).collect()
    }

    fn list(&self, model: &str) -> PathBuf {
        self.0.join(format!("{}.json", name(&[model])))
    }
}

impl Whole {
    fn is_there(&self) -> bool {
        let is_there = |(path, size): &(PathBuf, u64)| {
            std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == *size)
        };
        self.files.iter().all(is_there)
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), ModelError> {
    write_whole(path, bytes)
        .map_err(|error| ModelError::files(&format!("{} cannot be written", path.display()), &error))
}

/// A file name for whatever it is made from.
fn name(parts: &[&str]) -> String {
    let mut sum = Sha256::new();
    for part in parts {
        sum.update((part.len() as u64).to_le_bytes());
        sum.update(part);
    }
    sum.finalize().iter().take(NAME_BYTES).map(|byte| format!("{byte:02x}")).collect()
}
