//! The stored form of deployments, without their replicas, which have records of their own.

use std::time::Duration;

use bincode::{Decode, Encode};
use nebula_core::clock::WallTime;
use nebula_core::ids::{DeploymentId, Generation};
use nebula_core::token::{Secret, TokenHash};
use nebula_store::{Record, codec};

use super::{Map, damaged, kind, number, parse, parse_some, pick};
use crate::domain::deployment::{CpuNeed, Deployment, DeploymentSpec, Desired, GpuNeed, LostAfter};
use crate::domain::route::Balance;
use crate::ports::StoreError;

/// The schema in which deployments are written. Older ones are read.
const SCHEMA: u16 = 2;

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

/// The first with what has been added since.
#[derive(Encode, Decode)]
struct DeploymentV2 {
    first: DeploymentV1,
    routing: u8,
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
    let stored = DeploymentV2 { first, routing: number(&Balance::ALL, &dep.spec.routing) };
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

/// The deployment without its replicas, which have records of their own.
pub(in crate::store) fn read_deployment(record: &Record) -> Result<Deployment, StoreError> {
    let unreadable = |error: codec::CodecError| damaged(error.to_string());
    let DeploymentV2 { first: stored, routing } = match (record.kind, record.schema) {
        (kind::DEPLOYMENT, 1) => codec::decode::<DeploymentV1>(&record.payload).map_err(unreadable)?.into(),
        (kind::DEPLOYMENT, SCHEMA) => codec::decode(&record.payload).map_err(unreadable)?,
        _ => return Err(super::misplaced(kind::DEPLOYMENT, record)),
    };
    let spec = stored.spec;
    Ok(Deployment {
        id: DeploymentId::from_bytes(stored.id),
        name: stored.name,
        spec: DeploymentSpec {
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
        },
        desired: pick(&DESIRES, stored.desired)?,
        generation: Generation(stored.generation),
        token: TokenHash::from_bytes(stored.token),
        gateway_token: Secret::from_text(stored.gateway_token),
        created_at: WallTime(stored.created_at),
        updated_at: WallTime(stored.updated_at),
        replicas: Vec::new(),
    })
}
