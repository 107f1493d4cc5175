//! The agents' API over gRPC. One connection for each agent is kept and used by all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use nebula_core::address::HostPort;
use nebula_core::token::TokenHash;
use nebula_proto as proto;
use nebula_proto::agent_service_client::AgentServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::convert;
use crate::domain::command::{Action, Command};
use crate::domain::deployment::MemoryHint;
use crate::domain::error::{Error, ErrorClass};
use crate::ports::{
    AgentApi, AgentError, BoxFuture, ByteStream, EstimateQuery, ExecOutcome, ExecQuery, LogQuery,
};

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long an agent may take to accept a command.
const DELIVER_TIMEOUT: Duration = Duration::from_secs(5);
/// Keepalive of idle connections, and how long its answer may take.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an agent may take to estimate a model's need; it gives up a little earlier itself.
const ESTIMATE_TIMEOUT: Duration = Duration::from_secs(20);
/// What an agent may take to answer for a command beyond the time that the command itself has.
const EXEC_GRACE: Duration = Duration::from_secs(5);
/// Grace that an agent gives a runtime that it stops.
const STOP_GRACE_SECS: i32 = 10;
/// Connections that are kept at most; beyond it all are dropped and made anew when needed.
const CHANNELS_MAX: usize = 20_000;

/// Calls agents.
#[derive(Clone, Default)]
pub struct GrpcAgents {
    channels: Arc<Mutex<HashMap<HostPort, Channel>>>,
}

impl GrpcAgents {
    fn client(&self, agent: &HostPort) -> Result<AgentServiceClient<Channel>, AgentError> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(agent) {
            return Ok(AgentServiceClient::new(channel.clone()));
        }
        let endpoint = Endpoint::from_shared(format!("http://{agent}"))
            .map_err(|_| AgentError::Rejected(format!("{agent} is no address")))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        if channels.len() >= CHANNELS_MAX {
            channels.clear();
        }
        let channel = endpoint.connect_lazy();
        channels.insert(agent.clone(), channel.clone());
        Ok(AgentServiceClient::new(channel))
    }
}

/// What a failed call says about the command: refused for good, or perhaps not heard.
fn agent_error(status: &Status) -> AgentError {
    match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented => AgentError::Rejected(status.message().to_owned()),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => {
            AgentError::Unreachable(format!("{:?}: {}", status.code(), status.message()))
        }
    }
}

/// Why a command beside a replica has no exit code.
fn exec_error(status: &Status) -> Error {
    let class = match status.code() {
        Code::InvalidArgument | Code::OutOfRange => ErrorClass::Unprocessable,
        Code::NotFound => ErrorClass::NotFound,
        Code::FailedPrecondition | Code::AlreadyExists | Code::Aborted => ErrorClass::Conflict,
        Code::DeadlineExceeded => ErrorClass::Timeout,
        Code::ResourceExhausted => ErrorClass::Overloaded,
        Code::Unimplemented | Code::PermissionDenied => ErrorClass::Unprocessable,
        Code::Internal | Code::DataLoss => ErrorClass::Internal,
        // The agent's own words came over the wire; what broke on the way has a cause on this side.
        Code::Unavailable if std::error::Error::source(status).is_none() => ErrorClass::Unreachable,
        Code::Ok | Code::Cancelled | Code::Unknown | Code::Unavailable | Code::Unauthenticated => {
            return Error::new(ErrorClass::Unreachable, "the agent cannot be reached");
        }
    };
    Error::new(class, status.message())
}

fn timed<T>(message: T, timeout: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(timeout);
    request
}

async fn deliver(mut client: AgentServiceClient<Channel>, command: Command) -> Result<(), Status> {
    let deployment_id = command.deployment_id.to_string();
    let replica_id = command.replica_id.to_string();
    let generation = command.generation.0;
    let drain_seconds = convert::drain_seconds(&command);
    match &command.action {
        Action::Start(spec) => {
            let request = convert::start_request(&command, spec);
            client.start_runtime(timed(request, DELIVER_TIMEOUT)).await.map(drop)
        }
        Action::Stop => {
            let timeout_seconds = STOP_GRACE_SECS;
            let request = proto::StopRuntimeRequest {
                deployment_id,
                timeout_seconds,
                generation,
                replica_id,
                drain_seconds,
            };
            client.stop_runtime(timed(request, DELIVER_TIMEOUT)).await.map(drop)
        }
        Action::Delete => {
            let request =
                proto::DeleteDeploymentRequest { deployment_id, generation, replica_id, drain_seconds };
            client.delete_deployment(timed(request, DELIVER_TIMEOUT)).await.map(drop)
        }
        Action::Access { tokens, public } => {
            let request = proto::UpdateAccessRequest {
                deployment_id,
                is_public: *public,
                replica_id,
                access_token_sha256: tokens.iter().map(TokenHash::to_hex).collect(),
                gateway_token: String::new(),
            };
            client.update_access(timed(request, DELIVER_TIMEOUT)).await.map(drop)
        }
    }
}

impl AgentApi for GrpcAgents {
    fn deliver(&self, agent: &HostPort, command: Command) -> BoxFuture<Result<(), AgentError>> {
        let client = self.client(agent);
        Box::pin(async move {
            let sent =
                tokio::time::timeout(DELIVER_TIMEOUT + CONNECT_TIMEOUT, deliver(client?, command)).await;
            match sent {
                Ok(result) => result.map_err(|status| agent_error(&status)),
                Err(_) => Err(AgentError::Unreachable("no answer in time".to_owned())),
            }
        })
    }

    fn logs(&self, agent: &HostPort, query: LogQuery) -> BoxFuture<Result<ByteStream, AgentError>> {
        let client = self.client(agent);
        Box::pin(async move {
            let request = proto::StreamDeploymentLogsRequest {
                deployment_id: query.deployment.to_string(),
                tail: i32::try_from(query.tail).unwrap_or(i32::MAX),
                follow: query.follow,
                previous: query.previous,
                replica_id: query.replica.to_string(),
            };
            let mut client = client?;
            let opened = tokio::time::timeout(
                DELIVER_TIMEOUT + CONNECT_TIMEOUT,
                client.stream_deployment_logs(request),
            );
            let stream = match opened.await {
                Ok(answer) => answer.map_err(|status| agent_error(&status))?.into_inner(),
                Err(_) => return Err(AgentError::Unreachable("no answer in time".to_owned())),
            };
            let bytes = stream.map_ok(|chunk| chunk.data).map_err(|status| agent_error(&status));
            Ok(bytes.boxed())
        })
    }

    fn exec(&self, agent: &HostPort, query: ExecQuery) -> BoxFuture<Result<ExecOutcome, Error>> {
        let client = self.client(agent);
        Box::pin(async move {
            let request = proto::ExecCommandRequest {
                deployment_id: query.deployment.to_string(),
                command: query.command,
                timeout_seconds: i32::try_from(query.timeout.as_secs()).unwrap_or(i32::MAX),
                replica_id: query.replica.to_string(),
            };
            let mut client =
                client.map_err(|error| Error::new(ErrorClass::Unreachable, error.to_string()))?;
            let running = tokio::time::timeout(
                query.timeout + EXEC_GRACE + CONNECT_TIMEOUT,
                client.exec_command(request),
            );
            let answer = match running.await {
                Ok(answer) => answer.map_err(|status| exec_error(&status))?.into_inner(),
                Err(_) => {
                    return Err(Error::new(ErrorClass::Unreachable, "the agent did not answer in time"));
                }
            };
            let proto::ExecCommandResponse { exit_code, stdout, stderr } = answer;
            Ok(ExecOutcome { exit_code, stdout, stderr })
        })
    }

    fn estimate(&self, agent: &HostPort, query: EstimateQuery) -> BoxFuture<Result<MemoryHint, AgentError>> {
        let client = self.client(agent);
        Box::pin(async move {
            let request = proto::EstimateModelRequest {
                model_path: query.source.to_string(),
                runtime: query.runtime.to_string(),
                args: query.args,
            };
            let mut client = client?;
            let estimating = tokio::time::timeout(
                ESTIMATE_TIMEOUT,
                client.estimate_model(timed(request, ESTIMATE_TIMEOUT)),
            );
            match estimating.await {
                Ok(answer) => {
                    let answer = answer.map_err(|status| agent_error(&status))?.into_inner();
                    convert::hint(answer)
                        .ok_or_else(|| AgentError::Rejected("the agent's estimate is none".to_owned()))
                }
                Err(_) => Err(AgentError::Unreachable("no answer in time".to_owned())),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_agents_own_words_about_a_command_are_passed_on() {
        let engine = exec_error(&Status::unavailable("the Docker Engine does not answer"));
        assert_eq!(engine.class, ErrorClass::Unreachable);
        assert_eq!(engine.message, "the Docker Engine does not answer");
        let mut refused = Status::unavailable("tcp connect error");
        refused.set_source(Arc::new(std::io::Error::other("connection refused")));
        assert_eq!(exec_error(&refused).message, "the agent cannot be reached");
        assert_eq!(exec_error(&Status::invalid_argument("no program")).class, ErrorClass::Unprocessable);
    }
}
