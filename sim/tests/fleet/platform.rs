//! A control plane that takes every agent and writes down what it hears.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use nebula_proto::platform_service_server::{PlatformService, PlatformServiceServer};
use nebula_proto::{
    DeregisterRequest, DeregisterResponse, HeartbeatRequest, HeartbeatResponse, PlatformCommand,
    RegisterRequest, RegisterResponse,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// What was heard.
#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) registered: BTreeMap<String, RegisterRequest>,
    pub(crate) registrations: usize,
    pub(crate) heartbeats: BTreeMap<String, HeartbeatRequest>,
    pub(crate) beats: usize,
    pub(crate) deregistered: Vec<String>,
    pub(crate) acked: Vec<String>,
    /// Answered with each heartbeat of this node until they are acknowledged.
    pub(crate) commands: BTreeMap<String, Vec<PlatformCommand>>,
    /// How many heartbeats are still answered as if nobody knew the node.
    pub(crate) forgotten: usize,
}

/// The made-up control plane.
#[derive(Clone, Default)]
pub(crate) struct Platform(Arc<Mutex<Heard>>);

impl Platform {
    pub(crate) fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().expect("no panic")
    }

    /// Serves on a free port until the test ends.
    pub(crate) async fn start() -> (Self, SocketAddr) {
        let platform = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = tonic::transport::Server::builder()
            .add_service(PlatformServiceServer::new(platform.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        (platform, address)
    }
}

#[tonic::async_trait]
impl PlatformService for Platform {
    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let request = request.into_inner();
        let mut heard = self.heard();
        heard.registrations += 1;
        let assigned_node_id = request.node_id.clone();
        heard.registered.insert(request.node_id.clone(), request);
        Ok(Response::new(RegisterResponse {
            success: true,
            assigned_node_id,
            heartbeat_interval_seconds: 1,
            ..RegisterResponse::default()
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        let request = request.into_inner();
        let mut heard = self.heard();
        if heard.forgotten > 0 {
            heard.forgotten -= 1;
            return Err(Status::not_found("register first"));
        }
        heard.beats += 1;
        heard.acked.extend(request.acked_command_ids.iter().cloned());
        let acked = heard.acked.clone();
        let waiting = heard.commands.get(&request.node_id).cloned().unwrap_or_default();
        let commands = waiting.into_iter().filter(|command| !acked.contains(&command.id)).collect();
        heard.heartbeats.insert(request.node_id.clone(), request);
        Ok(Response::new(HeartbeatResponse { acknowledged: true, commands, ..HeartbeatResponse::default() }))
    }

    async fn deregister(
        &self,
        request: Request<DeregisterRequest>,
    ) -> Result<Response<DeregisterResponse>, Status> {
        self.heard().deregistered.push(request.into_inner().node_id);
        Ok(Response::new(DeregisterResponse { success: true, message: String::new() }))
    }
}
