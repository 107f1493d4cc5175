//! How much GPU memory a model is thought to need, by its metadata alone: its weights, the cache of one context, and
//! what a runtime takes for itself. An estimate that shows its arithmetic; whoever knows better says so.
//!
//! * `config`: what a `config.json` and a safetensors index say.
//! * `gguf`: what the header of a GGUF file says.
//! * `words`: what a runtime's arguments say of it.

mod config;
mod gguf;
#[cfg(test)]
mod tests;
mod words;

use crate::bytes::human;
use crate::runtime::RuntimeKind;

pub use self::config::{Config, Quantization, index_bytes};
pub use self::gguf::Gguf;
use self::words::Words;

/// The longest context that is reckoned with when nobody says how long it is to be, in tokens. Many models can take far
/// more than they are asked to.
const CONTEXT_MAX: u64 = 32_768;
/// The context when the metadata says nothing of it.
const CONTEXT_UNKNOWN: u64 = 8_192;
/// What Ollama keeps unless it is told otherwise.
const CONTEXT_OLLAMA: u64 = 4_096;
/// What a runtime takes for itself: its libraries on the GPU, and room to work in.
const RUNTIME_BYTES: u64 = 1 << 30;
/// And one part in so many of the weights.
const RUNTIME_PART: u64 = 20;
/// The share of a GPU that vLLM uses unless it is told otherwise, in percent.
const VLLM_PERCENT: u64 = 90;
/// Bits of one number of the cache where nobody says otherwise.
const CACHE_BITS: u64 = 16;

/// The weights as they are fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights {
    /// All files of them together; every expert of a mixture counts.
    pub bytes: u64,
    /// Where that is from, for people: `4 files`.
    pub from: String,
}

/// What is kept of each token of a context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// Numbers of one token, over all layers.
    pub numbers: u64,
    /// How they are counted, for people: `32 layers × 2 × 8 heads × 128`.
    pub how: String,
}

/// What a model's metadata says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// None: nothing is kept, or nobody knows.
    pub cache: Option<Cache>,
    /// The longest context that it takes, in tokens.
    pub context: Option<u64>,
    /// Bits of one weight, when they are plain numbers.
    pub bits: Option<u64>,
    /// How the weights are packed, when they are not.
    pub quantization: Option<Quantization>,
}

/// An estimate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// The weights as they are fetched.
    pub weights_bytes: u64,
    /// In all, over all GPUs of one replica.
    pub bytes: u64,
    /// The arithmetic in one line.
    pub how: String,
}

/// What a model is thought to need under a runtime with these arguments.
#[must_use]
pub fn need(weights: &Weights, shape: &Shape, runtime: RuntimeKind, args: &[String]) -> Need {
    let words = Words::of(runtime, args);
    let (loaded, mut how) = loaded(weights, shape, &words);
    let (cache, told) = cache(shape, runtime, &words);
    how.push_str(&told);
    let own = RUNTIME_BYTES.saturating_add(loaded / RUNTIME_PART);
    let sum = loaded.saturating_add(cache).saturating_add(own);
    how.push_str(&format!(" + {} for the runtime = {}", human(own), human(sum)));
    let percent = match runtime {
        RuntimeKind::Vllm => words.percent.unwrap_or(VLLM_PERCENT),
        RuntimeKind::Tgi
        | RuntimeKind::Ollama
        | RuntimeKind::Triton
        | RuntimeKind::Llamacpp
        | RuntimeKind::Sim => 100,
    };
    let bytes = part(sum, 100, percent);
    if percent < 100 {
        how.push_str(&format!("; {runtime} uses {percent} % of a GPU, so {}", human(bytes)));
    }
    Need { weights_bytes: weights.bytes, bytes, how }
}

/// The weights as a runtime holds them, and what is to be said of it.
fn loaded(weights: &Weights, shape: &Shape, words: &Words) -> (u64, String) {
    let as_they_are = || format!("{} weights ({}", human(weights.bytes), weights.from);
    if let Some(quantization) = &shape.quantization {
        return (weights.bytes, format!("{}, {})", as_they_are(), quantization.name));
    }
    let Some(bits) = shape.bits else { return (weights.bytes, format!("{})", as_they_are())) };
    match words.weight_bits(bits) {
        Some((wanted, why)) => {
            let loaded = part(weights.bytes, wanted, 2 * bits);
            (
                loaded,
                format!("{} weights ({} of {}, {why})", human(loaded), weights.from, human(weights.bytes)),
            )
        }
        None => (weights.bytes, format!("{}, {bits} bits)", as_they_are())),
    }
}

/// The cache of one context, and what is to be said of it.
fn cache(shape: &Shape, runtime: RuntimeKind, words: &Words) -> (u64, String) {
    let Some(cache) = &shape.cache else { return (0, String::new()) };
    let tokens = tokens(shape.context, runtime, words);
    let bits = words.cache_bits.unwrap_or(CACHE_BITS);
    let per_token = part(cache.numbers, bits, 8);
    let bytes = per_token.saturating_mul(tokens);
    let how = &cache.how;
    let told =
        format!(" + {} cache ({tokens} tokens × {}: {how} × {bits} bits)", human(bytes), human(per_token));
    (bytes, told)
}

/// How long a context is reckoned with.
fn tokens(longest: Option<u64>, runtime: RuntimeKind, words: &Words) -> u64 {
    if let Some(wanted) = words.context {
        return wanted;
    }
    let usual = match runtime {
        RuntimeKind::Ollama => CONTEXT_OLLAMA,
        RuntimeKind::Vllm
        | RuntimeKind::Tgi
        | RuntimeKind::Triton
        | RuntimeKind::Llamacpp
        | RuntimeKind::Sim => CONTEXT_MAX,
    };
    longest.unwrap_or(CONTEXT_UNKNOWN).min(usual)
}

/// `number × times / by`, without overflowing on the way.
fn part(number: u64, times: u64, by: u64) -> u64 {
    let product = u128::from(number) * u128::from(times);
    u64::try_from(product / u128::from(by.max(1))).unwrap_or(u64::MAX)
}
