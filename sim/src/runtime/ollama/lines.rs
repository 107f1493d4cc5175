//! Answers as lines of JSON: one object a token, the last with `"done":true` and the counts.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde_json::Value;

use super::answers::nanos;
use crate::runtime::FINGERPRINT;
use crate::runtime::dialect::{Context, Dialect};
use crate::runtime::error::{Api, ApiError};
use crate::runtime::plan::Plan;
use crate::runtime::script::{Finish, Script};

/// Which of the two calls is answered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Chat,
    Generate,
}

/// Writes the lines of one answer.
pub(super) struct Lines {
    mode: Mode,
    model: String,
    created_at: String,
    call_id: String,
    plan: Plan,
}

#[derive(Serialize)]
struct Line<'a> {
    model: &'a str,
    created_at: &'a str,
    system_fingerprint: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<&'a str>,
    done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    done_reason: Option<&'static str>,
    #[serde(flatten)]
    counts: Option<Counts>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[ToolCall<'a>; 1]>,
}

#[derive(Serialize)]
struct ToolCall<'a> {
    id: &'a str,
    function: Call<'a>,
}

#[derive(Serialize)]
struct Call<'a> {
    index: u32,
    name: &'a str,
    arguments: Value,
}

#[derive(Serialize)]
struct Counts {
    total_duration: u64,
    load_duration: u64,
    prompt_eval_count: u64,
    prompt_eval_duration: u64,
    eval_count: u64,
    eval_duration: u64,
}

impl Lines {
    pub(super) fn new(mode: Mode, context: &Context<'_>) -> Self {
        Self {
            mode,
            model: context.model.to_owned(),
            created_at: context.now.rfc3339(),
            call_id: format!("call_{}", context.id),
            plan: context.plan,
        }
    }

    /// The answer to a request that asks nothing.
    pub(super) fn empty(&self, reason: &'static str) -> Bytes {
        json(&self.line("", None, Some((reason, None))))
    }

    fn line<'a>(
        &'a self,
        text: &'a str,
        tool_calls: Option<[ToolCall<'a>; 1]>,
        end: Option<(&'static str, Option<Counts>)>,
    ) -> Line<'a> {
        let done = end.is_some();
        let (done_reason, counts) = end.map_or((None, None), |(reason, counts)| (Some(reason), counts));
        let (message, response) = match self.mode {
            Mode::Chat => (Some(Message { role: "assistant", content: text, tool_calls }), None),
            Mode::Generate => (None, Some(text)),
        };
        let (model, created_at) = (self.model.as_str(), self.created_at.as_str());
        Line {
            model,
            created_at,
            system_fingerprint: FINGERPRINT,
            message,
            response,
            done,
            done_reason,
            counts,
        }
    }

    /// A call is told whole, as an object, and only where its arguments were not cut short.
    fn call<'a>(&'a self, script: &'a Script) -> Option<[ToolCall<'a>; 1]> {
        let name = script.tool.as_deref()?;
        let arguments = serde_json::from_str(&script.text()).ok()?;
        Some([ToolCall { id: &self.call_id, function: Call { index: 0, name, arguments } }])
    }

    fn end(&self, script: &Script) -> (&'static str, Option<Counts>) {
        // This API has no reason of its own for tool calls.
        let reason = if script.finish == Finish::Length { "length" } else { "stop" };
        let intervals = u32::try_from(script.pieces.len().saturating_sub(1)).unwrap_or(u32::MAX);
        let eval = self.plan.token_interval.saturating_mul(intervals);
        let counts = Counts {
            total_duration: nanos(self.plan.ttft.saturating_add(eval)),
            load_duration: 0,
            prompt_eval_count: script.prompt_tokens,
            prompt_eval_duration: nanos(self.plan.ttft),
            eval_count: script.completion_tokens(),
            eval_duration: nanos(eval),
        };
        (reason, Some(counts))
    }
}

impl Dialect for Lines {
    fn stream_type(&self) -> &'static str {
        "application/x-ndjson"
    }

    fn opening(&self, _: &Script) -> Option<Bytes> {
        None
    }

    fn piece(&self, script: &Script, at: usize) -> Option<Bytes> {
        let piece = script.pieces.get(at)?;
        if script.tool.is_none() {
            return Some(ended(json(&self.line(piece, None, None))));
        }
        let last = at + 1 == script.pieces.len();
        let calls = self.call(script).filter(|_| last)?;
        Some(ended(json(&self.line("", Some(calls), None))))
    }

    fn closing(&self, _: &Script) -> Vec<Bytes> {
        Vec::new()
    }

    fn terminator(&self, script: &Script) -> Bytes {
        ended(json(&self.line("", None, Some(self.end(script)))))
    }

    fn failure(&self, error: &ApiError) -> Bytes {
        ended(error.body(Api::Ollama))
    }

    fn whole(&self, script: &Script) -> Bytes {
        let text = if script.tool.is_none() { script.text() } else { String::new() };
        json(&self.line(&text, self.call(script), Some(self.end(script))))
    }
}

fn json(line: &Line<'_>) -> Bytes {
    Bytes::from(serde_json::to_vec(line).unwrap_or_default())
}

fn ended(json: Bytes) -> Bytes {
    let mut line = BytesMut::with_capacity(json.len() + 1);
    line.put(json);
    line.put_u8(b'\n');
    line.freeze()
}
