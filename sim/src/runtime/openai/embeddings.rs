//! `POST /v1/embeddings`.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::runtime::FINGERPRINT;
use crate::runtime::dialect::{Answer, Context};
use crate::runtime::embedding;
use crate::runtime::error::{Api, ApiError};
use crate::runtime::request::read;
use crate::runtime::script::count_tokens;

/// The most inputs of one request, as with OpenAI.
const INPUTS_MAX: usize = 2048;

#[derive(Deserialize)]
struct Request {
    #[serde(default)]
    input: Value,
    encoding_format: Option<String>,
    dimensions: Option<u64>,
}

#[derive(Serialize)]
struct List {
    object: &'static str,
    data: Vec<Item>,
    model: String,
    system_fingerprint: &'static str,
    usage: Usage,
}

#[derive(Serialize)]
struct Item {
    object: &'static str,
    index: usize,
    embedding: Embedding,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Embedding {
    Floats(Vec<f32>),
    Base64(String),
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u64,
    total_tokens: u64,
}

/// Works an answer out.
pub(crate) fn embeddings(body: &[u8], context: &Context<'_>) -> Result<Answer, ApiError> {
    let request: Request = read(body, Api::OpenAi, context)?;
    let in_base64 = match request.encoding_format.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => {
            let message = format!("encoding_format is \"{other}\"; known: float, base64");
            return Err(ApiError::invalid(Some("encoding_format"), message));
        }
    };
    let dimensions = embedding::dimensions(request.dimensions, context.dimensions)?;
    let inputs = inputs(&request.input)?;
    let prompt_tokens = inputs.iter().map(|(_, tokens)| tokens).sum();
    let data = inputs.iter().enumerate().map(|(index, (text, _))| {
        let vector = embedding::vector(text, dimensions);
        let embedding = match in_base64 {
            true => Embedding::Base64(embedding::base64(&vector)),
            false => Embedding::Floats(vector),
        };
        Item { object: "embedding", index, embedding }
    });
    let list = List {
        object: "list",
        data: data.collect(),
        model: context.model.to_owned(),
        system_fingerprint: FINGERPRINT,
        usage: Usage { prompt_tokens, total_tokens: prompt_tokens },
    };
    Ok(Answer::Body(Bytes::from(serde_json::to_vec(&list).unwrap_or_default())))
}

/// Each input as text, with its size: texts, or arrays of token numbers.
fn inputs(input: &Value) -> Result<Vec<(String, u64)>, ApiError> {
    let invalid = |message: &str| ApiError::invalid(Some("input"), message);
    let items = match input {
        one @ Value::String(_) => std::slice::from_ref(one),
        Value::Array(many) if many.iter().all(Value::is_u64) && !many.is_empty() => {
            std::slice::from_ref(input)
        }
        Value::Array(many) => many.as_slice(),
        _ => &[],
    };
    if items.is_empty() || items.len() > INPUTS_MAX {
        return Err(invalid("input is to hold 1 to 2048 texts or arrays of token numbers"));
    }
    let item = |item: &Value| match item {
        Value::String(text) => Ok((text.clone(), count_tokens(text))),
        Value::Array(tokens) if tokens.iter().all(Value::is_u64) => {
            Ok((item.to_string(), tokens.len() as u64))
        }
        _ => Err(invalid("each input is to be a text or an array of token numbers")),
    };
    items.iter().map(item).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::runtime::dialect::fixtures::{body, context};

    fn ask(more: Value) -> Result<Value, ApiError> {
        let mut request = json!({ "model": "demo" });
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        embeddings(request.to_string().as_bytes(), &context()).map(body)
    }

    #[test]
    fn floats_and_base64_say_the_same() {
        let input = json!(["one two", "three"]);
        let floats = ask(json!({ "input": input, "dimensions": 3 })).expect("floats");
        let base64 =
            ask(json!({ "input": input, "dimensions": 3, "encoding_format": "base64" })).expect("base64");
        assert_eq!(floats["usage"], json!({ "prompt_tokens": 3, "total_tokens": 3 }));
        for index in [0, 1] {
            assert_eq!(floats["data"][index]["index"], index);
            let vector: Vec<f32> =
                serde_json::from_value(floats["data"][index]["embedding"].clone()).unwrap();
            assert_eq!(vector.len(), 3);
            assert_eq!(base64["data"][index]["embedding"], embedding::base64(&vector));
        }
    }

    #[test]
    fn inputs_have_four_forms() {
        assert_eq!(inputs(&json!("a b")), Ok(vec![("a b".to_owned(), 2)]));
        assert_eq!(inputs(&json!(["", "b"])), Ok(vec![(String::new(), 0), ("b".to_owned(), 1)]));
        assert_eq!(inputs(&json!([1, 2])), Ok(vec![("[1,2]".to_owned(), 2)]));
        assert_eq!(inputs(&json!([[1], [2, 3]])).map(|inputs| inputs.len()), Ok(2));
    }

    #[test]
    fn what_cannot_be_embedded_is_refused_by_name() {
        for (more, param) in [
            (json!({}), "input"),
            (json!({ "input": [] }), "input"),
            (json!({ "input": [1, "a"] }), "input"),
            (json!({ "input": vec!["a"; 2049] }), "input"),
            (json!({ "input": "a", "encoding_format": "hex" }), "encoding_format"),
            (json!({ "input": "a", "dimensions": 0 }), "dimensions"),
            (json!({ "input": "a", "dimensions": 99999 }), "dimensions"),
        ] {
            assert_eq!(ask(more).map_err(|error| (error.status, error.param)), Err((400, Some(param))));
        }
        assert!(ask(json!({ "input": vec!["a"; 2048], "dimensions": 1 })).is_ok());
    }
}
