//! Nodes: machines with an agent. Availability is observed, scheduling is the operator's; `may_schedule` is the
//! only place where the two meet.

use std::collections::BTreeMap;

use nebula_core::address::HostPort;
use nebula_core::clock::WallTime;
use nebula_core::ids::NodeId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

mod usage;

pub use self::usage::{GpuUse, Usage};

/// A node as it is remembered: identity, address, what it has, and the operator's will.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Stable over restarts of the agent.
    pub id: NodeId,
    /// For people; two nodes may share one.
    pub name: String,
    /// The agent's version.
    pub version: String,
    /// Where nebulad calls the agent.
    pub address: HostPort,
    /// Port of the agent's auth proxy, on the same host.
    pub proxy_port: u16,
    /// Host name under the gateway's domain; kept over re-registration.
    pub subdomain: String,
    /// Chosen by the operator.
    pub labels: BTreeMap<String, String>,
    /// Hardware and runtimes.
    pub capabilities: Capabilities,
    /// New at each start of the agent; empty when the agent sends none.
    pub boot_id: String,
    /// The operator's will.
    pub scheduling: Scheduling,
    /// What was last known of its presence.
    pub presence: Presence,
    /// When it was first registered.
    pub created_at: WallTime,
}

impl Node {
    /// Where the agent's auth proxy listens.
    #[must_use]
    pub fn proxy_address(&self) -> HostPort {
        self.address.with_port(self.proxy_port)
    }
}

/// What is remembered of a node's presence over a restart of nebulad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It should be heard from.
    Expected,
    /// It was offline.
    Offline,
    /// It took its leave; only a registration brings it back.
    Deregistered,
}

/// Whether a node is heard from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    /// Heard within half the heartbeat timeout.
    Online,
    /// Late, or not heard since nebulad started: no new placements, routes kept.
    Suspect,
    /// Silent for the whole timeout: routes withdrawn.
    Offline,
}

/// What the operator wants of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheduling {
    /// New replicas may be placed.
    Schedulable,
    /// No new replicas; running ones stay.
    Cordoned,
    /// No new replicas; running ones move away.
    Draining,
    /// Emptied.
    Drained,
}

impl Scheduling {
    /// All of them, in the order of their stored numbers.
    pub const ALL: [Self; 4] = [Self::Schedulable, Self::Cordoned, Self::Draining, Self::Drained];

    /// What an operator does to have it so, as the audit names it.
    #[must_use]
    pub fn verb(self) -> &'static str {
        match self {
            Self::Schedulable => "node.uncordon",
            Self::Cordoned => "node.cordon",
            Self::Draining | Self::Drained => "node.drain",
        }
    }
}

/// Whether new replicas may be placed on a node.
#[must_use]
pub fn may_schedule(availability: Availability, scheduling: Scheduling) -> bool {
    match (availability, scheduling) {
        (Availability::Online, Scheduling::Schedulable) => true,
        (Availability::Online, Scheduling::Cordoned | Scheduling::Draining | Scheduling::Drained)
        | (Availability::Suspect | Availability::Offline, _) => false,
    }
}

/// What a node has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Its GPUs.
    pub gpus: Vec<Gpu>,
    /// Main memory.
    pub total_memory_bytes: u64,
    /// Main memory that was free at registration.
    pub available_memory_bytes: u64,
    /// `linux`, `darwin` …
    pub os: String,
    /// `amd64`, `arm64` …
    pub arch: String,
    /// Logical cores.
    pub cpu_cores: u32,
    /// Empty without CUDA.
    pub cuda_version: String,
    /// Empty without a GPU driver.
    pub driver_version: String,
    /// Empty: any.
    pub supported_runtimes: Vec<String>,
}

/// One GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// NVML's UUID.
    pub uuid: String,
    /// For example `NVIDIA A100`.
    pub name: String,
    /// Its memory.
    pub memory_bytes: u64,
    /// The index that the driver gives it.
    pub index: u32,
    /// For example `8.0`.
    pub compute_capability: String,
    /// PCI bus id.
    pub pci_bus_id: String,
}

/// What a node uses at the moment. Memory only.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NodeStats {
    /// All cores together, 0 to 100.
    pub cpu_usage_percent: f32,
    /// Main memory in use.
    pub memory_used_bytes: u64,
    /// Main memory.
    pub memory_total_bytes: u64,
    /// One entry a GPU.
    pub gpu_stats: Vec<GpuStats>,
    /// Free on the file system that models are fetched to; none: the agent says nothing of it.
    pub disk_free_bytes: Option<u64>,
    /// That file system's size.
    pub disk_total_bytes: Option<u64>,
    /// The models that the node holds completely, as [`nebula_core::source::ModelSource`] writes them, the newest first.
    pub models: Vec<String>,
}

/// What one GPU does at the moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GpuStats {
    /// NVML's UUID.
    pub uuid: String,
    /// For example `NVIDIA A100`.
    pub name: String,
    /// 0 to 100.
    pub utilization_percent: f32,
    /// Memory in use, by anybody.
    pub memory_used_bytes: u64,
    /// Of it, what belongs to none of the node's replicas.
    pub memory_used_by_others_bytes: u64,
    /// Its memory.
    pub memory_total_bytes: u64,
    /// Degrees Celsius.
    pub temperature_celsius: f32,
    /// Watts.
    pub power_watts: f32,
    /// Why it takes no replicas; empty: it does.
    pub problem: String,
}

/// What the agent says of its node's health.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NodeHealth {
    /// `healthy`, `degraded` or `unhealthy`.
    pub status: String,
    /// What is wrong, if anything.
    pub issues: Vec<String>,
    /// Since the agent started.
    pub uptime_seconds: u64,
}

/// The first label of a node's host name: 8 hex digits of its id, lengthened by 4 until `taken` says it is free.
#[must_use]
pub fn subdomain_label(id: &NodeId, taken: impl Fn(&str) -> bool) -> String {
    let hex: String = id.as_str().chars().filter(char::is_ascii_hexdigit).collect();
    let digits = if hex.len() == 32 && id.as_str().len() == 36 {
        hex.to_ascii_lowercase()
    } else {
        nebula_core::token::hex(&Sha256::digest(id.as_str().as_bytes()))
    };
    let mut length = 8;
    while length < digits.len() && taken(digits.get(..length).unwrap_or(&digits)) {
        length += 4;
    }
    digits.get(..length).unwrap_or(&digits).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_online_schedulable_nodes_take_replicas() {
        for availability in [Availability::Online, Availability::Suspect, Availability::Offline] {
            for scheduling in Scheduling::ALL {
                let expected = availability == Availability::Online && scheduling == Scheduling::Schedulable;
                assert_eq!(
                    may_schedule(availability, scheduling),
                    expected,
                    "{availability:?} {scheduling:?}"
                );
            }
        }
    }

    #[test]
    fn subdomains_are_the_first_hex_digits_and_grow_on_a_clash() {
        let id: NodeId = "550e8400-e29b-41d4-a716-446655440000".parse().expect("an id");
        assert_eq!(subdomain_label(&id, |_| false), "550e8400");
        assert_eq!(subdomain_label(&id, |label| label == "550e8400"), "550e8400e29b");
        let named: NodeId = "gpu-server-1".parse().expect("an id");
        assert_eq!(subdomain_label(&named, |_| false).len(), 8);
    }
}
