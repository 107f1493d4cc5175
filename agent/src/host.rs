//! This machine: what it is, and how busy.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nebula_proto::{AgentNodeStats, GetSystemInfoResponse, NodeCapabilities};
use sysinfo::System;

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

    /// How busy it is.
    pub(crate) fn stats(&self) -> AgentNodeStats {
        self.with(|system| AgentNodeStats {
            cpu_usage_percent: system.global_cpu_usage(),
            memory_used_bytes: bytes(system.used_memory()),
            memory_total_bytes: bytes(system.total_memory()),
            gpu_stats: Vec::new(),
        })
    }

    /// What it offers.
    pub(crate) fn capabilities(&self, supported_runtimes: Vec<String>) -> NodeCapabilities {
        self.with(|system| NodeCapabilities {
            gpus: Vec::new(),
            total_memory_bytes: bytes(system.total_memory()),
            available_memory_bytes: bytes(system.available_memory()),
            os: os().to_owned(),
            arch: arch().to_owned(),
            cpu_cores: i32::try_from(system.cpus().len()).unwrap_or(i32::MAX),
            cuda_version: String::new(),
            driver_version: String::new(),
            supported_runtimes,
        })
    }

    /// What it is.
    pub(crate) fn info(&self) -> GetSystemInfoResponse {
        self.with(|system| GetSystemInfoResponse {
            hostname: name(),
            os: os().to_owned(),
            kernel: System::kernel_version().unwrap_or_default(),
            arch: arch().to_owned(),
            cpu_model: system.cpus().first().map(|cpu| cpu.brand().trim().to_owned()).unwrap_or_default(),
            cpu_cores: i32::try_from(system.cpus().len()).unwrap_or(i32::MAX),
            memory_bytes: bytes(system.total_memory()),
            docker_version: String::new(),
            driver_version: String::new(),
            cuda_version: String::new(),
        })
    }
}

/// The host name.
pub(crate) fn name() -> String {
    System::host_name().filter(|name| !name.is_empty()).unwrap_or_else(|| "localhost".to_owned())
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

    #[test]
    fn the_machine_has_memory_and_processors() {
        let host = Host::new();
        let capabilities = host.capabilities(vec!["sim".to_owned()]);
        assert!(capabilities.total_memory_bytes >= capabilities.available_memory_bytes);
        assert!(capabilities.available_memory_bytes > 0);
        assert!(capabilities.cpu_cores > 0);
        let stats = host.stats();
        assert!(stats.memory_used_bytes > 0 && stats.memory_used_bytes <= stats.memory_total_bytes);
        assert!(!host.info().hostname.is_empty());
    }
}
