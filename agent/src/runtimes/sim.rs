//! The simulated runtime, which the agent's own program can be. It loads no model and has no image of its own.

use nebula_core::runtime::RuntimeKind;

use super::{Health, Runtime, Words, model};

pub(super) static RUNTIME: Runtime = Runtime {
    kind: RuntimeKind::Sim,
    images: None,
    container_port: 8_000,
    health: Health { path: "/health", otherwise: None },
    takes: &[],
    advice: "it takes any name",
    files: model::one,
    cache: None,
    hub: false,
    shares_memory: false,
    process: |ask| {
        let mut words = ask.tools.sim_command.clone();
        words.extend(["--port".to_owned(), ask.port.to_string()]);
        words.extend(["--model".to_owned(), ask.spec.served_name.clone()]);
        Ok(words)
    },
    // Whatever the image begins with, the environment reaches it.
    container: |_| Words { entrypoint: None, arguments: Vec::new() },
    env: |ask| {
        vec![
            ("NEBULA_SIM_BIND", ask.host.to_owned()),
            ("NEBULA_SIM_PORT", ask.port.to_string()),
            ("NEBULA_SIM_MODEL", ask.spec.served_name.clone()),
        ]
    },
    is_there: |_| true,
    // It has nothing to load, and says nothing.
    progress: |_| None,
};
