//! Commands to agents: kept until acknowledged, delivered at least once, fenced by generation.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use nebula_core::clock::WallTime;
use nebula_core::ids::{CommandId, DeploymentId, Generation, NodeId, ReplicaId};
use nebula_core::runtime::{Driver, RuntimeKind};
use nebula_core::source::ModelSource;
use nebula_core::token::{Secret, TokenHash};

/// An instruction to one agent about one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Acknowledged by this id.
    pub id: CommandId,
    /// The node whose agent is meant.
    pub node_id: NodeId,
    /// The deployment.
    pub deployment_id: DeploymentId,
    /// The replica.
    pub replica_id: ReplicaId,
    /// An agent that has seen a newer one for this replica ignores the command.
    pub generation: Generation,
    /// What to do.
    pub action: Action,
    /// How long requests in flight may take before a runtime is stopped for it.
    pub drain: Duration,
    /// When it was given.
    pub created_at: WallTime,
}

/// What an agent is told to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Run the replica.
    Start(Box<StartSpec>),
    /// Stop it and keep its record.
    Stop,
    /// Stop it and leave nothing behind.
    Delete,
    /// Replace its credentials.
    Access {
        /// The hashes of the deployment tokens that are valid from now on.
        tokens: Vec<TokenHash>,
        /// No token is needed.
        public: bool,
    },
}

impl Action {
    /// The command's `type` on the wire.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Start(_) => "start",
            Self::Stop => "stop",
            Self::Delete => "delete",
            Self::Access { .. } => "access",
        }
    }
}

/// Everything an agent needs to run a replica.
#[derive(Clone, PartialEq, Eq)]
pub struct StartSpec {
    /// The engine.
    pub runtime: RuntimeKind,
    /// How to run it; none: the agent chooses.
    pub driver: Option<Driver>,
    /// Container image; empty: the runtime's own.
    pub image: String,
    /// The model as the user named it.
    pub model: String,
    /// Where its weights come from.
    pub source: Option<ModelSource>,
    /// Replaces the runtime's command line.
    pub command: Vec<String>,
    /// Added to the command line.
    pub args: Vec<String>,
    /// Added to the environment.
    pub env: BTreeMap<String, String>,
    /// Indices of the GPUs it may use.
    pub gpu_devices: Vec<u32>,
    /// The name under which the runtime serves the model.
    pub served_name: String,
    /// No token is needed.
    pub public: bool,
    /// What the deployment token hashes to.
    pub token: Option<TokenHash>,
    /// What nebulad's gateway shows to the proxy.
    pub gateway_token: Secret,
}

/// Shows the names in the environment and not the values: these may be secrets.
impl fmt::Debug for StartSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            runtime,
            driver,
            image,
            model,
            source,
            command,
            args,
            env,
            gpu_devices,
            served_name,
            public,
            token,
            gateway_token,
        } = self;
        let mut shown = f.debug_struct("StartSpec");
        shown.field("runtime", runtime);
        shown.field("driver", driver);
        shown.field("image", image);
        shown.field("model", model);
        shown.field("source", source);
        shown.field("command", command);
        shown.field("args", args);
        shown.field("env", &env.keys().collect::<Vec<_>>());
        shown.field("gpu_devices", gpu_devices);
        shown.field("served_name", served_name);
        shown.field("public", public);
        shown.field("token", token);
        shown.field("gateway_token", gateway_token);
        shown.finish()
    }
}
