//! Between the wire and the domain. What comes from outside is checked field by field.

use std::collections::HashMap;

use nebula_core::ids::{CommandId, Generation, NodeId};
use nebula_core::text::cut;
use nebula_core::token::TokenHash;
use nebula_proto as proto;
use tonic::Status;

use crate::actors::registry::machine::Registration;
use crate::domain::command::{Action, Command, StartSpec};
use crate::domain::deployment::MemoryHint;
use crate::domain::node::{Capabilities, Gpu, GpuStats, NodeHealth, NodeStats};
use crate::domain::report::{NodeReport, Progress, ReplicaReport, ReportedStatus, Seen};

/// The auth proxy's port when an agent says none.
const PROXY_PORT_DEFAULT: u16 = 8888;
/// Most GPUs that a node may announce; its record must stay small.
const GPUS_MAX: usize = 32;
/// Most labels a node may carry.
const LABELS_MAX: usize = 32;
/// Longest text that is taken from an agent for a name, a version or a label.
const TEXT_BYTES_MAX: usize = 200;
/// The largest registration without its list of replicas, so that the node's record can be kept.
const REGISTRATION_BYTES_MAX: usize = 5_000;
/// Most health issues that are kept.
const ISSUES_MAX: usize = 20;
/// Most replicas that one report may hold.
const REPLICAS_MAX: usize = 1_000;
/// Longest source of a model that is remembered; a clipped one would name another.
const MODEL_BYTES_MAX: usize = 512;
/// Longest arithmetic of an estimate.
const HOW_BYTES_MAX: usize = 500;
/// Most models of which it is known that a node holds them.
const MODELS_MAX: usize = 100;

fn invalid(message: impl Into<String>) -> Status {
    Status::invalid_argument(message)
}

fn short(what: &str, text: String) -> Result<String, Status> {
    if text.len() > TEXT_BYTES_MAX || text.contains(char::is_control) {
        return Err(invalid(format!(
            "{what} is longer than {TEXT_BYTES_MAX} bytes or holds control characters"
        )));
    }
    Ok(text)
}

/// A text cut to the longest that is kept.
fn clip(text: String) -> String {
    cut(text, TEXT_BYTES_MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// A registration; an agent without an id gets a fresh one.
pub(super) fn registration(mut request: proto::RegisterRequest) -> Result<Registration, Status> {
    request.deployments.clear();
    let node_id = match request.node_id.as_str() {
        "" | "auto" => NodeId::random(),
        id => id.parse().map_err(|error: nebula_core::ids::InvalidId| invalid(error.to_string()))?,
    };
    let address = request
        .agent_address
        .parse()
        .map_err(|error: nebula_core::address::InvalidHostPort| invalid(format!("agent_address: {error}")))?;
    let proxy_port = match request.proxy_port {
        0 => PROXY_PORT_DEFAULT,
        port => u16::try_from(port).map_err(|_| invalid(format!("proxy_port {port} is no port")))?,
    };
    let size = prost::Message::encoded_len(&request);
    if size > REGISTRATION_BYTES_MAX {
        return Err(invalid(format!(
            "the registration takes {size} bytes, more than {REGISTRATION_BYTES_MAX}"
        )));
    }
    if request.labels.len() > LABELS_MAX {
        return Err(invalid(format!("more than {LABELS_MAX} labels")));
    }
    let labels = request.labels.into_iter();
    Ok(Registration {
        node_id,
        name: short("node_name", request.node_name)?,
        version: short("version", request.version)?,
        address,
        proxy_port,
        capabilities: capabilities(request.capabilities.unwrap_or_default())?,
        labels: labels
            .map(|(key, value)| Ok((short("label", key)?, short("label", value)?)))
            .collect::<Result<_, Status>>()?,
        boot_id: short("boot_id", request.boot_id)?,
    })
}

fn capabilities(caps: proto::NodeCapabilities) -> Result<Capabilities, Status> {
    if caps.gpus.len() > GPUS_MAX {
        return Err(invalid(format!("more than {GPUS_MAX} GPUs")));
    }
    // Agents that number no GPU leave every index at 0: then their order numbers them.
    let numbered = caps.gpus.iter().any(|gpu| gpu.index != 0);
    let gpus = caps.gpus.into_iter().enumerate().map(|(position, gpu)| {
        let index = if numbered { gpu.index } else { i32::try_from(position).unwrap_or(i32::MAX) };
        Ok(Gpu {
            uuid: short("gpu uuid", gpu.uuid)?,
            name: short("gpu name", gpu.name)?,
            memory_bytes: unsigned(gpu.memory_bytes),
            index: u32::try_from(index).map_err(|_| invalid(format!("gpu index {index} is negative")))?,
            compute_capability: short("compute_capability", gpu.compute_capability)?,
            pci_bus_id: short("pci_bus_id", gpu.pci_bus_id)?,
        })
    });
    Ok(Capabilities {
        gpus: gpus.collect::<Result<_, Status>>()?,
        total_memory_bytes: unsigned(caps.total_memory_bytes),
        available_memory_bytes: unsigned(caps.available_memory_bytes),
        os: short("os", caps.os)?,
        arch: short("arch", caps.arch)?,
        cpu_cores: u32::try_from(caps.cpu_cores).unwrap_or(0),
        cuda_version: short("cuda_version", caps.cuda_version)?,
        driver_version: short("driver_version", caps.driver_version)?,
        supported_runtimes: caps
            .supported_runtimes
            .into_iter()
            .take(REPLICAS_MAX)
            .map(|runtime| short("supported_runtimes", runtime))
            .collect::<Result<_, Status>>()?,
    })
}

/// A heartbeat's content. Entries of an agent that are no replica of ours are left out.
pub(super) fn report(request: proto::HeartbeatRequest) -> NodeReport {
    // What is too much is left out rather than refused: the node lives, whatever it says.
    let deployments = request.deployments.into_iter().take(REPLICAS_MAX);
    NodeReport {
        stats: request.stats.map(stats),
        health: request.health.map(|health| NodeHealth {
            status: clip(health.status),
            issues: health.issues.into_iter().take(ISSUES_MAX).map(clip).collect(),
            uptime_seconds: unsigned(health.uptime_seconds),
        }),
        replicas: deployments.filter_map(replica).collect(),
        acked: request.acked_command_ids.iter().filter_map(|id| id.parse::<CommandId>().ok()).collect(),
    }
}

fn stats(stats: proto::AgentNodeStats) -> NodeStats {
    NodeStats {
        cpu_usage_percent: stats.cpu_usage_percent,
        memory_used_bytes: unsigned(stats.memory_used_bytes),
        memory_total_bytes: unsigned(stats.memory_total_bytes),
        gpu_stats: stats
            .gpu_stats
            .into_iter()
            .take(GPUS_MAX)
            .map(|gpu| GpuStats {
                uuid: clip(gpu.uuid),
                name: clip(gpu.name),
                utilization_percent: gpu.utilization_percent,
                memory_used_bytes: unsigned(gpu.memory_used_bytes),
                memory_used_by_others_bytes: unsigned(gpu.memory_used_by_others_bytes),
                memory_total_bytes: unsigned(gpu.memory_total_bytes),
                temperature_celsius: gpu.temperature_celsius,
                power_watts: gpu.power_watts,
                problem: clip(gpu.problem),
            })
            .collect(),
        disk_free_bytes: stats.disk_free_bytes.map(unsigned),
        disk_total_bytes: stats.disk_total_bytes.map(unsigned),
        models: stats
            .models
            .into_iter()
            .filter(|model| model.len() <= MODEL_BYTES_MAX)
            .take(MODELS_MAX)
            .collect(),
    }
}

fn replica(status: proto::AgentDeploymentStatus) -> Option<ReplicaReport> {
    let reported = match status.status.as_str() {
        "preparing" => ReportedStatus::Preparing,
        "starting" => ReportedStatus::Starting,
        "running" => ReportedStatus::Running,
        "stopping" => ReportedStatus::Stopping,
        "stopped" => ReportedStatus::Stopped,
        "failed" => ReportedStatus::Failed,
        other => {
            tracing::warn!(
                deployment_id = status.deployment_id,
                status = other,
                "unknown status of a replica"
            );
            return None;
        }
    };
    let seen = Seen {
        progress: progress(status.progress_percent, status.progress_message),
        out_of_memory: status.out_of_memory,
    };
    Some(ReplicaReport {
        deployment_id: status.deployment_id.parse().ok()?,
        replica_id: status.replica_id.parse().ok()?,
        generation: Generation(status.generation),
        status: reported,
        container_id: clip(status.container_id),
        port: u16::try_from(status.port).unwrap_or(0),
        message: status.error_message,
        restarts: u32::try_from(status.restarts).unwrap_or(0),
        exit_code: status.exit_code.filter(|_| reported == ReportedStatus::Failed),
        seen,
    })
}

/// What an agent says of how far it has got; nothing when it says nothing. A share of 0 is one that is not known.
fn progress(percent: f32, message: String) -> Option<Progress> {
    let message = clip(message);
    let known = percent.is_finite() && percent > 0.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 100")]
    let percent = known.then(|| percent.min(100.0) as u8);
    (percent.is_some() || !message.is_empty()).then_some(Progress { percent, message })
}

/// What an agent thinks that a model needs; none when it is nothing.
pub(super) fn hint(answer: proto::EstimateModelResponse) -> Option<MemoryHint> {
    let (bytes, weights_bytes) = (unsigned(answer.bytes), unsigned(answer.weights_bytes));
    let how = cut(answer.how.replace(char::is_control, " "), HOW_BYTES_MAX);
    (bytes > 0 && bytes >= weights_bytes).then_some(MemoryHint { bytes, weights_bytes, how })
}

/// A command as heartbeats carry it.
pub(super) fn command(command: Command) -> proto::PlatformCommand {
    let mut params = HashMap::new();
    let mut start = None;
    match &command.action {
        Action::Start(spec) => start = Some(start_request(&command, spec)),
        Action::Stop | Action::Delete => {
            params.insert("drain_seconds".to_owned(), drain_seconds(&command).to_string());
        }
        Action::Access { tokens, public } => {
            let hashes: Vec<String> = tokens.iter().map(TokenHash::to_hex).collect();
            params.insert("access_token_sha256".to_owned(), hashes.join(","));
            params.insert("is_public".to_owned(), public.to_string());
        }
    }
    proto::PlatformCommand {
        id: command.id.to_string(),
        r#type: command.action.as_str().to_owned(),
        target_id: command.deployment_id.to_string(),
        params,
        generation: command.generation.0,
        replica_id: command.replica_id.to_string(),
        start,
    }
}

/// How long requests in flight may take before a runtime is stopped for a command.
pub(super) fn drain_seconds(command: &Command) -> i32 {
    i32::try_from(command.drain.as_secs()).unwrap_or(i32::MAX)
}

/// A start command as the agent's own call takes it.
pub(super) fn start_request(command: &Command, spec: &StartSpec) -> proto::StartRuntimeRequest {
    proto::StartRuntimeRequest {
        deployment_id: command.deployment_id.to_string(),
        runtime: spec.runtime.to_string(),
        image: spec.image.clone(),
        model: spec.model.clone(),
        model_path: spec.source.as_ref().map(ToString::to_string).unwrap_or_default(),
        args: spec.args.clone(),
        env: spec.env.clone().into_iter().collect(),
        gpu_devices: spec.gpu_devices.iter().filter_map(|index| i32::try_from(*index).ok()).collect(),
        port: 0,
        access_token: String::new(),
        is_public: spec.public,
        generation: command.generation.0,
        replica_id: command.replica_id.to_string(),
        driver: spec.driver.map(|driver| driver.to_string()).unwrap_or_default(),
        command: spec.command.clone(),
        served_model_name: spec.served_name.clone(),
        access_token_sha256: spec.token.map(|token| token.to_hex()).unwrap_or_default(),
        gateway_token: spec.gateway_token.expose().to_owned(),
        drain_seconds: drain_seconds(command),
    }
}

#[cfg(test)]
mod tests;
