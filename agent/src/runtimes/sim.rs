//! The simulated runtime, which the agent's own program can be.

use super::{Ask, Health, Line};

pub(super) const HEALTH: Health = Health { path: "/health", otherwise: None };

pub(super) fn line(ask: &Ask<'_>) -> Line {
    let mut command = ask.tools.sim_command.clone();
    command.extend(["--port".to_owned(), ask.port.to_string()]);
    command.extend(["--model".to_owned(), ask.spec.served_name.clone()]);
    Line { command, env: Vec::new() }
}
