//! The real program against a made-up nebulad, with simulated runtimes as its children.

#[path = "agent/access.rs"]
mod access;
#[path = "agent/commands.rs"]
mod commands;
#[path = "agent/endings.rs"]
mod endings;
#[path = "agent/life.rs"]
mod life;
#[path = "agent/nebulad.rs"]
mod nebulad;
#[path = "agent/node.rs"]
mod node;
#[path = "agent/survival.rs"]
mod survival;
#[path = "agent/web.rs"]
mod web;
