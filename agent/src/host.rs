//! This machine: what it is, and how busy.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nebula_proto::{AgentNodeStats, GetSystemInfoResponse, GpuInfo, GpuStats, NodeCapabilities};
use sysinfo::System;

use crate::gpu::{Gpu, Inventory};

/// Between two looks; the load is that of the time between them.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// This machine.
#[derive(Debug)]
pub(crate) struct Host {
    system: Mutex<System>,
}

impl Host {
    /// Looks for the first time.
    pub(crate) fn new() -> Self {
        let mut system = System::new();
        system.refresh_memory();
        system.refresh_cpu_all();
        Self { system: Mutex::new(system) }
    }

    /// Looks again and again. Never resolves.
    pub(crate) async fn watch(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.with(|system| {
                system.refresh_cpu_usage();
                system.refresh_memory();
            });
        }
    }

    fn with<T>(&self, look: impl FnOnce(&mut System) -> T) -> T {
        look(&mut self.system.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How busy it is, and its GPUs, also those that cannot be used.
    pub(crate) fn stats(&self, gpus: &Inventory) -> AgentNodeStats {
        self.with(|system| AgentNodeStats {
            cpu_usage_percent: system.global_cpu_usage(),
            memory_used_bytes: bytes(system.used_memory()),
            memory_total_bytes: bytes(system.total_memory()),
            gpu_stats: gpus.gpus.iter().map(gpu_stats).collect(),
            ..AgentNodeStats::default()
        })
    }

    /// What it offers. A GPU that cannot be used is not among it.
    pub(crate) fn capabilities(&self, supported_runtimes: Vec<String>, gpus: &Inventory) -> NodeCapabilities {
        self.with(|system| NodeCapabilities {
            gpus: gpus.usable().map(gpu_info).collect(),
            total_memory_bytes: bytes(system.total_memory()),
            available_memory_bytes: bytes(system.available_memory()),
            os: os().to_owned(),
            arch: arch().to_owned(),
            cpu_cores: i32::try_from(system.cpus().len()).unwrap_or(i32::MAX),
            cuda_version: gpus.cuda_version.clone(),
            driver_version: gpus.driver_version.clone(),
            supported_runtimes,
        })
    }

    /// What it is. `docker_version` is empty when no Engine is known.
    pub(crate) fn info(&self, docker_version: String, gpus: &Inventory) -> GetSystemInfoResponse {
        self.with(|system| GetSystemInfoResponse {
            hostname: name(),
            os: os().to_owned(),
            kernel: System::kernel_version().unwrap_or_default(),
            arch: arch().to_owned(),
            cpu_model: system.cpus().first().map(|cpu| cpu.brand().trim().to_owned()).unwrap_or_default(),
            cpu_cores: i32::try_from(system.cpus().len()).unwrap_or(i32::MAX),
            memory_bytes: bytes(system.total_memory()),
            docker_version,
            driver_version: gpus.driver_version.clone(),
            cuda_version: gpus.cuda_version.clone(),
        })
    }
}

/// The host name.
pub(crate) fn name() -> String {
    System::host_name().filter(|name| !name.is_empty()).unwrap_or_else(|| "localhost".to_owned())
}

fn gpu_info(gpu: &Gpu) -> GpuInfo {
    GpuInfo {
        uuid: gpu.uuid.clone(),
        name: gpu.name.clone(),
        memory_bytes: bytes(gpu.memory_bytes),
        index: i32::try_from(gpu.index).unwrap_or(i32::MAX),
        compute_capability: gpu.compute_capability.clone(),
        pci_bus_id: gpu.pci_bus_id.clone(),
    }
}

fn gpu_stats(gpu: &Gpu) -> GpuStats {
    GpuStats {
        uuid: gpu.uuid.clone(),
        name: gpu.name.clone(),
        utilization_percent: gpu.stats.utilization_percent,
        memory_used_bytes: bytes(gpu.stats.memory_used_bytes),
        memory_total_bytes: bytes(gpu.memory_bytes),
        temperature_celsius: gpu.stats.temperature_celsius,
        power_watts: gpu.stats.power_watts,
        memory_used_by_others_bytes: bytes(gpu.stats.memory_used_by_others_bytes),
        problem: gpu.problem.clone().unwrap_or_default(),
    }
}

fn bytes(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The operating system, as the protocol names it.
fn os() -> &'static str {
    match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    }
}

/// The processor, as the protocol names it.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::inventory::Stats;

    #[test]
    fn the_machine_has_memory_and_processors() {
        let (host, none) = (Host::new(), Inventory::default());
        let capabilities = host.capabilities(vec!["sim".to_owned()], &none);
        assert!(capabilities.total_memory_bytes >= capabilities.available_memory_bytes);
        assert!(capabilities.available_memory_bytes > 0);
        assert!(capabilities.cpu_cores > 0);
        let stats = host.stats(&none);
        assert!(stats.memory_used_bytes > 0 && stats.memory_used_bytes <= stats.memory_total_bytes);
        assert!(!host.info(String::new(), &none).hostname.is_empty());
    }

    #[test]
    fn gpus_are_offered_when_they_can_be_used_and_told_of_in_any_case() {
        let gpu = |index: u32, problem: Option<&str>| Gpu {
            index,
            uuid: format!("GPU-{index}"),
            memory_bytes: 80 << 30,
            stats: Stats { memory_used_bytes: 7, memory_used_by_others_bytes: 5, ..Stats::default() },
            problem: problem.map(str::to_owned),
            ..Gpu::default()
        };
        let gpus = Inventory {
            driver_version: "580.1".to_owned(),
            cuda_version: "12.4".to_owned(),
            gpus: vec![gpu(0, None), gpu(1, Some("fell off the bus"))],
            problem: None,
        };
        let host = Host::new();
        let offered = host.capabilities(Vec::new(), &gpus);
        let known: Vec<_> =
            offered.gpus.iter().map(|gpu| (gpu.index, gpu.uuid.as_str(), gpu.memory_bytes)).collect();
        assert_eq!(known, [(0, "GPU-0", 80 << 30)]);
        assert_eq!((offered.driver_version.as_str(), offered.cuda_version.as_str()), ("580.1", "12.4"));
        let told = host.stats(&gpus).gpu_stats;
        assert_eq!(told.iter().map(|gpu| gpu.problem.as_str()).collect::<Vec<_>>(), ["", "fell off the bus"]);
        assert_eq!((told[0].memory_used_bytes, told[0].memory_used_by_others_bytes), (7, 5));
        let info = host.info("20.10.24".to_owned(), &gpus);
        assert_eq!((info.docker_version.as_str(), info.driver_version.as_str()), ("20.10.24", "580.1"));
    }
}
