//! The body that describes a deployment, as it is written. What is not said has the default that `create.rs` gives it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// The request's body. Fields that are not known are refused: they are typing errors more often than not.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::http::api) struct CreateBody {
    pub(super) name: Option<String>,
    pub(super) model: String,
    pub(super) runtime: Option<String>,
    pub(super) source: Option<String>,
    pub(super) image: Option<String>,
    pub(super) driver: Option<String>,
    #[serde(default)]
    pub(super) command: Vec<String>,
    #[serde(default)]
    pub(super) args: Vec<String>,
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
    pub(super) node: Option<String>,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    pub(super) replicas: Option<i64>,
    pub(super) gpu: Option<GpuBody>,
    pub(super) cpu: Option<CpuBody>,
    #[serde(default)]
    pub(super) public: bool,
    pub(super) lost_after: Option<Value>,
    pub(super) routing: Option<String>,
    pub(super) placement: Option<String>,
    pub(super) strategy: Option<String>,
    pub(super) drain_timeout: Option<Value>,
    pub(super) autoscale: Option<AutoscaleBody>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GpuBody {
    pub(super) count: Option<i64>,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) memory_bytes: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CpuBody {
    pub(super) cores: i64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AutoscaleBody {
    pub(super) min: i64,
    pub(super) max: i64,
    pub(super) target_inflight: Option<i64>,
    pub(super) cooldown: Option<Value>,
    pub(super) idle_after: Option<Value>,
}
