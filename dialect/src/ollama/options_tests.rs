//! Tests of what chat and completions have in common.

use serde_json::{Value, json};

use super::fixtures::{chat_with, prompt_with, refused, sent, sent_text};
use crate::surface::Surface;

fn options(members: &str) -> Value {
    sent(Surface::Chat, &chat_with(members))["options"].clone()
}

fn why_not(members: &str) -> String {
    refused(Surface::Chat, &chat_with(members)).message
}

#[test]
fn numbers_keep_their_text() {
    let text = sent_text(
        Surface::Chat,
        &chat_with(
            "\"temperature\":0.30000000000000004,\"seed\":12345678901234567,\"top_p\":1.0e-1,\"min_p\":0.10",
        ),
    );
    for part in [
        "\"temperature\":0.30000000000000004",
        "\"seed\":12345678901234567",
        "\"top_p\":1.0e-1",
        "\"min_p\":0.10",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(sent_text(Surface::Chat, &chat_with("")).contains("\"temperature\":1.0,\"top_p\":1.0"));
}

#[test]
fn options_come_from_openais_fields_from_beside_them_and_from_inside() {
    assert_eq!(options("\"max_tokens\":1")["num_predict"], 1);
    assert_eq!(options("\"max_tokens\":1,\"max_completion_tokens\":2")["num_predict"], 2);
    assert_eq!(options("\"options\":{\"num_predict\":3}")["num_predict"], 3);
    assert_eq!(options("\"options\":{\"num_predict\":3},\"max_tokens\":1")["num_predict"], 1);
    assert_eq!(options("\"max_tokens\":null,\"options\":{\"num_predict\":-1}")["num_predict"], -1);
    let all = "\"seed\":1,\"frequency_penalty\":0.5,\"presence_penalty\":-0.5,\"top_k\":4,\"min_p\":0.1,\
        \"repeat_penalty\":1.1,\"num_ctx\":8192,\"num_keep\":5,\"typical_p\":0.7";
    let expected = json!({
        "temperature": 1.0, "top_p": 1.0, "seed": 1, "frequency_penalty": 0.5, "presence_penalty": -0.5, "top_k": 4,
        "min_p": 0.1, "repeat_penalty": 1.1, "num_ctx": 8192, "num_keep": 5, "typical_p": 0.7,
    });
    assert_eq!(options(all), expected);
    assert_eq!(options(&format!("\"options\":{{{all}}}")), expected);
    assert_eq!(options("\"temperature\":null,\"top_p\":0.5"), json!({"temperature": 1.0, "top_p": 0.5}));
    assert_eq!(options("\"temperature\":0,\"options\":{\"temperature\":2,\"top_k\":1}")["temperature"], 0);
    assert_eq!(sent(Surface::Completions, &prompt_with("\"num_ctx\":9"))["options"]["num_ctx"], 9);
}

#[test]
fn options_that_are_the_deployments_are_refused() {
    for members in ["\"options\":{\"num_gpu\":0}", "\"options\":{\"x\":1,\"seed\":1}"] {
        assert!(why_not(members).starts_with("options holds what a client cannot set"), "{members}");
    }
    assert!(why_not("\"options\":[]").starts_with("options must be an object"));
    assert!(
        why_not("\"max_tokens\":0").starts_with("max_tokens and max_completion_tokens must be at least 1")
    );
}

#[test]
fn stops_are_an_array_of_strings() {
    assert_eq!(options("\"stop\":\"a\\u0062\"")["stop"], json!(["ab"]));
    assert_eq!(options("\"stop\":[\"a\",\"b\"]")["stop"], json!(["a", "b"]));
    assert_eq!(options("\"options\":{\"stop\":\"a\"}")["stop"], json!(["a"]));
    assert_eq!(options("\"stop\":null").get("stop"), None);
    for stop in ["1", "[1]", "{}", "[\"a\",null]"] {
        assert_eq!(why_not(&format!("\"stop\":{stop}")), "stop must be a string or an array of strings.");
    }
}

#[test]
fn the_form_of_the_answer_is_passed_on() {
    let format = |json: &str| {
        sent(Surface::Chat, &chat_with(&format!("\"response_format\":{json}"))).get("format").cloned()
    };
    assert_eq!(format(r#"{"type":"text"}"#), None);
    assert_eq!(format("null"), None);
    assert_eq!(format(r#"{"type":" JSON_object "}"#), Some(json!("json")));
    let schema = r#"{"type":"json_schema","json_schema":{"name":"x","strict":true,"schema":{"type":"object","maximum":1.50}}}"#;
    assert_eq!(format(schema), Some(json!({"type": "object", "maximum": 1.5})));
    let text = sent_text(Surface::Chat, &chat_with(&format!("\"response_format\":{schema}")));
    assert!(text.contains(r#""format":{"type":"object","maximum":1.50}"#), "{text}");
    for wrong in [
        "1",
        "{}",
        r#"{"type":"xml"}"#,
        r#"{"type":"json_schema"}"#,
        r#"{"type":"json_schema","json_schema":{"name":"x"}}"#,
        r#"{"type":"json_schema","json_schema":{"schema":1}}"#,
        r#"{"type":"json_schema","json_schema":1}"#,
    ] {
        assert!(why_not(&format!("\"response_format\":{wrong}")).starts_with("response_format"), "{wrong}");
    }
}

#[test]
fn efforts_become_levels_of_thinking() {
    let think = |members: &str| sent(Surface::Chat, &chat_with(members)).get("think").cloned();
    for (effort, level) in [
        ("none", json!(false)),
        ("minimal", json!("low")),
        ("low", json!("low")),
        ("medium", json!("medium")),
        ("high", json!("high")),
        ("max", json!("max")),
        ("xhigh", json!("max")),
        ("ultra", json!("max")),
    ] {
        assert_eq!(think(&format!("\"reasoning_effort\":\"{effort}\"")), Some(level.clone()), "{effort}");
        assert_eq!(think(&format!("\"reasoning\":{{\"effort\":\"{effort}\"}}")), Some(level), "{effort}");
    }
    assert_eq!(think(""), None);
    assert_eq!(think("\"reasoning_effort\":null,\"reasoning\":{}"), None);
    assert_eq!(think("\"think\":false"), Some(json!(false)));
    assert_eq!(think("\"think\":\"high\",\"reasoning_effort\":\"low\""), Some(json!("high")));
    assert_eq!(think("\"chat_template_kwargs\":{\"enable_thinking\":false}"), Some(json!(false)));
    assert_eq!(think("\"chat_template_kwargs\":{\"x\":1}"), None);
    assert!(why_not("\"reasoning_effort\":\"hard\"").starts_with("The effort of reasoning must be"));
    assert!(why_not("\"reasoning\":{\"effort\":1}").starts_with("The effort of reasoning must be"));
    assert!(why_not("\"think\":1").starts_with("think must be"));
}

#[test]
fn log_probabilities_are_asked_for() {
    let told = sent(Surface::Chat, &chat_with("\"logprobs\":true,\"top_logprobs\":5"));
    assert_eq!((&told["logprobs"], &told["top_logprobs"]), (&json!(true), &json!(5)));
    let told = sent(Surface::Chat, &chat_with("\"logprobs\":false,\"top_logprobs\":5"));
    assert_eq!((told.get("logprobs"), told.get("top_logprobs")), (None, None));
    assert!(why_not("\"logprobs\":3").starts_with("logprobs must be true or false"));
}

#[test]
fn the_model_stays_unless_the_client_says_otherwise() {
    let keep = |members: &str| sent(Surface::Chat, &chat_with(members))["keep_alive"].clone();
    assert_eq!(keep(""), json!(-1));
    assert_eq!(keep("\"keep_alive\":\"10m\""), json!("10m"));
    assert_eq!(keep("\"options\":{\"keep_alive\":60}"), json!(60));
    assert_eq!(keep("\"keep_alive\":0,\"options\":{\"keep_alive\":60}"), json!(0));
    assert!(why_not("\"keep_alive\":true").starts_with("keep_alive must be"));
    let told = sent(Surface::Chat, &chat_with("\"truncate\":true,\"shift\":true"));
    assert_eq!((&told["truncate"], &told["shift"]), (&json!(true), &json!(true)));
    assert!(why_not("\"truncate\":1").starts_with("truncate must be true or false"));
}

#[test]
fn there_is_one_answer_and_what_has_no_counterpart_is_left_away() {
    for n in ["2", "0", "-1", "1.5", "\"1\"", "[1]"] {
        assert!(why_not(&format!("\"n\":{n}")).starts_with("n must be 1"), "{n}");
    }
    let plain = sent(Surface::Chat, &chat_with(""));
    let ignored = "\"n\":1,\"logit_bias\":{\"1\":2},\"user\":\"u\",\"parallel_tool_calls\":true,\"store\":false,\
        \"metadata\":{},\"service_tier\":\"auto\",\"x\":[1]";
    assert_eq!(sent(Surface::Chat, &chat_with(ignored)), plain);
    assert!(why_not("\"stream\":1").starts_with("stream must be true or false"));
    assert!(why_not("\"stream_options\":1").starts_with("stream_options must be an object"));
}
