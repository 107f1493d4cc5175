//! The real program against a made-up nebulad, with simulated runtimes as its children.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what helps a test may fail as a test does"
)]

#[path = "agent/access.rs"]
mod access;
#[path = "agent/commands.rs"]
mod commands;
#[path = "agent/drain.rs"]
mod drain;
#[path = "agent/endings.rs"]
mod endings;
#[path = "agent/exec.rs"]
mod exec;
#[path = "agent/gpus.rs"]
mod gpus;
#[path = "agent/life.rs"]
mod life;
#[path = "agent/models.rs"]
mod models;
#[path = "agent/nebulad.rs"]
mod nebulad;
#[path = "agent/node.rs"]
mod node;
#[path = "agent/proxy.rs"]
mod proxy;
#[path = "nvml/stand_in.rs"]
mod stand_in;
#[path = "agent/survival.rs"]
mod survival;
#[path = "agent/web.rs"]
mod web;
