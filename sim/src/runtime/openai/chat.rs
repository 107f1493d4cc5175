//! `POST /v1/chat/completions`.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::request::{StreamOptions, include_usage, one_choice};
use super::wire::{DONE, EVENT_STREAM, Head, error_event};
use crate::runtime::conversation::{Message, ToolSpec, last_said, pick_tool, prompt_tokens};
use crate::runtime::dialect::{Answer, Context, Dialect};
use crate::runtime::error::{Api, ApiError};
use crate::runtime::request::{OneOrMany, read};
use crate::runtime::script::{self, Ask, Form, Script};

const CHUNK: &str = "chat.completion.chunk";

#[derive(Deserialize)]
struct Request {
    messages: Vec<Message>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    n: Option<u64>,
    stop: Option<OneOrMany>,
    tools: Option<Vec<ToolSpec>>,
    tool_choice: Option<Value>,
    response_format: Option<ResponseFormat>,
}

#[derive(Deserialize)]
struct ResponseFormat {
    r#type: String,
    json_schema: Option<JsonSchema>,
}

#[derive(Deserialize)]
struct JsonSchema {
    schema: Option<Value>,
}

/// Works an answer out.
pub(crate) fn chat(body: &[u8], context: &Context<'_>) -> Result<Answer, ApiError> {
    let request: Request = read(body, Api::OpenAi, context)?;
    let stream = request.stream.unwrap_or(false);
    let include_usage = include_usage(stream, request.stream_options.as_ref())?;
    one_choice(request.n)?;
    if request.messages.is_empty() {
        return Err(ApiError::invalid(Some("messages"), "messages is empty, give at least one"));
    }
    let limit = request.max_completion_tokens.or(request.max_tokens);
    if limit == Some(0) {
        return Err(ApiError::invalid(Some("max_tokens"), "max_tokens is 0, give at least 1"));
    }
    let tool = pick_tool(request.tools, request.tool_choice.as_ref(), &request.messages)?;
    let form = match tool {
        Some(tool) => Form::Tool(tool),
        None => form(request.response_format)?,
    };
    let ask = Ask {
        said: last_said(&request.messages),
        prompt_tokens: prompt_tokens(&request.messages),
        limit,
        stops: request.stop.map(OneOrMany::into_vec).unwrap_or_default(),
        form,
    };
    let head = Head {
        id: format!("chatcmpl-{}", context.id),
        created: context.now.unix_secs(),
        model: context.model.to_owned(),
        include_usage,
    };
    let dialect = Box::new(Chat { call_id: format!("call_{}", context.id), head });
    Ok(Answer::Tokens { script: script::write(ask, context.plan.tokens), dialect, stream })
}

fn form(format: Option<ResponseFormat>) -> Result<Form, ApiError> {
    let Some(format) = format else { return Ok(Form::Text) };
    match format.r#type.as_str() {
        "text" => Ok(Form::Text),
        "json_object" => Ok(Form::Json),
        "json_schema" => {
            format.json_schema.and_then(|wrapped| wrapped.schema).map(Form::Schema).ok_or_else(|| {
                ApiError::invalid(Some("response_format"), "response_format lacks json_schema.schema")
            })
        }
        other => {
            let message =
                format!("response_format has type \"{other}\"; known: text, json_object, json_schema");
            Err(ApiError::invalid(Some("response_format"), message))
        }
    }
}

struct Chat {
    head: Head,
    call_id: String,
}

#[derive(Serialize)]
struct ChunkChoice<'a> {
    index: u32,
    delta: Delta<'a>,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize, Default)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[ToolCall<'a>; 1]>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    message: Reply<'a>,
    logprobs: Option<()>,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct Reply<'a> {
    role: &'static str,
    content: Option<&'a str>,
    refusal: Option<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[ToolCall<'a>; 1]>,
}

#[derive(Serialize)]
struct ToolCall<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    function: Call<'a>,
}

#[derive(Serialize)]
struct Call<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a str,
}

impl Chat {
    fn delta(&self, delta: Delta<'_>, finish_reason: Option<&'static str>) -> Bytes {
        self.head.chunk(CHUNK, ChunkChoice { index: 0, delta, logprobs: None, finish_reason })
    }

    fn call<'a>(&'a self, name: &'a str, arguments: &'a str) -> ToolCall<'a> {
        let function = Call { name: Some(name), arguments };
        ToolCall { index: None, id: Some(&self.call_id), r#type: Some("function"), function }
    }
}

impl Dialect for Chat {
    fn stream_type(&self) -> &'static str {
        EVENT_STREAM
    }

    fn opening(&self, script: &Script) -> Option<Bytes> {
        let role = Some("assistant");
        let delta = match &script.tool {
            None => Delta { role, content: Some(""), tool_calls: None },
            Some(name) => {
                let call = ToolCall { index: Some(0), ..self.call(name, "") };
                Delta { role, content: None, tool_calls: Some([call]) }
            }
        };
        Some(self.delta(delta, None))
    }

    fn piece(&self, script: &Script, at: usize) -> Option<Bytes> {
        let piece = script.pieces.get(at)?;
        let delta = if script.tool.is_none() {
            Delta { content: Some(piece), ..Delta::default() }
        } else {
            let function = Call { name: None, arguments: piece };
            let call = ToolCall { index: Some(0), id: None, r#type: None, function };
            Delta { tool_calls: Some([call]), ..Delta::default() }
        };
        Some(self.delta(delta, None))
    }

    fn closing(&self, script: &Script) -> Vec<Bytes> {
        let finish = self.delta(Delta::default(), Some(script.finish.as_str()));
        let usage = self.head.usage_chunk::<ChunkChoice<'_>>(CHUNK, script);
        std::iter::once(finish).chain(usage).collect()
    }

    fn terminator(&self, _: &Script) -> Bytes {
        DONE
    }

    fn failure(&self, error: &ApiError) -> Bytes {
        error_event(error)
    }

    fn whole(&self, script: &Script) -> Bytes {
        let text = script.text();
        let (content, tool_calls) = match &script.tool {
            None => (Some(text.as_str()), None),
            Some(name) => (None, Some([self.call(name, &text)])),
        };
        let message = Reply { role: "assistant", content, refusal: None, tool_calls };
        let finish_reason = script.finish.as_str();
        self.head.whole(
            "chat.completion",
            Choice { index: 0, message, logprobs: None, finish_reason },
            script,
        )
    }
}

#[cfg(test)]
#[path = "chat_tests.rs"]
mod tests;
