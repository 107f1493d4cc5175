//! The messages of a chat, one after the other: roles, contents, tool calls and their results.

use std::collections::HashMap;

use serde_json::value::RawValue;

use super::json::{Fields, Object, each, is_empty_array, is_object, is_text, text};
use super::{parts, refusal};
use crate::adapter::Refusal;

const MESSAGE: [&str; 7] =
    ["role", "content", "name", "tool_calls", "tool_call_id", "reasoning", "reasoning_content"];

/// The names of the functions that were called, by the ids of the calls. Where an id comes again the last call
/// counts, as far as the conversation has come: some engines count anew in each turn.
type Calls<'a> = HashMap<String, &'a str>;

/// Writes the messages as an array.
pub(super) fn put(messages: Option<&str>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let wrong = |message: &str| refusal(Some("messages"), message);
    let messages = messages.ok_or_else(|| wrong("You must provide messages."))?;
    if is_empty_array(messages) {
        return Err(wrong("[] is too short - 'messages'"));
    }
    let mut calls = Calls::new();
    let mut before = b'[';
    each(messages, &wrong("messages must be an array."), |json| {
        out.push(before);
        before = b',';
        let fields = Fields::of(json, &MESSAGE).ok_or_else(invalid)?;
        message(&fields, &mut calls, out)
    })?;
    out.push(b']');
    Ok(())
}

/// What Ollama says as well of messages that it cannot read.
pub(super) fn invalid() -> Refusal {
    refusal(Some("messages"), "invalid message format")
}

fn message<'a>(fields: &Fields<'a>, calls: &mut Calls<'a>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let role = fields.get("role").and_then(text).ok_or_else(invalid)?.to_lowercase();
    let tool_calls = fields.get("tool_calls");
    let mut object = Object::open(out);
    object.text("role", if role == "developer" { "system" } else { &role });
    match fields.get("content") {
        Some(content) => parts::put(content, &mut object)?,
        None if tool_calls.is_some() => object.json("content", "\"\""),
        None => {
            let message = "invalid message content type: null; only a message with tool_calls needs none";
            return Err(refusal(Some("messages"), message));
        }
    }
    if role == "assistant" {
        let said = |name| fields.get(name).filter(|json| is_text(json) && *json != "\"\"");
        object.maybe("thinking", said("reasoning").or_else(|| said("reasoning_content")));
    }
    if let Some(tool_calls) = tool_calls.filter(|json| !is_empty_array(json)) {
        put_calls(tool_calls, calls, object.name("tool_calls"))?;
    }
    if role == "tool" {
        let id = fields.get("tool_call_id").filter(|json| is_text(json));
        object.maybe("tool_call_id", id);
        let name = fields.get("name").filter(|json| is_text(json) && *json != "\"\"");
        object.maybe("tool_name", name.or_else(|| calls.get(text(id?)?.as_ref()).copied()));
    }
    object.close();
    Ok(())
}

fn put_calls<'a>(tool_calls: &'a str, calls: &mut Calls<'a>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let wrong = refusal(Some("messages"), "tool_calls must be an array.");
    let mut count: u32 = 0;
    out.push(b'[');
    each(tool_calls, &wrong, |json| {
        if count > 0 {
            out.push(b',');
        }
        put_call(json, count, calls, out)?;
        count = count.saturating_add(1);
        Ok(())
    })?;
    out.push(b']');
    Ok(())
}

fn put_call<'a>(json: &'a str, at: u32, calls: &mut Calls<'a>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let wrong = || refusal(Some("messages"), "A tool call must have a function with a name.");
    let call = Fields::of(json, &["id", "index", "function"]).ok_or_else(wrong)?;
    let function = call.get("function").ok_or_else(wrong)?;
    let function = Fields::of(function, &["name", "arguments"]).ok_or_else(wrong)?;
    let name = function.get("name").filter(|json| is_text(json)).ok_or_else(wrong)?;
    let id = call.get("id").filter(|json| is_text(json));
    if let Some(id) = id.and_then(text) {
        calls.insert(id.into_owned(), name);
    }
    let mut object = Object::open(out);
    object.maybe("id", id);
    let mut told = Object::open(object.name("function"));
    let index = call.get("index").and_then(|json| json.parse::<u32>().ok()).unwrap_or(at);
    told.json("index", &index.to_string());
    told.json("name", name);
    put_arguments(function.get("arguments"), told.name("arguments"))?;
    told.close();
    object.close();
    Ok(())
}

/// A string of JSON for OpenAI, an object for Ollama. Clients that leave it empty mean that there are none.
fn put_arguments(json: Option<&str>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let wrong = || refusal(Some("messages"), "invalid tool call arguments");
    let json = json.unwrap_or("{}");
    let written = text(json);
    let arguments = match written.as_deref().map(str::trim) {
        Some("" | "null") => "{}",
        Some(written) => serde_json::from_str::<&RawValue>(written).map_err(|_| wrong())?.get(),
        None => json,
    };
    if !is_object(arguments) {
        return Err(wrong());
    }
    out.extend_from_slice(arguments.as_bytes());
    Ok(())
}
