//! The agents' side of gRPC: each has a port of its own, and one server answers for all of them. The port that a
//! connection came to says who is meant.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use nebula_core::exit::{Exit, Fatal};
use nebula_proto as proto;
use nebula_proto::agent_service_server::{AgentService, AgentServiceServer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use super::agent::{Fleet, Shared};
use super::node::Done;

/// Connections that wait for the server.
const ACCEPTED_MAX: usize = 64;

/// One listener of each agent.
///
/// # Errors
/// When a port cannot be had.
pub(crate) async fn listen(agents: usize) -> Result<Vec<(TcpListener, SocketAddr)>, Fatal> {
    let mut listeners = Vec::with_capacity(agents);
    for number in 0..agents {
        let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = bound.and_then(|listener| listener.local_addr().map(|address| (listener, address)));
        listeners.push(listener.map_err(|error| {
            Fatal::new(Exit::Failed, format!("no port for agent {number} of {agents}: {error}"))
                .hint("simulate fewer --nodes, or raise the limit of open files (ulimit -n)")
        })?);
    }
    Ok(listeners)
}

/// Serves all agents until `stop` says so.
pub(crate) async fn serve(
    fleet: Arc<Fleet>,
    agents: Vec<(TcpListener, SocketAddr, Arc<Shared>)>,
    mut stop: watch::Receiver<bool>,
) {
    let (accepted, incoming) = mpsc::channel::<std::io::Result<TcpStream>>(ACCEPTED_MAX);
    let mut by_port = HashMap::new();
    for (listener, address, shared) in agents {
        by_port.insert(address.port(), shared);
        tokio::spawn(accept(listener, accepted.clone(), stop.clone()));
    }
    drop(accepted);
    let server = Server::builder()
        .tcp_nodelay(true)
        .add_service(AgentServiceServer::new(Endpoint { fleet, by_port }))
        .serve_with_incoming(ReceiverStream::new(incoming));
    tokio::select! {
        _ = server => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

async fn accept(
    listener: TcpListener,
    accepted: mpsc::Sender<std::io::Result<TcpStream>>,
    mut stop: watch::Receiver<bool>,
) {
    let accepting = async {
        while let Ok((stream, _)) = listener.accept().await {
            if accepted.send(Ok(stream)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

struct Endpoint {
    fleet: Arc<Fleet>,
    by_port: HashMap<u16, Arc<Shared>>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Endpoint {
    fn agent<T>(&self, request: &Request<T>) -> Result<&Arc<Shared>, Status> {
        let port = request.local_addr().map(|address| address.port());
        port.and_then(|port| self.by_port.get(&port))
            .ok_or_else(|| Status::internal("no agent has this port"))
    }

    /// A command that came by a call.
    fn command<T>(
        &self,
        request: &Request<T>,
        change: impl FnOnce(&mut super::node::Node, &T) -> Done,
    ) -> Result<(), Status> {
        let agent = self.agent(request)?;
        let done = agent.change(&self.fleet.figures, |node| change(node, request.get_ref()));
        self.fleet.figures.command(done.word());
        match done {
            // New credentials change nothing that is reported.
            Done::Carried("access") => Ok(()),
            Done::Carried(_) => {
                agent.changed.notify_one();
                Ok(())
            }
            Done::Repeated => Ok(()),
            Done::Stale => Err(Status::failed_precondition("it is not here, or a newer generation is")),
            Done::Unknown => Err(Status::unimplemented("no such command")),
        }
    }
}

fn not_simulated<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not simulated"))
}

#[tonic::async_trait]
impl AgentService for Endpoint {
    type StreamOllamaPullStream = Answers<proto::OllamaPullProgress>;
    type StreamHFDownloadStream = Answers<proto::HfDownloadProgress>;
    type StreamDeploymentLogsStream = Answers<proto::StreamDeploymentLogsChunk>;
    type ExecStreamStream = Answers<proto::ExecStreamOutput>;

    async fn start_runtime(
        &self,
        request: Request<proto::StartRuntimeRequest>,
    ) -> Result<Response<proto::StartRuntimeResponse>, Status> {
        let now = self.fleet.clock.now();
        self.command(&request, |node, start| node.start(start.clone(), now))?;
        let port = self.agent(&request)?.node().port(&request.get_ref().replica_id);
        let container_id = format!("sim-{}", request.get_ref().replica_id);
        let (success, error, gateway_endpoint) = (true, String::new(), String::new());
        Ok(Response::new(proto::StartRuntimeResponse {
            success,
            error,
            container_id,
            port,
            gateway_endpoint,
        }))
    }

    async fn stop_runtime(
        &self,
        request: Request<proto::StopRuntimeRequest>,
    ) -> Result<Response<proto::StopRuntimeResponse>, Status> {
        self.command(&request, |node, stop| {
            node.stop(&stop.deployment_id, &stop.replica_id, stop.generation)
        })?;
        Ok(Response::new(proto::StopRuntimeResponse { success: true, error: String::new() }))
    }

    async fn restart_deployment(
        &self,
        request: Request<proto::RestartDeploymentRequest>,
    ) -> Result<Response<proto::RestartDeploymentResponse>, Status> {
        let now = self.fleet.clock.now();
        self.command(&request, |node, restart| {
            node.restart(&restart.deployment_id, &restart.replica_id, restart.generation, now)
        })?;
        Ok(Response::new(proto::RestartDeploymentResponse { success: true, error: String::new() }))
    }

    async fn delete_deployment(
        &self,
        request: Request<proto::DeleteDeploymentRequest>,
    ) -> Result<Response<proto::DeleteDeploymentResponse>, Status> {
        self.command(&request, |node, delete| {
            node.delete(&delete.deployment_id, &delete.replica_id, delete.generation)
        })?;
        Ok(Response::new(proto::DeleteDeploymentResponse { success: true, error: String::new() }))
    }

    async fn update_access(
        &self,
        request: Request<proto::UpdateAccessRequest>,
    ) -> Result<Response<proto::UpdateAccessResponse>, Status> {
        self.command(&request, |node, access| node.access(&access.deployment_id, &access.replica_id))?;
        Ok(Response::new(proto::UpdateAccessResponse { success: true, error: String::new() }))
    }

    async fn list_deployments(
        &self,
        request: Request<proto::ListDeploymentsRequest>,
    ) -> Result<Response<proto::ListDeploymentsResponse>, Status> {
        let deployments = self.agent(&request)?.node().report();
        Ok(Response::new(proto::ListDeploymentsResponse { deployments }))
    }

    async fn get_deployment(
        &self,
        request: Request<proto::GetDeploymentRequest>,
    ) -> Result<Response<proto::GetDeploymentResponse>, Status> {
        let wanted = &request.get_ref().deployment_id;
        let found =
            self.agent(&request)?.node().report().into_iter().find(|one| one.deployment_id == *wanted);
        let deployment = found.ok_or_else(|| Status::not_found(format!("no deployment {wanted} here")))?;
        Ok(Response::new(proto::GetDeploymentResponse { deployment: Some(deployment) }))
    }

    async fn get_capabilities(
        &self,
        _: Request<proto::GetCapabilitiesRequest>,
    ) -> Result<Response<proto::GetCapabilitiesResponse>, Status> {
        not_simulated()
    }

    async fn get_stats(
        &self,
        _: Request<proto::StatsRequest>,
    ) -> Result<Response<proto::StatsResponse>, Status> {
        not_simulated()
    }

    async fn get_health(
        &self,
        _: Request<proto::HealthRequest>,
    ) -> Result<Response<proto::HealthResponse>, Status> {
        not_simulated()
    }

    async fn get_system_info(
        &self,
        _: Request<proto::GetSystemInfoRequest>,
    ) -> Result<Response<proto::GetSystemInfoResponse>, Status> {
        not_simulated()
    }

    async fn prepare_model(
        &self,
        _: Request<proto::PrepareModelRequest>,
    ) -> Result<Response<proto::PrepareModelResponse>, Status> {
        not_simulated()
    }

    async fn estimate_model(
        &self,
        _: Request<proto::EstimateModelRequest>,
    ) -> Result<Response<proto::EstimateModelResponse>, Status> {
        not_simulated()
    }

    async fn stream_ollama_pull(
        &self,
        _: Request<proto::OllamaPullRequest>,
    ) -> Result<Response<Self::StreamOllamaPullStream>, Status> {
        not_simulated()
    }

    async fn stream_hf_download(
        &self,
        _: Request<proto::HfDownloadRequest>,
    ) -> Result<Response<Self::StreamHFDownloadStream>, Status> {
        not_simulated()
    }

    async fn get_deployment_logs(
        &self,
        _: Request<proto::GetDeploymentLogsRequest>,
    ) -> Result<Response<proto::GetDeploymentLogsResponse>, Status> {
        not_simulated()
    }

    async fn get_deployment_events(
        &self,
        _: Request<proto::GetDeploymentEventsRequest>,
    ) -> Result<Response<proto::GetDeploymentEventsResponse>, Status> {
        not_simulated()
    }

    async fn stream_deployment_logs(
        &self,
        _: Request<proto::StreamDeploymentLogsRequest>,
    ) -> Result<Response<Self::StreamDeploymentLogsStream>, Status> {
        not_simulated()
    }

    async fn exec_command(
        &self,
        _: Request<proto::ExecCommandRequest>,
    ) -> Result<Response<proto::ExecCommandResponse>, Status> {
        not_simulated()
    }

    async fn exec_stream(
        &self,
        _: Request<Streaming<proto::ExecStreamInput>>,
    ) -> Result<Response<Self::ExecStreamStream>, Status> {
        not_simulated()
    }
}
