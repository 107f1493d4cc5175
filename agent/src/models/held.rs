//! Which models this node holds completely, and how much room there is for more. Looked at now and then, and after each
//! fetch, so that whoever asks need not wait for a disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::choose::{Purpose, QUANTIZATIONS};
use super::hub::cache::{self, Cache};
use super::ollama::library::{Library, Manifest, Name};
use super::{Settings, room, s3};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How many are told at most, the newest first.
pub(crate) const TOLD_MAX: usize = 100;
/// How many entries of a directory are looked at.
const ENTRIES_MAX: usize = 2_000;
/// The longest manifest that is read, in bytes.
const MANIFEST_MAX: u64 = 1 << 20;

/// What was seen last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Free and all bytes of the file system that models are on.
    pub(crate) disk: Option<(u64, u64)>,
    /// Sources of models, the newest first.
    pub(crate) models: Vec<String>,
}

/// What is held.
#[derive(Default)]
pub(super) struct Held {
    seen: ArcSwap<Seen>,
    again: Notify,
}

impl Held {
    pub(super) fn seen(&self) -> Arc<Seen> {
        self.seen.load_full()
    }

    /// Something was fetched.
    pub(super) fn look_again(&self) {
        self.again.notify_one();
    }

    /// Looks for as long as the agent runs.
    pub(super) async fn watch(&self, settings: &Settings) {
        loop {
            let looked = settings.clone();
            if let Ok(seen) = tokio::task::spawn_blocking(move || look(&looked)).await {
                self.seen.store(Arc::new(seen));
            }
            // In time or told: either way it is looked again.
            let _ = tokio::time::timeout(LOOK_EVERY, self.again.notified()).await;
        }
    }
}

/// Looks. Blocks on the file system.
pub(super) fn look(settings: &Settings) -> Seen {
    let mut found = of_hub(&settings.hf_home);
    found.extend(s3::held(&settings.dir));
    found.extend(of_ollama(&Library::below(&settings.dir)));
    found.sort_by(|(one, first), (two, second)| two.cmp(one).then_with(|| first.cmp(second)));
    found.truncate(TOLD_MAX);
    let models = found.into_iter().map(|(_, name)| name).collect();
    Seen { disk: room::space(&settings.dir).ok(), models }
}

/// A model's source, and since when it is here.
pub(super) type Dated = (SystemTime, String);

/// The repositories of the hub whose list of files is known, and that are whole for some use of them.
fn of_hub(home: &Path) -> Vec<Dated> {
    let mut found = Vec::new();
    for (folder, _) in entries(&home.join("hub")) {
        let Some(repo) = folder.strip_prefix("models--").map(|name| name.replacen("--", "/", 1)) else {
            continue;
        };
        let dir = home.join("hub").join(&folder);
        let mut named = Vec::new();
        for (revision, since) in entries(&dir.join("refs")) {
            let Ok(cache) = Cache::new(home, &repo, &revision) else { continue };
            let Some(commit) = cache.commit() else { continue };
            let suffix = if revision == "main" { String::new() } else { format!("@{revision}") };
            found.extend(whole(&cache, &commit, &repo, &suffix).into_iter().map(|name| (since, name)));
            named.push(commit);
        }
        for (list, since) in entries(&dir.join(".nebula")) {
            let Some(commit) = list.strip_suffix(".json").filter(|commit| cache::is_commit(commit)) else {
                continue;
            };
            if named.iter().any(|named| named == commit) {
                continue;
            }
            let Ok(cache) = Cache::new(home, &repo, commit) else { continue };
            let suffix = format!("@{commit}");
            found.extend(whole(&cache, commit, &repo, &suffix).into_iter().map(|name| (since, name)));
        }
    }
    found
}

/// The names under which a repository at a commit is whole.
fn whole(cache: &Cache, commit: &str, repo: &str, suffix: &str) -> Vec<String> {
    let Some(listing) = cache.listing(commit) else { return Vec::new() };
    let mut names = Vec::new();
    if [Purpose::Weights, Purpose::Gguf(None)].iter().any(|purpose| cache.is_whole(&listing, purpose)) {
        names.push(format!("hf://{repo}{suffix}"));
    }
    for quantization in QUANTIZATIONS {
        if cache.is_whole(&listing, &Purpose::Gguf(Some(quantization.to_owned()))) {
            names.push(format!("hf://{repo}:{quantization}{suffix}"));
        }
    }
    names
}

/// What Ollama keeps.
fn of_ollama(library: &Library) -> Vec<Dated> {
    let mut found = Vec::new();
    let root = library.manifests();
    for (registry, _) in entries(&root) {
        for (namespace, _) in entries(&root.join(&registry)) {
            let models = root.join(&registry).join(&namespace);
            for (name, _) in entries(&models) {
                for (tag, since) in entries(&models.join(&name)) {
                    let whole = Name::read(&format!("{registry}/{namespace}/{name}:{tag}"))
                        .filter(|_| is_whole(library, &models.join(&name).join(&tag)));
                    found.extend(whole.map(|name| (since, format!("ollama://{}", name.text()))));
                }
            }
        }
    }
    found
}

fn is_whole(library: &Library, manifest: &PathBuf) -> bool {
    let is_short = std::fs::metadata(manifest).is_ok_and(|found| found.len() <= MANIFEST_MAX);
    let bytes = is_short.then(|| std::fs::read(manifest).ok()).flatten();
    bytes.and_then(|bytes| Manifest::read(&bytes)).is_some_and(|manifest| library.is_whole(&manifest))
}

/// The names in a directory, and since when each is there.
pub(super) fn entries(dir: &Path) -> Vec<(String, SystemTime)> {
    let found = std::fs::read_dir(dir).into_iter().flatten().flatten().take(ENTRIES_MAX);
    let entry = |entry: std::fs::DirEntry| {
        let since = entry.metadata().and_then(|found| found.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        Some((entry.file_name().into_string().ok()?, since))
    };
    found.filter_map(entry).collect()
}
