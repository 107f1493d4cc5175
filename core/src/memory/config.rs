//! What a model's `config.json` says, as the hub's library writes it, and its index of safetensors.
//!
//! Families name the same things differently; models of several kinds of input keep the language model's in a part of
//! its own. What is not understood is left out.

use serde_json::Value;

use super::{Cache, Shape, Weights};

/// Where the language model's part is.
const PARTS: [&str; 4] = ["text_config", "llm_config", "language_config", "thinker_config"];
const LAYERS: [&str; 4] = ["num_hidden_layers", "n_layer", "n_layers", "num_layers"];
const HEADS: [&str; 3] = ["num_attention_heads", "n_head", "n_heads"];
const CACHE_HEADS: [&str; 4] = ["num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num"];
const HIDDEN: [&str; 3] = ["hidden_size", "n_embd", "d_model"];
const CONTEXT: [&str; 5] =
    ["max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length"];
const EXPERTS: [&str; 4] = ["num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts"];
/// Layers of these kinds keep nothing of each token.
const WITHOUT_CACHE: [&str; 4] = ["linear_attention", "mamba", "recurrent", "conv"];

/// How weights are packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantization {
    /// For people: `awq of 4 bits`.
    pub name: String,
    /// Half bits of one weight, with the scales that go with it.
    half_bits: u64,
}

/// A `config.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What it says of memory.
    pub shape: Shape,
    /// How many weights the model has, all experts counted, as far as that can be told.
    parameters: Option<u64>,
}

impl Config {
    /// Reads it. None: it is no JSON object.
    #[must_use]
    pub fn read(json: &[u8]) -> Option<Self> {
        let whole: Value = serde_json::from_slice(json).ok()?;
        whole.as_object()?;
        let has_layers = |part: &&Value| number(part, &LAYERS).is_some();
        let inner = PARTS.iter().filter_map(|name| whole.get(name)).find(has_layers);
        let part = if has_layers(&&whole) { &whole } else { inner.unwrap_or(&whole) };
        let shape = Shape {
            cache: cache(part).filter(|_| !is_encoder(&whole)),
            context: number(part, &CONTEXT),
            bits: bits(part).or_else(|| bits(&whole)),
            quantization: quantization(&whole).or_else(|| quantization(part)),
        };
        Some(Self { shape, parameters: parameters(part) })
    }

    /// The weights by their number, when nobody knows how large their files are.
    #[must_use]
    pub fn weights(&self) -> Option<Weights> {
        let parameters = self.parameters?;
        let half_bits = match &self.shape.quantization {
            Some(quantization) => quantization.half_bits,
            None => 2 * self.shape.bits.unwrap_or(16),
        };
        #[expect(clippy::cast_precision_loss, reason = "a number for people")]
        let billions = parameters as f64 / 1e9;
        Some(Weights {
            bytes: super::part(parameters, half_bits, 16),
            from: format!("{billions:.1} billion parameters"),
        })
    }
}

/// How many bytes all tensors take together, by a `*.safetensors.index.json`.
#[must_use]
pub fn index_bytes(json: &[u8]) -> Option<u64> {
    let index: Value = serde_json::from_slice(json).ok()?;
    let total = index.get("metadata")?.get("total_size")?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some write 1.6e10")]
    let rounded = || total.as_f64().filter(|size| (1.0..1e18).contains(size)).map(|size| size as u64);
    total.as_u64().or_else(rounded).filter(|size| *size > 0)
}

fn number(part: &Value, names: &[&str]) -> Option<u64> {
    names.iter().find_map(|name| part.get(name)?.as_u64()).filter(|number| *number > 0)
}

fn text<'a>(part: &'a Value, name: &str) -> &'a str {
    part.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Whether it only reads: then nothing is kept of earlier tokens.
fn is_encoder(whole: &Value) -> bool {
    let kind = text(whole, "model_type");
    let reads = ["bert", "electra", "mpnet"].iter().any(|name| kind.contains(name));
    reads && whole.get("is_decoder").and_then(Value::as_bool) != Some(true)
}

fn cache(part: &Value) -> Option<Cache> {
    let layers = layers_with_cache(part)?;
    // Keys and values are kept in one short vector.
    if let Some(rank) = number(part, &["kv_lora_rank"]) {
        let rope = number(part, &["qk_rope_head_dim"]).unwrap_or(0);
        let numbers = layers.saturating_mul(rank.saturating_add(rope));
        return Some(Cache { numbers, how: format!("{layers} layers × ({rank} + {rope})") });
    }
    let (heads, dim) = (cache_heads(part)?, head_dim(part)?);
    let numbers = layers.saturating_mul(2).saturating_mul(heads).saturating_mul(dim);
    Some(Cache { numbers, how: format!("{layers} layers × 2 × {heads} heads × {dim}") })
}

fn layers_with_cache(part: &Value) -> Option<u64> {
    let all = number(part, &LAYERS)?;
    let Some(kinds) = part.get("layer_types").and_then(Value::as_array) else { return Some(all) };
    let without = kinds.iter().filter_map(Value::as_str).filter(|kind| WITHOUT_CACHE.contains(kind)).count();
    Some(all.saturating_sub(u64::try_from(without).unwrap_or(all)))
}

fn cache_heads(part: &Value) -> Option<u64> {
    let shares_one = part.get("multi_query").and_then(Value::as_bool) == Some(true);
    let grouped = part.get("new_decoder_architecture").and_then(Value::as_bool) == Some(true);
    if let Some(heads) = number(part, &CACHE_HEADS) {
        // Falcon says how many there would be.
        return Some(if shares_one && !grouped && text(part, "model_type") == "falcon" { 1 } else { heads });
    }
    if shares_one { Some(1) } else { number(part, &HEADS) }
}

fn head_dim(part: &Value) -> Option<u64> {
    let divided = || Some(number(part, &HIDDEN)? / number(part, &HEADS)?);
    number(part, &["head_dim", "kv_channels"]).or_else(divided).filter(|dim| *dim > 0)
}

fn bits(part: &Value) -> Option<u64> {
    let name = [text(part, "torch_dtype"), text(part, "dtype")].into_iter().find(|name| !name.is_empty())?;
    match name.trim_start_matches("torch.") {
        "float32" | "float" => Some(32),
        "float16" | "bfloat16" | "half" => Some(16),
        name if name.starts_with("float8") || name == "int8" => Some(8),
        _ => None,
    }
}

fn quantization(part: &Value) -> Option<Quantization> {
    let config = part.get("quantization_config").filter(|config| config.is_object())?;
    let method = match text(config, "quant_method") {
        "" => "quantized",
        method => method,
    };
    let four = config.get("load_in_4bit").and_then(Value::as_bool) == Some(true);
    let bits = match (number(config, &["bits", "w_bit"]), method) {
        (Some(bits), _) if bits <= 16 => bits,
        _ if method.contains("fp8") => 8,
        _ if four || method.contains("mxfp4") => 4,
        _ if method.contains("bitsandbytes") => 8,
        _ => number_in_groups(config).unwrap_or(8),
    };
    // The scales of groups of weights take about half a bit of each.
    let half_bits = 2 * bits + u64::from(bits < 8);
    Some(Quantization { name: format!("{method} of {bits} bits"), half_bits })
}

/// As `compressed-tensors` says it, for each group of layers.
fn number_in_groups(config: &Value) -> Option<u64> {
    let groups = config.get("config_groups")?.as_object()?;
    let bits = groups.values().find_map(|group| group.get("weights")?.get("num_bits")?.as_u64());
    bits.filter(|bits| (1..=16).contains(bits))
}

/// All weights of a decoder with gated layers, which most are: embeddings, attention, and every expert.
fn parameters(part: &Value) -> Option<u64> {
    let (layers, hidden, heads) = (number(part, &LAYERS)?, number(part, &HIDDEN)?, number(part, &HEADS)?);
    let (kept, dim, inner) = (
        cache_heads(part)?,
        head_dim(part)?,
        number(part, &["intermediate_size", "n_inner", "ffn_hidden_size"]),
    );
    let product =
        |factors: &[u64]| factors.iter().fold(1u64, |product, factor| product.saturating_mul(*factor));
    let attention = product(&[2, hidden, heads, dim]).saturating_add(product(&[2, hidden, kept, dim]));
    let dense = product(&[3, hidden, inner.unwrap_or(hidden.saturating_mul(4))]);
    let network = match number(part, &EXPERTS) {
        Some(experts) => {
            let inner = number(part, &["moe_intermediate_size"]).or(inner)?;
            let shared = number(part, &["n_shared_experts"]).unwrap_or(0);
            product(&[experts.saturating_add(shared), 3, hidden, inner])
                .saturating_add(product(&[experts, hidden]))
        }
        None => dense,
    };
    let tied = part.get("tie_word_embeddings").and_then(Value::as_bool) == Some(true);
    let words = product(&[number(part, &["vocab_size"])?, hidden, if tied { 1 } else { 2 }]);
    Some(product(&[layers, attention.saturating_add(network)]).saturating_add(words))
}
