//! `POST /api/chat`, `/api/generate` and `/api/embed`: from a request to an answer.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::lines::{Lines, Mode};
use crate::runtime::FINGERPRINT;
use crate::runtime::conversation::{Message, ToolSpec, last_said, pick_tool, prompt_tokens};
use crate::runtime::dialect::{Answer, Context};
use crate::runtime::embedding;
use crate::runtime::error::{Api, ApiError};
use crate::runtime::request::{OneOrMany, read};
use crate::runtime::script::{self, Ask, Form, count_tokens};

#[derive(Deserialize)]
struct ChatRequest {
    #[serde(default)]
    messages: Vec<Message>,
    tools: Option<Vec<ToolSpec>>,
    #[serde(flatten)]
    common: Common,
}

#[derive(Deserialize)]
struct GenerateRequest {
    #[serde(default)]
    prompt: String,
    #[serde(flatten)]
    common: Common,
}

#[derive(Deserialize)]
struct Common {
    /// Streams unless told not to, unlike OpenAI.
    stream: Option<bool>,
    format: Option<Value>,
    options: Option<Options>,
    keep_alive: Option<Value>,
}

#[derive(Deserialize, Default)]
struct Options {
    num_predict: Option<i64>,
    stop: Option<OneOrMany>,
}

#[derive(Deserialize)]
struct EmbedRequest {
    input: Option<OneOrMany>,
    dimensions: Option<u64>,
}

/// Works an answer to messages out.
pub(crate) fn chat(body: &[u8], context: &Context<'_>) -> Result<Answer, ApiError> {
    let request: ChatRequest = read(body, Api::Ollama, context)?;
    if request.messages.is_empty() {
        return Ok(loaded(Mode::Chat, &request.common, context));
    }
    let tool = pick_tool(request.tools, None, &request.messages)?;
    let ask = Ask {
        said: last_said(&request.messages),
        prompt_tokens: prompt_tokens(&request.messages),
        form: tool.map_or_else(|| form(request.common.format.as_ref()), |tool| Ok(Form::Tool(tool)))?,
        ..Ask::default()
    };
    Ok(answer(ask, request.common, Mode::Chat, context))
}

/// Works an answer to a prompt out.
pub(crate) fn generate(body: &[u8], context: &Context<'_>) -> Result<Answer, ApiError> {
    let request: GenerateRequest = read(body, Api::Ollama, context)?;
    if request.prompt.is_empty() {
        return Ok(loaded(Mode::Generate, &request.common, context));
    }
    let ask = Ask {
        prompt_tokens: count_tokens(&request.prompt),
        said: request.prompt,
        form: form(request.common.format.as_ref())?,
        ..Ask::default()
    };
    Ok(answer(ask, request.common, Mode::Generate, context))
}

/// Makes the vectors up.
pub(crate) fn embed(body: &[u8], context: &Context<'_>) -> Result<Answer, ApiError> {
    let request: EmbedRequest = read(body, Api::Ollama, context)?;
    let inputs = request.input.map(OneOrMany::into_vec).unwrap_or_default();
    if inputs.is_empty() {
        return Err(ApiError::invalid(Some("input"), "invalid input"));
    }
    let dimensions = embedding::dimensions(request.dimensions, context.dimensions)?;
    let vectors: Vec<Vec<f32>> = inputs.iter().map(|text| embedding::vector(text, dimensions)).collect();
    let tokens: u64 = inputs.iter().map(|text| count_tokens(text)).sum();
    let body = json!({
        "model": context.model,
        "system_fingerprint": FINGERPRINT,
        "embeddings": vectors,
        "total_duration": nanos(context.plan.ttft),
        "load_duration": 0,
        "prompt_eval_count": tokens,
    });
    Ok(Answer::Body(Bytes::from(body.to_string())))
}

fn answer(mut ask: Ask, common: Common, mode: Mode, context: &Context<'_>) -> Answer {
    let options = common.options.unwrap_or_default();
    // Zero and less mean "no limit".
    ask.limit =
        options.num_predict.and_then(|tokens| u64::try_from(tokens).ok()).filter(|tokens| *tokens > 0);
    ask.stops = options.stop.map(OneOrMany::into_vec).unwrap_or_default();
    let script = script::write(ask, context.plan.tokens);
    let dialect = Box::new(Lines::new(mode, context));
    Answer::Tokens { script, dialect, stream: common.stream.unwrap_or(true) }
}

/// Without a question the model is only loaded, or unloaded by `keep_alive: 0`.
fn loaded(mode: Mode, common: &Common, context: &Context<'_>) -> Answer {
    let unload = common.keep_alive.as_ref().is_some_and(|keep| *keep == json!(0) || *keep == json!("0"));
    Answer::Body(Lines::new(mode, context).empty(if unload { "unload" } else { "load" }))
}

fn form(format: Option<&Value>) -> Result<Form, ApiError> {
    match format {
        None | Some(Value::Null) => Ok(Form::Text),
        Some(Value::String(text)) if text.is_empty() => Ok(Form::Text),
        Some(Value::String(text)) if text == "json" => Ok(Form::Json),
        Some(schema @ Value::Object(_)) => Ok(Form::Schema(schema.clone())),
        Some(other) => Err(ApiError::invalid(
            Some("format"),
            format!("invalid format: {other}; expected \"json\" or a schema"),
        )),
    }
}

/// Durations in this API are whole nanoseconds.
pub(super) fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "answers_tests.rs"]
mod tests;
