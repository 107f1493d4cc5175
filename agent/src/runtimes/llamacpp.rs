//! llama.cpp: its own `llama-server`, or else the server of its Python binding.

use std::path::PathBuf;

use nebula_core::source::ModelSource;

use super::{Ask, Health, Line, Tools, Unready};
use crate::driver::programs;

const SERVER: &str = "llama-server";
const MODULE: &str = "llama_cpp";
/// The Python server has no health check; its list of models comes when the model is loaded.
pub(super) const HEALTH: Health = Health { path: "/health", otherwise: Some("/v1/models") };

/// Whether one of the two can be run here.
pub(super) fn is_there(tools: &Tools) -> bool {
    has_server() || with_module(tools).is_some()
}

/// Whether llama.cpp's own server is here.
pub(super) fn has_server() -> bool {
    programs::find(SERVER, None).is_some()
}

/// The Python that has the binding.
fn with_module(tools: &Tools) -> Option<PathBuf> {
    programs::python(tools.python.as_deref()).filter(|python| programs::has_module(python, MODULE))
}

pub(super) fn line(ask: &Ask<'_>) -> Result<Line, Unready> {
    let port = ask.port.to_string();
    let listen = ["--host", "127.0.0.1", "--port", &port];
    let name = &*ask.spec.served_name;
    let server = programs::find(SERVER, ask.spec.env.get("PATH").map(String::as_str));
    let command: Vec<&str> = match (&ask.spec.source, &server) {
        (Some(ModelSource::File { .. }), Some(_)) => {
            [&[SERVER, "--model", ask.model, "--alias", name], &listen[..]].concat()
        }
        (Some(ModelSource::HuggingFace { .. }), Some(_)) => {
            [&[SERVER, "-hf", ask.model, "--alias", name], &listen[..]].concat()
        }
        (Some(ModelSource::File { .. }), None) => {
            let python = with_module(ask.tools).ok_or_else(no_program)?.display().to_string();
            let module = ["-m", "llama_cpp.server", "--model", ask.model, "--model_alias", name];
            let words = module.into_iter().chain(listen).map(str::to_owned);
            let command = std::iter::once(python).chain(words).collect();
            return Ok(Line { command, env: Vec::new() });
        }
        (Some(ModelSource::HuggingFace { .. }), None) => return Err(no_program()),
        (Some(ModelSource::Ollama { .. } | ModelSource::S3 { .. }) | None, _) => {
            return Err(Unready(format!(
                "llamacpp takes a model file, and \"{}\" is none; use fs:///path/to/model.gguf",
                ask.spec.model
            )));
        }
    };
    Ok(Line { command: command.into_iter().map(str::to_owned).collect(), env: Vec::new() })
}

fn no_program() -> Unready {
    Unready(format!(
        "neither \"{SERVER}\" nor a Python with the module {MODULE} is on this node; install llama.cpp or \
         llama-cpp-python[server] there (NEBULA_AGENT_PYTHON names the Python), or give the deployment a command"
    ))
}
