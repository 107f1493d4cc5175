//! What the agent's parts share: who this node is, what runs on it, and how it feels.

use std::sync::Arc;

use nebula_core::clock::{Clock, Tick};
use nebula_core::ids::NodeId;
use nebula_proto::{
    AgentDeploymentStatus, AgentHealthStatus, AgentNodeStats, GetSystemInfoResponse, NodeCapabilities,
};
use nebula_store::Store;
use tokio::sync::watch;

use crate::driver::docker::{Docker, EngineStatus};
use crate::gpu::{self, Gpus};
use crate::health;
use crate::host::Host;
use crate::offers::Offers;
use crate::registrar::Heard;
use crate::replica::declined::Declined;
use crate::replica::machine::Status;
use crate::replica::manager::{REPLICAS_MAX, Replicas};
use crate::replica::task::Snapshot;

/// Shared by the registrar, the gRPC service and the metrics.
pub(crate) struct Agent {
    pub(crate) replicas: Replicas,
    pub(crate) host: Host,
    pub(crate) docker: Docker,
    pub(crate) gpus: Gpus,
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) started: Tick,
    /// Which runtimes can be run here, as far as is known by now.
    pub(crate) offers: Offers,
    /// How the conversation with nebulad goes.
    pub(crate) heard: Heard,
    /// The last registration; none before the first.
    pub(crate) registration: watch::Sender<Option<Registration>>,
}

/// What nebulad said when it registered this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Registration {
    pub(crate) node_id: NodeId,
    /// The name under which clients reach this node's deployments from outside; may be empty.
    pub(crate) gateway_subdomain: String,
}

impl Agent {
    /// What this node offers.
    pub(crate) fn capabilities(&self) -> NodeCapabilities {
        self.host.capabilities(self.offers.supported.borrow().clone(), &self.gpus.inventory())
    }

    /// How busy this node is.
    pub(crate) fn stats(&self) -> AgentNodeStats {
        let held = self.replicas.shared().models.held();
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        AgentNodeStats {
            disk_free_bytes: held.disk.map(|(free, _)| bytes(free)),
            disk_total_bytes: held.disk.map(|(_, all)| bytes(all)),
            models: held.models.clone(),
            ..self.host.stats(&self.gpus.inventory())
        }
    }

    /// What this machine is.
    pub(crate) fn system_info(&self) -> GetSystemInfoResponse {
        let docker_version = match self.docker.status() {
            EngineStatus::Ready { version, .. } => version,
            EngineStatus::Unknown | EngineStatus::Absent { .. } | EngineStatus::Unresponsive { .. } => {
                String::new()
            }
        };
        self.host.info(docker_version, &self.gpus.inventory())
    }

    /// Lets the GPUs' figures tell this node's processes from those of others.
    pub(crate) fn tell_gpus_whose_processes_are_ours(self: &Arc<Self>) {
        let agent = Arc::downgrade(self);
        self.gpus.set_ours(move |pids| {
            let replicas = agent.upgrade().map(|agent| agent.replicas.list()).unwrap_or_default();
            let ids: Vec<_> = replicas.iter().map(|replica| replica.replica).collect();
            let container = |replica: &Arc<Snapshot>| Some(replica.view.instance?.container()?.to_hex());
            let containers: Vec<_> = replicas.iter().filter_map(container).collect();
            gpu::ours(pids, &ids, &containers)
        });
    }

    /// How the agent feels.
    pub(crate) fn health(&self) -> AgentHealthStatus {
        let issues = health::issues(self);
        let uptime = self.clock.now().since(self.started).as_secs();
        AgentHealthStatus {
            status: health::status(&issues).to_owned(),
            issues: issues.into_iter().map(|issue| issue.text).collect(),
            uptime_seconds: i64::try_from(uptime).unwrap_or(i64::MAX),
        }
    }

    /// What runs here, as nebulad hears it. A newer start that was declined stands for its replica: that is where
    /// the newest command led.
    pub(crate) fn deployments(&self) -> Vec<AgentDeploymentStatus> {
        let declined = self.replicas.declined();
        let list = self.replicas.list();
        let is_replaced = |snapshot: &Snapshot| {
            let name = (snapshot.deployment, snapshot.replica);
            declined
                .iter()
                .any(|one| (one.deployment, one.replica) == name && one.generation > snapshot.view.generation)
        };
        let live = list.iter().filter(|snapshot| !is_replaced(snapshot)).map(report);
        declined.iter().map(failed).chain(live).take(REPLICAS_MAX).collect()
    }

    /// Where clients reach this node's deployments from outside; empty when nowhere.
    pub(crate) fn gateway_endpoint(&self) -> String {
        let registration = self.registration.borrow();
        match registration.as_ref().map(|registration| registration.gateway_subdomain.as_str()) {
            Some("") | None => String::new(),
            Some(name) => format!("https://{name}"),
        }
    }
}

/// A start that was declined, as a replica that failed.
fn failed(declined: &Declined) -> AgentDeploymentStatus {
    AgentDeploymentStatus {
        deployment_id: declined.deployment.to_string(),
        status: Status::Failed.as_str().to_owned(),
        model: declined.model.clone(),
        runtime: declined.runtime.clone(),
        error_message: declined.reason.clone(),
        generation: declined.generation.0,
        replica_id: declined.replica.to_string(),
        ..AgentDeploymentStatus::default()
    }
}

/// A replica as the protocol tells it.
pub(crate) fn report(snapshot: &Arc<Snapshot>) -> AgentDeploymentStatus {
    let view = &snapshot.view;
    AgentDeploymentStatus {
        deployment_id: snapshot.deployment.to_string(),
        status: view.status.as_str().to_owned(),
        container_id: view.instance.map(crate::replica::spec::Instance::id).unwrap_or_default(),
        port: i32::from(view.port),
        model: snapshot.spec.model.clone(),
        runtime: snapshot.spec.runtime.as_str().to_owned(),
        error_message: view.message.clone(),
        generation: view.generation.0,
        replica_id: snapshot.replica.to_string(),
        restarts: i32::try_from(view.restarts).unwrap_or(i32::MAX),
        exit_code: view.exit_code,
        progress_percent: snapshot.progress.percent.unwrap_or_default(),
        progress_message: snapshot.progress.message.clone(),
        out_of_memory: view.out_of_memory,
        inflight: Some(snapshot.gate.inflight()),
    }
}
