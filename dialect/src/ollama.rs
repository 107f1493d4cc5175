//! Ollama, by its native API: `/api/chat`, `/api/generate` and `/api/embed`. Its own OpenAI paths cannot set the size
//! of the context, cut long prompts without a word and lose errors in streams.
//!
//! What has no counterpart there:
//!
//! * `tool_choice`: `"none"` leaves the tools away. Nothing can force a call, so a named tool is offered alone and
//!   `"required"` offers all of them: the model will mostly call, but may not.
//! * `n`, `best_of` above one and `echo` are refused, and so are prompts and inputs that are tokens.
//! * `logit_bias`, `user`, `parallel_tool_calls`, `store`, `metadata` and `service_tier` have no effect.
//!
//! Ollama's own options may stand beside OpenAI's fields or in `options`, where OpenAI's have precedence. `keep_alive`,
//! `truncate`, `shift` and `think` may be set as well.

mod calls;
mod embed;
mod error;
mod generation;
mod head;
mod json;
mod lines;
mod logprobs;
mod messages;
mod options;
mod parts;
mod said;
mod stream;
mod tools;
mod whole;

use crate::adapter::{Adapter, Asked, Outgoing, Refusal, Told};
use crate::surface::Surface;

/// For how long Ollama keeps the model in memory after a request: for ever. A replica serves one model and its
/// deployment says how long; left alone Ollama would unload it after five idle minutes, and the next client would
/// wait for the weights.
const KEEP_ALIVE: &str = "-1";

/// Longest line of a streamed answer, in bytes. A token takes some hundred; a tool call comes in one line.
const LINE_MAX: usize = 8 * 1024 * 1024;

/// Speaks to Ollama.
#[derive(Clone, Copy, Debug)]
pub struct Ollama;

impl Adapter for Ollama {
    fn outgoing(&self, asked: &Asked<'_>) -> Result<Outgoing, Refusal> {
        let body = std::str::from_utf8(asked.body)
            .map_err(|_| refusal(None, "The body is not valid JSON: it is not UTF-8."))?;
        match asked.surface {
            Surface::Chat => generation::chat(asked, body),
            Surface::Completions => generation::completion(asked, body),
            Surface::Embeddings => embed::outgoing(asked, body),
            Surface::Responses
            | Surface::Messages
            | Surface::Rerank
            | Surface::Score
            | Surface::Transcriptions
            | Surface::Images
            | Surface::Tokenize => Err(unsupported(asked.surface)),
        }
    }

    fn told(&self, status: u16, body: &[u8]) -> Option<Told> {
        error::told(status, body)
    }
}

fn unsupported(surface: Surface) -> Refusal {
    let message = format!(
        "The model is served by Ollama, which has no {}; it has /chat/completions, /completions and /embeddings.",
        surface.path()
    );
    Refusal { message, param: None, code: Some("unsupported_endpoint") }
}

/// Says what is wrong with a parameter.
fn refusal(param: Option<&'static str>, message: impl Into<String>) -> Refusal {
    Refusal { message: message.into(), param, code: None }
}

#[cfg(test)]
mod embed_tests;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod options_tests;
#[cfg(test)]
mod request_tests;
#[cfg(test)]
mod sim_tests;
#[cfg(test)]
mod stream_tests;
