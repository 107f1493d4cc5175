//! The agent's gRPC: AgentService, health and reflection.

mod error;
mod exec;
mod logs;
mod models;
mod service;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use nebula_proto::agent_service_server::AgentServiceServer;
use tokio::sync::watch;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use self::service::Service;
use crate::agent::Agent;

/// Calls at a time on one connection.
const CALLS_PER_CONNECTION: usize = 64;
/// An idle connection is tried this often, and given up after this long without an answer.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The service's name for health checks and reflection.
const SERVICE: &str = "proto.AgentService";

/// Serves until `stop` says so and calls in flight have ended.
///
/// # Errors
/// When the listener cannot be used, or serving fails.
pub(crate) async fn serve(
    listener: TcpListener,
    agent: Arc<Agent>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    listener.set_nonblocking(true)?;
    let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(listener)?).with_nodelay(Some(true));
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<AgentServiceServer<Service>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(nebula_proto::DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(SERVICE)
            .with_service_name("grpc.health.v1.Health")
    };
    let service = Service::new(agent, stop.clone());
    let stopped = async move {
        // The sender only goes away with the agent.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    Server::builder()
        .concurrency_limit_per_connection(CALLS_PER_CONNECTION)
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(AgentServiceServer::new(service))
        .serve_with_incoming_shutdown(incoming, stopped)
        .await?;
    Ok(())
}
