//! vLLM: `vllm serve`.

use super::{Ask, Health, Line};

pub(super) const PROGRAM: &str = "vllm";
pub(super) const HEALTH: Health = Health { path: "/health", otherwise: None };

pub(super) fn line(ask: &Ask<'_>) -> Line {
    let port = ask.port.to_string();
    let mut command: Vec<String> = [PROGRAM, "serve", ask.model, "--host", "127.0.0.1", "--port", &port]
        .into_iter()
        .chain(["--served-model-name", &ask.spec.served_name])
        .map(str::to_owned)
        .collect();
    if let Some(revision) = ask.revision() {
        command.extend(["--revision".to_owned(), revision.to_owned()]);
    }
    let gpus = ask.spec.gpu_devices.len();
    if gpus > 1 && !ask.has_flag(&["--tensor-parallel-size", "-tp"]) {
        command.extend(["--tensor-parallel-size".to_owned(), gpus.to_string()]);
    }
    Line { command, env: Vec::new() }
}
