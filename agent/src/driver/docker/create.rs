//! Making a replica's container: how it is confined, and what follows when the Engine refuses.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, DeviceRequest, HostConfig, HostConfigLogConfig, Mount as BindMount, MountType,
    PortBinding, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::CreateContainerOptionsBuilder;

use super::engine::{CHANGE_LIMIT, EngineError};
use super::{ContainerName, Docker, refusal};
use crate::replica::spec::ContainerRef;
use crate::runtimes::ContainerPlan;

/// Processes and threads that one container may have.
const PIDS_MAX: i64 = 4096;
/// What the Engine keeps of a container's output. What has been written before is in the attempt's own log.
const LOG_FILE_MAX: &str = "10m";
const LOG_FILES: &str = "2";
/// Containers are reachable from this machine only; others come through the proxy.
const LOOPBACK: &str = "127.0.0.1";

/// Why a container was not started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StartError {
    /// Somebody else has its port; another one may do.
    #[error("{0}")]
    PortTaken(String),
    /// The Engine will not run this.
    #[error("{0}")]
    Refused(String),
    /// The Engine is away or hangs; it may work later.
    #[error("{0}")]
    Engine(String),
}

impl Docker {
    /// Makes and starts a replica's container. Whatever else the replica had is removed before, and what was half
    /// made after an error.
    ///
    /// # Errors
    /// See [`StartError`].
    pub(crate) async fn start(
        &self,
        plan: &ContainerPlan,
        name: &ContainerName,
    ) -> Result<ContainerRef, StartError> {
        let lost = |error: EngineError| StartError::Engine(error.to_string());
        self.remove_all_of(name.replica).await.map_err(lost)?;
        let labels = name.labels(&self.node_id(), &self.0.agent_id);
        let body = body(plan, labels, self.0.memory_limit);
        let text = name.text(&self.0.agent_id);
        match self.create_and_start(text, body).await {
            Ok(container) => Ok(container),
            Err(error) => {
                self.sweep(name.replica).await;
                Err(refusal::of_start(&error, plan))
            }
        }
    }

    async fn create_and_start(
        &self,
        name: String,
        body: ContainerCreateBody,
    ) -> Result<ContainerRef, EngineError> {
        let engine = &self.0.engine;
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        let made = engine
            .call("make a container", CHANGE_LIMIT, |docker| async move {
                docker.create_container(Some(options), body).await
            })
            .await?;
        for warning in made.warnings {
            tracing::debug!(container_id = made.id, warning, "docker engine warns");
        }
        let container = ContainerRef::from_hex(&made.id).ok_or_else(|| EngineError::Garbled {
            host: engine.host().to_string(),
            cause: format!("\"{}\" is no id of a container", made.id),
        })?;
        engine
            .call("start a container", CHANGE_LIMIT, |docker| async move {
                docker.start_container(&made.id, None).await
            })
            .await?;
        Ok(container)
    }
}

/// A container as the Engine is asked for it.
fn body(plan: &ContainerPlan, labels: HashMap<String, String>, memory: Option<u64>) -> ContainerCreateBody {
    let port = format!("{}/tcp", plan.container_port);
    ContainerCreateBody {
        image: Some(plan.image.clone()),
        entrypoint: plan.entrypoint.clone(),
        // None leaves what the image says.
        cmd: Some(plan.command.clone()).filter(|command| !command.is_empty()),
        env: Some(plan.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        exposed_ports: Some(vec![port.clone()]),
        labels: Some(labels),
        host_config: Some(confinement(plan, port, memory)),
        ..ContainerCreateBody::default()
    }
}

fn confinement(plan: &ContainerPlan, port: String, memory: Option<u64>) -> HostConfig {
    let binding =
        PortBinding { host_ip: Some(LOOPBACK.to_owned()), host_port: Some(plan.host_port.to_string()) };
    let gpus = DeviceRequest {
        driver: Some("nvidia".to_owned()),
        device_ids: Some(plan.gpu_uuids.clone()),
        capabilities: Some(vec![vec!["gpu".to_owned()]]),
        ..DeviceRequest::default()
    };
    let mounts = plan.mounts.iter().map(|mount| BindMount {
        typ: Some(MountType::BIND),
        source: Some(mount.host.display().to_string()),
        target: Some(mount.container.clone()),
        read_only: Some(mount.read_only),
        ..BindMount::default()
    });
    let memory = memory.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
    let log = HashMap::from([("max-size", LOG_FILE_MAX), ("max-file", LOG_FILES)]);
    HostConfig {
        port_bindings: Some(HashMap::from([(port, Some(vec![binding]))])),
        device_requests: Some(vec![gpus]).filter(|_| !plan.gpu_uuids.is_empty()),
        mounts: Some(mounts.collect()),
        shm_size: Some(i64::try_from(plan.shm_bytes).unwrap_or(i64::MAX)).filter(|bytes| *bytes > 0),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(plan.keep_capabilities.iter().map(|name| (*name).to_owned()).collect()),
        pids_limit: Some(PIDS_MAX),
        memory,
        // The same: no swap.
        memory_swap: memory,
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(log.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()),
        }),
        ..HostConfig::default()
    }
}
