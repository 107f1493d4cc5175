//! Reading requests: what both APIs have in common.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::dialect::Context;
use super::error::{Api, ApiError};

/// A string or an array of strings.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub(crate) fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

/// Reads a body for the model that is served. Goes by way of a map, so that of two equal keys the last one
/// counts, as it does for the engines.
pub(crate) fn read<T: DeserializeOwned>(body: &[u8], api: Api, context: &Context<'_>) -> Result<T, ApiError> {
    let object: Map<String, Value> = serde_json::from_slice(body)
        .map_err(|error| ApiError::invalid_json(format!("the body is no JSON object: {error}")))?;
    let model = object.get("model").or_else(|| object.get("name").filter(|_| api == Api::Ollama));
    let model = model.and_then(Value::as_str).ok_or_else(|| ApiError::missing("model"))?;
    if !context.serves(api, model) {
        return Err(ApiError::unknown_model(api, model));
    }
    serde_json::from_value(Value::Object(object)).map_err(|error| ApiError::invalid(None, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::dialect::fixtures::context;

    #[derive(Deserialize, Debug)]
    struct Plain {
        model: String,
    }

    fn code(body: &str) -> Result<String, (u16, Option<&'static str>)> {
        read::<Plain>(body.as_bytes(), Api::OpenAi, &context())
            .map(|plain| plain.model)
            .map_err(|error| (error.status, error.code))
    }

    #[test]
    fn the_last_of_two_models_counts_also_if_its_key_is_escaped() {
        assert_eq!(code(r#"{"model":"x","model":"demo"}"#), Ok("demo".to_owned()));
        assert_eq!(code(r#"{"model":"x","mod\u0065l":"demo"}"#), Ok("demo".to_owned()));
        assert_eq!(code(r#"{"model":"demo","model":"x"}"#), Err((404, Some("model_not_found"))));
    }

    #[test]
    fn bad_bodies_are_named() {
        for body in ["", "[]", "{", "\"demo\"", "\u{0}"] {
            assert_eq!(code(body), Err((400, Some("invalid_json"))), "{body}");
        }
        assert_eq!(code("{}"), Err((400, Some("missing_required_parameter"))));
    }
}
