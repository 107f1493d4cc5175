//! The flags that describe a deployment: `deploy` and `update` share most of them.

use std::time::Duration;

use clap::Args;
use clap::builder::PossibleValuesParser;
use nebula_core::runtime::{Driver, RuntimeKind};

use super::key_value;
use crate::quantity;

#[derive(Debug, Args)]
pub(crate) struct DeployArgs {
    /// The model: llama3.2:1b, org/name, hf://, ollama://, s3:// or fs:///path
    #[arg(long)]
    pub(crate) model: String,
    /// Name of the deployment, which clients use as the model [default: made from the model]
    #[arg(long)]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) spec: SpecArgs,
    /// Wait until it runs, or fail with the runtime's last log lines
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = nebula_core::duration::parse)]
    pub(crate) wait_timeout: Duration,
}

/// What is wanted of each replica, and how many there are.
#[derive(Debug, Args)]
pub(crate) struct SpecArgs {
    /// Where the weights come from, when the model does not say it
    #[arg(long, value_name = "URI")]
    pub(crate) source: Option<String>,
    /// Serving engine [default: the one that fits the model]
    #[arg(long, value_parser = PossibleValuesParser::new(RuntimeKind::ALL.map(RuntimeKind::as_str)))]
    pub(crate) runtime: Option<String>,
    /// Container image instead of the runtime's own
    #[arg(long)]
    pub(crate) image: Option<String>,
    /// How the runtime is run
    #[arg(long, value_parser = PossibleValuesParser::new([Driver::Docker, Driver::Process].map(Driver::as_str)))]
    pub(crate) driver: Option<String>,
    /// Name or id of the node that shall run it [default: any that fits]
    #[arg(long)]
    pub(crate) node: Option<String>,
    /// Number of replicas [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) replicas: Option<u32>,
    /// Let the load say how many replicas there are, within these bounds; with 0.. a request starts the first one
    #[arg(long, value_name = "MIN..MAX", value_parser = autoscale)]
    pub(crate) autoscale: Option<Autoscale>,
    /// Requests in flight that each replica should have, with --autoscale [default: 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) target_inflight: Option<u32>,
    /// How long the number of replicas stays after a change, with --autoscale [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = nebula_core::duration::parse)]
    pub(crate) cooldown: Option<Duration>,
    /// How long nobody asks until the last replica goes, with --autoscale 0.. [default: 5m]
    #[arg(long, value_name = "TIME", value_parser = nebula_core::duration::parse)]
    pub(crate) idle_after: Option<Duration>,
    /// GPUs per replica
    #[arg(long, value_name = "N")]
    pub(crate) gpus: Option<u32>,
    /// Part of the GPU's name, such as H100
    #[arg(long, value_name = "NAME")]
    pub(crate) gpu_type: Option<String>,
    /// Memory each GPU must have, such as 80GB or 24GiB
    #[arg(long, value_name = "SIZE", value_parser = quantity::parse_bytes)]
    pub(crate) gpu_memory: Option<u64>,
    /// Argument for the runtime (repeatable); {port}, {model} and {name} are filled in
    #[arg(long = "arg", value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) args: Vec<String>,
    /// Word of the command instead of the runtime's own (repeatable, one word each)
    #[arg(long = "command", value_name = "WORD", allow_hyphen_values = true)]
    pub(crate) words: Vec<String>,
    /// Environment variable of the runtime (repeatable)
    #[arg(long = "env", value_name = "K=V", value_parser = key_value)]
    pub(crate) env: Vec<(String, String)>,
    /// Label that a node must have (repeatable)
    #[arg(long = "label", value_name = "K=V", value_parser = key_value)]
    pub(crate) labels: Vec<(String, String)>,
    /// Serve it without a credential
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) public: Option<bool>,
    /// How requests are spread over the replicas; prefix: prompts that begin alike to the same one
    /// [default: least_outstanding]
    #[arg(long, value_parser = PossibleValuesParser::new(["least_outstanding", "round_robin", "prefix"]))]
    pub(crate) routing: Option<String>,
    /// Which of the nodes that fit gets a replica; binpack: the fullest, spread: the one with the fewest replicas
    #[arg(long, value_parser = PossibleValuesParser::new(["default", "binpack", "spread"]))]
    pub(crate) placement: Option<String>,
    /// How a change reaches the replicas; rolling: new ones before old ones go, recreate: old ones go first
    /// [default: rolling]
    #[arg(long, value_parser = PossibleValuesParser::new(["rolling", "recreate"]))]
    pub(crate) strategy: Option<String>,
    /// How long a replica that is to go may take for the requests that it has; at most 1h [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = nebula_core::duration::parse)]
    pub(crate) drain_timeout: Option<Duration>,
    /// How long the replica of a lost node is waited for before it is replaced, or never [default: 5m]
    #[arg(long, value_name = "TIME", value_parser = lost_after)]
    pub(crate) lost_after: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// Name or id of the deployment
    pub(crate) name: String,
    /// Another model
    #[arg(long)]
    pub(crate) model: Option<String>,
    #[command(flatten)]
    pub(crate) spec: SpecArgs,
    /// Give a field its default back (repeatable): image, node, args, env, env.NAME, gpu.type, autoscale …
    #[arg(long, value_name = "FIELD")]
    pub(crate) unset: Vec<String>,
    /// Wait until the change is made, or fail when it is taken back
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = nebula_core::duration::parse)]
    pub(crate) wait_timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct RotateArgs {
    /// Name or id of the deployment
    pub(crate) name: String,
    /// How long the old token stays valid [default: not at all]
    #[arg(long, value_name = "TIME", value_parser = nebula_core::duration::parse)]
    pub(crate) overlap: Option<Duration>,
}

/// Bounds between which the load says how many replicas there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Autoscale {
    pub(crate) min: u32,
    pub(crate) max: u32,
}

fn autoscale(text: &str) -> Result<Autoscale, String> {
    let bounds = text.split_once("..").and_then(|(min, max)| Some((min.parse().ok()?, max.parse().ok()?)));
    match bounds {
        Some((min, max)) if min <= max && max > 0 => Ok(Autoscale { min, max }),
        _ => Err("write the fewest and the most replicas, such as 1..4 or 0..2".to_owned()),
    }
}

fn lost_after(text: &str) -> Result<String, String> {
    if text == "never" {
        return Ok(text.to_owned());
    }
    let time = nebula_core::duration::parse(text).map_err(|error| format!("{error}, or never"))?;
    Ok(format!("{}ms", time.as_millis()))
}
