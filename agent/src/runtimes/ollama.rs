//! Ollama: `ollama serve`, which takes its address from the environment. It comes up without a model; that is loaded
//! through its API (`super::model_to_load`).

use nebula_core::runtime::RuntimeKind;

use super::model::{self, Form};
use super::{Cache, Health, Images, Runtime, Words, lines};
use crate::driver::programs;
use crate::progress::Progress;

const PROGRAM: &str = "ollama";
/// A deployment's `image` replaces it.
const IMAGE: &str = "ollama/ollama:0.12.6";

pub(super) static RUNTIME: Runtime = Runtime {
    kind: RuntimeKind::Ollama,
    images: Some(Images { plain: IMAGE, gpu: IMAGE }),
    container_port: 11_434,
    health: Health { path: "/api/version", otherwise: None },
    takes: &[Form::Name, Form::Tag],
    advice: "use ollama://name:tag, which may be ollama://hf.co/org/name, or the runtime llamacpp for a file",
    files: model::one,
    // The same layout as a process has it below the same directory.
    cache: Some(Cache { variable: "OLLAMA_MODELS", below: "ollama", inside: "/root/.ollama/models" }),
    hub: false,
    shares_memory: false,
    process: |_| Ok([PROGRAM, "serve"].map(str::to_owned).into()),
    container: |_| Words { entrypoint: None, arguments: vec!["serve".to_owned()] },
    env: |ask| vec![("OLLAMA_HOST", format!("{}:{}", ask.host, ask.port))],
    is_there: |look| programs::find(PROGRAM, look.path).is_some(),
    progress,
};

fn progress(line: &str) -> Option<Progress> {
    let has = |text: &str| line.contains(text);
    if let Some((_, rest)) = line.split_once("model load progress ") {
        let share = rest.split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap_or_default();
        let share = share.parse::<f32>().ok().filter(|share| (0.0..=1.0).contains(share));
        return lines::said(share.map(|share| share * 100.0), "loading the weights");
    }
    if has("msg=\"downloading ") {
        return lines::said(None, "downloading the model");
    }
    if has("msg=\"starting llama server\"") || has("waiting for llama runner") {
        return lines::said(None, "loading the weights");
    }
    if has("llama runner started in") {
        return lines::said(None, "the weights are loaded");
    }
    None
}
