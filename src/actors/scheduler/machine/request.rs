//! What others tell the scheduler: what a replica needs, and which places are held.

use std::collections::BTreeMap;
use std::sync::Arc;

use nebula_core::ids::{DeploymentId, ReplicaId};
use nebula_core::runtime::RuntimeKind;
use nebula_core::source::ModelSource;

use crate::domain::deployment::{
    Deployment, DeploymentSpec, GpuNeed, MemoryHint, Placement, Policy, Replica,
};

/// A replica that wants a place. Cheap to clone: many may wait.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its deployment.
    pub deployment: DeploymentId,
    /// The replica.
    pub replica: ReplicaId,
    /// What a node must have for it.
    pub need: Arc<Need>,
    /// Replicas of the same deployment that are to go: copies stay apart from those that stay.
    pub going: Vec<ReplicaId>,
}

impl Request {
    /// What a new replica of a deployment needs.
    #[must_use]
    pub fn of(dep: &Deployment, replica: ReplicaId) -> Self {
        let need = Arc::new(Need::of(&dep.spec, dep.hint.as_ref()));
        let index = dep.replicas.iter().find(|one| one.id == replica).map(|one| one.index);
        // Who is at the same index is what it succeeds.
        let goes = |one: &&Replica| {
            one.leaving || one.revision != dep.revision || (one.id != replica && Some(one.index) == index)
        };
        let going = dep.replicas.iter().filter(goes).map(|one| one.id).collect();
        Self { deployment: dep.id, replica, need, going }
    }
}

/// What a replica needs, and which of the nodes that fit is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// What a node must have.
    pub shape: Shape,
    /// The model's source, if a node that does not hold it must fetch it.
    pub fetches: Option<String>,
    /// How large the weights are, if that is known, in bytes.
    pub weights_bytes: Option<u64>,
    /// GPU memory that the model is thought to need over all its GPUs, in bytes. Preferred, never demanded.
    pub hint_bytes: Option<u64>,
    /// Which of the nodes that fit.
    pub policy: Policy,
}

/// What a node must have. Many replicas share one shape, so those that wait are kept by it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    /// The only node that will do, by id or name.
    pub node: Option<String>,
    /// Labels that a node must carry.
    pub labels: BTreeMap<String, String>,
    /// The engine that the node must run; none: the replica brings its own program.
    pub runtime: Option<RuntimeKind>,
    /// GPUs.
    pub gpu: GpuNeed,
    /// Cores.
    pub cores: u32,
}

impl Need {
    /// What a replica with this spec needs.
    #[must_use]
    pub fn of(spec: &DeploymentSpec, hint: Option<&MemoryHint>) -> Self {
        let remote = |source: &&ModelSource| !matches!(source, ModelSource::File { .. });
        let shape = Shape {
            node: spec.node.clone(),
            labels: spec.labels.clone(),
            runtime: spec.command.is_empty().then_some(spec.runtime),
            gpu: spec.gpu.clone(),
            cores: spec.cpu.cores,
        };
        Self {
            shape,
            fetches: spec.source.as_ref().filter(remote).map(ToString::to_string),
            weights_bytes: hint.map(|hint| hint.weights_bytes),
            hint_bytes: hint.map(|hint| hint.bytes),
            policy: spec.placement,
        }
    }
}

/// A replica whose place, if it has one, stays reserved.
#[derive(Clone, Debug)]
pub struct Hold {
    /// The replica.
    pub replica: ReplicaId,
    /// Where it is; none while a place is sought.
    pub place: Option<Placement>,
    /// How many cores it has there.
    pub cores: u32,
}

impl Hold {
    /// What a replica holds: as much as the version of the spec says that it is for.
    #[must_use]
    pub fn of(dep: &Deployment, replica: &Replica) -> Self {
        let spec = match &dep.previous {
            Some(previous) if replica.revision != dep.revision => &previous.spec,
            _ => &dep.spec,
        };
        Self { replica: replica.id, place: replica.placement.clone(), cores: spec.cpu.cores }
    }
}
