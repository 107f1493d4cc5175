//! NVIDIA Triton with its OpenAI front end, a Python program that its distribution brings.

use std::path::Path;

use super::{Ask, Health, Line, Unready};
use crate::driver::programs;

const FRONT_END: &str = "/opt/tritonserver/python/openai/openai_frontend/main.py";
pub(super) const HEALTH: Health = Health { path: "/health/ready", otherwise: Some("/v1/models") };

/// Whether it can be run here.
pub(super) fn is_there() -> bool {
    Path::new(FRONT_END).is_file()
}

/// The model is a model repository: a directory.
pub(super) fn line(ask: &Ask<'_>) -> Result<Line, Unready> {
    if !is_there() {
        return Err(Unready(format!(
            "Triton's OpenAI front end is not on this node ({FRONT_END}); install Triton there, or give the \
             deployment a command of its own"
        )));
    }
    let python = programs::python(ask.tools.python.as_deref()).ok_or_else(|| {
        Unready("there is no python3 on this node, which Triton's front end needs".to_owned())
    })?;
    let (python, port) = (python.display().to_string(), ask.port.to_string());
    let line =
        [&*python, FRONT_END, "--model-repository", ask.model, "--host", "127.0.0.1", "--openai-port", &port];
    Ok(Line { command: line.map(str::to_owned).into(), env: Vec::new() })
}
