//! The stored form of deployments, without their replicas, which have records of their own.

use std::time::Duration;

use bincode::{Decode, Encode};
use nebula_core::clock::WallTime;
use nebula_core::ids::{DeploymentId, Generation};
use nebula_core::token::{Secret, TokenHash};
use nebula_store::{Record, codec};

use super::{Map, damaged, kind, number, parse, parse_some, pick};
use crate::domain::deployment::{
    Autoscale, CpuNeed, DRAIN_DEFAULT, Deployment, DeploymentSpec, Desired, GpuNeed, LostAfter, MemoryHint,
    OldToken, Policy, Previous, Strategy,
};
use crate::domain::route::Balance;
use crate::ports::StoreError;

/// The schema in which deployments are written. Older ones are read.
const SCHEMA: u16 = 3;

pub(super) const DESIRES: [Desired; 3] = [Desired::Running, Desired::Stopped, Desired::Deleted];

/// Deployments before one could say how requests are spread.
#[derive(Encode, Decode)]
struct DeploymentV1 {
    id: [u8; 16],
    name: String,
    spec: SpecV1,
    desired: u8,
    generation: u64,
    token: [u8; 32],
    gateway_token: String,
    created_at: u64,
    updated_at: u64,
}

#[derive(Encode, Decode)]
struct SpecV1 {
    model: String,
    runtime: String,
    source: Option<String>,
    image: Option<String>,
    driver: Option<String>,
    command: Vec<String>,
    args: Vec<String>,
    env: Map,
    node: Option<String>,
    labels: Map,
    replicas: u32,
    gpu_count: u32,
    gpu_type: Option<String>,
    gpu_memory_bytes: u64,
    cpu_cores: u32,
    public: bool,
    lost_after_secs: Option<u64>,
}

/// Deployments before one could change what runs without an interruption.
#[derive(Encode, Decode)]
struct DeploymentV2 {
    first: DeploymentV1,
    routing: u8,
}

/// The second with what has been added since.
#[derive(Encode, Decode)]
struct DeploymentV3 {
    second: DeploymentV2,
    more: SpecMoreV3,
    revision: u64,
    previous: Option<PreviousV3>,
    old_token: Option<([u8; 32], u64)>,
    hint: Option<(u64, u64, String)>,
}

#[derive(Encode, Decode)]
struct SpecMoreV3 {
    placement: u8,
    strategy: u8,
    drain_secs: u64,
    autoscale: Option<AutoscaleV3>,
}

#[derive(Encode, Decode)]
struct AutoscaleV3 {
    min: u32,
    max: u32,
    target: u32,
    cooldown_secs: u64,
    idle_after_secs: u64,
}

#[derive(Encode, Decode)]
struct PreviousV3 {
    spec: SpecV1,
    routing: u8,
    more: SpecMoreV3,
    revision: u64,
}

impl From<DeploymentV2> for DeploymentV3 {
    fn from(second: DeploymentV2) -> Self {
        let more = SpecMoreV3 {
            placement: number(Policy::ALL, &Policy::default()),
            strategy: number(Strategy::ALL, &Strategy::default()),
            drain_secs: DRAIN_DEFAULT.as_secs(),
            autoscale: None,
        };
        // Replicas of that time are of the first revision.
        Self { second, more, revision: Generation::FIRST.0, previous: None, old_token: None, hint: None }
    }
}

impl From<DeploymentV1> for DeploymentV2 {
    fn from(first: DeploymentV1) -> Self {
        Self { first, routing: number(&Balance::ALL, &Balance::default()) }
    }
}

pub(in crate::store) fn deployment(dep: &Deployment) -> Result<Record, StoreError> {
    let first = DeploymentV1 {
        id: *dep.id.as_bytes(),
        name: dep.name.clone(),
        spec: spec(&dep.spec),
        desired: number(&DESIRES, &dep.desired),
        generation: dep.generation.0,
        token: *dep.token.as_bytes(),
        gateway_token: dep.gateway_token.expose().to_owned(),
        created_at: dep.created_at.0,
        updated_at: dep.updated_at.0,
    };
    let stored = DeploymentV3 {
        second: DeploymentV2 { first, routing: number(&Balance::ALL, &dep.spec.routing) },
        more: more(&dep.spec),
        revision: dep.revision.0,
        previous: dep.previous.as_ref().map(|previous| PreviousV3 {
            spec: spec(&previous.spec),
            routing: number(&Balance::ALL, &previous.spec.routing),
            more: more(&previous.spec),
            revision: previous.revision.0,
        }),
        old_token: dep.old_token.map(|old| (*old.hash.as_bytes(), old.until.0)),
        hint: dep.hint.as_ref().map(|hint| (hint.bytes, hint.weights_bytes, hint.how.clone())),
    };
    super::write_as(kind::DEPLOYMENT, SCHEMA, &format!("deployment \"{}\"", dep.name), &stored)
}

fn spec(spec: &DeploymentSpec) -> SpecV1 {
    SpecV1 {
        model: spec.model.clone(),
        runtime: spec.runtime.to_string(),
        source: spec.source.as_ref().map(ToString::to_string),
        image: spec.image.clone(),
        driver: spec.driver.map(|driver| driver.to_string()),
        command: spec.command.clone(),
        args: spec.args.clone(),
        env: spec.env.clone(),
        node: spec.node.clone(),
        labels: spec.labels.clone(),
        replicas: spec.replicas,
        gpu_count: spec.gpu.count,
        gpu_type: spec.gpu.kind.clone(),
        gpu_memory_bytes: spec.gpu.memory_bytes,
        cpu_cores: spec.cpu.cores,
        public: spec.public,
        lost_after_secs: match spec.lost_after {
            LostAfter::After(after) => Some(after.as_secs()),
            LostAfter::Never => None,
        },
    }
}

fn more(spec: &DeploymentSpec) -> SpecMoreV3 {
    SpecMoreV3 {
        placement: number(Policy::ALL, &spec.placement),
        strategy: number(Strategy::ALL, &spec.strategy),
        drain_secs: spec.drain.as_secs(),
        autoscale: spec.autoscale.map(|scale| AutoscaleV3 {
            min: scale.min,
            max: scale.max,
            target: scale.target,
            cooldown_secs: scale.cooldown.as_secs(),
            idle_after_secs: scale.idle_after.as_secs(),
        }),
    }
}

fn read_spec(spec: SpecV1, routing: u8, more: SpecMoreV3) -> Result<DeploymentSpec, StoreError> {
    Ok(DeploymentSpec {
        model: spec.model,
        runtime: parse(&spec.runtime)?,
        source: parse_some(spec.source.as_ref())?,
        image: spec.image,
        driver: parse_some(spec.driver.as_ref())?,
        command: spec.command,
        args: spec.args,
        env: spec.env,
        node: spec.node,
        labels: spec.labels,
        replicas: spec.replicas,
        gpu: GpuNeed { count: spec.gpu_count, kind: spec.gpu_type, memory_bytes: spec.gpu_memory_bytes },
        cpu: CpuNeed { cores: spec.cpu_cores },
        public: spec.public,
        lost_after: match spec.lost_after_secs {
            Some(secs) => LostAfter::After(Duration::from_secs(secs)),
            None => LostAfter::Never,
        },
        routing: pick(&Balance::ALL, routing)?,
        placement: pick(Policy::ALL, more.placement)?,
        strategy: pick(Strategy::ALL, more.strategy)?,
        drain: Duration::from_secs(more.drain_secs),
        autoscale: more.autoscale.map(|scale| Autoscale {
            min: scale.min,
            max: scale.max,
            target: scale.target,
            cooldown: Duration::from_secs(scale.cooldown_secs),
            idle_after: Duration::from_secs(scale.idle_after_secs),
        }),
    })
}

/// The deployment without its replicas, which have records of their own.
pub(in crate::store) fn read_deployment(record: &Record) -> Result<Deployment, StoreError> {
    let DeploymentV3 { second, more, revision, previous, old_token, hint } = read_any(record)?;
    let DeploymentV2 { first: stored, routing } = second;
    let previous = previous.map(|previous| {
        let spec = read_spec(previous.spec, previous.routing, previous.more)?;
        Ok::<_, StoreError>(Box::new(Previous { spec, revision: Generation(previous.revision) }))
    });
    Ok(Deployment {
        id: DeploymentId::from_bytes(stored.id),
        name: stored.name,
        spec: read_spec(stored.spec, routing, more)?,
        desired: pick(&DESIRES, stored.desired)?,
        generation: Generation(stored.generation),
        revision: Generation(revision),
        previous: previous.transpose()?,
        token: TokenHash::from_bytes(stored.token),
        old_token: old_token
            .map(|(hash, until)| OldToken { hash: TokenHash::from_bytes(hash), until: WallTime(until) }),
        hint: hint.map(|(bytes, weights_bytes, how)| MemoryHint { bytes, weights_bytes, how }),
        gateway_token: Secret::from_text(stored.gateway_token),
        created_at: WallTime(stored.created_at),
        updated_at: WallTime(stored.updated_at),
        replicas: Vec::new(),
    })
}

/// A record of any schema, as one of the newest.
fn read_any(record: &Record) -> Result<DeploymentV3, StoreError> {
    let unreadable = |error: codec::CodecError| damaged(error.to_string());
    match (record.kind, record.schema) {
        (kind::DEPLOYMENT, 1) => {
            let first = codec::decode::<DeploymentV1>(&record.payload).map_err(unreadable)?;
            Ok(DeploymentV2::from(first).into())
        }
        (kind::DEPLOYMENT, 2) => {
            codec::decode::<DeploymentV2>(&record.payload).map(Into::into).map_err(unreadable)
        }
        (kind::DEPLOYMENT, SCHEMA) => codec::decode(&record.payload).map_err(unreadable),
        _ => Err(super::misplaced(kind::DEPLOYMENT, record)),
    }
}
