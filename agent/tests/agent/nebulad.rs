//! A made-up nebulad: remembers what agents say and answers as it is told to.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nebula_proto::platform_service_server::{PlatformService, PlatformServiceServer};
use nebula_proto::{
    DeregisterRequest, DeregisterResponse, HeartbeatRequest, HeartbeatResponse, PlatformCommand,
    PlatformConfig, RegisterRequest, RegisterResponse,
};
use tokio::sync::watch;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// The id that it assigns.
pub(crate) const NODE_ID: &str = "550e8400-e29b-41d4-a716-446655440000";

/// What it has heard and what it says.
#[derive(Default)]
pub(crate) struct Book {
    pub(crate) registrations: Vec<RegisterRequest>,
    pub(crate) heartbeats: Vec<HeartbeatRequest>,
    pub(crate) deregistrations: Vec<DeregisterRequest>,
    /// Sent with every heartbeat until acknowledged, and `extra` times more.
    pub(crate) commands: Vec<PlatformCommand>,
    pub(crate) extra: usize,
    pub(crate) acked: Vec<String>,
    /// Calls to refuse before the next is answered.
    pub(crate) refuse: Vec<Status>,
    pub(crate) reregister: bool,
}

impl Book {
    /// What the last heartbeat said of a deployment.
    pub(crate) fn status(&self, deployment: &str) -> Option<&str> {
        let deployments = &self.heartbeats.last()?.deployments;
        deployments.iter().find(|one| one.deployment_id == deployment).map(|one| one.status.as_str())
    }
}

#[derive(Clone)]
pub(crate) struct Nebulad {
    pub(crate) addr: SocketAddr,
    book: Arc<Mutex<Book>>,
    calls: Arc<watch::Sender<u64>>,
}

impl Nebulad {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let nebulad = Self { addr, book: Arc::default(), calls: Arc::new(watch::Sender::new(0)) };
        let service = PlatformServiceServer::new(nebulad.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        nebulad
    }

    pub(crate) fn book<T>(&self, look: impl FnOnce(&mut Book) -> T) -> T {
        look(&mut self.book.lock().expect("no panic in there"))
    }

    /// Waits until what it has heard satisfies a condition.
    pub(crate) async fn hears(&self, what: &str, mut condition: impl FnMut(&mut Book) -> bool) {
        let mut calls = self.calls.subscribe();
        let heard = async {
            while !self.book(&mut condition) {
                calls.changed().await.expect("it lives");
            }
        };
        if tokio::time::timeout(Duration::from_secs(15), heard).await.is_err() {
            panic!("nebulad did not hear: {what}; last: {:?}", self.book(|book| book.heartbeats.pop()));
        }
    }

    fn note(&self, note: impl FnOnce(&mut Book)) -> Result<(), Status> {
        let refused = self.book(|book| {
            note(book);
            book.refuse.pop()
        });
        self.calls.send_modify(|calls| *calls += 1);
        refused.map_or(Ok(()), Err)
    }
}

#[tonic::async_trait]
impl PlatformService for Nebulad {
    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let request = request.into_inner();
        let asked = request.node_id.clone();
        self.note(|book| book.registrations.push(request))?;
        Ok(Response::new(RegisterResponse {
            success: true,
            assigned_node_id: if asked == "auto" { NODE_ID.to_owned() } else { asked },
            gateway_subdomain: "550e8400.gateway.example.com".to_owned(),
            heartbeat_interval_seconds: 3_600,
            ..RegisterResponse::default()
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        let request = request.into_inner();
        let acked = request.acked_command_ids.clone();
        self.note(|book| book.heartbeats.push(request))?;
        let (commands, reregister) = self.book(|book| {
            let commands = book.commands.clone();
            book.acked.extend(acked.iter().cloned());
            if !acked.is_empty() && book.extra > 0 {
                book.extra -= 1;
            } else {
                book.commands.retain(|command| !acked.contains(&command.id));
            }
            (commands, std::mem::take(&mut book.reregister))
        });
        let config = Some(PlatformConfig { heartbeat_interval_seconds: 3_600 });
        Ok(Response::new(HeartbeatResponse { acknowledged: true, config, commands, reregister }))
    }

    async fn deregister(
        &self,
        request: Request<DeregisterRequest>,
    ) -> Result<Response<DeregisterResponse>, Status> {
        self.note(|book| book.deregistrations.push(request.into_inner()))?;
        Ok(Response::new(DeregisterResponse { success: true, message: String::new() }))
    }
}
