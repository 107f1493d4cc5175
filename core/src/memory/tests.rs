//! Estimates of models that everybody knows, and of metadata that is odd.

use serde_json::{Value, json};

use super::*;

const GIB: u64 = 1 << 30;

fn config(json: &Value) -> Config {
    Config::read(json.to_string().as_bytes()).expect("a config")
}

fn llama_8b() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
        "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336, "vocab_size": 128_256,
        "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131_072,
        "tie_word_embeddings": false
    })
}

fn qwen_half_b() -> Value {
    json!({
        "model_type": "qwen2", "torch_dtype": "bfloat16", "num_hidden_layers": 24, "hidden_size": 896,
        "intermediate_size": 4864, "vocab_size": 151_936, "num_attention_heads": 14, "num_key_value_heads": 2,
        "max_position_embeddings": 32_768, "tie_word_embeddings": true
    })
}

fn mixtral() -> Value {
    json!({
        "model_type": "mixtral", "torch_dtype": "bfloat16", "num_hidden_layers": 32, "hidden_size": 4096,
        "intermediate_size": 14336, "vocab_size": 32_000, "num_attention_heads": 32, "num_key_value_heads": 8,
        "num_local_experts": 8, "max_position_embeddings": 32_768, "tie_word_embeddings": false
    })
}

fn with(mut config: Value, more: Value) -> Value {
    let (Some(known), Value::Object(more)) = (config.as_object_mut(), more) else { panic!("objects") };
    known.extend(more);
    config
}

fn need_of(json: &Value, runtime: RuntimeKind, args: &str) -> Need {
    let config = config(json);
    let args: Vec<String> = args.split_whitespace().map(str::to_owned).collect();
    need(&config.weights().expect("weights"), &config.shape, runtime, &args)
}

#[test]
fn known_models_have_the_weights_and_the_cache_that_they_have() {
    // Weights in bytes as their files are, and bytes of cache of one token.
    for (json, weights, per_token) in [
        (llama_8b(), 16_060_522_496_u64, 128 * 1024_u64),
        (qwen_half_b(), 988_065_536, 12 * 1024),
        (mixtral(), 93_405_585_408, 128 * 1024),
    ] {
        let config = config(&json);
        let found = config.weights().expect("weights").bytes;
        assert!(found.abs_diff(weights) < weights / 1_000, "{found} for {weights}");
        assert_eq!(config.shape.cache.expect("a cache").numbers * 2, per_token, "{json}");
    }
}

#[test]
fn the_arithmetic_is_one_line() {
    let Need { weights_bytes, bytes, how } = need_of(&llama_8b(), RuntimeKind::Tgi, "");
    assert_eq!(human(weights_bytes), "15.0 GiB");
    assert_eq!(
        how,
        "15.0 GiB weights (8.0 billion parameters, 16 bits) + 4.0 GiB cache (32768 tokens × 128.0 KiB: 32 layers × 2 \
         × 8 heads × 128 × 16 bits) + 1.7 GiB for the runtime = 20.7 GiB"
    );
    assert_eq!(bytes, weights_bytes + 4 * GIB + GIB + weights_bytes / 20);
    let under_vllm = need_of(&llama_8b(), RuntimeKind::Vllm, "");
    assert!(
        under_vllm.how.ends_with("= 20.7 GiB; vllm uses 90 % of a GPU, so 23.0 GiB"),
        "{}",
        under_vllm.how
    );
    assert_eq!(under_vllm.bytes, u64::try_from(u128::from(bytes) * 100 / 90).expect("it fits"));
}

#[test]
fn arguments_and_runtimes_change_the_need() {
    use RuntimeKind::{Llamacpp, Ollama, Tgi, Vllm};
    for (runtime, args, parts) in [
        (Vllm, "--max-model-len 131072", "16.0 GiB cache (131072 tokens"),
        (Vllm, "--max-model-len 8192 --kv-cache-dtype fp8", "512.0 MiB cache (8192 tokens × 64.0 KiB"),
        (Vllm, "--quantization fp8", "7.5 GiB weights (8.0 billion parameters of 15.0 GiB, fp8)"),
        (Vllm, "--gpu-memory-utilization 1.0", "for the runtime = 20.7 GiB"),
        (Tgi, "--max-total-tokens 4096", "512.0 MiB cache (4096 tokens"),
        (Ollama, "", "512.0 MiB cache (4096 tokens"),
        (Llamacpp, "-c 1024", "128.0 MiB cache (1024 tokens"),
    ] {
        let how = need_of(&llama_8b(), runtime, args).how;
        assert!(how.contains(parts), "{runtime} {args}: {how}");
    }
    let single = with(llama_8b(), json!({"torch_dtype": "float32"}));
    let how = need_of(&single, Vllm, "").how;
    assert!(
        how.starts_with("15.0 GiB weights (8.0 billion parameters of 29.9 GiB, made into 16 bits)"),
        "{how}"
    );
    assert!(need_of(&single, Vllm, "--dtype float32").how.starts_with("29.9 GiB weights"));
}

#[test]
fn packed_weights_are_counted_as_they_are_packed() {
    for (quantization, weights, name) in [
        (json!({"quant_method": "awq", "bits": 4}), "4.2 GiB", "awq of 4 bits"),
        (json!({"quant_method": "gptq", "bits": 8}), "7.5 GiB", "gptq of 8 bits"),
        (json!({"quant_method": "fp8"}), "7.5 GiB", "fp8 of 8 bits"),
        (json!({"quant_method": "bitsandbytes", "load_in_4bit": true}), "4.2 GiB", "bitsandbytes of 4 bits"),
        (json!({"quant_method": "mxfp4"}), "4.2 GiB", "mxfp4 of 4 bits"),
        (
            json!({"quant_method": "compressed-tensors",
                   "config_groups": {"group_0": {"weights": {"num_bits": 4}}}}),
            "4.2 GiB",
            "compressed-tensors of 4 bits",
        ),
    ] {
        let json = with(llama_8b(), json!({ "quantization_config": quantization }));
        let how = need_of(&json, RuntimeKind::Vllm, "--dtype float16").how;
        let expected = format!("{weights} weights (8.0 billion parameters, {name}) + 4.0 GiB cache");
        assert!(how.starts_with(&expected), "{how}");
    }
    // Of files only their size counts: they are as packed as they are.
    let config =
        config(&with(llama_8b(), json!({"quantization_config": {"quant_method": "awq", "bits": 4}})));
    let files = Weights { bytes: 6 * GIB, from: "2 files".to_owned() };
    let need = need(&files, &config.shape, RuntimeKind::Tgi, &[]);
    assert!(need.how.starts_with("6.0 GiB weights (2 files, awq of 4 bits)"), "{}", need.how);
}

#[test]
fn families_that_name_things_differently_are_understood() {
    for (json, per_token, context) in [
        // GPT-2.
        (json!({"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024}), Some(36_864), Some(1_024)),
        // Falcon-7B: one head for all.
        (
            json!({"model_type": "falcon", "multi_query": true, "num_hidden_layers": 32, "hidden_size": 4544,
                   "num_attention_heads": 71, "num_kv_heads": 71}),
            Some(8_192),
            None,
        ),
        // Gemma: a dimension of its own.
        (
            json!({"num_hidden_layers": 18, "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256,
                   "hidden_size": 2048}),
            Some(18_432),
            None,
        ),
        // DeepSeek-V3: keys and values in one short vector.
        (
            json!({"num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128,
                   "hidden_size": 7168, "kv_lora_rank": 512, "qk_rope_head_dim": 64}),
            Some(70_272),
            None,
        ),
        // A model of images and text.
        (json!({"model_type": "llava", "text_config": llama_8b()}), Some(131_072), Some(131_072)),
        // Most layers keep nothing.
        (
            json!({"num_hidden_layers": 4, "num_attention_heads": 2, "hidden_size": 128,
                   "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"]}),
            Some(512),
            None,
        ),
        // It only reads.
        (
            json!({"model_type": "bert", "num_hidden_layers": 12, "num_attention_heads": 12, "hidden_size": 768}),
            None,
            None,
        ),
        (json!({}), None, None),
        (json!({"num_hidden_layers": "many", "hidden_size": -1}), None, None),
        (json!({"num_hidden_layers": 2, "num_attention_heads": 0, "hidden_size": 8}), None, None),
    ] {
        let shape = config(&json).shape;
        assert_eq!(shape.cache.map(|cache| cache.numbers * 2), per_token, "{json}");
        assert_eq!(shape.context, context, "{json}");
    }
    for bad in ["", "[]", "7", "{"] {
        assert_eq!(Config::read(bad.as_bytes()), None, "{bad}");
    }
}

#[test]
fn an_index_tells_the_size_of_all_tensors() {
    for (json, size) in [
        (json!({"metadata": {"total_size": 16_060_522_496_u64}, "weight_map": {}}), Some(16_060_522_496)),
        (json!({"metadata": {"total_size": 1.6e10}}), Some(16_000_000_000)),
        (json!({"metadata": {"total_size": 0}}), None),
        (json!({"metadata": {"total_size": -5}}), None),
        (json!({"metadata": {}}), None),
        (json!([]), None),
    ] {
        assert_eq!(index_bytes(json.to_string().as_bytes()), size, "{json}");
    }
}

/// A header as the format's description has it.
struct Header(Vec<u8>, u64);

impl Header {
    fn new() -> Self {
        Self(Vec::new(), 0)
    }

    fn text(bytes: &mut Vec<u8>, text: &str) {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    }

    fn entry(mut self, key: &str, kind: u32, value: impl FnOnce(&mut Vec<u8>)) -> Self {
        Self::text(&mut self.0, key);
        self.0.extend(kind.to_le_bytes());
        value(&mut self.0);
        self.1 += 1;
        self
    }

    fn string(self, key: &str, value: &str) -> Self {
        self.entry(key, 8, |bytes| Self::text(bytes, value))
    }

    fn number(self, key: &str, value: u32) -> Self {
        self.entry(key, 4, |bytes| bytes.extend(value.to_le_bytes()))
    }

    fn numbers(self, key: &str, values: &[u32]) -> Self {
        self.entry(key, 9, |bytes| {
            bytes.extend(4_u32.to_le_bytes());
            bytes.extend((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
        })
    }

    fn bytes(self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3_u32.to_le_bytes());
        bytes.extend(291_u64.to_le_bytes());
        bytes.extend(self.1.to_le_bytes());
        bytes.extend(self.0);
        bytes
    }
}

fn llama_header() -> Header {
    Header::new()
        .string("general.architecture", "llama")
        .entry("general.quantized", 7, |bytes| bytes.push(1))
        .number("llama.block_count", 32)
        .number("llama.context_length", 131_072)
        .number("llama.embedding_length", 4_096)
        .number("llama.attention.head_count", 32)
        .number("llama.attention.head_count_kv", 8)
        .entry("llama.rope.freq_base", 6, |bytes| bytes.extend(500_000_f32.to_le_bytes()))
}

#[test]
fn a_gguf_header_tells_the_cache() {
    let gguf = Gguf::read(&llama_header().bytes()).expect("a header");
    assert_eq!((gguf.architecture.as_str(), gguf.shape.context), ("llama", Some(131_072)));
    let file = Weights { bytes: 4_920_739_232, from: "1 file".to_owned() };
    let need = need(&file, &gguf.shape, RuntimeKind::Llamacpp, &["-c".to_owned(), "8192".to_owned()]);
    assert_eq!(
        need.how,
        "4.6 GiB weights (1 file) + 1.0 GiB cache (8192 tokens × 128.0 KiB: 32 layers × 8 heads × 2 × 128 × 16 bits) + \
         1.2 GiB for the runtime = 6.8 GiB"
    );
    for (header, numbers) in [
        (llama_header().number("llama.attention.key_length", 192), Some(32 * 8 * (192 + 128))),
        (
            Header::new()
                .string("general.architecture", "nemo")
                .number("nemo.block_count", 4)
                .number("nemo.attention.key_length", 64)
                .number("nemo.attention.value_length", 64)
                .numbers("nemo.attention.head_count_kv", &[8, 0, 4, 0]),
            Some(12 * 128),
        ),
        (
            Header::new()
                .string("general.architecture", "deepseek2")
                .number("deepseek2.block_count", 61)
                .number("deepseek2.attention.kv_lora_rank", 512)
                .number("deepseek2.rope.dimension_count", 64),
            Some(61 * 576),
        ),
        (Header::new().string("general.architecture", "clip"), None),
    ] {
        let shape = Gguf::read(&header.bytes()).expect("a header").shape;
        assert_eq!(shape.cache.map(|cache| cache.numbers), numbers);
    }
}

#[test]
fn a_header_that_is_cut_off_or_lies_ends_the_reading() {
    let whole = llama_header()
        .entry("tokenizer.ggml.tokens", 9, |bytes| {
            bytes.extend(8_u32.to_le_bytes());
            bytes.extend(128_256_u64.to_le_bytes());
        })
        .bytes();
    let expected = Gguf::read(&whole).expect("the words may be missing");
    assert!(expected.shape.cache.is_some());
    for end in 0..whole.len() {
        // It may know less, and falls over nothing.
        if let Some(gguf) = Gguf::read(&whole[..end]) {
            assert!(gguf.shape.cache.is_none() || gguf.shape.cache.as_ref().is_some_and(|c| c.numbers > 0));
        }
    }
    for bad in [b"GGUF".as_slice(), b"GGML\x03\0\0\0", b"", b"PK\x03\x04"] {
        assert_eq!(Gguf::read(bad), None);
    }
    let mut version = whole;
    version[4] = 9;
    assert_eq!(Gguf::read(&version), None);
}

#[test]
fn metadata_of_any_size_makes_no_overflow() {
    let huge = u64::MAX;
    let json = json!({
        "num_hidden_layers": huge, "hidden_size": huge, "num_attention_heads": 1, "vocab_size": huge,
        "max_position_embeddings": huge, "num_local_experts": huge, "intermediate_size": huge
    });
    let need = need_of(&json, RuntimeKind::Vllm, "--max-model-len 18446744073709551615");
    assert_eq!(need.bytes, u64::MAX);
}
