//! What the user asked for.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use nebula_core::runtime::{Driver, RuntimeKind};
use nebula_core::source::ModelSource;
use serde::Serialize;

use super::Placement;
use crate::domain::route::Balance;

/// What the user asked for.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct DeploymentSpec {
    /// The model as the user named it.
    pub model: String,
    /// The engine.
    pub runtime: RuntimeKind,
    /// Where the weights come from; none for what needs none.
    pub source: Option<ModelSource>,
    /// Container image instead of the runtime's own.
    pub image: Option<String>,
    /// How to run it; none: the agent chooses.
    pub driver: Option<Driver>,
    /// Replaces the runtime's command line.
    pub command: Vec<String>,
    /// Added to the command line.
    pub args: Vec<String>,
    /// Added to the environment.
    pub env: BTreeMap<String, String>,
    /// A node's id or name: the only one that will do.
    pub node: Option<String>,
    /// Labels that a node must carry.
    pub labels: BTreeMap<String, String>,
    /// How many copies.
    pub replicas: u32,
    /// GPUs of each copy.
    pub gpu: GpuNeed,
    /// CPU of each copy.
    pub cpu: CpuNeed,
    /// Callers need no credential.
    pub public: bool,
    /// How long an unreachable replica is waited for.
    pub lost_after: LostAfter,
    /// Which replica gets a request.
    pub routing: Balance,
    /// Which of the nodes that fit gets a replica.
    pub placement: Policy,
    /// How a change of what runs reaches the replicas.
    pub strategy: Strategy,
    /// How long a replica that is to go may take for the requests that it has.
    #[serde(rename = "drain_timeout", serialize_with = "seconds")]
    pub drain: Duration,
    /// Who says how many replicas there are: nobody but the user, or also the load.
    pub autoscale: Option<Autoscale>,
}

/// Shows the names in the environment and not the values: these may be secrets.
impl fmt::Debug for DeploymentSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            model,
            runtime,
            source,
            image,
            driver,
            command,
            args,
            env,
            node,
            labels,
            replicas,
            gpu,
            cpu,
            public,
            lost_after,
            routing,
            placement,
            strategy,
            drain,
            autoscale,
        } = self;
        let mut shown = f.debug_struct("DeploymentSpec");
        shown.field("model", model);
        shown.field("runtime", runtime);
        shown.field("source", source);
        shown.field("image", image);
        shown.field("driver", driver);
        shown.field("command", command);
        shown.field("args", args);
        shown.field("env", &env.keys().collect::<Vec<_>>());
        shown.field("node", node);
        shown.field("labels", labels);
        shown.field("replicas", replicas);
        shown.field("gpu", gpu);
        shown.field("cpu", cpu);
        shown.field("public", public);
        shown.field("lost_after", lost_after);
        shown.field("routing", routing);
        shown.field("placement", placement);
        shown.field("strategy", strategy);
        shown.field("drain", drain);
        shown.field("autoscale", autoscale);
        shown.finish()
    }
}

impl DeploymentSpec {
    /// One private replica of `model`, with all that is not said left to the runtime.
    #[must_use]
    pub fn plain(model: &str, runtime: RuntimeKind) -> Self {
        Self {
            model: model.to_owned(),
            runtime,
            source: None,
            image: None,
            driver: None,
            command: Vec::new(),
            args: Vec::new(),
            env: BTreeMap::new(),
            node: None,
            labels: BTreeMap::new(),
            replicas: 1,
            gpu: GpuNeed { count: runtime.default_gpu_count(), ..GpuNeed::default() },
            cpu: CpuNeed::default(),
            public: false,
            lost_after: LostAfter::DEFAULT,
            routing: Balance::default(),
            placement: Policy::default(),
            strategy: Strategy::default(),
            drain: DRAIN_DEFAULT,
            autoscale: None,
        }
    }

    /// The same to run, on the terms of `other`: all that does not matter for [`runs_as`](Self::runs_as).
    #[must_use]
    pub fn on_terms_of(&self, other: &Self) -> Self {
        let Self {
            model, runtime, source, image, driver, command, args, env, node, labels, gpu, cpu, ..
        } = self.clone();
        Self {
            model,
            runtime,
            source,
            image,
            driver,
            command,
            args,
            env,
            node,
            labels,
            gpu,
            cpu,
            ..other.clone()
        }
    }

    /// Whether it asks for the node of this place, and for no other.
    #[must_use]
    pub fn names(&self, place: &Placement) -> bool {
        self.node.as_deref().is_some_and(|node| node == place.node_id.as_str() || node == place.node_name)
    }

    /// Whether a replica of this spec is as good for `other`: what differs is not what runs, nor where it may run.
    #[must_use]
    pub fn runs_as(&self, other: &Self) -> bool {
        let Self {
            model,
            runtime,
            source,
            image,
            driver,
            command,
            args,
            env,
            node,
            labels,
            replicas: _,
            gpu,
            cpu,
            public: _,
            lost_after: _,
            routing: _,
            placement: _,
            strategy: _,
            drain: _,
            autoscale: _,
        } = self;
        (model, runtime, source, image, driver)
            == (&other.model, &other.runtime, &other.source, &other.image, &other.driver)
            && (command, args, env) == (&other.command, &other.args, &other.env)
            && (node, labels, gpu, cpu) == (&other.node, &other.labels, &other.gpu, &other.cpu)
    }
}

/// GPUs of one replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, PartialOrd, Ord)]
pub struct GpuNeed {
    /// How many, all of the same type.
    pub count: u32,
    /// A part of the GPU's name, in any case.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Memory of each GPU at least.
    pub memory_bytes: u64,
}

/// CPU of one replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CpuNeed {
    /// Cores.
    pub cores: u32,
}

/// How long an unreachable replica is waited for before it is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostAfter {
    /// This long after its node went offline.
    After(Duration),
    /// For ever.
    Never,
}

impl LostAfter {
    /// Unless the user says otherwise.
    pub const DEFAULT: Self = Self::After(Duration::from_secs(300));
}

impl Serialize for LostAfter {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::After(after) => serializer.serialize_u64(after.as_secs()),
            Self::Never => serializer.serialize_str("never"),
        }
    }
}

/// How long a replica that is to go may take for the requests that it has, unless the user says otherwise.
pub const DRAIN_DEFAULT: Duration = Duration::from_secs(60);

/// Which of the nodes that fit gets a replica. Among equals it is one that holds the weights already; one that the hint
/// about the model's memory speaks against is the last choice in all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Copies of one deployment apart; then where the weights are; then the node with the most free GPUs, or cores where
    /// none is needed.
    #[default]
    Default,
    /// Where the weights are; then the node with the least left that still fits: others stay free for what is large.
    Binpack,
    /// The node with the fewest replicas of this deployment; then where the weights are; then the fewest of any.
    Spread,
}

/// How a change of what runs reaches the replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// New ones beside the old ones, which go when the new ones answer. Needs room for one more.
    #[default]
    Rolling,
    /// The old ones first. Needs no room, and nothing answers for a while.
    Recreate,
}

/// How the load decides about the number of replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Autoscale {
    /// Fewest replicas; 0: none when nobody asks, and a request starts one.
    pub min: u32,
    /// Most replicas; at least one, and not below `min`.
    pub max: u32,
    /// Requests in flight that each replica should have; at least one.
    #[serde(rename = "target_inflight")]
    pub target: u32,
    /// After a change the number stays for this long, unless it is to grow.
    #[serde(serialize_with = "seconds")]
    pub cooldown: Duration,
    /// With `min` 0: so long without any request until the last replica goes.
    #[serde(serialize_with = "seconds")]
    pub idle_after: Duration,
}

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(duration.as_secs())
}

macro_rules! words {
    ($name:ident, $what:literal, $($word:literal => $variant:ident),+) => {
        impl $name {
            /// All of them, in the order of their stored numbers.
            pub const ALL: &[Self] = &[$(Self::$variant),+];
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(format!(concat!("unknown ", $what, " \"{}\"; there are: {}"), text, [$($word),+].join(", "))),
                }
            }
        }
    };
}

words!(Policy, "placement", "default" => Default, "binpack" => Binpack, "spread" => Spread);
words!(Strategy, "strategy", "rolling" => Rolling, "recreate" => Recreate);
