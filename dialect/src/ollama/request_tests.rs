//! Tests of what Ollama is sent: messages, parts, tools, prompts.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::fixtures::{MODEL, ask, ask_bytes, chat_with, prompt_with, refused, sent, sent_text};
use crate::adapter::Answer;
use crate::surface::Surface;

/// The messages that Ollama is sent for these.
fn messages(messages: &str) -> Value {
    sent(Surface::Chat, &format!("\"messages\":{messages}"))["messages"].clone()
}

fn why_not(messages: &str) -> String {
    refused(Surface::Chat, &format!("\"messages\":{messages}")).message
}

#[test]
fn a_chat_is_sent_with_everything_said() {
    let outgoing = ask(Surface::Chat, &chat_with("")).expect("a request");
    assert_eq!(outgoing.path, "/api/chat");
    assert!(matches!(outgoing.answer, Answer::Whole(_)));
    let expected = json!({
        "model": "demo:1b", "messages": [{"role": "user", "content": "hi"}],
        "options": {"temperature": 1.0, "top_p": 1.0}, "keep_alive": -1, "truncate": false, "shift": false,
        "stream": false,
    });
    assert_eq!(sent(Surface::Chat, &chat_with("")), expected);
    let outgoing = ask(Surface::Chat, &chat_with("\"stream\":true")).expect("a request");
    assert!(matches!(outgoing.answer, Answer::Passing(_)));
    assert_eq!(sent(Surface::Chat, &chat_with("\"stream\":true"))["stream"], true);
}

#[test]
fn roles_are_lower_case_and_developers_are_the_system() {
    let told = messages(
        r#"[{"role":"Developer","content":"a"},{"role":"SYSTEM","content":"b"},{"role":"user","content":"c"}]"#,
    );
    let roles: Vec<&Value> =
        told.as_array().expect("messages").iter().map(|message| &message["role"]).collect();
    assert_eq!(roles, ["system", "system", "user"]);
}

#[test]
fn contents_are_moved_as_they_are_written() {
    let text = sent_text(Surface::Chat, r#""messages":[{"role":"user","content":"\u0041\ud83d \/ é"}]"#);
    assert!(text.contains(r#""content":"\u0041\ud83d \/ é""#), "{text}");
}

#[test]
fn parts_become_one_message_with_its_images() {
    let parts = r#"[{"role":"user","content":[
        {"type":"text","text":"a\"b"},
        {"type":"image_url","image_url":{"url":"data:image\/png;base64,AAAA","detail":"low"}},
        {"type":"text","text":"c\n"},
        {"type":"image_url","image_url":"data:;base64,BB=="},
        {"type":"image_url","image_url":{"url":"data:image/JPEG;base64,CCCC"}},
        {"type":"input_audio","input_audio":{"data":"DD/+","format":"wav"}}]},
        {"role":"assistant","content":[]}]"#;
    let expected = json!([
        {"role": "user", "content": "a\"b\nc\n", "images": ["AAAA", "BB==", "CCCC", "DD/+"]},
        {"role": "assistant", "content": ""},
    ]);
    assert_eq!(messages(parts), expected);
}

#[test]
fn parts_that_ollama_cannot_take_are_refused() {
    let image = |url: &str| {
        why_not(&format!(
            "[{{\"role\":\"user\",\"content\":[{{\"type\":\"image_url\",\"image_url\":{{\"url\":\"{url}\"}}}}]}}]"
        ))
    };
    let remote = "image URLs are not currently supported, please use base64 encoded data instead";
    assert_eq!(image("http://x/y.png"), remote);
    assert_eq!(image("HTTPS://x/y.png"), remote);
    for url in ["data:image/gif;base64,AAAA", "data:image/png,AAAA", "file:///etc/passwd", "AAAA", ""] {
        assert!(image(url).starts_with("invalid image input"), "{url}");
    }
    for part in [
        r#"{"type":"file","file":{"file_id":"x"}}"#,
        r#"{"type":"refusal","refusal":"no"}"#,
        r#"{"type":"text","text":1}"#,
        r#"{"type":"text"}"#,
        r#"{"type":"image_url"}"#,
        r#"{"type":"image_url","image_url":1}"#,
        r#"{"type":"input_audio","input_audio":"x"}"#,
        r#"{"text":"x"}"#,
        r#""x""#,
        "1",
    ] {
        let refused = why_not(&format!("[{{\"role\":\"user\",\"content\":[{part}]}}]"));
        assert_eq!(refused, "invalid message format", "{part}");
    }
}

#[test]
fn a_message_needs_a_role_and_a_content_unless_it_calls_tools() {
    let call = r#"{"role":"assistant","content":null,"tool_calls":[]}"#;
    assert_eq!(messages(&format!("[{call}]")), json!([{"role": "assistant", "content": ""}]));
    for (list, reason) in [
        (r#"[{"role":"assistant","content":null}]"#, "invalid message content type: null"),
        (r#"[{"role":"user"}]"#, "invalid message content type: null"),
        (r#"[{"role":"user","content":1}]"#, "invalid message format"),
        (r#"[{"role":"user","content":{"a":1}}]"#, "invalid message format"),
        (r#"[{"content":"x"}]"#, "invalid message format"),
        (r#"[{"role":1,"content":"x"}]"#, "invalid message format"),
        (r#"["x"]"#, "invalid message format"),
        ("[]", "[] is too short - 'messages'"),
        (" [ ] ", "[] is too short - 'messages'"),
        ("{}", "messages must be an array."),
        ("null", "You must provide messages."),
    ] {
        assert!(why_not(list).starts_with(reason), "{list}: {}", why_not(list));
    }
    assert_eq!(refused(Surface::Chat, "").message, "You must provide messages.");
}

#[test]
fn tool_calls_become_objects_and_their_results_get_names() {
    let list = r#"[
        {"role":"assistant","content":null,"tool_calls":[
            {"id":"a","type":"function","function":{"name":"f","arguments":"{\"x\": 0.30000000000000004}"}},
            {"id":"b","index":7,"type":"function","function":{"name":"g","arguments":""}},
            {"id":"c","type":"function","function":{"name":"h"}},
            {"id":"d","type":"function","function":{"name":"i","arguments":{"y":12345678901234567890}}},
            {"id":"e","type":"function","function":{"name":"j","arguments":" null "}}]},
        {"role":"tool","tool_call_id":"b","content":"1"},
        {"role":"tool","tool_call_id":"a","name":"own","content":"2"},
        {"role":"tool","tool_call_id":"?","content":"3"},
        {"role":"tool","content":"4"},
        {"role":"assistant","content":"","tool_calls":[{"id":"b","function":{"name":"again"}}]},
        {"role":"tool","tool_call_id":"b","name":"","content":[{"type":"text","text":"5"}]}]"#;
    let text = sent_text(Surface::Chat, &format!("\"messages\":{list}"));
    assert!(text.contains(r#""arguments":{"x": 0.30000000000000004}"#), "{text}");
    assert!(text.contains(r#""arguments":{"y":12345678901234567890}"#), "{text}");
    let told = messages(list);
    let calls = &told[0]["tool_calls"];
    let call = |id: &str, index: u32, name: &str| json!({"id": id, "function": {"index": index, "name": name, "arguments": {}}});
    assert_eq!((&calls[0]["id"], &calls[0]["function"]["index"]), (&json!("a"), &json!(0)));
    assert_eq!(calls[1], call("b", 7, "g"));
    assert_eq!(calls[2], call("c", 2, "h"));
    assert_eq!(calls[4], call("e", 4, "j"));
    assert_eq!(told[0]["content"], "");
    assert_eq!(told[1], json!({"role": "tool", "content": "1", "tool_call_id": "b", "tool_name": "g"}));
    assert_eq!(told[2]["tool_name"], "own");
    assert_eq!(told[3], json!({"role": "tool", "content": "3", "tool_call_id": "?"}));
    assert_eq!(told[4], json!({"role": "tool", "content": "4"}));
    assert_eq!(told[6], json!({"role": "tool", "content": "5", "tool_call_id": "b", "tool_name": "again"}));
}

#[test]
fn tool_calls_that_make_no_sense_are_refused() {
    for (call, reason) in [
        (r#"{"id":"a","function":{"name":"f","arguments":"{"}}"#, "invalid tool call arguments"),
        (r#"{"id":"a","function":{"name":"f","arguments":"[]"}}"#, "invalid tool call arguments"),
        (r#"{"id":"a","function":{"name":"f","arguments":"1"}}"#, "invalid tool call arguments"),
        (r#"{"id":"a","function":{"name":"f","arguments":1}}"#, "invalid tool call arguments"),
        (r#"{"id":"a","function":{"arguments":"{}"}}"#, "A tool call must have a function"),
        (
            r#"{"id":"a","type":"custom","custom":{"name":"f","input":"x"}}"#,
            "A tool call must have a function",
        ),
        ("1", "A tool call must have a function"),
    ] {
        let told = why_not(&format!("[{{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{call}]}}]"));
        assert!(told.starts_with(reason), "{call}: {told}");
    }
    let told = why_not(r#"[{"role":"assistant","content":null,"tool_calls":{}}]"#);
    assert_eq!(told, "tool_calls must be an array.");
}

#[test]
fn what_an_assistant_thought_goes_back() {
    let told = messages(
        r#"[{"role":"assistant","content":"a","reasoning":"r"},
            {"role":"assistant","content":"a","reasoning_content":"c","reasoning":""},
            {"role":"assistant","content":"a","reasoning":null},
            {"role":"user","content":"a","reasoning":"r"}]"#,
    );
    assert_eq!(told[0], json!({"role": "assistant", "content": "a", "thinking": "r"}));
    assert_eq!(told[1]["thinking"], "c");
    assert_eq!(told[2], json!({"role": "assistant", "content": "a"}));
    assert_eq!(told[3], json!({"role": "user", "content": "a"}));
}

#[test]
fn a_choice_of_tools_leaves_away_what_must_not_be_called() {
    let tool =
        |name: &str| format!("{{\"type\":\"function\", \"function\":{{\"name\":\"{name}\",\"n\":1.0e2}}}}");
    let tools = format!("[{},{}]", tool("f"), tool("g"));
    let with = |choice: &str| {
        let members = chat_with(&format!("\"tools\":{tools}{choice}"));
        let text = sent_text(Surface::Chat, &members);
        let value: Value = serde_json::from_str(&text).expect("JSON");
        (text, value.get("tools").cloned())
    };
    for choice in ["", ",\"tool_choice\":\"auto\"", ",\"tool_choice\":\"required\"", ",\"tool_choice\":null"]
    {
        let (text, _) = with(choice);
        assert!(text.contains(&format!("\"tools\":{tools}")), "{choice}: {text}");
    }
    assert_eq!(with(",\"tool_choice\":\"none\"").1, None);
    let (text, _) = with(r#","tool_choice":{"type":"function","function":{"name":"\u0067"}}"#);
    assert!(text.contains(&format!("\"tools\":[{}]", tool("g"))), "{text}");
    for (members, reason) in [
        (r#""tools":[],"tool_choice":"required""#.to_owned(), "tool_choice asks for a tool"),
        (r#""tool_choice":{"function":{"name":"f"}}"#.to_owned(), "tool_choice asks for a tool"),
        (
            format!("\"tools\":{tools},\"tool_choice\":{{\"function\":{{\"name\":\"x\"}}}}"),
            "tool_choice names",
        ),
        (format!("\"tools\":{tools},\"tool_choice\":\"x\""), "tool_choice must be"),
        (format!("\"tools\":{tools},\"tool_choice\":{{\"type\":\"allowed_tools\"}}"), "tool_choice must be"),
        ("\"tools\":{}".to_owned(), "tools must be an array"),
        (r#""functions":[{"name":"f"}]"#.to_owned(), "functions is not supported"),
    ] {
        let told = refused(Surface::Chat, &chat_with(&members));
        assert!(told.message.starts_with(reason), "{members}: {told:?}");
    }
    assert_eq!(sent(Surface::Chat, &chat_with("\"tools\":[]")).get("tools"), None);
}

#[test]
fn a_completion_is_sent_to_generate() {
    let outgoing = ask(Surface::Completions, &prompt_with("")).expect("a request");
    assert_eq!(outgoing.path, "/api/generate");
    let expected = json!({
        "model": "demo:1b", "prompt": "hi", "options": {"temperature": 1.0, "top_p": 1.0}, "keep_alive": -1,
        "truncate": false, "shift": false, "stream": false,
    });
    assert_eq!(sent(Surface::Completions, &prompt_with("")), expected);
    let told = sent(
        Surface::Completions,
        r#""prompt":["one"],"suffix":"end","logprobs":3,"max_tokens":7,"stop":"x""#,
    );
    assert_eq!((&told["prompt"], &told["suffix"]), (&json!("one"), &json!("end")));
    assert_eq!((&told["logprobs"], &told["top_logprobs"]), (&json!(true), &json!(3)));
    assert_eq!((&told["options"]["num_predict"], &told["options"]["stop"]), (&json!(7), &json!(["x"])));
    assert_eq!(sent(Surface::Completions, &prompt_with("\"logprobs\":0")).get("logprobs"), None);
    assert_eq!(sent(Surface::Completions, r#""prompt":"""#)["prompt"], "");
}

#[test]
fn completions_that_ollama_cannot_make_are_refused() {
    for (members, reason) in [
        ("", "You must provide a prompt."),
        (r#""prompt":["a","b"]"#, "prompt must be one string"),
        (r#""prompt":[1,2]"#, "prompt must be text"),
        (r#""prompt":[[1,2]]"#, "prompt must be text"),
        (r#""prompt":[]"#, "prompt must not be empty"),
        (r#""prompt":{}"#, "prompt must be a string"),
        (r#""prompt":"a","echo":true"#, "echo is not supported"),
        (r#""prompt":"a","n":2"#, "n must be 1"),
        (r#""prompt":"a","best_of":2"#, "best_of must be 1"),
        (r#""prompt":"a","suffix":1"#, "suffix must be a string"),
        (r#""prompt":"a","logprobs":true"#, "logprobs must be a number"),
    ] {
        let told = refused(Surface::Completions, members);
        assert!(told.message.starts_with(reason), "{members}: {told:?}");
    }
    assert!(
        ask(Surface::Completions, r#""prompt":"a","echo":false,"n":1,"best_of":1.0,"logit_bias":{}"#).is_ok()
    );
}

#[test]
fn other_surfaces_are_refused_clearly() {
    for surface in Surface::ALL {
        if matches!(surface, Surface::Chat | Surface::Completions | Surface::Embeddings) {
            continue;
        }
        let told = refused(surface, "");
        assert_eq!(told.code, Some("unsupported_endpoint"));
        assert!(told.message.contains(&format!("has no {};", surface.path())), "{}", told.message);
    }
}

#[test]
fn of_two_members_the_last_counts_however_it_is_written() {
    let told = sent(
        Surface::Chat,
        r#""messages":[],"stream":false,"m\u0065ssages":[{"role":"x","content":"a","role":"user"}],"str\u0065am":true"#,
    );
    assert_eq!(told["messages"], json!([{"role": "user", "content": "a"}]));
    assert_eq!(told["stream"], true);
}

#[test]
fn deep_nesting_and_bad_bytes_are_no_danger() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let content = format!("\"messages\":[{{\"role\":\"user\",\"content\":{deep}}}]");
    assert_eq!(refused(Surface::Chat, &content).message, "invalid message format");
    assert!(ask(Surface::Chat, &chat_with(&format!("\"metadata\":{deep}"))).is_ok());
    assert!(ask(Surface::Chat, &chat_with(&format!("\"tools\":[{deep}]"))).is_ok());
    let mut body = format!("{{\"model\":\"{MODEL}\",\"x\":1,\"y\":\"").into_bytes();
    body.extend_from_slice(b"a\"}");
    assert!(ask_bytes(Surface::Chat, &Bytes::from(body)).is_err());
}

/// Any JSON, with the names that matter here.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z\"\\\\\n{}\\[\\]:,]{0,8}".prop_map(Value::from),
        prop::sample::select(vec![
            "user",
            "tool",
            "text",
            "image_url",
            "none",
            "json_schema",
            "data:;base64,A"
        ])
        .prop_map(Value::from),
    ];
    let name = prop::sample::select(vec![
        "role",
        "content",
        "type",
        "text",
        "image_url",
        "url",
        "tool_calls",
        "function",
        "name",
        "arguments",
        "id",
        "tool_call_id",
        "schema",
        "effort",
        "stop",
        "index",
    ]);
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..5).prop_map(|members| members
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect()),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_is_asked_is_refused_or_sent_as_json(
        members in prop::collection::vec((prop::sample::select(super::options::FIELDS.to_vec()), any_json()), 0..6),
        messages in any_json(),
        surface in prop::sample::select(vec![Surface::Chat, Surface::Completions, Surface::Embeddings]),
    ) {
        let mut text = format!("\"input\":{messages},\"messages\":{messages},\"prompt\":\"a\"");
        for (name, value) in members {
            text.push_str(&format!(",\"{name}\":{value}"));
        }
        if let Ok(outgoing) = ask(surface, &text) {
            let sent: Value = serde_json::from_slice(&outgoing.body).expect("JSON");
            prop_assert_eq!(&sent["model"], "demo:1b");
        }
    }
}
