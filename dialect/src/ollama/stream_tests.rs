//! Tests of streams, and of whole answers, which say the same in one piece.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::fixtures::{CHAT_ID, MODEL, NONCE, chat_with, events, passing, prompt_with, streamed, whole};
use super::generation::{Kind, Reply};
use super::stream::Stream;
use crate::adapter::{Incoming, Passing, Tally, Unfinished, Usage};
use crate::surface::Surface;

const AT: &str = "\"created_at\":\"2023-11-14T22:13:20.123456789Z\"";
const LATER: &str = "\"created_at\":\"2023-11-14T22:13:29Z\"";
const CREATED: u64 = 1_700_000_000;

/// The lines of a stream of a chat: messages, then the last object with a reason.
fn lines(messages: &[&str], reason: &str) -> String {
    let mut out = String::new();
    for (at, message) in messages.iter().enumerate() {
        let time = if at == 0 { AT } else { LATER };
        out.push_str(&format!("{{\"model\":\"demo:1b\",{time},\"message\":{message},\"done\":false}}\n"));
    }
    out.push_str(&format!(
        "{{{LATER},\"message\":{{\"role\":\"assistant\",\"content\":\"\"}},\"done\":true,\"done_reason\":\"{reason}\",\
         \"total_duration\":9,\"prompt_eval_count\":4,\"eval_count\":3}}\n"
    ));
    out
}

fn hear(members: &str, lines: &str) -> (Vec<Value>, Result<(), Unfinished>, Tally) {
    let passing = passing(Surface::Chat, &chat_with(&format!("\"stream\":true{members}")));
    let (out, end, tally) = streamed(passing, [lines.as_bytes()]);
    (events(&out), end, tally)
}

/// The choice of each event.
fn choices(events: &[Value]) -> Vec<Value> {
    events.iter().filter_map(|event| event.get("choices")?.get(0)).cloned().collect()
}

fn choice(delta: &Value, reason: &Value) -> Value {
    json!({"index": 0, "delta": delta, "finish_reason": reason})
}

fn said(delta: &Value) -> Value {
    choice(delta, &Value::Null)
}

const ASKS_USAGE: &str = ",\"stream_options\":{\"include_usage\":true}";

#[test]
fn a_stream_is_told_as_openai_tells_it() {
    let lines = lines(
        &[r#"{"role":"assistant","content":"H\u0069"}"#, r#"{"role":"assistant","content":" 你\n"}"#],
        "stop",
    );
    let passing = passing(Surface::Chat, &chat_with("\"stream\":true"));
    let (out, end, tally) = streamed(passing, [lines.as_bytes()]);
    let head = format!(
        "data: {{\"id\":\"{CHAT_ID}\",\"object\":\"chat.completion.chunk\",\"created\":{CREATED},\"model\":\"{MODEL}\",\
         \"system_fingerprint\":\"fp_ollama\",\"choices\":[{{\"index\":0,\"delta\":"
    );
    let expected = [
        &head,
        r#"{"role":"assistant","content":"H\u0069"},"finish_reason":null}]}"#,
        "\n\n",
        &head,
        r#"{"content":" 你\n"},"finish_reason":null}]}"#,
        "\n\n",
        &head,
        r#"{},"finish_reason":"stop"}]}"#,
        "\n\ndata: [DONE]\n\n",
    ];
    assert_eq!(out, expected.concat());
    assert_eq!(end, Ok(()));
    assert_eq!(tally, Tally { usage: Some(Usage { prompt: 4, completion: 3 }), pieces: 2 });
}

#[test]
fn usage_comes_last_where_it_was_asked_for_and_is_null_before() {
    let lines = lines(&[r#"{"content":"a"}"#], "length");
    let (told, end, tally) = hear(ASKS_USAGE, &lines);
    assert_eq!((told.len(), end), (4, Ok(())));
    assert!(told[..2].iter().all(|event| event.get("usage") == Some(&Value::Null)));
    assert_eq!(told[1]["choices"][0]["finish_reason"], "length");
    let usage = json!({"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7});
    assert_eq!((&told[2]["choices"], &told[2]["usage"]), (&json!([]), &usage));
    assert_eq!((&told[2]["id"], &told[2]["created"]), (&json!(CHAT_ID), &json!(CREATED)));
    assert_eq!(told[3], "[DONE]");
    for members in ["", ",\"stream_options\":{}", ",\"stream_options\":{\"include_usage\":false}"] {
        let (told, _, counted) = hear(members, &lines);
        assert!(told.iter().all(|event| event.get("usage").is_none()), "{members}");
        assert_eq!((told.len(), counted), (3, tally));
    }
}

#[test]
fn thinking_comes_before_what_is_said_in_the_same_object() {
    let line = format!(
        "{{{AT},\"message\":{{\"role\":\"assistant\",\"content\":\"c\",\"thinking\":\"t\"}},\
         \"logprobs\":[{{\"token\":\"t\",\"logprob\":-0.10}}],\"done\":false}}\n"
    );
    let more = lines(&[r#"{"content":"","thinking":"more"}"#, r#"{"content":"","thinking":""}"#], "stop");
    let (told, end, tally) = hear("", &(line + &more));
    let logprobs = json!({
        "content": [{"token": "t", "logprob": -0.1, "bytes": null, "top_logprobs": []}], "refusal": null,
    });
    let mut first = said(&json!({"role": "assistant", "content": "", "reasoning": "t"}));
    first["logprobs"] = logprobs;
    let expected = [
        first,
        said(&json!({"content": "c"})),
        said(&json!({"reasoning": "more"})),
        choice(&json!({}), &json!("stop")),
    ];
    assert_eq!(choices(&told), expected);
    assert_eq!((end, tally.pieces), (Ok(()), 3));
}

#[test]
fn tool_calls_are_counted_on_and_are_why_it_ended() {
    let first = r#"{"content":"","tool_calls":[{"function":{"index":0,"name":"f","arguments":{"x": 1.50,"s":"<\u003c"}}}]}"#;
    let second = r#"{"content":"c","thinking":"t","tool_calls":[{"id":"call_x","function":{"index":0,"name":"g","arguments":{}}},{"function":{"name":"h"}}]}"#;
    let (told, end, _) = hear("", &lines(&[first, second], "stop"));
    let call = |index: u32, id: &str, name: &str, arguments: &str| json!({"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    let own = |at: u128| format!("call_{:024x}", NONCE + at);
    let expected = [
        said(&json!({
            "role": "assistant", "content": "",
            "tool_calls": [call(0, &own(0), "f", r#"{"x": 1.50,"s":"<\u003c"}"#)],
        })),
        said(&json!({"reasoning": "t"})),
        said(
            &json!({"content": "c", "tool_calls": [call(1, "call_x", "g", "{}"), call(2, &own(2), "h", "{}")]}),
        ),
        choice(&json!({}), &json!("tool_calls")),
    ];
    assert_eq!((choices(&told).as_slice(), end), (expected.as_slice(), Ok(())));
    let (told, ..) = hear("", &lines(&[first], "length"));
    assert_eq!(choices(&told)[1]["finish_reason"], "length");
}

#[test]
fn every_reason_is_one_that_clients_know() {
    for (reason, expected) in
        [("stop", "stop"), ("length", "length"), ("load", "stop"), ("unload", "stop"), ("", "stop")]
    {
        let (told, end, _) = hear("", &lines(&[], reason));
        let expected =
            [said(&json!({"role": "assistant", "content": ""})), choice(&json!({}), &json!(expected))];
        assert_eq!((choices(&told).as_slice(), end), (expected.as_slice(), Ok(())), "{reason}");
    }
}

#[test]
fn the_last_object_may_say_something_and_lack_its_end() {
    let mut passing = passing(Surface::Chat, &chat_with("\"stream\":true"));
    let line = format!("\r\n \n{{{AT},\"message\":{{\"content\":\"all\"}},\r \"done\":true}}");
    assert!(passing.pass(Bytes::from(line)).is_empty());
    let out = passing.finish().expect("the end");
    let told = events(std::str::from_utf8(&out).expect("UTF-8"));
    let expected =
        [said(&json!({"role": "assistant", "content": "all"})), choice(&json!({}), &json!("stop"))];
    assert_eq!(choices(&told), expected);
    assert_eq!((&told[2], passing.tally().usage), (&json!("[DONE]"), Some(Usage::default())));
}

#[test]
fn an_error_in_mid_stream_ends_it_and_is_told_once() {
    let line = lines(&[r#"{"content":"a"}"#], "stop");
    let (first, last) = line.split_once('\n').expect("lines");
    let (told, end, tally) = hear(
        "",
        &format!("{first}\n{{\"error\":\"out of \\\"memory\\\"\"}}\n{{\"error\":\"again\"}}\n{last}"),
    );
    let error = json!({"error": {
        "message": "out of \"memory\"", "type": "server_error", "param": null, "code": "upstream_error",
    }});
    assert_eq!((told.len(), &told[1], end), (2, &error, Err(Unfinished { told: true })));
    assert_eq!(tally, Tally { usage: None, pieces: 1 });
    for nonsense in
        ["x", "[]", "{", "{\"done\":1}", "{\"message\":{\"content\":1}}", "{\"error\":{}}", "{} {}"]
    {
        let (told, end, _) = hear("", &format!("{first}\n{nonsense}\n{last}"));
        assert_eq!((told.len(), end), (2, Err(Unfinished { told: true })), "{nonsense}");
        assert_eq!(told[1]["error"]["code"], "upstream_error");
    }
}

#[test]
fn an_end_without_done_is_no_end() {
    let whole = lines(&[r#"{"content":"a"}"#], "stop");
    let last = whole.rfind("{\"created_at\"").expect("the last line");
    for cut in [0, last - 30, last - 1, last, last + 10, whole.len() - 2] {
        let (told, end, _) = hear("", &whole[..cut]);
        assert_eq!(end, Err(Unfinished { told: false }), "{cut}");
        assert!(told.iter().all(|event| event.get("choices").is_some()), "{told:?}");
    }
    let (told, end, _) = hear("", "{\"error\":\"without a line's end\"}");
    assert_eq!((told.len(), end), (0, Err(Unfinished { told: false })));
}

#[test]
fn a_line_without_bounds_is_an_error() {
    let reply = Reply { kind: Kind::Chat, model: MODEL.to_owned(), nonce: 1, usage: false };
    let mut stream = Stream::with_line_max(reply, 100);
    assert!(stream.begin(Incoming::Other));
    assert!(stream.pass(Bytes::from(vec![b'['; 100])).is_empty());
    let told = stream.pass(Bytes::from_static(b"["));
    assert_eq!(events(std::str::from_utf8(&told).expect("UTF-8"))[0]["error"]["code"], "upstream_error");
    assert!(stream.pass(Bytes::from(vec![b'\n'; 100])).is_empty());
    assert_eq!(stream.finish(), Err(Unfinished { told: true }));
}

#[test]
fn what_cannot_be_read_passes_as_it_is() {
    let mut stream = passing(Surface::Chat, &chat_with("\"stream\":true"));
    assert!(!stream.begin(Incoming::Opaque));
    assert_eq!(stream.pass(Bytes::from_static(b"\x1f\x8b\n")), Bytes::from_static(b"\x1f\x8b\n"));
    assert_eq!(stream.finish(), Ok(Bytes::new()));
}

#[test]
fn a_completion_streams_text() {
    let lines = format!(
        "{{{AT},\"response\":\"a\",\"done\":false,\"logprobs\":[{{\"token\":\"é\",\"logprob\":-1.5,\
         \"top_logprobs\":[{{\"token\":\"é\",\"logprob\":-1.5}},{{\"token\":\"\\\"\",\"logprob\":-2}}]}}]}}\n\
         {{{AT},\"response\":\"\",\"thinking\":\"x\",\"done\":false}}\n\
         {{{AT},\"response\":\"b\",\"done\":false,\"logprobs\":[{{\"token\":\"b\",\"logprob\":0}}]}}\n\
         {{{AT},\"response\":\"c\",\"done\":true,\"done_reason\":\"length\",\"prompt_eval_count\":1,\"eval_count\":3}}\n"
    );
    let members = prompt_with(&format!("\"stream\":true{ASKS_USAGE}"));
    let (out, end, tally) = streamed(passing(Surface::Completions, &members), [lines.as_bytes()]);
    let told = events(&out);
    let first = json!({
        "id": CHAT_ID.replace("chatcmpl", "cmpl"), "object": "text_completion", "created": CREATED, "model": MODEL,
        "system_fingerprint": "fp_ollama", "usage": null,
        "choices": [{"index": 0, "text": "a", "finish_reason": null, "logprobs": {
            "text_offset": [0], "token_logprobs": [-1.5], "tokens": ["é"],
            "top_logprobs": [{"é": -1.5, "\"": -2}],
        }}],
    });
    assert_eq!(told[0], first);
    assert_eq!(told[1]["choices"][0]["logprobs"]["text_offset"], json!([1]));
    assert_eq!(
        told[2]["choices"],
        json!([{"index": 0, "text": "c", "logprobs": null, "finish_reason": "length"}])
    );
    assert_eq!(told[3]["usage"], json!({"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}));
    assert_eq!((told.len(), &told[4], end), (5, &json!("[DONE]"), Ok(())));
    assert_eq!(tally, Tally { usage: Some(Usage { prompt: 1, completion: 3 }), pieces: 3 });
}

#[test]
fn a_whole_chat_says_the_same_in_one_piece() {
    let answer = format!(
        "{{\"model\":\"demo:1b\",{AT},\"message\":{{\"role\":\"assistant\",\"content\":\"\\u0061\",\"thinking\":\"t\",\
         \"tool_calls\":[{{\"function\":{{\"index\":0,\"name\":\"f\",\"arguments\":{{\"n\":12345678901234567890}}}}}},\
         {{\"id\":\"x\",\"function\":{{\"index\":0,\"name\":\"g\",\"arguments\":{{}}}}}}]}},\
         \"logprobs\":[{{\"token\":\"a\",\"logprob\":-0.5,\"bytes\":[97],\"top_logprobs\":[{{\"token\":\"b\",\"logprob\":-1}}]}}],\
         \"done\":true,\"done_reason\":\"stop\",\"prompt_eval_count\":4,\"eval_count\":3}}"
    );
    let (told, tally) = whole(Surface::Chat, &chat_with(""), &answer).expect("an answer");
    let call = |index: u32, id: &str, name: &str, arguments: &str| json!({"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    let expected = json!({
        "id": CHAT_ID, "object": "chat.completion", "created": CREATED, "model": MODEL,
        "system_fingerprint": "fp_ollama",
        "choices": [{
            "index": 0, "finish_reason": "tool_calls",
            "message": {
                "role": "assistant", "content": "a", "refusal": null, "reasoning": "t",
                "tool_calls": [
                    call(0, &format!("call_{NONCE:024x}"), "f", r#"{"n":12345678901234567890}"#), call(1, "x", "g", "{}"),
                ],
            },
            "logprobs": {"refusal": null, "content": [{
                "token": "a", "logprob": -0.5, "bytes": [97],
                "top_logprobs": [{"token": "b", "logprob": -1, "bytes": null}],
            }]},
        }],
        "usage": {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7},
    });
    assert_eq!(told, expected);
    assert_eq!(tally, Tally { usage: Some(Usage { prompt: 4, completion: 3 }), pieces: 0 });
}

#[test]
fn a_whole_completion_and_one_that_only_loads() {
    let answer = format!("{{{AT},\"response\":\"\",\"done\":true,\"done_reason\":\"load\"}}");
    let (told, tally) = whole(Surface::Completions, &prompt_with(""), &answer).expect("an answer");
    assert_eq!((&told["object"], &told["created"]), (&json!("text_completion"), &json!(CREATED)));
    assert_eq!(told["choices"], json!([{"index": 0, "text": "", "logprobs": null, "finish_reason": "stop"}]));
    assert_eq!(tally.usage, Some(Usage::default()));
    let tokens = "[{\"token\":\"ab\",\"logprob\":-1},{\"token\":\"c\",\"logprob\":-2}]";
    let answer = format!("{{\"response\":\"abc\",\"logprobs\":{tokens},\"done\":true}}");
    let (told, _) = whole(Surface::Completions, &prompt_with(""), &answer).expect("an answer");
    assert_eq!(told["choices"][0]["logprobs"]["text_offset"], json!([0, 2]));
    assert_eq!(told["created"], 0);
}

#[test]
fn whole_answers_that_make_no_sense_are_none() {
    for answer in [
        "",
        "x",
        "[]",
        "{}",
        "{\"done\":true}",
        "{\"error\":\"x\"}",
        "{\"message\":{\"content\":\"a\"},\"done\":false}",
        "{\"message\":{\"content\":1},\"done\":true}",
        "{\"message\":{\"content\":\"a\"},\"done\":true}}",
        "{\"message\":{\"content\":\"a\",\"tool_calls\":[{}]},\"done\":true}",
    ] {
        assert_eq!(whole(Surface::Chat, &chat_with(""), answer), None, "{answer}");
    }
}

/// Lines of streams, good and bad.
fn any_line() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => prop::sample::select(vec![
            r#"{"created_at":"2023-11-14T22:13:20Z","message":{"content":"é你🙂"},"done":false}"#,
            r#"{"message":{"content":"","thinking":"hm"},"done":false}"#,
            r#"{"message":{"content":"x","tool_calls":[{"function":{"name":"f","arguments":{"a":[1]}}}]}}"#,
            r#"{"message":{"content":"x"},"logprobs":[{"token":"x","logprob":-1}]}"#,
            "",
            " ",
            "{}",
        ]).prop_map(str::to_owned),
        1 => prop::sample::select(vec![
            r#"{"done":true,"done_reason":"stop","eval_count":3}"#,
            r#"{"error":"boom"}"#,
            "nonsense",
        ]).prop_map(str::to_owned),
    ]
}

proptest! {
    #[test]
    fn any_split_of_a_stream_tells_the_same(
        lines in prop::collection::vec((any_line(), prop::sample::select(vec!["\n", "\r\n"])), 0..8),
        is_cut in any::<bool>(),
        cuts in prop::collection::vec(0..800usize, 0..12),
    ) {
        let mut text: String = lines.iter().flat_map(|(line, end)| [line.as_str(), end]).collect();
        if is_cut {
            text.truncate(text.trim_end().len());
        }
        let stream = || passing(Surface::Chat, &chat_with("\"stream\":true"));
        let (expected, end, tally) = streamed(stream(), [text.as_bytes()]);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]);
        prop_assert_eq!(streamed(stream(), pieces), (expected.clone(), end, tally));
        // Complete, or told as broken, or left to whoever hears of it; never two of them.
        let told = events(&expected);
        let is_complete = told.last() == Some(&json!("[DONE]"));
        let is_told = told.last().is_some_and(|event| event.get("error").is_some());
        prop_assert_eq!(end.is_ok(), is_complete);
        prop_assert_eq!(end == Err(Unfinished { told: true }), is_told);
    }

    #[test]
    fn no_bytes_do_harm(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..20),
        kind in prop::sample::select(vec![Kind::Chat, Kind::Text]),
    ) {
        let reply = Reply { kind, model: "m".to_owned(), nonce: 1, usage: true };
        let mut stream = Stream::with_line_max(reply, 128);
        stream.begin(Incoming::Other);
        let told: usize = pieces.iter().map(|piece| stream.pass(Bytes::from(piece.clone())).len()).sum();
        // Random bytes say nothing, so that there is at most one error.
        prop_assert!(told < 200, "{}", told);
        prop_assert!(stream.finish().is_err());
    }
}
