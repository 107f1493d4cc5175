//! What a runtime's arguments say of the memory that it takes.

use crate::runtime::RuntimeKind;

/// How long a context is, in tokens.
const CONTEXT: [&str; 6] =
    ["--max-model-len", "--max-total-tokens", "--ctx-size", "-c", "--num-ctx", "--n_ctx"];
/// What the cache is made of.
const CACHE_TYPE: [&str; 3] = ["--kv-cache-dtype", "--cache-type-k", "-ctk"];
/// What the weights are made into.
const WEIGHT_TYPE: [&str; 1] = ["--dtype"];
const QUANTIZATION: [&str; 3] = ["--quantization", "-q", "--quantize"];
/// The share of a GPU, from 0 to 1.
const SHARE: [&str; 1] = ["--gpu-memory-utilization"];

/// What is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Words {
    /// Tokens.
    pub(super) context: Option<u64>,
    /// Bits of a number of the cache.
    pub(super) cache_bits: Option<u64>,
    /// The share of a GPU that is used, in percent.
    pub(super) percent: Option<u64>,
    weight_type: Option<String>,
    quantization: Option<String>,
    /// Weights of 32 bits are made into 16 unless something else is said.
    halves: bool,
}

impl Words {
    pub(super) fn of(runtime: RuntimeKind, args: &[String]) -> Self {
        let of_vllm_or_tgi = matches!(runtime, RuntimeKind::Vllm | RuntimeKind::Tgi);
        let only = |text: Option<&str>| text.filter(|_| of_vllm_or_tgi).map(str::to_ascii_lowercase);
        Self {
            // llama.cpp takes 0 for as much as the model can.
            context: value(args, &CONTEXT).and_then(tokens).filter(|tokens| *tokens > 0),
            cache_bits: value(args, &CACHE_TYPE).and_then(cache_bits),
            percent: value(args, &SHARE).and_then(percent),
            weight_type: only(value(args, &WEIGHT_TYPE)),
            quantization: only(value(args, &QUANTIZATION)),
            halves: of_vllm_or_tgi,
        }
    }

    /// The *half* bits of one weight as it is held, when that is something else than the `bits` that it comes with, and
    /// why.
    pub(super) fn weight_bits(&self, bits: u64) -> Option<(u64, String)> {
        let (held, why) = match (self.quantization.as_deref(), self.weight_type.as_deref()) {
            (Some("fp8" | "eetq" | "int8"), _) => (16, self.quantization.clone()),
            // With the scales of its blocks.
            (Some(name), _) if name.starts_with("bitsandbytes") => (9, self.quantization.clone()),
            (_, Some("float32" | "float")) => (64, self.weight_type.clone()),
            (_, Some("float16" | "half" | "bfloat16")) => (32, self.weight_type.clone()),
            _ if self.halves && bits == 32 => (32, Some("made into 16 bits".to_owned())),
            _ => return None,
        };
        (held != 2 * bits).then(|| (held, why.unwrap_or_default()))
    }
}

/// What follows the last of these flags, as a word of its own or after `=`.
fn value<'a>(args: &'a [String], flags: &[&str]) -> Option<&'a str> {
    let mut found = None;
    for (at, arg) in args.iter().enumerate() {
        let (name, joined) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (arg.as_str(), None),
        };
        if flags.contains(&name) {
            found = joined.or_else(|| args.get(at + 1).map(String::as_str)).or(found);
        }
    }
    found
}

/// `4096`, and as vLLM takes it `32k` (thousands) or `32K` (times 1024).
fn tokens(text: &str) -> Option<u64> {
    let (number, factor) = match text.strip_suffix('k') {
        Some(number) => (number, 1_000),
        None => match text.strip_suffix('K') {
            Some(number) => (number, 1_024),
            None => (text, 1),
        },
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

fn cache_bits(text: &str) -> Option<u64> {
    match text {
        _ if text.starts_with("fp8") => Some(8),
        "f32" | "float32" => Some(32),
        "f16" | "bf16" | "float16" | "bfloat16" => Some(16),
        // With the scales of their blocks: a little more than the name says.
        "q8_0" => Some(9),
        "q5_0" | "q5_1" => Some(6),
        "q4_0" | "q4_1" | "iq4_nl" => Some(5),
        _ => None,
    }
}

fn percent(text: &str) -> Option<u64> {
    let share: f64 = text.parse().ok()?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 1 to 100")]
    (share > 0.0 && share <= 1.0).then(|| ((share * 100.0).round() as u64).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(runtime: RuntimeKind, args: &str) -> Words {
        let args: Vec<String> = args.split(' ').map(str::to_owned).collect();
        Words::of(runtime, &args)
    }

    #[test]
    fn flags_are_read_as_the_runtimes_take_them() {
        use RuntimeKind::{Llamacpp, Tgi, Vllm};
        for (runtime, args, context, cache_bits, percent) in [
            (Vllm, "--max-model-len 8192", Some(8_192), None, None),
            (Vllm, "--max-model-len=32k --kv-cache-dtype fp8_e4m3", Some(32_000), Some(8), None),
            (Vllm, "--max-model-len 32K --gpu-memory-utilization 0.95", Some(32_768), None, Some(95)),
            (Vllm, "--max-model-len 1 --max-model-len 2", Some(2), None, None),
            (Vllm, "--max-model-len", None, None, None),
            (Vllm, "--max-model-len many --gpu-memory-utilization 7", None, None, None),
            (Tgi, "--max-total-tokens 4096", Some(4_096), None, None),
            (Llamacpp, "-c 0", None, None, None),
            (Llamacpp, "-c 2048 -ctk q8_0 -ctv q8_0", Some(2_048), Some(9), None),
        ] {
            let words = of(runtime, args);
            assert_eq!(
                (words.context, words.cache_bits, words.percent),
                (context, cache_bits, percent),
                "{args}"
            );
        }
    }

    #[test]
    fn weights_are_held_as_they_come_unless_something_else_is_said() {
        use RuntimeKind::{Llamacpp, Vllm};
        for (runtime, args, bits, held) in [
            (Vllm, "", 16, None),
            (Vllm, "", 32, Some(32)),
            (Vllm, "--dtype float32", 32, None),
            (Vllm, "--dtype float32", 16, Some(64)),
            (Vllm, "--dtype auto", 16, None),
            (Vllm, "--quantization fp8", 16, Some(16)),
            (Vllm, "-q bitsandbytes", 16, Some(9)),
            (Llamacpp, "", 32, None),
        ] {
            let found = of(runtime, args).weight_bits(bits).map(|(held, _)| held);
            assert_eq!(found, held, "{runtime} {args} {bits}");
        }
    }
}
