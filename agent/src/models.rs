//! Models that a node needs: from the Hugging Face hub, from S3, through Ollama, or already on its disk.
//!
//! Whatever is fetched can be left at any moment and is gone on with later; it gets its name only when it is whole and
//! its checksum is right; and it is not begun when it does not fit on the disk.

mod board;
mod choose;
mod digest;
mod download;
mod error;
mod estimate;
mod flights;
mod held;
mod http;
mod hub;
mod ollama;
mod paths;
mod room;
mod s3;
mod transfer;
mod writer;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use nebula_core::clock::Clock;
use nebula_core::memory::Need;
use nebula_core::runtime::RuntimeKind;
use nebula_core::source::ModelSource;
use nebula_core::token::Secret;
use reqwest::Client;
use tokio::sync::Semaphore;

use self::board::Pace;
pub(crate) use self::board::{Board, FileState, FileStatus};
pub(crate) use self::choose::Purpose;
use self::download::{Limits, blocking};
pub(crate) use self::error::{Kind, ModelError};
pub(crate) use self::flights::Flight;
use self::flights::{Flights, Outcome};
use self::held::Held;
pub(crate) use self::held::Seen;
pub(crate) use self::hub::Repository;
pub(crate) use self::ollama::Pull;
pub(crate) use self::s3::{Objects, S3Settings};
use crate::progress::Reporter;
use crate::replica::spec::Spec;
use crate::runtimes;

/// Where the hub is unless the environment says otherwise.
const HF_ENDPOINT: &str = "https://huggingface.co";
/// Where Ollama's library is.
const OLLAMA_REGISTRY: &str = "https://registry.ollama.ai";
/// A deployment that sets one of these wants its runtime to see to its model alone.
const HUB_VARIABLES: [&str; 5] =
    ["HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT"];
/// Where a token for the hub is found, the newer name first.
const TOKEN_VARIABLES: [&str; 2] = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"];

/// Where models come from and where they go.
#[derive(Clone)]
pub(crate) struct Settings {
    /// Where models are kept.
    pub(crate) dir: PathBuf,
    /// Directories from which `fs://` may name models; empty: any.
    pub(crate) fs_roots: Vec<PathBuf>,
    /// Where the hub's own library keeps what it fetches.
    pub(crate) hf_home: PathBuf,
    /// The hub's address.
    pub(crate) hf_endpoint: String,
    /// Opens private and gated repositories.
    pub(crate) hf_token: Option<Secret>,
    pub(crate) s3: S3Settings,
    /// The address of Ollama's library.
    pub(crate) ollama_registry: String,
}

impl Settings {
    /// With what the environment says: `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and `AWS_…`, as the tools read them that
    /// people know.
    pub(crate) fn from_environment(dir: PathBuf, fs_roots: Vec<PathBuf>) -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        Self {
            fs_roots,
            hf_home: variable("HF_HOME").map_or_else(|| dir.join("huggingface"), PathBuf::from),
            hf_endpoint: variable("HF_ENDPOINT").unwrap_or_else(|| HF_ENDPOINT.to_owned()),
            hf_token: TOKEN_VARIABLES.iter().find_map(|name| variable(name)).map(Secret::from_text),
            s3: S3Settings::from_environment(variable),
            ollama_registry: OLLAMA_REGISTRY.to_owned(),
            dir,
        }
    }
}

/// What all fetches share.
struct Inner {
    settings: Settings,
    limits: Limits,
    flights: Flights,
    files: Semaphore,
    /// Turns of those who only look at metadata.
    estimates: Semaphore,
    held: Held,
    /// Held while it is looked whether something fits.
    room: tokio::sync::Mutex<()>,
    clock: Clock,
    /// Made when they are needed first: they take memory that most agents never need.
    outside: OnceLock<Result<Client, ModelError>>,
    loopback: OnceLock<Result<Client, ModelError>>,
}

impl Inner {
    fn client(&self) -> Result<&Client, ModelError> {
        self.outside.get_or_init(http::outside).as_ref().map_err(Clone::clone)
    }

    fn loopback(&self) -> Result<&Client, ModelError> {
        self.loopback.get_or_init(http::loopback).as_ref().map_err(Clone::clone)
    }
}

/// The models of this node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Models(Arc<Inner>);

impl Models {
    pub(crate) fn new(settings: Settings) -> Self {
        Self::with(settings, Limits::default())
    }

    fn with(settings: Settings, limits: Limits) -> Self {
        Self(Arc::new(Inner {
            settings,
            limits,
            flights: Flights::default(),
            files: Semaphore::new(transfer::AT_ONCE_ON_NODE),
            estimates: Semaphore::new(estimate::AT_ONCE),
            held: Held::default(),
            room: tokio::sync::Mutex::default(),
            clock: Clock::start(),
            outside: OnceLock::new(),
            loopback: OnceLock::new(),
        }))
    }

    /// Fetches what a replica needs before it starts; whoever drops this stops it, unless others wait for the same.
    /// The path is what its runtime takes instead of a name. None: the runtime finds the model by itself.
    ///
    /// # Errors
    /// When the model cannot be had.
    pub(crate) async fn fetch(
        &self,
        spec: &Spec,
        reporter: &Reporter,
    ) -> Result<Option<PathBuf>, ModelError> {
        let Some(source) = &spec.source else { return Ok(None) };
        match (source, spec.runtime) {
            // It loads nothing.
            (_, RuntimeKind::Sim) => Ok(None),
            (ModelSource::File { path }, _) => self.find(path).await.map(|_| None),
            // Ollama must run before it can fetch.
            (ModelSource::Ollama { .. }, _) => Ok(None),
            (ModelSource::S3 { bucket, key }, runtime) => {
                let purpose = purpose(runtime, None);
                let objects = Objects { bucket: bucket.clone(), key: key.clone(), purpose };
                self.told(source, &*self.s3(objects)?, reporter).await.map(Some)
            }
            (ModelSource::HuggingFace { .. }, _) if !spec.command.is_empty() => Ok(None),
            (ModelSource::HuggingFace { repo, revision }, RuntimeKind::Llamacpp) => {
                let flight = self.hub(repository(repo, revision.as_deref(), spec.runtime, token_of(spec)))?;
                self.told(source, &flight, reporter).await.map(Some)
            }
            (ModelSource::HuggingFace { repo, revision }, RuntimeKind::Vllm | RuntimeKind::Tgi) => {
                if HUB_VARIABLES.iter().any(|name| spec.env.contains_key(*name)) {
                    return Ok(None);
                }
                let flight = self.hub(repository(repo, revision.as_deref(), spec.runtime, token_of(spec)))?;
                self.told(source, &flight, reporter).await.map(|_| None)
            }
            (ModelSource::HuggingFace { .. }, RuntimeKind::Ollama | RuntimeKind::Triton) => Ok(None),
        }
    }

    /// Lets the Ollama on a loopback port fetch a model, unless it has it, and answer to `name` for it.
    ///
    /// # Errors
    /// When Ollama does not answer, or cannot fetch it.
    pub(crate) async fn load_into_ollama(
        &self,
        port: u16,
        tag: &str,
        name: &str,
        reporter: &Reporter,
    ) -> Result<(), ModelError> {
        let pull = Pull { port, tag: tag.to_owned() };
        if !ollama::has(&self.0, &pull).await? {
            let source = ModelSource::Ollama { tag: pull.tag.clone() };
            self.told(&source, &*self.ollama(pull.clone())?, reporter).await?;
        }
        ollama::rename(&self.0, &pull, name).await
    }

    /// Fetches from the hub.
    pub(crate) fn hub(&self, repository: Repository) -> Result<Arc<Flight>, ModelError> {
        let (inner, key) = (Arc::clone(&self.0), repository.key());
        self.0.flights.join(&key, |chalk| looking(Arc::clone(&self.0), hub::fetch(inner, repository, chalk)))
    }

    /// Fetches from S3.
    pub(crate) fn s3(&self, objects: Objects) -> Result<Arc<Flight>, ModelError> {
        let (inner, key) = (Arc::clone(&self.0), objects.key());
        self.0.flights.join(&key, |chalk| looking(Arc::clone(&self.0), s3::fetch(inner, objects, chalk)))
    }

    /// Lets Ollama fetch.
    pub(crate) fn ollama(&self, pull: Pull) -> Result<Arc<Flight>, ModelError> {
        let (inner, key) = (Arc::clone(&self.0), pull.key());
        self.0.flights.join(&key, |chalk| looking(Arc::clone(&self.0), ollama::fetch(inner, pull, chalk)))
    }

    /// The real path of a model that is on the node.
    pub(crate) async fn find(&self, path: &str) -> Result<PathBuf, ModelError> {
        find_path(&self.0, path).await
    }

    /// Estimates how much memory a model needs, by its metadata. Bounded in time.
    ///
    /// # Errors
    /// When the metadata cannot be had, or says nothing of the model's size.
    pub(crate) async fn estimate(
        &self,
        source: &ModelSource,
        runtime: RuntimeKind,
        args: &[String],
    ) -> Result<Need, ModelError> {
        estimate::estimate(&self.0, source, runtime, args).await
    }

    /// What this node holds, as it was last seen.
    pub(crate) fn held(&self) -> Arc<Seen> {
        self.0.held.seen()
    }

    /// Looks what this node holds, for as long as it is polled.
    pub(crate) async fn watch(&self) {
        self.0.held.watch(&self.0.settings).await;
    }

    /// Waits for a fetch and tells how far it is.
    async fn told(
        &self,
        source: &ModelSource,
        flight: &Flight,
        reporter: &Reporter,
    ) -> Result<PathBuf, ModelError> {
        let what = format!("fetching {source}");
        let telling = async {
            let (mut board, mut pace) = (flight.board(), Pace::default());
            loop {
                let (done, total, line) = {
                    let board = board.borrow_and_update();
                    board::line(&what, &board, pace.step(self.0.clock.now(), board.bytes().0))
                };
                reporter.share(done, total, line);
                tokio::time::sleep(self.0.limits.tell).await;
                if board.changed().await.is_err() {
                    // It has ended, which the other side hears of.
                    return std::future::pending().await;
                }
            }
        };
        let outcome = tokio::select! {
            outcome = flight.outcome() => outcome,
            never = telling => never,
        };
        if outcome.is_ok() {
            reporter.clear();
        }
        outcome
    }
}

/// A fetch, after which it is looked again what this node holds.
async fn looking(inner: Arc<Inner>, fetch: impl Future<Output = Outcome>) -> Outcome {
    let outcome = fetch.await;
    inner.held.look_again();
    outcome
}

/// The real path of a model that is on the node.
async fn find_path(inner: &Arc<Inner>, path: &str) -> Result<PathBuf, ModelError> {
    let (inner, path) = (Arc::clone(inner), PathBuf::from(path));
    blocking("looked for a file", move || {
        runtimes::check_path(&path, &inner.settings.fs_roots)
            .map_err(|error| ModelError::new(Kind::NotFound, error.to_string()))?;
        std::fs::canonicalize(&path)
            .map_err(|error| ModelError::files(&format!("{} cannot be read", path.display()), &error))
    })
    .await?
}

/// A repository as a runtime needs it; `org/name:Q8_0` names a quantization.
pub(crate) fn repository(
    repo: &str,
    revision: Option<&str>,
    runtime: RuntimeKind,
    token: Option<Secret>,
) -> Repository {
    let (repo, quantization) = match repo.split_once(':') {
        Some((repo, quantization)) => (repo, Some(quantization)),
        None => (repo, None),
    };
    Repository {
        repo: repo.to_owned(),
        revision: revision.map(str::to_owned),
        purpose: purpose(runtime, quantization),
        token,
    }
}

/// What a runtime takes.
pub(crate) fn purpose(runtime: RuntimeKind, quantization: Option<&str>) -> Purpose {
    match runtime {
        RuntimeKind::Llamacpp => Purpose::Gguf(quantization.map(str::to_owned)),
        _ if quantization.is_some() => Purpose::Gguf(quantization.map(str::to_owned)),
        _ => Purpose::Weights,
    }
}

/// The token that a deployment brings for itself.
fn token_of(spec: &Spec) -> Option<Secret> {
    let found = TOKEN_VARIABLES.iter().find_map(|name| spec.env.get(*name));
    found.filter(|token| !token.is_empty()).map(Secret::from_text)
}

#[cfg(test)]
mod tests;
