//! Ollama: `ollama serve`, which takes its address from the environment and loads models when they are asked for.

use super::{Ask, Health, Line};

pub(super) const PROGRAM: &str = "ollama";
pub(super) const HEALTH: Health = Health { path: "/api/version", otherwise: None };

pub(super) fn line(ask: &Ask<'_>) -> Line {
    Line {
        command: [PROGRAM, "serve"].map(str::to_owned).into(),
        env: vec![("OLLAMA_HOST", format!("127.0.0.1:{}", ask.port))],
    }
}
