//! Models in S3: an object, or all objects below a prefix, kept under `<model-dir>/s3/<bucket>/<key>`.

pub(super) mod client;
mod state;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use self::client::S3Settings;
use self::client::{Object, S3};
use self::state::State;
use super::board::Chalk;
use super::choose::{Purpose, choose};
use super::download::{Want, blocking};
use super::error::{Kind, ModelError};
use super::flights::Outcome;
use super::held::Dated;
use super::writer::Place;
use super::{Inner, paths, transfer};

/// How deep directories are looked into.
const DEPTH_MAX: usize = 16;

/// What is to be fetched.
#[derive(Clone, Debug)]
pub(crate) struct Objects {
    pub(crate) bucket: String,
    /// An object's key, or what the keys of several begin with; empty: the whole bucket.
    pub(crate) key: String,
    pub(crate) purpose: Purpose,
}

impl Objects {
    /// Two with the same key are one fetch.
    pub(super) fn key(&self) -> String {
        format!("s3 {} {} {:?}", self.bucket, self.key, self.purpose)
    }

    fn name(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.key)
    }
}

/// One object and where it goes.
struct Item {
    object: Object,
    target: PathBuf,
}

/// Fetches what is missing or has changed. The outcome is the object's file, the directory, or the GGUF file in it.
pub(super) async fn fetch(inner: Arc<Inner>, wanted: Objects, chalk: Chalk) -> Outcome {
    let home = inner.settings.dir.join("s3");
    let state = State::new(&home);
    let (mut root, prefix) = (home.join(paths::below(&wanted.bucket)?), wanted.key.trim_end_matches('/'));
    if !prefix.is_empty() {
        root.push(paths::below(prefix)?);
    }
    chalk.stage("asking S3");
    let s3 = Arc::new(S3::new(&inner, &wanted.bucket)?);
    let (objects, is_dir) = match look(&s3, &wanted, prefix).await {
        Ok(found) => found,
        Err(error) if error.is_retryable() => return without_s3(&state, &wanted, error).await,
        Err(error) => return Err(error),
    };
    let items = items(objects, is_dir, prefix, &root)?;
    let (items, path) = chosen(items, is_dir, &root, &wanted)?;
    let wants = wants(&inner, &s3, &state, &wanted, &items).await?;
    transfer::fetch_all(&inner, &home, wants, &chalk).await?;
    let kept: HashSet<PathBuf> = items.iter().map(|item| item.target.clone()).collect();
    let whole = is_dir && wanted.purpose == Purpose::Weights;
    let (files, answer) =
        (items.iter().map(|item| (item.target.clone(), item.object.size)).collect(), path.clone());
    blocking("noted the files", move || {
        if whole {
            remove_others(&root, &kept, DEPTH_MAX);
        }
        state.set_whole(&wanted.key(), &wanted.name(), files, path)
    })
    .await??;
    Ok(answer)
}

/// The models of S3 that were whole once and still are. Blocks.
pub(super) fn held(dir: &Path) -> Vec<Dated> {
    State::new(&dir.join("s3")).held()
}

/// The objects that are meant, and whether they are a directory.
pub(super) async fn look(s3: &S3, wanted: &Objects, prefix: &str) -> Result<(Vec<Object>, bool), ModelError> {
    if !prefix.is_empty()
        && !wanted.key.ends_with('/')
        && let Some(object) = s3.head(prefix).await?
    {
        return Ok((vec![object], false));
    }
    let below = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
    let objects = s3.list(&below, transfer::FILES_MAX).await?;
    if objects.is_empty() {
        let name = wanted.name();
        return Err(ModelError::new(Kind::NotFound, format!("there is no object {name}, and none below it")));
    }
    Ok((objects, true))
}

/// Where each object goes.
fn items(objects: Vec<Object>, is_dir: bool, prefix: &str, root: &Path) -> Result<Vec<Item>, ModelError> {
    // Empty objects whose names end with a slash stand for directories.
    let objects = objects.into_iter().filter(|object| !object.key.ends_with('/'));
    let item = |object: Object| {
        if !is_dir {
            return Ok(Item { object, target: root.to_owned() });
        }
        let name = object.key.strip_prefix(prefix).unwrap_or(&object.key).trim_start_matches('/');
        let target = root.join(paths::below(name)?);
        Ok(Item { object, target })
    };
    objects.map(item).collect()
}

/// Those of them that the runtime needs, and the path that it gets.
fn chosen(
    items: Vec<Item>,
    is_dir: bool,
    root: &Path,
    wanted: &Objects,
) -> Result<(Vec<Item>, PathBuf), ModelError> {
    if !is_dir || wanted.purpose == Purpose::Weights {
        return Ok((items, root.to_owned()));
    }
    let keys: Vec<&str> = items.iter().map(|item| item.object.key.as_str()).collect();
    let choice = choose(&keys, &wanted.purpose)?;
    let first = items.iter().find(|item| Some(item.object.key.as_str()) == choice.first);
    let path = first.map_or(root.to_owned(), |item| item.target.clone());
    let needed: HashSet<String> = choice.names.into_iter().map(str::to_owned).collect();
    Ok((items.into_iter().filter(|item| needed.contains(&item.object.key)).collect(), path))
}

/// What to fetch. A file of an object that has changed since is thrown away.
async fn wants(
    inner: &Arc<Inner>,
    s3: &Arc<S3>,
    state: &State,
    wanted: &Objects,
    items: &[Item],
) -> Result<Vec<Want>, ModelError> {
    let mut wants = Vec::new();
    for item in items {
        let (object, target) = (item.object.clone(), item.target.clone());
        let (looked, bucket) = (state.clone(), wanted.bucket.clone());
        let is_known = blocking("looked at a file", move || {
            looked.keep_if_same(&bucket, &object.key, &object.etag, &target)
        })
        .await??;
        // Only the object itself tells its checksum.
        let head = if is_known { None } else { s3.head(&item.object.key).await? };
        let object = head.unwrap_or_else(|| item.object.clone());
        if object.etag != item.object.etag {
            let name = wanted.name();
            return Err(ModelError::network(format!("{name} was changed just now")));
        }
        let place = Place {
            target: item.target.clone(),
            partial: state.partial(&wanted.bucket, &object.key, &object.etag),
            lock: state.lock(&wanted.bucket, &object.key),
            size: object.size,
            check: object.check,
        };
        let (s3, key, etag) = (Arc::clone(s3), object.key.clone(), object.etag.clone());
        let client = inner.client()?.clone();
        let (state, bucket) = (state.clone(), wanted.bucket.clone());
        wants.push(Want {
            name: format!("s3://{}/{key}", wanted.bucket),
            place,
            request: Box::new(move || s3.get(&client, &key, &etag)),
            refused: client::refused,
            finished: Some(Arc::new(move || state.set_etag(&bucket, &object.key, &object.etag))),
        });
    }
    Ok(wants)
}

/// What is here when S3 cannot be asked: good enough if it was whole once and still is.
async fn without_s3(state: &State, wanted: &Objects, error: ModelError) -> Outcome {
    let (state, key) = (state.clone(), wanted.key());
    match blocking("looked at the files", move || state.whole(&key)).await? {
        Some(path) => {
            tracing::warn!(model = wanted.name(), %error, "S3 is not reachable, the model is taken from the disk");
            Ok(path)
        }
        None => Err(error),
    }
}

/// Removes files that have no object any more: runtimes load whatever lies in a model's directory.
fn remove_others(dir: &Path, kept: &HashSet<PathBuf>, depth: usize) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth > 0 => remove_others(&path, kept, depth - 1),
            Ok(kind) if !kind.is_dir() && !kept.contains(&path) => {
                if let Err(error) = std::fs::remove_file(&path) {
                    tracing::warn!(path = %path.display(), %error, "a file of an object that is gone stays");
                }
            }
            _ => {}
        }
    }
}
