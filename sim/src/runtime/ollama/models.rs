//! What this API tells of itself and its models: tags, running models, details, version.

use bytes::Bytes;
use nebula_core::clock::WallTime;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::runtime::FINGERPRINT;
use crate::runtime::dialect::Context;
use crate::runtime::error::{Api, ApiError};
use crate::runtime::request::read;

/// Bytes that the made-up model pretends to take.
const SIZE: u64 = 1_234_567_890;
/// Tokens that it pretends to remember.
const CONTEXT_LENGTH: u64 = 131_072;

/// `GET /api/version`.
pub(crate) fn version() -> Bytes {
    Bytes::from(
        json!({ "version": env!("CARGO_PKG_VERSION"), "system_fingerprint": FINGERPRINT }).to_string(),
    )
}

/// `GET /api/tags`: the models on disk.
pub(crate) fn tags(served: &str, since: WallTime) -> Bytes {
    let model = json!({
        "name": served, "model": served, "modified_at": since.rfc3339(), "size": SIZE,
        "digest": digest(), "details": details(),
    });
    Bytes::from(json!({ "models": [model] }).to_string())
}

/// `GET /api/ps`: the models in memory.
pub(crate) fn ps(served: &str, loaded: bool) -> Bytes {
    let model = json!({
        "name": served, "model": served, "size": SIZE, "size_vram": 0, "digest": digest(),
        "details": details(), "context_length": CONTEXT_LENGTH, "expires_at": "2318-01-01T00:00:00Z",
    });
    let models: Vec<Value> = loaded.then_some(model).into_iter().collect();
    Bytes::from(json!({ "models": models }).to_string())
}

#[derive(Deserialize)]
struct ShowRequest {}

/// `POST /api/show`: one model in detail.
pub(crate) fn show(body: &[u8], context: &Context<'_>) -> Result<Bytes, ApiError> {
    let ShowRequest {} = read(body, Api::Ollama, context)?;
    let show = json!({
        "license": "none: this model is simulated",
        "modelfile": format!("FROM {}", context.model),
        "parameters": "",
        "template": "{{ .Prompt }}",
        "details": details(),
        "model_info": {
            "general.architecture": "sim", "general.parameter_count": 0, "sim.context_length": CONTEXT_LENGTH,
            "sim.embedding_length": context.dimensions,
        },
        "capabilities": ["completion", "tools", "embedding"],
        "modified_at": context.now.rfc3339(),
    });
    Ok(Bytes::from(show.to_string()))
}

#[derive(Deserialize)]
struct PullRequest {
    /// Streams unless told not to.
    stream: Option<bool>,
}

/// Steps in which the made-up model pretends to come.
const PULL_STEPS: u64 = 10;

/// `POST /api/pull`: what is said, line by line, as if the model that is served were fetched. There is no other.
pub(crate) fn pull(body: &[u8], context: &Context<'_>) -> Result<Vec<Bytes>, ApiError> {
    let line = |value: Value| Bytes::from(format!("{value}\n"));
    let PullRequest { stream } = match read(body, Api::Ollama, context) {
        Ok(request) => request,
        Err(error) if error.status == 404 => {
            let error = "pull model manifest: file does not exist";
            return Ok(vec![line(json!({ "status": "pulling manifest" })), line(json!({ "error": error }))]);
        }
        Err(error) => return Err(error),
    };
    let end = line(json!({ "status": "success" }));
    if stream == Some(false) {
        return Ok(vec![end]);
    }
    let digest = format!("sha256:{}", digest());
    let steps = (0..=PULL_STEPS).map(|step| {
        let completed = SIZE / PULL_STEPS * step + if step == PULL_STEPS { SIZE % PULL_STEPS } else { 0 };
        line(json!({
            "status": format!("pulling {}", digest.chars().take(19).collect::<String>()), "digest": digest,
            "total": SIZE, "completed": completed,
        }))
    });
    let begin = line(json!({ "status": "pulling manifest" }));
    let check =
        ["verifying sha256 digest", "writing manifest"].map(|status| line(json!({ "status": status })));
    Ok([begin].into_iter().chain(steps).chain(check).chain([end]).collect())
}

fn digest() -> String {
    "0".repeat(64)
}

fn details() -> Value {
    json!({
        "parent_model": "", "format": "sim", "family": "sim", "families": ["sim"],
        "parameter_size": "0B", "quantization_level": "none",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::dialect::fixtures::context;

    fn value(bytes: &Bytes) -> Value {
        serde_json::from_slice(bytes).expect("JSON")
    }

    #[test]
    fn the_one_model_is_listed_under_both_keys() {
        let tags = value(&tags("a:1b", WallTime(0)));
        assert_eq!(
            (&tags["models"][0]["name"], &tags["models"][0]["model"]),
            (&json!("a:1b"), &json!("a:1b"))
        );
        assert_eq!(value(&ps("a", false))["models"], json!([]));
        assert_eq!(value(&ps("a", true))["models"][0]["name"], "a");
    }

    #[test]
    fn a_pull_ends_with_the_whole_model_or_with_an_error() {
        let lines = |body: &str| -> Vec<Value> {
            pull(body.as_bytes(), &context()).expect("lines").iter().map(value).collect()
        };
        let said = lines(r#"{"model":"demo"}"#);
        let (first, last) = (&said[1], &said[11]);
        assert_eq!((&first["completed"], &last["completed"]), (&json!(0), &json!(SIZE)));
        assert!(first["digest"].as_str().is_some_and(|digest| digest.starts_with("sha256:")));
        assert_eq!(said.last(), Some(&json!({ "status": "success" })));
        assert_eq!(lines(r#"{"model":"demo","stream":false}"#), [json!({ "status": "success" })]);
        assert!(
            lines(r#"{"model":"other"}"#)[1]["error"]
                .as_str()
                .is_some_and(|error| error.contains("not exist"))
        );
        assert_eq!(pull(b"{}", &context()).map_err(|error| error.status), Err(400));
    }

    #[test]
    fn details_are_for_the_served_model_under_its_new_and_its_old_key() {
        for body in [r#"{"model":"demo"}"#, r#"{"name":"demo:latest"}"#] {
            let show = value(&show(body.as_bytes(), &context()).expect("details"));
            assert_eq!(show["model_info"]["general.architecture"], "sim", "{body}");
        }
        assert_eq!(show(br#"{"model":"other"}"#, &context()).map_err(|error| error.status), Err(404));
    }
}
