//! The HTTP side: the OpenAI-compatible gateway, the management API, and the operators' paths.

pub mod api;
pub mod error;
pub mod openai;
pub mod operators;
pub mod server;
