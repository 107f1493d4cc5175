//! How much memory a model is thought to need: only its metadata is read, from this node if it is here, else from where
//! it would be fetched. The reckoning itself is `nebula_core::memory`.

mod disk;
mod hub;
mod ollama;
mod s3;

use std::sync::Arc;
use std::time::Duration;

use nebula_core::memory::{self, Config, Gguf, Need, Shape, Weights};
use nebula_core::runtime::RuntimeKind;
use nebula_core::source::ModelSource;

use super::choose::{Purpose, choose, is_weight};
use super::error::{Kind, ModelError};
use super::{Inner, Objects, purpose, repository};

/// How long one may take in all; nebulad waits a little longer.
const LIMIT: Duration = Duration::from_secs(18);
/// How many are made at a time; the others wait for their turn, within their time.
pub(super) const AT_ONCE: usize = 4;
/// The longest `config.json` or manifest, in bytes.
const CONFIG_MAX: usize = 1 << 20;
/// The longest index of safetensors, in bytes.
const INDEX_MAX: usize = 16 << 20;
/// What is read of a GGUF file, in bytes: what matters comes before the words of its tokenizer.
const HEADER_BYTES: usize = 256 << 10;

const CONFIG: &str = "config.json";
const INDEX: &str = "model.safetensors.index.json";

/// A model's metadata.
struct Found {
    weights: Weights,
    shape: Shape,
}

/// A file of a model, before it is fetched.
struct File {
    name: String,
    /// In bytes, if somebody says it.
    size: Option<u64>,
}

/// What is read of a model's files, wherever they are.
trait Files {
    /// The first `most` bytes of a file.
    async fn begin(&self, name: &str, most: usize) -> Result<Vec<u8>, ModelError>;
}

/// Estimates what a model needs under a runtime with these arguments.
///
/// # Errors
/// When its metadata cannot be had in time, or says nothing of its size.
pub(super) async fn estimate(
    inner: &Arc<Inner>,
    source: &ModelSource,
    runtime: RuntimeKind,
    args: &[String],
) -> Result<Need, ModelError> {
    let looking = async {
        let _turn = inner.estimates.acquire().await.map_err(|_| ModelError::lost("looked at a model"))?;
        match source {
            ModelSource::HuggingFace { repo, revision } => {
                hub::find(inner, repository(repo, revision.as_deref(), runtime, None)).await
            }
            ModelSource::File { path } => disk::find(inner, path, &purpose(runtime, None)).await,
            ModelSource::S3 { bucket, key } => {
                let (bucket, key) = (bucket.clone(), key.clone());
                s3::find(inner, Objects { bucket, key, purpose: purpose(runtime, None) }).await
            }
            ModelSource::Ollama { tag } => ollama::find(inner, tag).await,
        }
    };
    let late = || ModelError::network(format!("the metadata of {source} did not come in time"));
    let found = tokio::time::timeout(LIMIT, looking).await.unwrap_or_else(|_| Err(late()))?;
    Ok(memory::need(&found.weights, &found.shape, runtime, args))
}

/// Reads what is needed of a model that has these files.
async fn read(listed: &[File], purpose: &Purpose, files: &impl Files) -> Result<Found, ModelError> {
    let names: Vec<&str> = listed.iter().map(|file| file.name.as_str()).collect();
    let chosen = choose(&names, purpose);
    let is_there = |name: &str| names.contains(&name);
    let config = if is_there(CONFIG) { Config::read(&files.begin(CONFIG, CONFIG_MAX).await?) } else { None };
    let chosen = match (chosen, &config) {
        (Ok(choice), _) => choice.names,
        // With a config alone its weights can be counted.
        (Err(_), Some(_)) => Vec::new(),
        (Err(error), None) => return Err(error),
    };
    let of_weights: Vec<&File> =
        listed.iter().filter(|file| chosen.contains(&file.name.as_str()) && is_weight(&file.name)).collect();
    let first = of_weights.iter().map(|file| file.name.as_str()).filter(|name| is_gguf(name)).min();
    let mut shape = config.as_ref().map(|config| config.shape.clone()).unwrap_or_default();
    if let Some(first) = first
        && let Some(gguf) = Gguf::read(&files.begin(first, HEADER_BYTES).await?)
    {
        shape = gguf.shape;
    }
    let index = if is_there(INDEX) && sum(&of_weights).is_none() {
        memory::index_bytes(&files.begin(INDEX, INDEX_MAX).await?)
    } else {
        None
    };
    let weights = sum(&of_weights)
        .or_else(|| Some(Weights { bytes: index?, from: "as its index says".to_owned() }))
        .or_else(|| config?.weights())
        .ok_or_else(|| ModelError::new(Kind::NotFound, "nothing says how large the weights are"))?;
    Ok(Found { weights, shape })
}

fn is_gguf(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(".gguf")
}

/// The weights by their files, if the size of each is known.
fn sum(files: &[&File]) -> Option<Weights> {
    if files.is_empty() {
        return None;
    }
    let bytes = files.iter().try_fold(0u64, |sum, file| Some(sum.saturating_add(file.size?)))?;
    let plural = if files.len() == 1 { "" } else { "s" };
    Some(Weights { bytes, from: format!("{} file{plural}", files.len()) })
}
