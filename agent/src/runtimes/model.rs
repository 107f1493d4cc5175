//! From a model's source to what a runtime is told, on the machine itself and in a container.

use std::path::{Path, PathBuf};

use nebula_core::source::ModelSource;

use super::container::Mount;
use super::{Cache, Runtime, Tools, Unready};
use crate::replica::spec::Spec;

/// Where models are mounted in containers.
const INSIDE: &str = "/models";
/// The directory of a hub's cache whose entries are links to files beside it.
const SNAPSHOTS: &str = "snapshots";

/// What stands for a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A name, of which only the runtime knows what it means.
    Name,
    /// A repository of the Hugging Face hub.
    Repository,
    /// A tag of Ollama's library.
    Tag,
    /// A file or directory.
    Path,
}

/// A model, as a runtime is told.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) form: Form,
    pub(super) argument: String,
    /// What a container needs for it.
    pub(super) mounts: Vec<Mount>,
}

/// What is known of a model before it is known where it will be used.
enum Found {
    /// What the runtime can use as it is.
    Word(Form, String),
    /// Files, the one that the runtime is told first.
    Files(Vec<PathBuf>),
}

/// The model of a replica that runs on the machine itself.
pub(super) fn on_host(
    runtime: &Runtime,
    spec: &Spec,
    tools: &Tools,
    local: Option<&Path>,
) -> Result<Model, Unready> {
    Ok(match find(runtime, spec, tools, local)? {
        Found::Word(form, argument) => Model { form, argument, mounts: Vec::new() },
        Found::Files(files) => {
            let argument = text(files.first().map_or(Path::new(""), PathBuf::as_path))?;
            Model { form: Form::Path, argument, mounts: Vec::new() }
        }
    })
}

/// The model of a replica in a container, in which `cache` is mounted from this directory.
pub(super) fn inside(
    runtime: &Runtime,
    spec: &Spec,
    tools: &Tools,
    local: Option<&Path>,
    cache: Option<(&Cache, &Path)>,
) -> Result<Model, Unready> {
    let files = match find(runtime, spec, tools, local)? {
        Found::Word(form, argument) => return Ok(Model { form, argument, mounts: Vec::new() }),
        Found::Files(files) => files,
    };
    let first = files.first().map_or(Path::new(""), PathBuf::as_path);
    // What the cache holds is there already, with everything that it links to.
    if let Some((cache, dir)) = cache
        && let Ok(below) = first.strip_prefix(dir)
    {
        let argument = format!("{}/{}", cache.inside, text(below)?);
        return Ok(Model { form: Form::Path, argument, mounts: Vec::new() });
    }
    // What the agent fetched is where it keeps models, whatever users may name.
    let roots: &[PathBuf] = if local.is_some() { &[] } else { &tools.fs_roots };
    if let Some(model) = snapshot(first, roots)? {
        return Ok(model);
    }
    let mounts = files.iter().map(|file| mount(file)).collect::<Result<Vec<_>, _>>()?;
    let argument = mounts.first().map(|mount| mount.container.clone()).unwrap_or_default();
    Ok(Model { form: Form::Path, argument, mounts })
}

/// One snapshot in a cache of the Hugging Face hub: its files are links, so the whole repository is mounted.
fn snapshot(path: &Path, roots: &[PathBuf]) -> Result<Option<Model>, Unready> {
    let snapshots = path.parent().filter(|dir| path.is_dir() && dir.ends_with(SNAPSHOTS));
    let Some(repository) = snapshots.and_then(Path::parent) else { return Ok(None) };
    if !is_allowed(repository, roots) {
        return Ok(None);
    }
    let mount = mount(repository)?;
    let below = text(path.strip_prefix(repository).unwrap_or(path))?;
    let argument = format!("{}/{below}", mount.container);
    Ok(Some(Model { form: Form::Path, argument, mounts: vec![mount] }))
}

/// A file or directory, by its own name below one directory. What a link leads to is mounted itself.
fn mount(path: &Path) -> Result<Mount, Unready> {
    let host = path.canonicalize().map_err(|error| unreadable(path, &error))?;
    let name = path.file_name().or_else(|| host.file_name());
    let name =
        name.ok_or_else(|| Unready("the root directory is no model; name what is in it".to_owned()))?;
    Ok(Mount { container: format!("{INSIDE}/{}", text(Path::new(name))?), host, read_only: true })
}

fn find(runtime: &Runtime, spec: &Spec, tools: &Tools, local: Option<&Path>) -> Result<Found, Unready> {
    if runtime.takes.is_empty() {
        return Ok(Found::Word(Form::Name, word(spec)));
    }
    let form = match &spec.source {
        _ if local.is_some() => Form::Path,
        Some(ModelSource::HuggingFace { .. }) => Form::Repository,
        Some(ModelSource::Ollama { .. }) => Form::Tag,
        Some(ModelSource::File { .. } | ModelSource::S3 { .. }) => Form::Path,
        None => Form::Name,
    };
    // A command of the deployment's takes what it likes.
    let is_usual = spec.command.is_empty();
    if is_usual && !runtime.takes.contains(&form) {
        let (kind, advice) = (runtime.kind, runtime.advice);
        let model = spec.source.as_ref().map_or_else(|| spec.model.clone(), ToString::to_string);
        return Err(Unready(format!("{kind} cannot take the model {model}; {advice}")));
    }
    let (path, roots): (_, &[PathBuf]) = match (&spec.source, local) {
        (_, Some(local)) => (local, &[]),
        (Some(ModelSource::File { path }), None) => (Path::new(path), &tools.fs_roots),
        (Some(source @ ModelSource::S3 { .. }), None) => {
            return Err(Unready(format!("the model {source} has not been fetched to this node")));
        }
        (Some(ModelSource::HuggingFace { .. } | ModelSource::Ollama { .. }) | None, None) => {
            return Ok(Found::Word(form, word(spec)));
        }
    };
    check_path(path, roots)?;
    let files = if is_usual { (runtime.files)(path.to_owned())? } else { vec![path.to_owned()] };
    files.iter().try_for_each(|file| check_path(file, roots))?;
    Ok(Found::Files(files))
}

/// A model's source as one word, without its scheme.
fn word(spec: &Spec) -> String {
    match &spec.source {
        Some(ModelSource::HuggingFace { repo, .. }) => repo.clone(),
        Some(ModelSource::Ollama { tag }) => tag.clone(),
        Some(ModelSource::File { path }) => path.clone(),
        Some(ModelSource::S3 { .. }) | None => spec.model.clone(),
    }
}

/// A model is one file or directory.
pub(super) fn one(path: PathBuf) -> Result<Vec<PathBuf>, Unready> {
    Ok(vec![path])
}

/// Whether the file or directory of an `fs://` source is inside the allowed directories, links followed, and can be
/// read. Without any such directory everything is allowed. Blocks on the file system.
pub(crate) fn check_path(path: &Path, roots: &[PathBuf]) -> Result<(), Unready> {
    // First, so that nobody learns what there is outside.
    if !is_allowed(path, roots) {
        let roots: Vec<String> = roots.iter().map(|root| root.display().to_string()).collect();
        return Err(Unready(format!(
            "the model file {} is not inside {}; fs:// takes files from there only (--model-root)",
            path.display(),
            roots.join(", ")
        )));
    }
    check_file(path)
}

/// What does not exist is inside when the nearest directory that does is.
fn is_allowed(path: &Path, roots: &[PathBuf]) -> bool {
    if roots.is_empty() {
        return true;
    }
    let real = path.ancestors().find_map(|part| part.canonicalize().ok()).unwrap_or_default();
    let climbs = path.components().any(|part| part == std::path::Component::ParentDir);
    let roots = || roots.iter().filter_map(|root| root.canonicalize().ok());
    (path.exists() || !climbs) && roots().any(|root| real.starts_with(root))
}

/// Whether a model's file or directory is there and can be read. Blocks on the file system.
fn check_file(path: &Path) -> Result<(), Unready> {
    let found = std::fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    if found.is_dir() {
        return Ok(());
    }
    // To open a pipe would wait for somebody who writes.
    if !found.is_file() {
        return Err(Unready(format!("{} is neither a file nor a directory", path.display())));
    }
    std::fs::File::open(path).map(drop).map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Unready {
    match error.kind() {
        std::io::ErrorKind::NotFound => Unready(format!(
            "there is no model file {}; copy it to this node or correct the path",
            path.display()
        )),
        _ => Unready(format!("the model file {} cannot be read: {error}", path.display())),
    }
}

/// A path as a word of a command line.
fn text(path: &Path) -> Result<String, Unready> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Unready(format!("the path {} is no valid UTF-8; rename the model's file", path.display()))
    })
}
