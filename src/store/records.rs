//! The stored form of each noun. These structs are apart from the domain's, so that the domain may change: within
//! one schema number fields are only ever added at the end, never moved.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use nebula_core::clock::WallTime;
use nebula_core::ids::{DeploymentId, Generation, NodeId, ReplicaId};
use nebula_store::{Record, codec};

use crate::domain::deployment::{Phase, Placement, Replica};
use crate::domain::idempotency::UsedKey;
use crate::domain::node::{Capabilities, Gpu, Node, Presence, Scheduling};
use crate::domain::report::Seen;
use crate::ports::StoreError;

mod alias;
mod command;
mod deployment;
mod event;
mod key;
mod operation;
mod poison;
#[cfg(test)]
mod props;
mod usage;

pub(super) use self::alias::{alias, read_alias};
pub(super) use self::command::{command, read_command};
pub(super) use self::deployment::{deployment, read_deployment};
pub(super) use self::event::{event, read_event};
pub(super) use self::key::{api_key, read_api_key};
pub(super) use self::operation::{operation, read_operation};
pub(super) use self::poison::{poison, read_poison};
pub(super) use self::usage::{read_usage, usage};

/// Kinds of records; frozen.
mod kind {
    pub(super) const NODE: u8 = 1;
    pub(super) const DEPLOYMENT: u8 = 2;
    pub(super) const REPLICA: u8 = 3;
    pub(super) const COMMAND: u8 = 4;
    pub(super) const EVENT: u8 = 5;
    pub(super) const USED_KEY: u8 = 6;
    pub(super) const POISON: u8 = 9;
    pub(super) const API_KEY: u8 = 10;
    pub(super) const USAGE: u8 = 11;
    pub(super) const OPERATION: u8 = 12;
    pub(super) const ALIAS: u8 = 13;
}

/// The schema in which records are written, unless their file says otherwise.
const SCHEMA: u16 = 1;
/// The schema in which replicas are written. Older ones are read.
const REPLICA_SCHEMA: u16 = 2;

type Map = BTreeMap<String, String>;

#[derive(Encode, Decode)]
struct NodeV1 {
    id: String,
    name: String,
    version: String,
    address: String,
    proxy_port: u16,
    subdomain: String,
    labels: Map,
    capabilities: CapabilitiesV1,
    boot_id: String,
    scheduling: u8,
    presence: u8,
    created_at: u64,
}

#[derive(Encode, Decode)]
struct CapabilitiesV1 {
    gpus: Vec<GpuV1>,
    total_memory_bytes: u64,
    available_memory_bytes: u64,
    os: String,
    arch: String,
    cpu_cores: u32,
    cuda_version: String,
    driver_version: String,
    supported_runtimes: Vec<String>,
}

#[derive(Encode, Decode)]
struct GpuV1 {
    uuid: String,
    name: String,
    memory_bytes: u64,
    index: u32,
    compute_capability: String,
    pci_bus_id: String,
}

#[derive(Encode, Decode)]
struct ReplicaV1 {
    id: [u8; 16],
    index: u32,
    generation: u64,
    placement: Option<PlacementV1>,
    phase: u8,
    leaving: bool,
    container_id: String,
    port: u16,
    message: String,
    restarts: u32,
}

/// The first with what has been added since.
#[derive(Encode, Decode)]
struct ReplicaV2 {
    first: ReplicaV1,
    revision: u64,
}

#[derive(Encode, Decode)]
struct PlacementV1 {
    node_id: String,
    node_name: String,
    proxy: String,
    gpu_devices: Vec<u32>,
}

#[derive(Encode, Decode)]
struct UsedKeyV1 {
    key: String,
    body: [u8; 32],
    deployment: [u8; 16],
    at: u64,
}

fn write<T: Encode>(kind: u8, what: &str, value: &T) -> Result<Record, StoreError> {
    write_as(kind, SCHEMA, what, value)
}

fn write_as<T: Encode>(kind: u8, schema: u16, what: &str, value: &T) -> Result<Record, StoreError> {
    let payload = codec::encode(value).map_err(|error| StoreError::TooLarge(format!("{what} ({error})")))?;
    Ok(Record { kind, schema, payload })
}

fn read<T: Decode<()>>(kind: u8, record: &Record) -> Result<T, StoreError> {
    if record.kind != kind || record.schema != SCHEMA {
        return Err(misplaced(kind, record));
    }
    codec::decode(&record.payload).map_err(|error| damaged(error.to_string()))
}

/// Reads a record of the second schema, or of the first, which `from` completes.
fn read_either<Old: Decode<()>, New: Decode<()>>(
    kind: u8,
    newest: u16,
    record: &Record,
    from: impl FnOnce(Old) -> New,
) -> Result<New, StoreError> {
    let unreadable = |error: codec::CodecError| damaged(error.to_string());
    match (record.kind == kind, record.schema) {
        (true, 1) => codec::decode(&record.payload).map(from).map_err(unreadable),
        (true, schema) if schema == newest => codec::decode(&record.payload).map_err(unreadable),
        (_, _) => Err(misplaced(kind, record)),
    }
}

fn misplaced(kind: u8, record: &Record) -> StoreError {
    let (found, schema) = (record.kind, record.schema);
    damaged(format!("record of kind {found} schema {schema} where kind {kind} belongs"))
}

fn damaged(what: String) -> StoreError {
    StoreError::Failed(format!("a record cannot be read: {what}"))
}

/// A stored text as what it stands for.
fn parse<T: std::str::FromStr>(text: &str) -> Result<T, StoreError>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| damaged(error.to_string()))
}

fn parse_some<T: std::str::FromStr>(text: Option<&String>) -> Result<Option<T>, StoreError>
where
    T::Err: std::fmt::Display,
{
    text.map(|text| parse(text)).transpose()
}

/// One of an enum's values by its stored number.
fn pick<T: Copy>(all: &[T], number: u8) -> Result<T, StoreError> {
    all.get(usize::from(number)).copied().ok_or_else(|| damaged(format!("unknown number {number}")))
}

fn number<T: PartialEq>(all: &[T], value: &T) -> u8 {
    let position = all.iter().position(|other| other == value).unwrap_or_default();
    u8::try_from(position).unwrap_or_default()
}

const PRESENCES: [Presence; 3] = [Presence::Expected, Presence::Offline, Presence::Deregistered];

pub(super) fn node(node: &Node) -> Result<Record, StoreError> {
    let caps = &node.capabilities;
    let stored = NodeV1 {
        id: node.id.to_string(),
        name: node.name.clone(),
        version: node.version.clone(),
        address: node.address.to_string(),
        proxy_port: node.proxy_port,
        subdomain: node.subdomain.clone(),
        labels: node.labels.clone(),
        capabilities: CapabilitiesV1 {
            gpus: caps.gpus.iter().map(gpu).collect(),
            total_memory_bytes: caps.total_memory_bytes,
            available_memory_bytes: caps.available_memory_bytes,
            os: caps.os.clone(),
            arch: caps.arch.clone(),
            cpu_cores: caps.cpu_cores,
            cuda_version: caps.cuda_version.clone(),
            driver_version: caps.driver_version.clone(),
            supported_runtimes: caps.supported_runtimes.clone(),
        },
        boot_id: node.boot_id.clone(),
        scheduling: number(&Scheduling::ALL, &node.scheduling),
        presence: number(&PRESENCES, &node.presence),
        created_at: node.created_at.0,
    };
    write(kind::NODE, &format!("node {}", node.id), &stored)
}

fn gpu(gpu: &Gpu) -> GpuV1 {
    GpuV1 {
        uuid: gpu.uuid.clone(),
        name: gpu.name.clone(),
        memory_bytes: gpu.memory_bytes,
        index: gpu.index,
        compute_capability: gpu.compute_capability.clone(),
        pci_bus_id: gpu.pci_bus_id.clone(),
    }
}

pub(super) fn read_node(record: &Record) -> Result<Node, StoreError> {
    let stored: NodeV1 = read(kind::NODE, record)?;
    let caps = stored.capabilities;
    let gpus = caps.gpus.into_iter().map(|gpu| Gpu {
        uuid: gpu.uuid,
        name: gpu.name,
        memory_bytes: gpu.memory_bytes,
        index: gpu.index,
        compute_capability: gpu.compute_capability,
        pci_bus_id: gpu.pci_bus_id,
    });
    Ok(Node {
        id: parse(&stored.id)?,
        name: stored.name,
        version: stored.version,
        address: parse(&stored.address)?,
        proxy_port: stored.proxy_port,
        subdomain: stored.subdomain,
        labels: stored.labels,
        capabilities: Capabilities {
            gpus: gpus.collect(),
            total_memory_bytes: caps.total_memory_bytes,
            available_memory_bytes: caps.available_memory_bytes,
            os: caps.os,
            arch: caps.arch,
            cpu_cores: caps.cpu_cores,
            cuda_version: caps.cuda_version,
            driver_version: caps.driver_version,
            supported_runtimes: caps.supported_runtimes,
        },
        boot_id: stored.boot_id,
        scheduling: pick(&Scheduling::ALL, stored.scheduling)?,
        presence: pick(&PRESENCES, stored.presence)?,
        created_at: WallTime(stored.created_at),
    })
}

pub(super) fn replica(replica: &Replica) -> Result<Record, StoreError> {
    let first = ReplicaV1 {
        id: *replica.id.as_bytes(),
        index: replica.index,
        generation: replica.generation.0,
        placement: replica.placement.as_ref().map(|place| PlacementV1 {
            node_id: place.node_id.to_string(),
            node_name: place.node_name.clone(),
            proxy: place.proxy.to_string(),
            gpu_devices: place.gpu_devices.clone(),
        }),
        phase: number(&Phase::ALL, &replica.phase),
        leaving: replica.leaving,
        container_id: replica.container_id.clone(),
        port: replica.port,
        message: replica.message.clone(),
        restarts: replica.restarts,
    };
    let stored = ReplicaV2 { first, revision: replica.revision.0 };
    write_as(kind::REPLICA, REPLICA_SCHEMA, &format!("replica {}", replica.id), &stored)
}

pub(super) fn read_replica(record: &Record) -> Result<Replica, StoreError> {
    // Before there were changes that spare the old replicas, a deployment had one version only.
    let first = |first| ReplicaV2 { first, revision: Generation::FIRST.0 };
    let ReplicaV2 { first: stored, revision } = read_either(kind::REPLICA, REPLICA_SCHEMA, record, first)?;
    let placement = stored.placement.map(|place| {
        Ok::<_, StoreError>(Placement {
            node_id: parse::<NodeId>(&place.node_id)?,
            node_name: place.node_name,
            proxy: parse(&place.proxy)?,
            gpu_devices: place.gpu_devices,
        })
    });
    Ok(Replica {
        id: ReplicaId::from_bytes(stored.id),
        index: stored.index,
        generation: Generation(stored.generation),
        revision: Generation(revision),
        placement: placement.transpose()?,
        phase: pick(&Phase::ALL, stored.phase)?,
        leaving: stored.leaving,
        container_id: stored.container_id,
        port: stored.port,
        message: stored.message,
        restarts: stored.restarts,
        seen: Seen::default(),
    })
}

pub(super) fn used_key(used: &UsedKey) -> Result<Record, StoreError> {
    let stored = UsedKeyV1 {
        key: used.key.clone(),
        body: used.body,
        deployment: *used.deployment.as_bytes(),
        at: used.at.0,
    };
    write(kind::USED_KEY, "idempotency key", &stored)
}

pub(super) fn read_used_key(record: &Record) -> Result<UsedKey, StoreError> {
    let stored: UsedKeyV1 = read(kind::USED_KEY, record)?;
    Ok(UsedKey {
        key: stored.key,
        body: stored.body,
        deployment: DeploymentId::from_bytes(stored.deployment),
        at: WallTime(stored.at),
    })
}
