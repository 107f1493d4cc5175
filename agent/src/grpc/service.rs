//! AgentService: each call reads its request, asks the replicas, and answers.

use std::pin::Pin;
use std::sync::Arc;

use nebula_proto::agent_service_server::AgentService;
use nebula_proto::{
    DeleteDeploymentRequest, DeleteDeploymentResponse, DeploymentEvent, EstimateModelRequest,
    EstimateModelResponse, ExecCommandRequest, ExecCommandResponse, ExecStreamInput, ExecStreamOutput,
    GetCapabilitiesRequest, GetCapabilitiesResponse, GetDeploymentEventsRequest, GetDeploymentEventsResponse,
    GetDeploymentLogsRequest, GetDeploymentLogsResponse, GetDeploymentRequest, GetDeploymentResponse,
    GetSystemInfoRequest, GetSystemInfoResponse, HealthRequest, HealthResponse, HfDownloadProgress,
    HfDownloadRequest, ListDeploymentsRequest, ListDeploymentsResponse, OllamaPullProgress,
    OllamaPullRequest, PrepareModelRequest, PrepareModelResponse, RestartDeploymentRequest,
    RestartDeploymentResponse, StartRuntimeRequest, StartRuntimeResponse, StatsRequest, StatsResponse,
    StopRuntimeRequest, StopRuntimeResponse, StreamDeploymentLogsChunk, StreamDeploymentLogsRequest,
    UpdateAccessRequest, UpdateAccessResponse,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::error::{bad_request, refused};
use super::exec::Execs;
use super::logs::{self, Reading};
use super::models;
use crate::agent::{Agent, report};
use crate::driver::logs::Logs;
use crate::replica::machine::{Event, Refusal};
use crate::replica::manager::Selector;
use crate::replica::task::{Refused, Snapshot};
use crate::request;

/// A stream of answers.
pub(super) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Lines of a log when nothing is said.
const LOG_LINES: usize = 1_000;
/// Bytes of a log in one answer.
const LOG_BYTES: u64 = 1024 * 1024;
/// Lines of a journal when nothing is said.
const JOURNAL_LINES: usize = 100;

/// AgentService.
pub(super) struct Service {
    agent: Arc<Agent>,
    execs: Execs,
}

impl Service {
    /// `stop` says when the agent stops.
    pub(super) fn new(agent: Arc<Agent>, stop: watch::Receiver<bool>) -> Self {
        Self { execs: Execs::new(Arc::clone(&agent), stop), agent }
    }

    fn selector(deployment: &str, replica: &str) -> Result<Selector, Status> {
        request::selector(deployment, replica).map_err(bad_request)
    }

    /// The first replica that is meant.
    fn one(&self, deployment: &str, replica: &str) -> Result<(Arc<Snapshot>, Arc<Logs>), Status> {
        let meant = Self::selector(deployment, replica)?;
        let found = self.agent.replicas.find(meant).into_iter().next();
        found.ok_or_else(|| Status::not_found(format!("deployment {deployment} is not on this node")))
    }

    async fn tell(&self, deployment: &str, replica: &str, event: Event) -> Result<(), Status> {
        let meant = Self::selector(deployment, replica)?;
        self.agent.replicas.tell(meant, &event).await.map_err(refused)
    }
}

/// The number of lines that a request asks for; none when it says nothing.
fn lines(tail: i32) -> Option<usize> {
    usize::try_from(tail).ok().filter(|lines| *lines > 0)
}

#[tonic::async_trait]
impl AgentService for Service {
    type StreamOllamaPullStream = Answers<OllamaPullProgress>;
    type StreamHFDownloadStream = Answers<HfDownloadProgress>;
    type StreamDeploymentLogsStream = Answers<StreamDeploymentLogsChunk>;
    type ExecStreamStream = Answers<ExecStreamOutput>;

    async fn get_capabilities(
        &self,
        _: Request<GetCapabilitiesRequest>,
    ) -> Result<Response<GetCapabilitiesResponse>, Status> {
        let capabilities = Some(self.agent.capabilities());
        Ok(Response::new(GetCapabilitiesResponse { capabilities }))
    }

    async fn get_stats(&self, _: Request<StatsRequest>) -> Result<Response<StatsResponse>, Status> {
        Ok(Response::new(StatsResponse { stats: Some(self.agent.stats()) }))
    }

    async fn get_health(&self, _: Request<HealthRequest>) -> Result<Response<HealthResponse>, Status> {
        Ok(Response::new(HealthResponse { health: Some(self.agent.health()) }))
    }

    async fn get_system_info(
        &self,
        _: Request<GetSystemInfoRequest>,
    ) -> Result<Response<GetSystemInfoResponse>, Status> {
        Ok(Response::new(self.agent.system_info()))
    }

    async fn prepare_model(
        &self,
        request: Request<PrepareModelRequest>,
    ) -> Result<Response<PrepareModelResponse>, Status> {
        models::prepare(&self.agent, request.into_inner()).await.map(Response::new)
    }

    async fn estimate_model(
        &self,
        request: Request<EstimateModelRequest>,
    ) -> Result<Response<EstimateModelResponse>, Status> {
        models::estimate(&self.agent, request.into_inner()).await.map(Response::new)
    }

    async fn stream_ollama_pull(
        &self,
        request: Request<OllamaPullRequest>,
    ) -> Result<Response<Self::StreamOllamaPullStream>, Status> {
        models::ollama_pull(&self.agent, request.into_inner()).map(Response::new)
    }

    async fn stream_hf_download(
        &self,
        request: Request<HfDownloadRequest>,
    ) -> Result<Response<Self::StreamHFDownloadStream>, Status> {
        models::hf_download(&self.agent, request.into_inner()).map(Response::new)
    }

    async fn start_runtime(
        &self,
        request: Request<StartRuntimeRequest>,
    ) -> Result<Response<StartRuntimeResponse>, Status> {
        let start = request::start(request.into_inner()).map_err(bad_request)?;
        let (deployment, replica) = (start.deployment.to_string(), start.replica.to_string());
        let port = self.agent.replicas.start(start).await.map_err(refused)?;
        let container_id =
            self.one(&deployment, &replica).map(|(snapshot, _)| report(&snapshot).container_id);
        Ok(Response::new(StartRuntimeResponse {
            success: true,
            error: String::new(),
            container_id: container_id.unwrap_or_default(),
            port: i32::from(port),
            gateway_endpoint: self.agent.gateway_endpoint(),
        }))
    }

    async fn stop_runtime(
        &self,
        request: Request<StopRuntimeRequest>,
    ) -> Result<Response<StopRuntimeResponse>, Status> {
        let StopRuntimeRequest { deployment_id, timeout_seconds, generation, replica_id, drain_seconds } =
            request.into_inner();
        let (generation, grace) = (request::generation(generation), request::grace(timeout_seconds));
        let drain = request::drain(drain_seconds);
        self.tell(&deployment_id, &replica_id, Event::Stop { generation, grace, drain }).await?;
        Ok(Response::new(StopRuntimeResponse { success: true, error: String::new() }))
    }

    async fn restart_deployment(
        &self,
        request: Request<RestartDeploymentRequest>,
    ) -> Result<Response<RestartDeploymentResponse>, Status> {
        let RestartDeploymentRequest { deployment_id, generation, replica_id } = request.into_inner();
        let generation = request::generation(generation);
        self.tell(&deployment_id, &replica_id, Event::Restart { generation }).await?;
        Ok(Response::new(RestartDeploymentResponse { success: true, error: String::new() }))
    }

    async fn list_deployments(
        &self,
        _: Request<ListDeploymentsRequest>,
    ) -> Result<Response<ListDeploymentsResponse>, Status> {
        Ok(Response::new(ListDeploymentsResponse { deployments: self.agent.deployments() }))
    }

    async fn get_deployment(
        &self,
        request: Request<GetDeploymentRequest>,
    ) -> Result<Response<GetDeploymentResponse>, Status> {
        let (snapshot, _) = self.one(&request.into_inner().deployment_id, "")?;
        Ok(Response::new(GetDeploymentResponse { deployment: Some(report(&snapshot)) }))
    }

    /// Deleting what is not there succeeds, so that a delete can be repeated.
    async fn delete_deployment(
        &self,
        request: Request<DeleteDeploymentRequest>,
    ) -> Result<Response<DeleteDeploymentResponse>, Status> {
        let DeleteDeploymentRequest { deployment_id, generation, replica_id, drain_seconds } =
            request.into_inner();
        let meant = Self::selector(&deployment_id, &replica_id)?;
        let (generation, drain) = (request::generation(generation), request::drain(drain_seconds));
        match self.agent.replicas.tell(meant, &Event::Delete { generation, drain }).await {
            Ok(()) | Err(Refused::Machine(Refusal::Unknown)) => {
                Ok(Response::new(DeleteDeploymentResponse { success: true, error: String::new() }))
            }
            Err(error) => Err(refused(error)),
        }
    }

    async fn get_deployment_logs(
        &self,
        request: Request<GetDeploymentLogsRequest>,
    ) -> Result<Response<GetDeploymentLogsResponse>, Status> {
        let GetDeploymentLogsRequest { deployment_id, tail, previous, replica_id } = request.into_inner();
        let (_, logs) = self.one(&deployment_id, &replica_id)?;
        let lines = lines(tail).unwrap_or(LOG_LINES);
        let Some((_, log)) = logs.newest(previous) else {
            return Ok(Response::new(GetDeploymentLogsResponse { logs: String::new() }));
        };
        let (bytes, _) = logs::blocking(move || log.tail(lines, LOG_BYTES)).await?;
        let logs = String::from_utf8_lossy(&bytes).into_owned();
        Ok(Response::new(GetDeploymentLogsResponse { logs }))
    }

    async fn get_deployment_events(
        &self,
        request: Request<GetDeploymentEventsRequest>,
    ) -> Result<Response<GetDeploymentEventsResponse>, Status> {
        let GetDeploymentEventsRequest { deployment_id, limit } = request.into_inner();
        let meant = Self::selector(&deployment_id, "")?;
        let journal = &self.agent.replicas.shared().journal;
        let lines = journal
            .lines(meant.deployment, lines(limit).unwrap_or(JOURNAL_LINES))
            .ok_or_else(|| Status::not_found(format!("deployment {deployment_id} is not on this node")))?;
        let events = lines.into_iter().map(|line| DeploymentEvent {
            r#type: line.kind,
            message: line.message,
            timestamp: i64::try_from(line.at).unwrap_or(i64::MAX),
        });
        Ok(Response::new(GetDeploymentEventsResponse { events: events.collect() }))
    }

    async fn stream_deployment_logs(
        &self,
        request: Request<StreamDeploymentLogsRequest>,
    ) -> Result<Response<Self::StreamDeploymentLogsStream>, Status> {
        let StreamDeploymentLogsRequest { deployment_id, tail, follow, previous, replica_id } =
            request.into_inner();
        let (snapshot, logs) = self.one(&deployment_id, &replica_id)?;
        let seen = self.agent.replicas.follow(snapshot.replica);
        let seen = seen.ok_or_else(|| Status::not_found("the replica is just being removed"))?;
        let (chunks, answers) = mpsc::channel(logs::CHUNKS_WAITING);
        let reading = Reading { logs, seen, tail: lines(tail), follow, previous };
        tokio::spawn(logs::send(reading, chunks));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn exec_command(
        &self,
        request: Request<ExecCommandRequest>,
    ) -> Result<Response<ExecCommandResponse>, Status> {
        Ok(Response::new(self.execs.command(request.into_inner()).await?))
    }

    async fn exec_stream(
        &self,
        request: Request<Streaming<ExecStreamInput>>,
    ) -> Result<Response<Self::ExecStreamStream>, Status> {
        let answers = self.execs.stream(request.into_inner()).await?;
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn update_access(
        &self,
        request: Request<UpdateAccessRequest>,
    ) -> Result<Response<UpdateAccessResponse>, Status> {
        let request = request.into_inner();
        let access =
            request::new_access(request.is_public, &request.access_token_sha256, &request.gateway_token)
                .map_err(bad_request)?;
        self.tell(&request.deployment_id, &request.replica_id, Event::SetAccess { access }).await?;
        Ok(Response::new(UpdateAccessResponse { success: true, error: String::new() }))
    }
}
