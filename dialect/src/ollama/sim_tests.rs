//! What `nebula-sim runtime` was heard to say by Ollama's API, told to a client.

use serde_json::{Value, json};

use super::fixtures::{chat_with, events, passing, prompt_with, streamed, whole};
use crate::adapter::{Tally, Unfinished, Usage};
use crate::surface::Surface;

const CHAT: &str = r#"{"model":"m:1b","created_at":"2026-11-22T12:25:08.364Z","system_fingerprint":"nebula-sim-0.1.0","message":{"role":"assistant","content":"This "},"done":false}
{"model":"m:1b","created_at":"2026-11-22T12:25:08.364Z","system_fingerprint":"nebula-sim-0.1.0","message":{"role":"assistant","content":"is "},"done":false}
"#;
const CHAT_END: &str = r#"{"model":"m:1b","created_at":"2026-11-22T12:25:08.364Z","system_fingerprint":"nebula-sim-0.1.0","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","total_duration":3000000,"load_duration":0,"prompt_eval_count":4,"prompt_eval_duration":1000000,"eval_count":2,"eval_duration":2000000}
"#;
const CHAT_ERROR: &str = "{\"error\":\"simulated failure: error-mid-stream\"}\n";
const TOOL: &str = r#"{"model":"m:1b","created_at":"2026-11-22T12:25:08.400Z","system_fingerprint":"nebula-sim-0.1.0","message":{"role":"assistant","content":"","tool_calls":[{"id":"call_c144","function":{"index":0,"name":"w","arguments":{"city":"simulated city"}}}]},"done":false}
"#;
const GENERATE: &str = r#"{"model":"m:1b","created_at":"2026-11-22T12:25:08.421Z","system_fingerprint":"nebula-sim-0.1.0","response":"This ","done":false}
{"model":"m:1b","created_at":"2026-11-22T12:25:08.421Z","system_fingerprint":"nebula-sim-0.1.0","response":"","done":true,"done_reason":"length","total_duration":2000000,"load_duration":0,"prompt_eval_count":1,"prompt_eval_duration":1000000,"eval_count":1,"eval_duration":1000000}
"#;
const EMBED: &str = r#"{"embeddings":[[-0.5497128367424011,0.5275328159332275]],"load_duration":0,"model":"m:1b","prompt_eval_count":3,"system_fingerprint":"nebula-sim-0.1.0","total_duration":1000000}"#;

/// The texts, the last reason, how it ended and what was counted.
fn hear(surface: Surface, members: &str, said: &[&str]) -> (String, Value, Result<(), Unfinished>, Tally) {
    let (out, end, tally) = streamed(passing(surface, members), said.iter().map(|part| part.as_bytes()));
    let told = events(&out);
    let choices = || told.iter().filter_map(|event| event.get("choices")?.get(0));
    let text = choices().filter_map(|choice| choice["delta"]["content"].as_str().or(choice["text"].as_str()));
    let reason = choices().next_back().map(|choice| choice["finish_reason"].clone()).unwrap_or_default();
    (text.collect(), reason, end, tally)
}

#[test]
fn streams_of_the_simulated_runtime_are_understood() {
    let members = chat_with("\"stream\":true");
    let counted = |prompt, completion, pieces| Tally { usage: Some(Usage { prompt, completion }), pieces };
    let told = hear(Surface::Chat, &members, &[CHAT, CHAT_END]);
    assert_eq!(told, ("This is ".to_owned(), json!("stop"), Ok(()), counted(4, 2, 2)));
    let told = hear(Surface::Chat, &members, &[TOOL, CHAT_END]);
    assert_eq!(told, (String::new(), json!("tool_calls"), Ok(()), counted(4, 2, 1)));
    let told = hear(Surface::Completions, &prompt_with("\"stream\":true"), &[GENERATE]);
    assert_eq!(told, ("This ".to_owned(), json!("length"), Ok(()), counted(1, 1, 1)));
    let sent = Tally { usage: None, pieces: 2 };
    let told = hear(Surface::Chat, &members, &[CHAT, CHAT_ERROR]);
    assert_eq!(told, ("This is ".to_owned(), Value::Null, Err(Unfinished { told: true }), sent));
    let told = hear(Surface::Chat, &members, &[CHAT]);
    assert_eq!(told, ("This is ".to_owned(), Value::Null, Err(Unfinished { told: false }), sent));
}

#[test]
fn whole_answers_of_the_simulated_runtime_are_understood() {
    let (told, _) = whole(Surface::Chat, &chat_with(""), CHAT_END).expect("an answer");
    assert_eq!((&told["created"], &told["usage"]["total_tokens"]), (&json!(1_795_350_308), &json!(6)));
    let members = "\"input\":\"a\",\"encoding_format\":\"base64\"";
    let (told, _) = whole(Surface::Embeddings, members, EMBED).expect("an answer");
    assert_eq!(told["data"][0]["embedding"], "+7kMv2QMBz8=");
}
