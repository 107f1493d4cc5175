//! vLLM: `vllm serve`.

use nebula_core::runtime::RuntimeKind;

use super::model::{self, Form};
use super::{Ask, Cache, Health, Images, Runtime, Words, lines};
use crate::driver::programs;
use crate::progress::Progress;

const PROGRAM: &str = "vllm";
/// A deployment's `image` replaces it.
const IMAGE: &str = "vllm/vllm-openai:v0.12.0";
/// What a user says when the GPUs are to be used in another way.
const PARALLEL: [&str; 6] =
    ["--tensor-parallel-size", "-tp", "--pipeline-parallel-size", "-pp", "--data-parallel-size", "-dp"];

pub(super) static RUNTIME: Runtime = Runtime {
    kind: RuntimeKind::Vllm,
    images: Some(Images { plain: IMAGE, gpu: IMAGE }),
    container_port: 8_000,
    health: Health { path: "/health", otherwise: None },
    takes: &[Form::Name, Form::Repository, Form::Path],
    advice: "use hf://org/name, or a file or directory: fs:///path/to/model",
    files: model::one,
    cache: Some(Cache { variable: "HF_HOME", below: "huggingface", inside: "/root/.cache/huggingface" }),
    hub: true,
    shares_memory: true,
    process: |ask| Ok([vec![PROGRAM.to_owned()], arguments(ask)].concat()),
    container: |ask| {
        // Its images began with another program in older versions, which took other arguments.
        let entrypoint = Some(vec![PROGRAM.to_owned()]);
        Words { entrypoint, arguments: arguments(ask) }
    },
    env: |_| Vec::new(),
    is_there: |look| programs::find(PROGRAM, look.path).is_some(),
    progress,
};

fn arguments(ask: &Ask<'_>) -> Vec<String> {
    let port = ask.port.to_string();
    let mut words: Vec<String> = ["serve", ask.model, "--host", ask.host, "--port", &port]
        .into_iter()
        .chain(["--served-model-name", &ask.spec.served_name])
        .map(str::to_owned)
        .collect();
    if let Some(revision) = ask.revision() {
        words.extend(["--revision".to_owned(), revision.to_owned()]);
    }
    if ask.gpus > 1 && !ask.has_flag(&PARALLEL) {
        words.extend(["--tensor-parallel-size".to_owned(), ask.gpus.to_string()]);
    }
    words
}

pub(super) fn progress(line: &str) -> Option<Progress> {
    let has = |text: &str| line.contains(text);
    let percent = lines::percent(line);
    if has(" checkpoint shards:") {
        return lines::said(percent, "loading the weights");
    }
    if has("Capturing CUDA graph") {
        return lines::said(percent, "capturing CUDA graphs");
    }
    if has("Starting to load model") {
        return lines::said(None, "loading the weights");
    }
    if has("Model loading took") {
        return lines::said(None, "the weights are loaded");
    }
    if has("torch.compile") || has("Dynamo bytecode transform") || has("Compiling a graph") {
        return lines::said(None, "compiling the model");
    }
    if has("GPU KV cache size") {
        return lines::said(None, "the cache is reserved");
    }
    lines::hub(line)
}
