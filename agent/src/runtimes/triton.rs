//! NVIDIA Triton with its OpenAI front end, a Python program that its distribution brings.

use std::path::Path;

use nebula_core::runtime::RuntimeKind;

use super::model::{self, Form};
use super::{Ask, Cache, Health, Images, Runtime, Unready, Words, lines, vllm};
use crate::driver::programs;
use crate::progress::Progress;

const FRONT_END: &str = "/opt/tritonserver/python/openai/openai_frontend/main.py";
const PYTHON: &str = "python3";
/// A deployment's `image` replaces it.
const IMAGE: &str = "nvcr.io/nvidia/tritonserver:26.01-vllm-python-py3";

pub(super) static RUNTIME: Runtime = Runtime {
    kind: RuntimeKind::Triton,
    images: Some(Images { plain: IMAGE, gpu: IMAGE }),
    container_port: 9_000,
    health: Health { path: "/health/ready", otherwise: Some("/v1/models") },
    takes: &[Form::Path],
    advice: "it takes a model repository, which is a directory: fs:///path/to/repository",
    files: repository,
    // The models in a repository may be of the hub.
    cache: Some(Cache { variable: "HF_HOME", below: "huggingface", inside: "/root/.cache/huggingface" }),
    hub: true,
    shares_memory: true,
    process,
    container: |ask| {
        // Its image's entry point runs the command that it is given.
        let arguments = [vec![PYTHON.to_owned()], arguments(ask)].concat();
        Words { entrypoint: None, arguments }
    },
    env: |_| Vec::new(),
    is_there: |_| is_there(),
    progress,
};

/// Whether it can be run here.
fn is_there() -> bool {
    Path::new(FRONT_END).is_file()
}

fn repository(path: std::path::PathBuf) -> Result<Vec<std::path::PathBuf>, Unready> {
    if path.is_dir() {
        return model::one(path);
    }
    let (kind, advice) = (RUNTIME.kind, RUNTIME.advice);
    Err(Unready(format!("{kind} cannot take the file {}; {advice}", path.display())))
}

fn arguments(ask: &Ask<'_>) -> Vec<String> {
    let port = ask.port.to_string();
    [FRONT_END, "--model-repository", ask.model, "--host", ask.host, "--openai-port", &port]
        .map(str::to_owned)
        .into()
}

fn process(ask: &Ask<'_>) -> Result<Vec<String>, Unready> {
    if !is_there() {
        return Err(Unready(format!(
            "Triton's OpenAI front end is not on this node ({FRONT_END}); install Triton there, or give the \
             deployment a command of its own"
        )));
    }
    let python = programs::python(ask.tools.python.as_deref()).ok_or_else(|| {
        Unready("there is no python3 on this node, which Triton's front end needs".to_owned())
    })?;
    Ok([vec![python.display().to_string()], arguments(ask)].concat())
}

fn progress(line: &str) -> Option<Progress> {
    let has = |text: &str| line.contains(text);
    if has("successfully loaded '") {
        return lines::said(None, "the model is loaded");
    }
    if has("model_lifecycle") && has("loading: ") {
        return lines::said(None, "loading the model");
    }
    // Its usual back end.
    vllm::progress(line)
}
