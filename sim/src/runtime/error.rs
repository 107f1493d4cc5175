//! Errors as the two APIs print them.

use bytes::Bytes;
use serde_json::{Value, json};

/// Which API a request speaks: it decides how errors look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    OpenAi,
    Ollama,
}

/// A request that cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: u16,
    /// OpenAI's `type`.
    pub(crate) kind: &'static str,
    pub(crate) code: Option<&'static str>,
    pub(crate) param: Option<&'static str>,
    pub(crate) message: String,
}

impl ApiError {
    pub(crate) fn invalid(param: Option<&'static str>, message: impl Into<String>) -> Self {
        Self { status: 400, kind: "invalid_request_error", code: None, param, message: message.into() }
    }

    pub(crate) fn invalid_json(message: impl Into<String>) -> Self {
        Self { code: Some("invalid_json"), ..Self::invalid(None, message) }
    }

    pub(crate) fn missing(param: &'static str) -> Self {
        let message = format!("you must provide a {param} parameter");
        Self { code: Some("missing_required_parameter"), ..Self::invalid(Some(param), message) }
    }

    pub(crate) fn unknown_model(api: Api, model: &str) -> Self {
        let message = match api {
            Api::OpenAi => format!("The model `{model}` does not exist."),
            Api::Ollama => format!("model \"{model}\" not found, try pulling it first"),
        };
        Self { status: 404, code: Some("model_not_found"), ..Self::invalid(Some("model"), message) }
    }

    pub(crate) fn unknown_url(method: &str, path: &str) -> Self {
        let message = format!("Invalid URL ({method} {path})");
        Self { status: 404, code: Some("unknown_url"), ..Self::invalid(None, message) }
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        let message = format!("the request body is larger than {limit} bytes");
        Self { status: 413, code: Some("request_too_large"), ..Self::invalid(None, message) }
    }

    pub(crate) fn loading() -> Self {
        Self::server(503, Some("model_not_ready"), "the model is still loading")
    }

    pub(crate) fn simulated_500() -> Self {
        Self::server(500, Some("simulated_failure"), "simulated failure: error-500")
    }

    pub(crate) fn simulated_429() -> Self {
        Self {
            status: 429,
            kind: "rate_limit_error",
            code: Some("rate_limit_exceeded"),
            param: None,
            message: "simulated failure: error-429".to_owned(),
        }
    }

    pub(crate) fn simulated_mid_stream() -> Self {
        Self::server(500, Some("simulated_failure"), "simulated failure: error-mid-stream")
    }

    fn server(status: u16, code: Option<&'static str>, message: &str) -> Self {
        Self { status, kind: "server_error", code, param: None, message: message.to_owned() }
    }

    /// The body: OpenAI's error object, or Ollama's plain text under `error`.
    pub(crate) fn body(&self, api: Api) -> Bytes {
        let value: Value = match api {
            Api::OpenAi => json!({ "error": {
                "message": self.message, "type": self.kind, "param": self.param, "code": self.code,
            }}),
            Api::Ollama => json!({ "error": self.message }),
        };
        Bytes::from(value.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_api_has_its_own_form() {
        let error = ApiError::unknown_model(Api::OpenAi, "x");
        let body: Value = serde_json::from_slice(&error.body(Api::OpenAi)).expect("JSON");
        assert_eq!(
            body,
            json!({ "error": {
                "message": "The model `x` does not exist.", "type": "invalid_request_error",
                "param": "model", "code": "model_not_found",
            }})
        );
        let body = ApiError::unknown_model(Api::Ollama, "x").body(Api::Ollama);
        assert_eq!(&body[..], br#"{"error":"model \"x\" not found, try pulling it first"}"#);
    }
}
