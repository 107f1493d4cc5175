//! `POST /v1/completions`, the legacy API without messages.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::request::{StreamOptions, include_usage, one_choice};
use super::wire::{DONE, EVENT_STREAM, Head, error_event};
use crate::runtime::dialect::{Answer, Context, Dialect};
use crate::runtime::error::{Api, ApiError};
use crate::runtime::request::{OneOrMany, read};
use crate::runtime::script::{self, Ask, Form, Script, count_tokens};

const OBJECT: &str = "text_completion";

#[derive(Deserialize)]
struct Request {
    #[serde(default)]
    prompt: Value,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u64>,
    n: Option<u64>,
    stop: Option<OneOrMany>,
}

/// Works an answer out.
pub(crate) fn completions(body: &[u8], context: &Context<'_>) -> Result<Answer, ApiError> {
    let request: Request = read(body, Api::OpenAi, context)?;
    let stream = request.stream.unwrap_or(false);
    let include_usage = include_usage(stream, request.stream_options.as_ref())?;
    one_choice(request.n)?;
    let (said, prompt_tokens) = prompt(&request.prompt)?;
    let ask = Ask {
        said,
        prompt_tokens,
        limit: request.max_tokens,
        stops: request.stop.map(OneOrMany::into_vec).unwrap_or_default(),
        form: Form::Text,
    };
    let head = Head {
        id: format!("cmpl-{}", context.id),
        created: context.now.unix_secs(),
        model: context.model.to_owned(),
        include_usage,
    };
    let script = script::write(ask, context.plan.tokens);
    Ok(Answer::Tokens { script, dialect: Box::new(Completion { head }), stream })
}

/// The prompt and its size: one text, one text in an array, or one array of token numbers.
fn prompt(prompt: &Value) -> Result<(String, u64), ApiError> {
    let text = |text: &str| (text.to_owned(), count_tokens(text));
    let numbers =
        |tokens: &[Value]| tokens.iter().all(Value::is_u64).then(|| (String::new(), tokens.len() as u64));
    let read = match prompt {
        Value::String(one) => Some(text(one)),
        Value::Array(many) => match many.as_slice() {
            [Value::String(one)] => Some(text(one)),
            [Value::Array(tokens)] => numbers(tokens),
            [] => None,
            tokens => numbers(tokens),
        },
        _ => None,
    };
    read.ok_or_else(|| {
        ApiError::invalid(Some("prompt"), "prompt is to be one text or one array of token numbers")
    })
}

struct Completion {
    head: Head,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    text: &'a str,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}

fn choice<'a>(text: &'a str, finish_reason: Option<&'static str>) -> Choice<'a> {
    Choice { index: 0, text, logprobs: None, finish_reason }
}

impl Dialect for Completion {
    fn stream_type(&self) -> &'static str {
        EVENT_STREAM
    }

    fn opening(&self, _: &Script) -> Option<Bytes> {
        None
    }

    fn piece(&self, script: &Script, at: usize) -> Option<Bytes> {
        script.pieces.get(at).map(|piece| self.head.chunk(OBJECT, choice(piece, None)))
    }

    fn closing(&self, script: &Script) -> Vec<Bytes> {
        let finish = self.head.chunk(OBJECT, choice("", Some(script.finish.as_str())));
        let usage = self.head.usage_chunk::<Choice<'_>>(OBJECT, script);
        std::iter::once(finish).chain(usage).collect()
    }

    fn terminator(&self, _: &Script) -> Bytes {
        DONE
    }

    fn failure(&self, error: &ApiError) -> Bytes {
        error_event(error)
    }

    fn whole(&self, script: &Script) -> Bytes {
        self.head.whole(OBJECT, choice(&script.text(), Some(script.finish.as_str())), script)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::runtime::dialect::fixtures::{body, chunks, context};

    fn answer(more: &str) -> Result<Answer, ApiError> {
        completions(format!(r#"{{"model":"demo",{more}}}"#).as_bytes(), &context())
    }

    #[test]
    fn an_answer_comes_in_one_piece_or_in_chunks() {
        let whole = body(answer(r#""prompt":"one two","max_tokens":4"#).expect("an answer"));
        assert_eq!(whole["object"], "text_completion");
        assert_eq!(whole["choices"][0]["text"], "This is a simulated ");
        assert_eq!(whole["choices"][0]["finish_reason"], "length");
        assert_eq!(whole["usage"]["prompt_tokens"], 2);
        let chunks = chunks(answer(r#""prompt":"one two","max_tokens":4,"stream":true"#).expect("an answer"));
        assert_eq!(chunks.len(), 6);
        assert!(chunks[0].contains(r#""text":"This ""#) && chunks[0].contains("nebula-sim-"));
        assert!(chunks[4].contains(r#""finish_reason":"length""#));
        assert_eq!(chunks[5], "data: [DONE]\n\n");
    }

    #[test]
    fn prompts_have_four_forms() {
        assert_eq!(prompt(&json!("a b")), Ok(("a b".to_owned(), 2)));
        assert_eq!(prompt(&json!(["a b"])), Ok(("a b".to_owned(), 2)));
        assert_eq!(prompt(&json!([7, 8, 9])), Ok((String::new(), 3)));
        assert_eq!(prompt(&json!([[7]])), Ok((String::new(), 1)));
        for bad in [json!(null), json!([]), json!(["a", "b"]), json!([[1], [2]]), json!({}), json!([-1])] {
            assert!(prompt(&bad).is_err(), "{bad}");
        }
    }
}
