//! `/v1/models`.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::runtime::error::{Api, ApiError};

/// The list of the one model that there is; `created` in seconds since 1970.
pub(crate) fn models(served: &str, created: u64) -> Bytes {
    Bytes::from(json!({ "object": "list", "data": [entry(served, created)] }).to_string())
}

/// The model `wanted`, if it is the one that is served.
pub(crate) fn model(wanted: &str, served: &str, created: u64) -> Result<Bytes, ApiError> {
    if wanted == served {
        Ok(Bytes::from(entry(served, created).to_string()))
    } else {
        Err(ApiError::unknown_model(Api::OpenAi, wanted))
    }
}

fn entry(served: &str, created: u64) -> Value {
    json!({ "id": served, "object": "model", "created": created, "owned_by": "nebula-sim" })
}
