//! What every answer and every chunk says of itself, and the usage.

use super::generation::{Kind, Reply};
use super::json::Object;
use crate::adapter::Usage;

/// Writes `id`, `object`, `created`, `model` and `system_fingerprint`.
pub(super) fn put(reply: &Reply, created: u64, is_chunk: bool, object: &mut Object<'_>) {
    object.text("id", &reply.id());
    let kind = match (reply.kind, is_chunk) {
        (Kind::Chat, true) => "\"chat.completion.chunk\"",
        (Kind::Chat, false) => "\"chat.completion\"",
        (Kind::Text, _) => "\"text_completion\"",
    };
    object.json("object", kind);
    object.json("created", &created.to_string());
    object.text("model", &reply.model);
    object.json("system_fingerprint", "\"fp_ollama\"");
}

/// Writes `usage`.
pub(super) fn put_usage(usage: Usage, object: &mut Object<'_>) {
    let mut counts = Object::open(object.name("usage"));
    counts.json("prompt_tokens", &usage.prompt.to_string());
    counts.json("completion_tokens", &usage.completion.to_string());
    counts.json("total_tokens", &usage.prompt.saturating_add(usage.completion).to_string());
    counts.close();
}
