//! Parts of the answers that chat and completions share.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;

use crate::runtime::FINGERPRINT;
use crate::runtime::error::{Api, ApiError};
use crate::runtime::script::Script;

/// The `Content-Type` of a stream of events.
pub(super) const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";
/// The last event of a stream.
pub(super) const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");

/// What all chunks of one answer say alike.
pub(super) struct Head {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: String,
    pub(super) include_usage: bool,
}

#[derive(Serialize)]
pub(super) struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: PromptDetails,
    completion_tokens_details: CompletionDetails,
}

#[derive(Serialize)]
struct PromptDetails {
    cached_tokens: u64,
}

#[derive(Serialize)]
struct CompletionDetails {
    reasoning_tokens: u64,
}

impl Usage {
    pub(super) fn of(script: &Script) -> Self {
        let (prompt_tokens, completion_tokens) = (script.prompt_tokens, script.completion_tokens());
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: PromptDetails { cached_tokens: 0 },
            completion_tokens_details: CompletionDetails { reasoning_tokens: 0 },
        }
    }
}

/// A whole answer or a chunk of one, with choices of type `C`.
#[derive(Serialize)]
pub(super) struct Object<'a, C> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'static str,
    choices: &'a [C],
    /// Left out, `null` or there: only a chunk of a stream that was asked for usage says `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
}

impl Head {
    fn object<'a, C: Serialize>(
        &'a self,
        object: &'static str,
        choices: &'a [C],
        usage: Option<Option<Usage>>,
    ) -> Object<'a, C> {
        let (created, model) = (self.created, self.model.as_str());
        Object { id: &self.id, object, created, model, system_fingerprint: FINGERPRINT, choices, usage }
    }

    /// A chunk with one choice.
    pub(super) fn chunk<C: Serialize>(&self, object: &'static str, choice: C) -> Bytes {
        event(&self.object(object, &[choice], self.include_usage.then_some(None)))
    }

    /// The chunk that only tells the usage, if it was asked for.
    pub(super) fn usage_chunk<C: Serialize>(&self, object: &'static str, script: &Script) -> Option<Bytes> {
        let none: &[C] = &[];
        self.include_usage.then(|| event(&self.object(object, none, Some(Some(Usage::of(script))))))
    }

    /// An answer in one piece.
    pub(super) fn whole<C: Serialize>(&self, object: &'static str, choice: C, script: &Script) -> Bytes {
        let answer = self.object(object, std::slice::from_ref(&choice), Some(Some(Usage::of(script))));
        Bytes::from(serde_json::to_vec(&answer).unwrap_or_default())
    }
}

/// `data: {…}` and an empty line.
fn event<T: Serialize>(value: &T) -> Bytes {
    let json = serde_json::to_vec(value).unwrap_or_default();
    event_of(&json)
}

fn event_of(json: &[u8]) -> Bytes {
    let mut event = BytesMut::with_capacity(json.len() + 8);
    event.put_slice(b"data: ");
    event.put_slice(json);
    event.put_slice(b"\n\n");
    event.freeze()
}

/// An error as an event.
pub(super) fn error_event(error: &ApiError) -> Bytes {
    event_of(&error.body(Api::OpenAi))
}
