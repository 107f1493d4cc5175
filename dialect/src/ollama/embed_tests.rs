//! Tests of embeddings.

use serde_json::{Value, json};

use super::fixtures::{MODEL, ask, refused, sent, sent_text, whole};
use crate::adapter::{Tally, Usage};
use crate::surface::Surface;

const EMBEDDINGS: Surface = Surface::Embeddings;

#[test]
fn texts_are_sent_as_they_are() {
    assert_eq!(ask(EMBEDDINGS, "\"input\":\"a\"").expect("a request").path, "/api/embed");
    let expected = json!({"model": "demo:1b", "input": "a", "keep_alive": -1, "truncate": false});
    assert_eq!(sent(EMBEDDINGS, "\"input\":\"a\""), expected);
    let text = sent_text(
        EMBEDDINGS,
        r#""input":["\u0061", "b"],"dimensions":256,"keep_alive":"1h","truncate":true"#,
    );
    assert!(text.contains(r#""input":["\u0061", "b"]"#), "{text}");
    let told: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        (&told["dimensions"], &told["keep_alive"], &told["truncate"]),
        (&json!(256), &json!("1h"), &json!(true))
    );
    assert_eq!(sent(EMBEDDINGS, "\"input\":\"\"")["input"], json!([""]));
}

#[test]
fn inputs_that_are_no_texts_are_refused() {
    for (members, reason) in [
        ("", "invalid input"),
        ("\"input\":[]", "invalid input"),
        ("\"input\":null", "invalid input"),
        ("\"input\":1", "invalid input"),
        ("\"input\":{}", "invalid input"),
        ("\"input\":[1,2]", "input must be text: the model's runtime takes no tokens."),
        ("\"input\":[[1],[2]]", "input must be text: the model's runtime takes no tokens."),
        ("\"input\":[\"a\",null]", "input must be text: the model's runtime takes no tokens."),
        (
            "\"input\":\"a\",\"encoding_format\":\"hex\"",
            "Invalid value for 'encoding_format' = hex. Supported values: ['float', 'base64'].",
        ),
        (
            "\"input\":\"a\",\"encoding_format\":1",
            "Invalid value for 'encoding_format' = 1. Supported values: ['float', 'base64'].",
        ),
    ] {
        assert_eq!(refused(EMBEDDINGS, members).message, reason, "{members}");
    }
}

#[test]
fn vectors_come_as_floats_or_as_base64() {
    let answer = r#"{"model":"demo:1b","embeddings":[[0.5,-1.0,3.4028235e38],[0.10000000149011612, 0, -2.50]],
        "total_duration":1,"prompt_eval_count":7}"#;
    let input = "\"input\":[\"a\",\"b\"]";
    let (list, tally) = whole(EMBEDDINGS, input, answer).expect("a list");
    let expected = json!({
        "object": "list", "model": MODEL, "usage": {"prompt_tokens": 7, "total_tokens": 7},
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.5, -1.0, 3.402_823_5e38]},
            {"object": "embedding", "index": 1, "embedding": [0.100_000_001_490_116_12, 0, -2.50]},
        ],
    });
    assert_eq!(list, expected);
    assert_eq!(tally, Tally { usage: Some(Usage { prompt: 7, completion: 0 }), pieces: 0 });
    for format in ["base64", "BASE64"] {
        let members = format!("{input},\"encoding_format\":\"{format}\"");
        let (list, _) = whole(EMBEDDINGS, &members, answer).expect("a list");
        // 0000003f 000080bf ffff7f7f · cdcccc3d 00000000 000020c0
        assert_eq!(list["data"][0]["embedding"], "AAAAPwAAgL///39/");
        assert_eq!(list["data"][1]["embedding"], "zczMPQAAAAAAACDA");
    }
    let (list, _) =
        whole(EMBEDDINGS, &format!("{input},\"encoding_format\":\"Float\""), answer).expect("a list");
    assert_eq!(list, expected);
}

#[test]
fn answers_that_make_no_sense_are_none() {
    for answer in [
        "",
        "{}",
        "[]",
        "{\"error\":\"x\"}",
        "{\"embeddings\":[]}",
        "{\"embeddings\":[[1],[2]]}",
        "{\"embeddings\":[\"x\"]}",
        "{\"embeddings\":[[\"x\"]]}",
        "{\"embeddings\":{}}",
        "{\"embeddings\":[[1e999]]}",
    ] {
        assert_eq!(
            whole(EMBEDDINGS, "\"input\":\"a\",\"encoding_format\":\"base64\"", answer),
            None,
            "{answer}"
        );
    }
    let (list, tally) = whole(EMBEDDINGS, "\"input\":\"a\"", "{\"embeddings\":[[1]]}").expect("a list");
    assert_eq!(list["usage"]["prompt_tokens"], 0);
    assert_eq!(tally.usage, Some(Usage::default()));
}
