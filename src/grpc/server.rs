//! The gRPC server, on a runtime of its own so that neither the actors nor the gateway wait for its connections.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use nebula_core::clock::Clock;
use nebula_core::exit::{Exit, Fatal};
use nebula_proto::platform_service_server::PlatformServiceServer;
use tokio::sync::{Notify, oneshot};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

use super::guard::Guard;
use super::platform::Platform;
use crate::actors::handle::Handle;
use crate::actors::tree::Tree;

/// Threads of the server's runtime.
const WORKERS: usize = 2;
/// How often a connection that is idle is asked whether it is alive.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long it may take to answer.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest time that a call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long calls that run may go on when the server stops.
const DRAIN_MAX: Duration = Duration::from_secs(3);
/// Calls that one connection may have at once.
const CALLS_PER_CONNECTION_MAX: usize = 64;

/// A running server.
pub struct GrpcServer {
    stop: Arc<Notify>,
    stopped: oneshot::Receiver<()>,
}

impl GrpcServer {
    /// Serves on `listener`, which is bound already.
    ///
    /// # Errors
    /// When the thread or its runtime cannot be made.
    pub fn start(listener: TcpListener, tree: &Tree, heartbeat_interval: Duration) -> Result<Self, Fatal> {
        let failed =
            |error: std::io::Error| Fatal::new(Exit::Failed, format!("gRPC server cannot start: {error}"));
        let platform = Platform {
            registry: Handle::new(tree.clone()),
            sessions: Handle::new(tree.clone()),
            heartbeat_interval_seconds: i32::try_from(heartbeat_interval.as_secs()).unwrap_or(i32::MAX),
        };
        listener.set_nonblocking(true).map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name("grpc")
            .enable_all()
            .build()
            .map_err(failed)?;
        let stop = Arc::new(Notify::new());
        let (stopped, clock) = (stop.clone(), tree.clock());
        let (done, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("grpc-main".to_owned())
            .spawn(move || {
                let served = runtime.block_on(serve(listener, platform, clock, stopped.clone()));
                if let Err(error) = served {
                    tracing::error!(error, "grpc server ended");
                }
                runtime.shutdown_background();
                let _ = done.send(());
            })
            .map_err(failed)?;
        Ok(Self { stop, stopped: ended })
    }

    /// Takes no more calls and waits a moment for those that run; streams that are still open then are cut.
    pub async fn stop(self) {
        self.stop.notify_one();
        let _ = tokio::time::timeout(DRAIN_MAX, self.stopped).await;
    }
}

async fn serve(
    listener: TcpListener,
    platform: Platform,
    clock: Clock,
    stop: Arc<Notify>,
) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let listener = tokio::net::TcpListener::from_std(listener).map_err(|error| text(&error))?;
    let descriptors = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(nebula_proto::DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<PlatformServiceServer<Platform>>().await;
    Server::builder()
        .layer(Guard { clock })
        .timeout(CALL_TIMEOUT)
        .concurrency_limit_per_connection(CALLS_PER_CONNECTION_MAX)
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(health_service)
        .add_service(descriptors().build_v1().map_err(|error| text(&error))?)
        .add_service(descriptors().build_v1alpha().map_err(|error| text(&error))?)
        .add_service(PlatformServiceServer::new(platform))
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async move { stop.notified().await })
        .await
        .map_err(|error| text(&error))
}
