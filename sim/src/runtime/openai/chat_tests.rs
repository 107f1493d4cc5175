//! Tests of the chat answers, without a server.

use serde_json::{Value, json};

use super::chat;
use crate::runtime::dialect::fixtures::{body, chunks, context};
use crate::runtime::error::ApiError;

fn merge(base: Value, more: Value) -> Vec<u8> {
    let (Value::Object(mut base), Value::Object(more)) = (base, more) else { panic!("objects") };
    base.extend(more);
    Value::Object(base).to_string().into_bytes()
}

fn request(more: Value) -> Vec<u8> {
    merge(json!({ "model": "demo", "messages": [{ "role": "user", "content": "hi" }] }), more)
}

fn whole(more: Value) -> Value {
    body(chat(&request(more), &context()).expect("an answer"))
}

fn stream(more: Value) -> Vec<Value> {
    let request = request(merge_values(json!({ "stream": true }), more));
    let mut chunks = chunks(chat(&request, &context()).expect("an answer"));
    assert_eq!(chunks.pop().as_deref(), Some("data: [DONE]\n\n"));
    chunks
        .iter()
        .map(|chunk| {
            let json =
                chunk.strip_prefix("data: ").and_then(|rest| rest.strip_suffix("\n\n")).expect("an event");
            serde_json::from_str(json).expect("JSON")
        })
        .collect()
}

fn merge_values(base: Value, more: Value) -> Value {
    serde_json::from_slice(&merge(base, more)).expect("JSON")
}

fn error(more: Value) -> ApiError {
    chat(&request(more), &context()).err().expect("refused")
}

#[test]
fn a_whole_answer_has_every_field() {
    let answer = whole(json!({}));
    assert_eq!(answer["id"], "chatcmpl-1");
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["created"], 1_700_000_000);
    assert_eq!(answer["model"], "demo");
    assert!(answer["system_fingerprint"].as_str().unwrap().starts_with("nebula-sim-"));
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["choices"][0]["message"]["role"], "assistant");
    assert!(answer["choices"][0]["message"]["content"].as_str().unwrap().contains("simulated"));
    let usage = &answer["usage"];
    assert_eq!((&usage["prompt_tokens"], &usage["completion_tokens"]), (&json!(4), &json!(32)));
    assert_eq!(usage["total_tokens"], 36);
}

#[test]
fn a_stream_says_the_same_in_chunks_of_one_token() {
    let chunks = stream(json!({}));
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({ "role": "assistant", "content": "" }));
    let text: String =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(Value::String(text), whole(json!({}))["choices"][0]["message"]["content"]);
    assert_eq!(chunks.len(), 34);
    let (last, rest) = chunks.split_last().unwrap();
    assert_eq!(last["choices"][0]["delta"], json!({}));
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    for chunk in rest {
        assert_eq!(chunk["choices"][0]["finish_reason"], Value::Null);
        assert_eq!(chunk["choices"][0]["index"], 0);
        assert_eq!((&chunk["id"], &chunk["created"]), (&last["id"], &last["created"]));
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert!(chunk["system_fingerprint"].as_str().unwrap().starts_with("nebula-sim-"));
        assert_eq!(chunk.get("usage"), None);
    }
}

#[test]
fn usage_comes_in_a_chunk_of_its_own_and_is_null_before() {
    let chunks = stream(json!({ "stream_options": { "include_usage": true }, "max_tokens": 3 }));
    let (last, rest) = chunks.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 3);
    assert!(rest.iter().all(|chunk| chunk.get("usage") == Some(&Value::Null)));
    assert_eq!(rest.last().unwrap()["choices"][0]["finish_reason"], "length");
}

#[test]
fn limits_and_stops_are_kept() {
    let answer = whole(json!({ "max_tokens": 9, "max_completion_tokens": 2 }));
    assert_eq!(answer["choices"][0]["message"]["content"], "This is ");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    for stop in [json!(" a "), json!(["never", " a "])] {
        let answer = whole(json!({ "stop": stop }));
        assert_eq!(answer["choices"][0]["message"]["content"], "This is");
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    }
}

fn tools() -> Value {
    let parameters = json!({ "type": "object", "properties": { "city": { "type": "string" } } });
    json!([
        { "type": "function", "function": { "name": "first", "parameters": parameters } },
        { "type": "function", "function": { "name": "second" } },
    ])
}

#[test]
fn a_tool_is_called_when_the_choice_or_the_user_says_so() {
    let said = |text: &str| json!([{ "role": "user", "content": [{ "type": "text", "text": text }] }]);
    for (more, name, finish) in [
        (json!({ "tool_choice": "required" }), "first", "tool_calls"),
        (json!({ "messages": said("please Call Tool now") }), "first", "tool_calls"),
        (
            json!({ "tool_choice": { "type": "function", "function": { "name": "second" } } }),
            "second",
            "stop",
        ),
    ] {
        let answer = whole(merge_values(json!({ "tools": tools() }), more));
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], finish);
        assert_eq!(choice["message"]["content"], Value::Null);
        let call = &choice["message"]["tool_calls"][0];
        assert_eq!((&call["type"], &call["function"]["name"]), (&json!("function"), &json!(name)));
        assert_eq!(call["id"], "call_1");
        let arguments = call["function"]["arguments"].as_str().unwrap();
        assert!(serde_json::from_str::<Value>(arguments).unwrap().is_object());
    }
}

#[test]
fn no_tool_is_called_against_the_choice_or_after_a_result() {
    let user = json!({ "role": "user", "content": "call tool" });
    let result = json!({ "role": "tool", "tool_call_id": "1", "content": "sunny" });
    for more in [
        json!({ "tool_choice": "none", "messages": [user] }),
        json!({ "messages": [user, result] }),
        json!({ "tool_choice": "auto" }),
    ] {
        let answer = whole(merge_values(json!({ "tools": tools() }), more));
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
        assert!(answer["choices"][0]["message"]["content"].is_string());
    }
}

#[test]
fn a_streamed_call_has_its_name_once_and_its_arguments_in_pieces() {
    let chunks = stream(json!({ "tools": tools(), "tool_choice": "required" }));
    let calls: Vec<&Value> =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"].get(0)).collect();
    assert_eq!(calls[0]["function"], json!({ "name": "first", "arguments": "" }));
    assert!(calls.iter().all(|call| call["index"] == 0));
    assert!(calls.len() > 3 && calls[1..].iter().all(|call| call.get("id").is_none()));
    let arguments: String = calls.iter().filter_map(|call| call["function"]["arguments"].as_str()).collect();
    assert_eq!(serde_json::from_str::<Value>(&arguments).unwrap(), json!({ "city": "simulated city" }));
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
}

#[test]
fn json_is_said_where_it_is_wanted() {
    let content = |format: Value| {
        let answer = whole(json!({ "response_format": format }));
        serde_json::from_str::<Value>(answer["choices"][0]["message"]["content"].as_str().unwrap()).unwrap()
    };
    assert_eq!(content(json!({ "type": "json_object" }))["simulated"], true);
    let schema = json!({ "type": "object", "properties": { "n": { "type": "integer" } }, "required": ["n"] });
    let format = json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": schema } });
    assert_eq!(content(format), json!({ "n": 1 }));
}

#[test]
fn what_cannot_be_answered_is_refused_by_name() {
    for (more, param) in [
        (json!({ "n": 2 }), "n"),
        (json!({ "messages": [] }), "messages"),
        (json!({ "max_tokens": 0 }), "max_tokens"),
        (json!({ "stream_options": {} }), "stream_options"),
        (json!({ "tool_choice": "required" }), "tool_choice"),
        (json!({ "tool_choice": { "function": { "name": "x" } } }), "tool_choice"),
        (json!({ "response_format": { "type": "xml" } }), "response_format"),
        (json!({ "response_format": { "type": "json_schema" } }), "response_format"),
    ] {
        let error = error(more);
        assert_eq!((error.status, error.param), (400, Some(param)));
    }
    assert_eq!(error(json!({ "messages": "hi" })).status, 400);
    assert_eq!(error(json!({ "max_tokens": -1 })).status, 400);
}
