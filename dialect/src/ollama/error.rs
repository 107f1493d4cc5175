//! Ollama's errors: `{"error":"…"}` with a status of its own, or as a line of a stream.

use super::json::{Fields, Object, text};
use crate::adapter::Told;
use crate::words::presentable;

/// Said where Ollama's own words cannot be passed on.
const BROKE: &str = "The model's runtime failed while it answered.";

/// What the client hears of an error before an answer.
pub(super) fn told(status: u16, body: &[u8]) -> Option<Told> {
    let message = std::str::from_utf8(body).ok().and_then(words)?;
    let told = |kind, code, param, retry| Told { status, kind, code, param, message: message.clone(), retry };
    match status {
        400 if is_too_long(&message) => {
            Some(told("invalid_request_error", "context_length_exceeded", Some("messages"), false))
        }
        404 => Some(told("invalid_request_error", "model_not_found", Some("model"), false)),
        // Its queue is full.
        503 => Some(told("server_error", "model_not_ready", None, true)),
        500 => Some(told("server_error", "upstream_error", None, false)),
        _ => None,
    }
}

/// What an object of Ollama's says went wrong.
fn words(json: &str) -> Option<String> {
    let error = Fields::of(json, &["error"])?.get("error")?;
    text(error).map(std::borrow::Cow::into_owned).filter(|words| !words.is_empty())
}

/// Whether the prompt has no room in the context. The words are Ollama's and its engine's.
fn is_too_long(message: &str) -> bool {
    let message = message.to_lowercase();
    message.contains("exceed")
        && ["context length", "context size", "context window"].iter().any(|what| message.contains(what))
}

/// Writes the event that ends a stream after the JSON of an error.
pub(super) fn put_event(error: Option<&str>, out: &mut Vec<u8>) {
    let message = error.and_then(text).and_then(|words| presentable(&words));
    out.extend_from_slice(b"data: ");
    let mut object = Object::open(out);
    let mut error = Object::open(object.name("error"));
    error.text("message", message.as_deref().unwrap_or(BROKE));
    error.json("type", "\"server_error\"");
    error.json("param", "null");
    error.json("code", "\"upstream_error\"");
    error.close();
    object.close();
    out.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tell(
        status: u16,
        body: &str,
    ) -> Option<(u16, &'static str, &'static str, Option<&'static str>, bool)> {
        told(status, body.as_bytes()).map(|told| (told.status, told.kind, told.code, told.param, told.retry))
    }

    #[test]
    fn errors_are_told_by_the_table() {
        let invalid = "invalid_request_error";
        for (status, body, expected) in [
            (
                400,
                r#"{"error":"the input length exceeds the context length"}"#,
                Some((400, invalid, "context_length_exceeded", Some("messages"), false)),
            ),
            (
                400,
                r#"{"error":"prompt too long; exceeded max context length by 12 tokens"}"#,
                Some((400, invalid, "context_length_exceeded", Some("messages"), false)),
            ),
            (400, r#"{"error":"invalid think value: \"x\""}"#, None),
            (
                404,
                r#"{"error":"model \"x\" not found, try pulling it first"}"#,
                Some((404, invalid, "model_not_found", Some("model"), false)),
            ),
            (404, "404 page not found", None),
            (
                503,
                r#"{"error":"server busy, please try again.  maximum pending requests exceeded"}"#,
                Some((503, "server_error", "model_not_ready", None, true)),
            ),
            (500, r#"{"error":"boom"}"#, Some((500, "server_error", "upstream_error", None, false))),
            (499, r#"{"error":"request canceled"}"#, None),
            (401, r#"{"error":"unauthorized"}"#, None),
            (403, r#"{"error":"forbidden"}"#, None),
            (502, r#"{"error":"cloud"}"#, None),
            (500, "<html>", None),
            (500, r#"{"error":{"message":"x"}}"#, None),
            (500, "", None),
        ] {
            assert_eq!(tell(status, body), expected, "{status} {body}");
        }
        let told = told(404, br#"{"error":"model \"x\" not found"}"#).expect("told");
        assert_eq!(told.message, "model \"x\" not found");
        assert_eq!(tell(400, "{\"error\":\"\u{e9}\\u00ff\"").map(|told| told.0), None);
    }

    #[test]
    fn an_event_holds_words_but_no_address() {
        let event = |error| {
            let mut out = Vec::new();
            put_event(error, &mut out);
            String::from_utf8(out).expect("UTF-8")
        };
        let said = |message: &str| {
            format!(
                "data: {{\"error\":{{\"message\":\"{message}\",\"type\":\"server_error\",\"param\":null,\
                 \"code\":\"upstream_error\"}}}}\n\n"
            )
        };
        assert_eq!(event(Some(r#""out\nof \"memory\"""#)), said("out\\nof \\\"memory\\\""));
        assert_eq!(event(Some(r#""dial tcp 127.0.0.1:3: refused""#)), said(BROKE));
        assert_eq!(event(Some("{}")), said(BROKE));
        assert_eq!(event(None), said(BROKE));
    }
}
