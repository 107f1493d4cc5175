//! OpenAI's API: chat, legacy completions, embeddings, the list of models.

mod chat;
mod completions;
mod embeddings;
mod models;
mod request;
mod wire;

pub(crate) use chat::chat;
pub(crate) use completions::completions;
pub(crate) use embeddings::embeddings;
pub(crate) use models::{model, models};
