//! Messages and tools as both APIs send them, and what follows from them.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

use super::error::ApiError;
use super::script::{Tool, count_tokens};

/// What each message costs besides its words.
const MESSAGE_TOKENS: u64 = 3;
/// Said by a user, this makes the model call the first tool.
const CALL_TOOL: &str = "call tool";

/// A message of either API, as far as it matters here.
#[derive(Deserialize)]
pub(crate) struct Message {
    role: String,
    #[serde(default)]
    content: Value,
}

/// A tool of either API.
#[derive(Deserialize)]
pub(crate) struct ToolSpec {
    function: Option<Function>,
}

#[derive(Deserialize)]
struct Function {
    name: String,
    #[serde(default)]
    parameters: Value,
}

/// What the user said last.
pub(crate) fn last_said(messages: &[Message]) -> String {
    let last = messages.iter().rev().find(|message| message.role == "user");
    last.map(|message| text_of(&message.content).into_owned()).unwrap_or_default()
}

/// Size of all messages.
pub(crate) fn prompt_tokens(messages: &[Message]) -> u64 {
    messages.iter().map(|message| MESSAGE_TOKENS + count_tokens(&text_of(&message.content))).sum()
}

/// The tool that is called, if any: because the choice demands it, or because the last message, a user's,
/// says so. After a tool's result an answer comes, or agents would never end.
pub(crate) fn pick_tool(
    tools: Option<Vec<ToolSpec>>,
    choice: Option<&Value>,
    messages: &[Message],
) -> Result<Option<Tool>, ApiError> {
    let mut functions = tools.unwrap_or_default().into_iter().filter_map(|tool| tool.function);
    let named = choice.and_then(|choice| choice.pointer("/function/name")).and_then(Value::as_str);
    let (found, named) = match (named, choice.and_then(Value::as_str)) {
        (Some(name), _) => {
            let found = functions.find(|function| function.name == name).ok_or_else(|| {
                let message = format!("tool_choice names the tool {name}, which is not among the tools");
                ApiError::invalid(Some("tool_choice"), message)
            })?;
            (Some(found), true)
        }
        (None, Some("required")) => {
            let missing = || ApiError::invalid(Some("tool_choice"), "tool_choice is required without tools");
            (Some(functions.next().ok_or_else(missing)?), false)
        }
        (None, Some("none")) => (None, false),
        (None, _) => {
            let asked = || {
                messages.last().is_some_and(|last| {
                    last.role == "user" && text_of(&last.content).to_lowercase().contains(CALL_TOOL)
                })
            };
            (functions.next().filter(|_| asked()), false)
        }
    };
    Ok(found.map(|function| Tool { name: function.name, parameters: function.parameters, named }))
}

/// The text of a message's content: a string, or the text parts of an array.
pub(crate) fn text_of(content: &Value) -> Cow<'_, str> {
    match content {
        Value::String(text) => Cow::Borrowed(text),
        Value::Array(parts) => {
            let texts: Vec<&str> =
                parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str)).collect();
            Cow::Owned(texts.join("\n"))
        }
        _ => Cow::Borrowed(""),
    }
}
