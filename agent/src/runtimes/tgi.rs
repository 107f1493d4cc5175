//! Text Generation Inference: its launcher. It answers to any model name.

use super::{Ask, Health, Line};

pub(super) const PROGRAM: &str = "text-generation-launcher";
pub(super) const HEALTH: Health = Health { path: "/health", otherwise: None };

pub(super) fn line(ask: &Ask<'_>) -> Line {
    let port = ask.port.to_string();
    let mut command: Vec<String> =
        [PROGRAM, "--model-id", ask.model, "--hostname", "127.0.0.1", "--port", &port]
            .map(str::to_owned)
            .into();
    if let Some(revision) = ask.revision() {
        command.extend(["--revision".to_owned(), revision.to_owned()]);
    }
    let gpus = ask.spec.gpu_devices.len();
    if gpus > 1 && !ask.has_flag(&["--num-shard"]) {
        command.extend(["--num-shard".to_owned(), gpus.to_string()]);
    }
    Line { command, env: Vec::new() }
}
