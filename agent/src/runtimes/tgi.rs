//! Text Generation Inference: its launcher. It answers to any model name.

use nebula_core::runtime::RuntimeKind;

use super::model::{self, Form};
use super::{Ask, Cache, Health, Images, Runtime, Words, lines};
use crate::driver::programs;
use crate::progress::Progress;

const PROGRAM: &str = "text-generation-launcher";
/// A deployment's `image` replaces it.
const IMAGE: &str = "ghcr.io/huggingface/text-generation-inference:3.3.5";

pub(super) static RUNTIME: Runtime = Runtime {
    kind: RuntimeKind::Tgi,
    images: Some(Images { plain: IMAGE, gpu: IMAGE }),
    container_port: 80,
    health: Health { path: "/health", otherwise: None },
    takes: &[Form::Name, Form::Repository, Form::Path],
    advice: "use hf://org/name, or a directory: fs:///path/to/model",
    files: model::one,
    cache: Some(Cache { variable: "HF_HOME", below: "huggingface", inside: "/data" }),
    hub: true,
    shares_memory: true,
    process: |ask| Ok([vec![PROGRAM.to_owned()], arguments(ask)].concat()),
    container: |ask| Words { entrypoint: None, arguments: arguments(ask) },
    env: |_| Vec::new(),
    is_there: |look| programs::find(PROGRAM, look.path).is_some(),
    progress,
};

fn arguments(ask: &Ask<'_>) -> Vec<String> {
    let port = ask.port.to_string();
    let mut words: Vec<String> =
        ["--model-id", ask.model, "--hostname", ask.host, "--port", &port].map(str::to_owned).into();
    if let Some(revision) = ask.revision() {
        words.extend(["--revision".to_owned(), revision.to_owned()]);
    }
    if ask.gpus > 1 && !ask.has_flag(&["--num-shard", "--sharded"]) {
        words.extend(["--num-shard".to_owned(), ask.gpus.to_string()]);
    }
    words
}

fn progress(line: &str) -> Option<Progress> {
    let has = |text: &str| line.contains(text);
    if has("Download: [") {
        return lines::said(lines::share(line, "Download: ["), "downloading the model");
    }
    if has("Starting check and download process") || has("Starting download process") {
        return lines::said(None, "downloading the model");
    }
    if has("Successfully downloaded weights") {
        return lines::said(None, "the model is downloaded");
    }
    if has("Starting shard") || has("Waiting for shard") {
        return lines::said(None, "loading the weights");
    }
    if has("Shard ready in") {
        return lines::said(None, "the weights are loaded");
    }
    if has("Warming up model") {
        return lines::said(None, "warming up");
    }
    lines::hub(line)
}
