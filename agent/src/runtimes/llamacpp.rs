//! llama.cpp: its own `llama-server`, or else the server of its Python binding.

use std::path::{Path, PathBuf};

use nebula_core::runtime::RuntimeKind;

use super::model::Form;
use super::{Ask, Cache, Health, Images, Look, Runtime, Tools, Unready, Words, lines};
use crate::driver::programs;
use crate::progress::Progress;

const SERVER: &str = "llama-server";
const MODULE: &str = "llama_cpp";
/// A deployment's `image` replaces them.
const IMAGES: Images = Images {
    plain: "ghcr.io/ggml-org/llama.cpp:server-b9603",
    gpu: "ghcr.io/ggml-org/llama.cpp:server-cuda12-b9603",
};
/// More layers than any model has: all that fit go to the GPU.
const ALL_LAYERS: &str = "999";
const LAYER_FLAGS: [&str; 3] = ["-ngl", "--n-gpu-layers", "--gpu-layers"];
/// How many entries of a directory are looked at for a model's file.
const ENTRIES_MAX: usize = 10_000;
/// How many parts a model may have.
const PARTS_MAX: u32 = 1_000;

pub(super) static RUNTIME: Runtime = Runtime {
    kind: RuntimeKind::Llamacpp,
    images: Some(IMAGES),
    container_port: 8_080,
    // The Python server has no health check; its list of models comes when the model is loaded.
    health: Health { path: "/health", otherwise: Some("/v1/models") },
    takes: &[Form::Repository, Form::Path],
    advice: "use a model file, fs:///path/to/model.gguf, or a repository with one, hf://org/name",
    files,
    cache: Some(Cache { variable: "LLAMA_CACHE", below: "llamacpp", inside: "/root/.cache/llama.cpp" }),
    hub: true,
    shares_memory: false,
    process,
    container: |ask| Words { entrypoint: None, arguments: arguments(ask) },
    env: |_| Vec::new(),
    is_there,
    progress,
};

fn is_there(look: &Look<'_>) -> bool {
    programs::find(SERVER, look.path).is_some() || look.thorough && with_module(look.tools).is_some()
}

/// The Python that has the binding.
fn with_module(tools: &Tools) -> Option<PathBuf> {
    programs::python(tools.python.as_deref()).filter(|python| programs::has_module(python, MODULE))
}

/// The arguments of its own server.
fn arguments(ask: &Ask<'_>) -> Vec<String> {
    let port = ask.port.to_string();
    // What else it could be is refused before.
    let flag = if ask.form == Form::Repository { "-hf" } else { "--model" };
    let name = &*ask.spec.served_name;
    let mut words = vec![flag, ask.model, "--alias", name, "--host", ask.host, "--port", &port];
    if ask.gpus > 0 && !ask.has_flag(&LAYER_FLAGS) {
        words.extend(["--n-gpu-layers", ALL_LAYERS]);
    }
    words.into_iter().map(str::to_owned).collect()
}

fn process(ask: &Ask<'_>) -> Result<Vec<String>, Unready> {
    if programs::find(SERVER, ask.spec.env.get("PATH").map(String::as_str)).is_some() {
        return Ok([vec![SERVER.to_owned()], arguments(ask)].concat());
    }
    let python = with_module(ask.tools).filter(|_| ask.form == Form::Path).ok_or_else(no_program)?;
    let (python, port) = (python.display().to_string(), ask.port.to_string());
    let name = &*ask.spec.served_name;
    let mut words = vec![&*python, "-m", "llama_cpp.server", "--model", ask.model, "--model_alias", name];
    words.extend(["--host", ask.host, "--port", &port]);
    if ask.gpus > 0 && !ask.has_flag(&["--n_gpu_layers"]) {
        words.extend(["--n_gpu_layers", "-1"]);
    }
    Ok(words.into_iter().map(str::to_owned).collect())
}

fn no_program() -> Unready {
    Unready(format!(
        "neither \"{SERVER}\" nor a Python with the module {MODULE} is on this node; install llama.cpp or \
         llama-cpp-python[server] there (NEBULA_AGENT_PYTHON names the Python), or give the deployment a command"
    ))
}

/// The files of a model: the one that was named, or the only one in a directory, with its further parts.
fn files(path: PathBuf) -> Result<Vec<PathBuf>, Unready> {
    let first = if path.is_dir() { only_model(&path)? } else { path };
    Ok(parts(&first).unwrap_or_else(|| vec![first]))
}

/// The only model in a directory. A projector is no model, and of several parts the first one counts.
fn only_model(dir: &Path) -> Result<PathBuf, Unready> {
    let entries = std::fs::read_dir(dir)
        .map_err(|error| Unready(format!("the directory {} cannot be read: {error}", dir.display())))?;
    let mut models =
        entries.take(ENTRIES_MAX).filter_map(Result::ok).map(|entry| entry.path()).filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.ends_with(".gguf")
                && !name.starts_with("mmproj")
                && part(name).is_none_or(|(_, number, _)| number == 1)
        });
    match (models.next(), models.next()) {
        (Some(model), None) => Ok(model),
        (None, _) => Err(Unready(format!("there is no .gguf file in {}", dir.display()))),
        (Some(_), Some(_)) => Err(Unready(format!(
            "there are several .gguf files in {}; name the one to serve: fs:///path/to/model.gguf",
            dir.display()
        ))),
    }
}

/// All parts of a model that is split, if the first one was named.
fn parts(first: &Path) -> Option<Vec<PathBuf>> {
    let (stem, number, total) = part(first.file_name()?.to_str()?)?;
    if number != 1 || total > PARTS_MAX {
        return None;
    }
    Some(
        (1..=total)
            .map(|number| first.with_file_name(format!("{stem}-{number:05}-of-{total:05}.gguf")))
            .collect(),
    )
}

/// What `model-00001-of-00003.gguf` is a part of, which one, and of how many.
fn part(name: &str) -> Option<(&str, u32, u32)> {
    let (rest, total) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let number_of = |digits: &str| (digits.len() == 5).then(|| digits.parse().ok()).flatten();
    Some((stem, number_of(number)?, number_of(total)?))
}

fn progress(line: &str) -> Option<Progress> {
    let has = |text: &str| line.contains(text);
    // One dot for each percent of the weights.
    if !line.is_empty() && line.bytes().all(|byte| byte == b'.') {
        let percent = u8::try_from(line.len()).unwrap_or(100).min(100);
        return lines::said(Some(f32::from(percent)), "loading the weights");
    }
    if has("loading model tensors") || has("load_model: loading model") {
        return lines::said(None, "loading the weights");
    }
    if has("warming up the model") {
        return lines::said(None, "warming up");
    }
    if has("main: model loaded") {
        return lines::said(None, "the weights are loaded");
    }
    if has("Downloading ") || has("downloading from ") {
        return lines::said(lines::percent(line), "downloading the model");
    }
    lines::hub(line)
}
