//! What Ollama answers: one object for a whole answer, one a token in a stream.

use nebula_core::clock::WallTime;
use serde::de::{Deserialize, Deserializer, Error as _};
use serde_json::value::RawValue;

use super::logprobs::Logprob;
use crate::adapter::Usage;

/// One object.
#[derive(serde::Deserialize)]
pub(super) struct Said<'a> {
    #[serde(borrow)]
    pub(super) error: Option<&'a RawValue>,
    created_at: Option<Text<'a>>,
    pub(super) message: Option<Message<'a>>,
    /// What `/api/generate` has instead of a message.
    response: Option<Text<'a>>,
    pub(super) logprobs: Option<Vec<Logprob<'a>>>,
    #[serde(default)]
    pub(super) done: bool,
    done_reason: Option<Text<'a>>,
    prompt_eval_count: Option<u64>,
    eval_count: Option<u64>,
}

/// A message of the model.
#[derive(serde::Deserialize)]
pub(super) struct Message<'a> {
    #[serde(borrow)]
    role: Option<Text<'a>>,
    content: Option<Text<'a>>,
    thinking: Option<Text<'a>>,
    #[serde(default)]
    tool_calls: Option<Vec<ToolCall<'a>>>,
}

/// A call, always whole.
#[derive(serde::Deserialize)]
pub(super) struct ToolCall<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    function: Function<'a>,
}

#[derive(serde::Deserialize)]
struct Function<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    arguments: Option<&'a RawValue>,
}

/// The JSON of a string. It is moved as it is.
#[derive(Clone, Copy)]
pub(super) struct Text<'a>(pub(super) &'a str);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = <&'de RawValue>::deserialize(deserializer)?.get();
        if json.starts_with('"') { Ok(Self(json)) } else { Err(D::Error::custom("not a string")) }
    }
}

/// The JSON of a string that says something.
fn filled<'a>(text: Option<Text<'a>>) -> Option<&'a str> {
    text.map(|text| text.0).filter(|json| *json != "\"\"")
}

impl<'a> Said<'a> {
    /// Reads one object. None when it makes no sense.
    pub(super) fn of(json: &'a str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }

    /// Seconds since 1970; zero when it does not say.
    pub(super) fn created(&self) -> u64 {
        let time = self.created_at.map(|text| text.0.trim_matches('"'));
        time.and_then(WallTime::from_rfc3339).map_or(0, WallTime::unix_secs)
    }

    /// The JSON of a completion's text.
    pub(super) fn response(&self) -> Option<&'a str> {
        filled(self.response)
    }

    pub(super) fn usage(&self) -> Usage {
        let count = |count: Option<u64>| count.unwrap_or_default();
        Usage { prompt: count(self.prompt_eval_count), completion: count(self.eval_count) }
    }

    /// Why it ended, as JSON of OpenAI's `finish_reason`. Ollama has no reason of its own for tool calls, nor does
    /// OpenAI have any for an empty request, which only loads or unloads the model.
    pub(super) fn finish_reason(&self, called_tools: bool) -> &'a str {
        match filled(self.done_reason) {
            None | Some("\"stop\"" | "\"load\"" | "\"unload\"") if called_tools => "\"tool_calls\"",
            None | Some("\"load\"" | "\"unload\"") => "\"stop\"",
            Some(reason) => reason,
        }
    }
}

impl<'a> Message<'a> {
    pub(super) fn role(&self) -> &'a str {
        filled(self.role).unwrap_or("\"assistant\"")
    }

    pub(super) fn content(&self) -> Option<&'a str> {
        filled(self.content)
    }

    pub(super) fn thinking(&self) -> Option<&'a str> {
        filled(self.thinking)
    }

    pub(super) fn tool_calls(&self) -> &[ToolCall<'a>] {
        self.tool_calls.as_deref().unwrap_or_default()
    }
}

impl<'a> ToolCall<'a> {
    pub(super) fn id(&self) -> Option<&'a str> {
        filled(self.id)
    }

    pub(super) fn name(&self) -> &'a str {
        self.function.name.0
    }

    /// The JSON of an object.
    pub(super) fn arguments(&self) -> &'a str {
        self.function.arguments.map_or("{}", RawValue::get)
    }
}
