//! The hub's cache on disk, as its own library lays it out below `HF_HOME`:
//!
//! ```text
//! hub/models--org--name/blobs/<etag>              contents, named by their checksum
//! hub/models--org--name/snapshots/<commit>/<file> links to them
//! hub/models--org--name/refs/<revision>           the commit that a branch or tag stands for
//! hub/.locks/models--org--name/<etag>.lock        held by whoever writes a content
//! ```
//!
//! Ours is `models--org--name/.nebula/<commit>.json`: the list of files at a commit, so that it is known without the
//! hub whether all of them are here.

use std::path::{Path, PathBuf};

use super::api::{HubFile, Listing};
use crate::models::choose::{Purpose, choose};
use crate::models::error::ModelError;
use crate::models::paths;
use crate::models::writer::{make_parent, write_whole};

/// How deep directories of a repository are looked into.
const DEPTH_MAX: usize = 8;
/// The longest file that names a commit, in bytes.
const REF_MAX: u64 = 256;

/// Whether a revision is a commit, which never changes.
pub(in crate::models) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The cache of one repository, looked at by one revision. All methods but the plain paths block.
#[derive(Clone, Debug)]
pub(in crate::models) struct Cache {
    repo: PathBuf,
    locks: PathBuf,
    reference: PathBuf,
}

impl Cache {
    pub(in crate::models) fn new(home: &Path, repo: &str, revision: &str) -> Result<Self, ModelError> {
        let folder = paths::below(&format!("models--{}", repo.replace('/', "--")))?;
        let hub = home.join("hub");
        let repo = hub.join(&folder);
        let reference = repo.join("refs").join(paths::below(revision)?);
        Ok(Self { locks: hub.join(".locks").join(folder), repo, reference })
    }

    pub(in crate::models) fn dir(&self) -> &Path {
        &self.repo
    }

    pub(in crate::models) fn blob(&self, etag: &str) -> PathBuf {
        self.repo.join("blobs").join(etag)
    }

    pub(in crate::models) fn partial(&self, etag: &str) -> PathBuf {
        self.repo.join("blobs").join(format!("{etag}.incomplete"))
    }

    pub(in crate::models) fn lock(&self, etag: &str) -> PathBuf {
        self.locks.join(format!("{etag}.lock"))
    }

    pub(in crate::models) fn snapshot(&self, commit: &str) -> PathBuf {
        self.repo.join("snapshots").join(commit)
    }

    fn list(&self, commit: &str) -> PathBuf {
        self.repo.join(".nebula").join(format!("{commit}.json"))
    }

    /// The commit that the revision stood for when it was last fetched.
    pub(in crate::models) fn commit(&self) -> Option<String> {
        if std::fs::metadata(&self.reference).ok()?.len() > REF_MAX {
            return None;
        }
        let text = std::fs::read_to_string(&self.reference).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// The files at a commit, if they were asked for once.
    pub(in crate::models) fn listing(&self, commit: &str) -> Option<Listing> {
        let bytes = std::fs::read(self.list(commit)).ok()?;
        serde_json::from_slice(&bytes).ok().filter(|listing: &Listing| {
            listing.commit == commit && listing.files.iter().all(|file| paths::below(&file.name).is_ok())
        })
    }

    /// Keeps the list of files at a commit.
    pub(in crate::models) fn keep(&self, listing: &Listing) -> Result<(), ModelError> {
        if self.listing(&listing.commit).as_ref() == Some(listing) {
            return Ok(());
        }
        let path = self.list(&listing.commit);
        let bytes = serde_json::to_vec(listing).map_err(|_| ModelError::lost("wrote a list of files"))?;
        write_whole(&path, &bytes).map_err(|error| cannot_write(&path, &error))
    }

    /// Whether all contents that are needed are here.
    pub(in crate::models) fn is_whole(&self, listing: &Listing, purpose: &Purpose) -> bool {
        let names: Vec<&str> = listing.files.iter().map(|file| file.name.as_str()).collect();
        let Ok(choice) = choose(&names, purpose) else { return false };
        let mut needed = listing.files.iter().filter(|file| choice.names.contains(&file.name.as_str()));
        needed.all(|file| {
            std::fs::metadata(self.blob(&file.etag)).is_ok_and(|found| Some(found.len()) == file.size)
        })
    }

    /// What somebody else has put here, if that can be the model: nobody knows whether it is whole.
    pub(in crate::models) fn foreign(&self, commit: &str, purpose: &Purpose) -> Option<PathBuf> {
        let snapshot = self.snapshot(commit);
        let mut names = Vec::new();
        collect(&snapshot, "", DEPTH_MAX, &mut names);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let choice = choose(&names, purpose).ok()?;
        Some(choice.first.map_or(snapshot.clone(), |name| snapshot.join(name)))
    }

    /// Gives contents their names at a commit, and the revision its commit.
    pub(in crate::models) fn publish(&self, commit: &str, files: &[HubFile]) -> Result<(), ModelError> {
        let snapshot = self.snapshot(commit);
        for file in files {
            let below = paths::below(&file.name)?;
            // From the directory of the link up to the repository.
            let up: PathBuf = below.components().map(|_| "..").chain([".."]).collect();
            let (link, content) = (snapshot.join(&below), up.join("blobs").join(&file.etag));
            set_link(&link, &content).map_err(|error| cannot_write(&link, &error))?;
        }
        let is_new = self.commit().as_deref() != Some(commit);
        let is_named = self.reference.file_name().is_some_and(|name| name != commit);
        if is_new && is_named {
            write_whole(&self.reference, commit.as_bytes())
                .map_err(|error| cannot_write(&self.reference, &error))?;
        }
        Ok(())
    }
}

fn cannot_write(path: &Path, error: &std::io::Error) -> ModelError {
    ModelError::files(&format!("{} cannot be written", path.display()), error)
}

fn set_link(link: &Path, content: &Path) -> std::io::Result<()> {
    if std::fs::read_link(link).is_ok_and(|there| there == content) {
        return Ok(());
    }
    make_parent(link)?;
    let mut name = link.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", uuid::Uuid::new_v4().simple()));
    let new = link.with_file_name(name);
    std::os::unix::fs::symlink(content, &new)?;
    std::fs::rename(&new, link)
}

/// The names of all files below a directory, whose links lead somewhere.
fn collect(dir: &Path, prefix: &str, depth: usize, names: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let (path, name) = (entry.path(), format!("{prefix}{name}"));
        match std::fs::metadata(&path) {
            Ok(found) if found.is_dir() && depth > 0 => collect(&path, &format!("{name}/"), depth - 1, names),
            Ok(found) if found.is_file() => names.push(name),
            _ => {}
        }
    }
}
