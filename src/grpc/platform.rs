//! `PlatformService`: what agents call.

use nebula_core::ids::NodeId;
use nebula_proto as proto;
use nebula_proto::platform_service_server::PlatformService;
use tonic::{Request, Response, Status};

use super::convert;
use super::error::status;
use crate::actors::handle::Handle;
use crate::actors::registry::machine::Verdict;
use crate::actors::registry::{self, Change, Heartbeat, Register, Registry};
use crate::actors::session::{self, Report, Session};
use crate::domain::error::ErrorClass;

/// The service; its state is the actors'.
pub(super) struct Platform {
    pub(super) registry: Handle<Registry>,
    pub(super) sessions: Handle<Session>,
    pub(super) heartbeat_interval_seconds: i32,
}

impl Platform {
    fn config(&self) -> proto::PlatformConfig {
        proto::PlatformConfig { heartbeat_interval_seconds: self.heartbeat_interval_seconds }
    }
}

fn unknown(id: &str) -> Status {
    let shown: String = id.chars().take(64).collect();
    Status::not_found(format!("node \"{shown}\" is not registered; call Register first"))
}

#[tonic::async_trait]
impl PlatformService for Platform {
    async fn register(
        &self,
        request: Request<proto::RegisterRequest>,
    ) -> Result<Response<proto::RegisterResponse>, Status> {
        let registration = convert::registration(request.into_inner())?;
        let (name, address) = (registration.name.clone(), registration.address.clone());
        let answer = self.registry.ask(registry::PATH, Register(registration)).await;
        let registered = answer.and_then(|answer| answer).map_err(|error| status(&error))?;
        tracing::info!(node_id = %registered.node_id, name, %address, "agent registered");
        Ok(Response::new(proto::RegisterResponse {
            success: true,
            error: String::new(),
            assigned_node_id: registered.node_id.to_string(),
            gateway_subdomain: registered.subdomain,
            heartbeat_interval_seconds: self.heartbeat_interval_seconds,
            config: Some(self.config()),
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<proto::HeartbeatRequest>,
    ) -> Result<Response<proto::HeartbeatResponse>, Status> {
        let request = request.into_inner();
        // What is no id is the id of no node.
        let node_id: NodeId = request.node_id.parse().map_err(|_| unknown(&request.node_id))?;
        let beat = Heartbeat { node_id: node_id.clone(), boot_id: request.boot_id.clone() };
        let report = convert::report(request);
        let verdict = self.registry.ask(registry::PATH, beat).await.map_err(|error| status(&error))?;
        if verdict == Verdict::Unknown {
            return Err(unknown(node_id.as_str()));
        }
        // A session that is being built again misses this report and takes the next one.
        let (commands, no_session) = match self.sessions.ask(&session::path(&node_id), Report(report)).await {
            Ok(commands) => (commands, false),
            Err(error) => (Vec::new(), error.class == ErrorClass::NotFound),
        };
        tracing::debug!(%node_id, commands = commands.len(), "heartbeat received");
        Ok(Response::new(proto::HeartbeatResponse {
            acknowledged: true,
            config: Some(self.config()),
            commands: commands.into_iter().map(convert::command).collect(),
            reregister: verdict == Verdict::Reregister || no_session,
        }))
    }

    async fn deregister(
        &self,
        request: Request<proto::DeregisterRequest>,
    ) -> Result<Response<proto::DeregisterResponse>, Status> {
        let request = request.into_inner();
        let known = match request.node_id.parse::<NodeId>() {
            Err(_) => false,
            Ok(id) => {
                let answer = self.registry.ask(registry::PATH, Change::Deregister(id)).await;
                answer.and_then(|answer| answer).map_err(|error| status(&error))?.is_some()
            }
        };
        tracing::info!(node_id = request.node_id, reason = request.reason, known, "agent deregistered");
        let message = if known { "deregistered" } else { "no such node; nothing to do" };
        Ok(Response::new(proto::DeregisterResponse { success: true, message: message.to_owned() }))
    }
}
