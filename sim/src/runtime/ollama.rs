//! Ollama's native API: chat, generate, embed, and what it tells of its models.

mod answers;
mod lines;
mod models;

pub(crate) use answers::{chat, embed, generate};
pub(crate) use models::{ps, pull, show, tags, version};
