//! Tests of this API's answers, without a server.

use serde_json::{Value, json};

use super::{chat, embed, generate};
use crate::runtime::dialect::Answer;
use crate::runtime::dialect::fixtures::{body, chunks, context};
use crate::runtime::error::ApiError;

type Call = fn(&[u8], &crate::runtime::dialect::Context<'_>) -> Result<Answer, ApiError>;

fn ask(call: Call, request: &Value) -> Result<Answer, ApiError> {
    call(request.to_string().as_bytes(), &context())
}

fn lines(call: Call, request: &Value) -> Vec<Value> {
    chunks(ask(call, request).expect("an answer"))
        .iter()
        .map(|line| serde_json::from_str(line.strip_suffix('\n').expect("a line")).expect("JSON"))
        .collect()
}

fn messages() -> Value {
    json!([{ "role": "user", "content": "hi" }])
}

#[test]
fn chat_streams_unless_told_not_to() {
    let lines = lines(chat, &json!({ "model": "demo", "messages": messages() }));
    assert_eq!(lines.len(), 33);
    let (last, rest) = lines.split_last().unwrap();
    let text: String = rest.iter().filter_map(|line| line["message"]["content"].as_str()).collect();
    for line in rest {
        assert_eq!((&line["done"], line.get("done_reason")), (&json!(false), None));
        assert_eq!(line["message"]["role"], "assistant");
        assert!(line["system_fingerprint"].as_str().unwrap().starts_with("nebula-sim-"));
        assert_eq!(line["created_at"], "2023-11-14T22:13:20.000Z");
    }
    assert_eq!((&last["done"], &last["done_reason"]), (&json!(true), &json!("stop")));
    assert_eq!((&last["prompt_eval_count"], &last["eval_count"]), (&json!(4), &json!(32)));
    assert_eq!(
        (&last["prompt_eval_duration"], &last["eval_duration"]),
        (&json!(50_000_000), &json!(310_000_000))
    );
    let whole = body(
        ask(chat, &json!({ "model": "demo", "messages": messages(), "stream": false })).expect("an answer"),
    );
    assert_eq!(whole["message"]["content"], json!(text));
    assert_eq!(whole["done"], true);
}

#[test]
fn generate_answers_under_response_and_keeps_its_options() {
    let options = json!({ "num_predict": 3, "stop": ["zzz"] });
    let lines = lines(generate, &json!({ "model": "demo:latest", "prompt": "hi", "options": options }));
    assert_eq!(lines.len(), 4);
    assert_eq!((&lines[0]["response"], lines[0].get("message")), (&json!("This "), None));
    assert_eq!(lines[3]["done_reason"], "length");
    let request = json!({ "model": "demo", "prompt": "hi", "stream": false, "options": { "stop": [" a "], "num_predict": -1 } });
    let whole = body(ask(generate, &request).expect("an answer"));
    assert_eq!((&whole["response"], &whole["done_reason"]), (&json!("This is"), &json!("stop")));
}

#[test]
fn a_tool_call_comes_whole_and_as_an_object() {
    let parameters = json!({ "type": "object", "properties": { "city": { "type": "string" } } });
    let request = json!({
        "model": "demo", "messages": [{ "role": "user", "content": "call tool" }],
        "tools": [{ "type": "function", "function": { "name": "weather", "parameters": parameters } }],
    });
    let lines = lines(chat, &request);
    assert_eq!(lines.len(), 2);
    let call = &lines[0]["message"]["tool_calls"][0]["function"];
    assert_eq!(
        (&call["name"], &call["arguments"]),
        (&json!("weather"), &json!({ "city": "simulated city" }))
    );
    assert_eq!(lines[1]["done_reason"], "stop");
}

#[test]
fn formats_are_kept() {
    let said = |format: Value| {
        let request = json!({ "model": "demo", "prompt": "hi", "stream": false, "format": format });
        let whole = body(ask(generate, &request).expect("an answer"));
        serde_json::from_str::<Value>(whole["response"].as_str().unwrap())
    };
    assert_eq!(said(json!("json")).unwrap()["simulated"], true);
    assert_eq!(
        said(json!({ "type": "object", "properties": { "n": { "const": 1 } } })).unwrap(),
        json!({ "n": 1 })
    );
    assert!(said(json!("")).is_err());
    let request = json!({ "model": "demo", "prompt": "hi", "format": "xml" });
    assert_eq!(ask(generate, &request).err().map(|error| error.status), Some(400));
}

#[test]
fn no_question_loads_or_unloads() {
    let reason = |call, more: Value| {
        let mut request = json!({ "model": "demo" });
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body(ask(call, &request).expect("an answer"))["done_reason"].clone()
    };
    assert_eq!(reason(chat as Call, json!({})), "load");
    assert_eq!(reason(generate, json!({ "prompt": "" })), "load");
    assert_eq!(reason(generate, json!({ "keep_alive": 0 })), "unload");
}

#[test]
fn embed_has_one_vector_for_each_text() {
    let answer = |more: Value| {
        let mut request = json!({ "model": "demo" });
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ask(embed, &request).map(body)
    };
    let two = answer(json!({ "input": ["one two", "three"], "dimensions": 5 })).expect("vectors");
    assert_eq!(two["embeddings"].as_array().map(Vec::len), Some(2));
    assert_eq!(two["embeddings"][1].as_array().map(Vec::len), Some(5));
    assert_eq!(two["prompt_eval_count"], 3);
    let one = answer(json!({ "input": "three", "dimensions": 5 })).expect("a vector");
    assert_eq!(one["embeddings"][0], two["embeddings"][1]);
    for bad in [json!({}), json!({ "input": [] }), json!({ "input": [1] })] {
        assert_eq!(answer(bad).map_err(|error| error.status), Err(400));
    }
}

#[test]
fn another_model_is_not_found() {
    let error = ask(chat, &json!({ "model": "other" })).err().expect("refused");
    assert_eq!(
        (error.status, error.message.as_str()),
        (404, "model \"other\" not found, try pulling it first")
    );
}
