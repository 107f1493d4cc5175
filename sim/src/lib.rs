//! Simulation for Nebula: what can be tried, measured and broken without a GPU or a model.
//!
//! [`runtime`] is a serving engine that speaks the OpenAI and the Ollama API and makes its answers up. [`fleet`] is a
//! thousand agents that join a real control plane. [`load`] is a client that asks, checks what comes back and counts.

mod files;
pub mod fleet;
mod latency;
pub mod load;
pub mod runtime;
