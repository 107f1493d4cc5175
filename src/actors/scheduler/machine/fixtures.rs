//! Nodes and requests for tests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nebula_core::clock::WallTime;
use nebula_core::ids::{DeploymentId, NodeId, ReplicaId};
use nebula_core::runtime::RuntimeKind;

use super::{Machine, Need, Request};
use crate::actors::registry::machine::NodeUpdate;
use crate::domain::deployment::{CpuNeed, DeploymentSpec, GpuNeed};
use crate::domain::node::{Availability, Capabilities, Gpu, GpuUse, Node, Presence, Scheduling, Usage};

pub(super) const GIB: u64 = 1 << 30;

pub(super) fn gpu(index: u32, name: &str, gib: u64) -> Gpu {
    let uuid = format!("GPU-{index}");
    Gpu { uuid, name: name.to_owned(), memory_bytes: gib * GIB, index, ..Gpu::default() }
}

/// So many alike.
pub(super) fn gpus(count: u32) -> Vec<Gpu> {
    (0..count).map(|index| gpu(index, "A100", 40)).collect()
}

pub(super) fn node_id(name: &str) -> NodeId {
    format!("id-{name}").parse().expect("an id")
}

pub(super) fn node(name: &str, cores: u32, gpus: Vec<Gpu>) -> NodeUpdate {
    NodeUpdate {
        node: Node {
            id: node_id(name),
            name: name.to_owned(),
            version: String::new(),
            address: "10.0.0.1:9091".parse().expect("an address"),
            proxy_port: 8888,
            subdomain: String::new(),
            labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
            capabilities: Capabilities { gpus, cpu_cores: cores, ..Capabilities::default() },
            boot_id: String::new(),
            scheduling: Scheduling::Schedulable,
            presence: Presence::Expected,
            created_at: WallTime(0),
        },
        availability: Availability::Online,
    }
}

/// Two A100 and one H100.
pub(super) fn mixed(name: &str) -> NodeUpdate {
    node(name, 8, vec![gpu(0, "NVIDIA A100", 40), gpu(1, "NVIDIA H100", 80), gpu(2, "NVIDIA A100", 40)])
}

pub(super) fn offline(mut update: NodeUpdate) -> NodeUpdate {
    update.availability = Availability::Offline;
    update
}

/// Others use so many GiB of the GPU with this index.
pub(super) fn used(index: u32, gib: u64) -> GpuUse {
    GpuUse { uuid: format!("GPU-{index}"), used_by_others_bytes: gib * GIB, problem: String::new() }
}

pub(super) fn ill(index: u32, problem: &str) -> GpuUse {
    GpuUse { problem: problem.to_owned(), ..used(index, 0) }
}

pub(super) fn uses(gpus: Vec<GpuUse>) -> Usage {
    Usage { gpus, ..Usage::default() }
}

/// These replicas live there.
pub(super) fn living(replicas: &[&Request]) -> Usage {
    Usage { living: replicas.iter().map(|request| request.replica).collect(), ..Usage::default() }
}

/// So much free disk, and these models.
pub(super) fn disk(free_gib: u64, models: &[&str]) -> Usage {
    let models = models.iter().map(|model| (*model).to_owned()).collect();
    Usage { disk_free_bytes: Some(free_gib * GIB), models, ..Usage::default() }
}

pub(super) fn machine(nodes: Vec<NodeUpdate>) -> Machine {
    let mut machine = Machine::default();
    for node in nodes {
        machine.node_changed(node);
    }
    machine
}

/// So many GPUs and cores, for a deployment of its own.
pub(super) fn request(gpus: u32, cores: u32) -> Request {
    let spec = DeploymentSpec {
        gpu: GpuNeed { count: gpus, ..GpuNeed::default() },
        cpu: CpuNeed { cores },
        ..DeploymentSpec::plain("m", RuntimeKind::Sim)
    };
    Request {
        deployment: DeploymentId::random(),
        replica: ReplicaId::random(),
        need: Arc::new(Need::of(&spec, None)),
        going: Vec::new(),
    }
}

/// Another replica of the same deployment.
pub(super) fn another(request: &Request) -> Request {
    Request { replica: ReplicaId::random(), ..request.clone() }
}

pub(super) fn need(request: &mut Request) -> &mut Need {
    Arc::make_mut(&mut request.need)
}

pub(super) fn place(machine: &mut Machine, request: &Request) -> Result<(String, Vec<u32>), String> {
    machine.place(request).map(|placement| (placement.node_name, placement.gpu_devices))
}

pub(super) fn on(name: &str, gpus: &[u32]) -> Result<(String, Vec<u32>), String> {
    Ok((name.to_owned(), gpus.to_vec()))
}

pub(super) fn only(requests: &[&Request]) -> BTreeSet<DeploymentId> {
    requests.iter().map(|request| request.deployment).collect()
}
