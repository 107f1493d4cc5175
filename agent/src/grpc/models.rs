//! Fetching models when somebody asks for it: PrepareModel, StreamOllamaPull and StreamHFDownload. Whoever hangs up
//! stops the fetch, unless others wait for the same.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use nebula_core::runtime::RuntimeKind;
use nebula_core::source::ModelSource;
use nebula_core::token::Secret;
use nebula_proto::{
    EstimateModelRequest, EstimateModelResponse, HfDownloadProgress, HfDownloadRequest, OllamaPullProgress,
    OllamaPullRequest, PrepareModelRequest, PrepareModelResponse,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::service::Answers;
use crate::agent::Agent;
use crate::models::{self, Board, FileState, FileStatus, Flight, Kind, ModelError, Models, Objects, Pull};
use crate::replica::machine::Status as ReplicaStatus;

/// Messages that may wait for the reader.
const WAITING: usize = 32;
/// Between two looks at how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The reader hears something after this long although nothing has changed.
const QUIET_MAX: Duration = Duration::from_secs(10);

/// Fetches a model, or looks for it, and says where it is. Only Ollama knows where it keeps its own.
pub(super) async fn prepare(
    agent: &Agent,
    request: PrepareModelRequest,
) -> Result<PrepareModelResponse, Status> {
    let source = source(&request.model_path)?;
    let runtime = runtime(&source, &request.runtime)?;
    let models = models_of(agent);
    let found = match source {
        ModelSource::File { path } => models.find(&path).await,
        ModelSource::HuggingFace { repo, revision } => {
            let wanted = models::repository(&repo, revision.as_deref(), runtime, None);
            outcome(models.hub(wanted)).await
        }
        ModelSource::S3 { bucket, key } => {
            outcome(models.s3(Objects { bucket, key, purpose: models::purpose(runtime, None) })).await
        }
        ModelSource::Ollama { tag } => {
            let port = ollama(agent, "")?;
            outcome(models.ollama(Pull { port, tag })).await
        }
    };
    let local_path = found.map_err(|error| status(&error))?.display().to_string();
    Ok(PrepareModelResponse { success: true, error: String::new(), local_path })
}

/// How much memory a model is thought to need.
pub(super) async fn estimate(
    agent: &Agent,
    request: EstimateModelRequest,
) -> Result<EstimateModelResponse, Status> {
    let source = source(&request.model_path)?;
    let runtime = runtime(&source, &request.runtime)?;
    let need = models_of(agent).estimate(&source, runtime, &request.args).await;
    let need = need.map_err(|error| status(&error))?;
    let (weights_bytes, bytes) = (number(need.weights_bytes), number(need.bytes));
    Ok(EstimateModelResponse { weights_bytes, bytes, how: need.how })
}

/// Lets a running Ollama fetch a model.
pub(super) fn ollama_pull(
    agent: &Agent,
    request: OllamaPullRequest,
) -> Result<Answers<OllamaPullProgress>, Status> {
    let tag = request.model.strip_prefix("ollama://").unwrap_or(&request.model).to_owned();
    if tag.is_empty() {
        return Err(Status::invalid_argument("the model is empty; it is name or name:tag"));
    }
    let port = ollama(agent, &request.deployment_id)?;
    let flight = models_of(agent).ollama(Pull { port, tag }).map_err(|error| status(&error))?;
    Ok(relay(
        flight,
        |stage, layer| OllamaPullProgress {
            status: stage.to_owned(),
            digest: layer.map(|layer| layer.name.to_string()).unwrap_or_default(),
            total: layer.map_or(0, |layer| number(layer.total)),
            completed: layer.map_or(0, |layer| number(layer.done)),
        },
        "success",
    ))
}

/// Fetches a repository of the hub, as vLLM and TGI need it.
pub(super) fn hf_download(
    agent: &Agent,
    request: HfDownloadRequest,
) -> Result<Answers<HfDownloadProgress>, Status> {
    let HfDownloadRequest { repo_id, revision, token } = request;
    let repo_id = repo_id.strip_prefix("hf://").unwrap_or(&repo_id);
    let ModelSource::HuggingFace { repo, revision: named } = source(&format!("hf://{repo_id}"))? else {
        return Err(Status::invalid_argument("repo_id is org/name"));
    };
    let revision = if revision.is_empty() { named } else { Some(revision) };
    let token = Some(token).filter(|token| !token.is_empty()).map(Secret::from_text);
    let wanted = models::repository(&repo, revision.as_deref(), RuntimeKind::Vllm, token);
    let flight = models_of(agent).hub(wanted).map_err(|error| status(&error))?;
    Ok(relay(
        flight,
        |stage, file| HfDownloadProgress {
            file: file.map(|file| file.name.to_string()).unwrap_or_default(),
            total: file.map_or(0, |file| number(file.total)),
            completed: file.map_or(0, |file| number(file.done)),
            status: file.map_or(stage, |file| file.status.as_str()).to_owned(),
        },
        "done",
    ))
}

fn models_of(agent: &Agent) -> &Models {
    &agent.replicas.shared().models
}

fn source(text: &str) -> Result<ModelSource, Status> {
    text.parse().map_err(|error| Status::invalid_argument(format!("{error}")))
}

/// The runtime that is named, or else the one that such a source is for.
fn runtime(source: &ModelSource, name: &str) -> Result<RuntimeKind, Status> {
    match name {
        "" => Ok(source.natural_runtime()),
        name => name.parse().map_err(|error| Status::invalid_argument(format!("{error}"))),
    }
}

async fn outcome(flight: Result<Arc<Flight>, ModelError>) -> Result<std::path::PathBuf, ModelError> {
    flight?.outcome().await
}

/// The port of a running Ollama: the deployment's, or else any.
fn ollama(agent: &Agent, deployment: &str) -> Result<u16, Status> {
    let mut mine = agent.replicas.list();
    if !deployment.is_empty() {
        mine.retain(|snapshot| snapshot.deployment.to_string() == deployment);
        if mine.is_empty() {
            return Err(Status::not_found(format!("deployment {deployment} is not on this node")));
        }
    }
    mine.retain(|snapshot| snapshot.spec.runtime == RuntimeKind::Ollama);
    let running = mine.iter().find(|snapshot| snapshot.view.status == ReplicaStatus::Running);
    running.map(|snapshot| snapshot.view.port).ok_or_else(|| {
        Status::failed_precondition(
            "no replica of the runtime ollama is running on this node, and only Ollama fetches from its library; \
             deploy one first (nebulactl deploy --runtime ollama)",
        )
    })
}

/// The status of a model that cannot be had.
fn status(error: &ModelError) -> Status {
    let message = error.to_string();
    match error.kind {
        Kind::Invalid => Status::invalid_argument(message),
        Kind::NotFound => Status::not_found(message),
        Kind::Denied => Status::permission_denied(message),
        Kind::NoRoom => Status::resource_exhausted(message),
        Kind::Damaged => Status::data_loss(message),
        Kind::Local => Status::internal(message),
        Kind::Network | Kind::Busy => Status::unavailable(message),
    }
}

fn number(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// What makes a message: the stage, and the file if it is about one.
type Message<T> = fn(&str, Option<&FileState>) -> T;

/// A fetch as a stream: what has changed, and `end` as the stage of the last message.
fn relay<T: Send + 'static>(flight: Arc<Flight>, message: Message<T>, end: &'static str) -> Answers<T> {
    let (messages, answers) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        // Whoever hangs up drops the fetch with this.
        tokio::select! {
            () = send(&flight, message, end, &messages) => {}
            () = messages.closed() => {}
        }
    });
    Box::pin(ReceiverStream::new(answers))
}

async fn send<T>(
    flight: &Flight,
    message: Message<T>,
    end: &'static str,
    messages: &mpsc::Sender<Result<T, Status>>,
) {
    let (mut board, mut told) = (flight.board(), Told::default());
    let mut ended = std::pin::pin!(flight.outcome());
    loop {
        let outcome = tokio::select! {
            outcome = &mut ended => Some(outcome),
            () = next(&mut board, &mut told) => None,
        };
        let now = board.borrow_and_update().clone();
        for (stage, file) in told.news(&now) {
            if messages.send(Ok(message(stage, file))).await.is_err() {
                return;
            }
        }
        if let Some(outcome) = outcome {
            let last = outcome.map(|_| message(end, None)).map_err(|error| status(&error));
            // The reader may have gone.
            let _ = messages.send(last).await;
            return;
        }
    }
}

/// Waits until there is something to tell, and not for ever: after a while of silence everything is told again.
async fn next(board: &mut watch::Receiver<Board>, told: &mut Told) {
    tokio::time::sleep(LOOK_EVERY).await;
    match tokio::time::timeout(QUIET_MAX, board.changed()).await {
        Ok(Ok(())) => {}
        // The fetch has ended: its outcome is on the way.
        Ok(Err(_)) => std::future::pending().await,
        Err(_) => told.forget(),
    }
}

/// What the reader knows.
#[derive(Default)]
struct Told {
    stage: String,
    files: HashMap<Arc<str>, (u64, FileStatus)>,
}

impl Told {
    /// What the reader does not know yet: the stage, and each file that has moved.
    fn news<'a>(&mut self, board: &'a Board) -> Vec<(&'a str, Option<&'a FileState>)> {
        let mut news = Vec::new();
        for file in board.files.iter().filter(|file| file.status != FileStatus::Waiting) {
            let state = (file.done, file.status);
            if self.files.insert(Arc::clone(&file.name), state) != Some(state) {
                news.push((&*board.stage, Some(file)));
            }
        }
        if news.is_empty() && self.stage != *board.stage && !board.stage.is_empty() {
            news.push((&*board.stage, None));
        }
        self.stage = board.stage.to_string();
        news
    }

    /// So that what is not finished is told again.
    fn forget(&mut self) {
        self.stage.clear();
        self.files.retain(|_, (_, status)| *status == FileStatus::Done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, done: u64, status: FileStatus) -> FileState {
        FileState { name: name.into(), total: 10, done, status }
    }

    #[test]
    fn only_what_has_moved_is_told_and_all_that_moves_again_after_a_silence() {
        let mut told = Told::default();
        let mut board = Board { stage: "asking the hub".into(), files: Vec::new() };
        let names = |told: &mut Told, board: &Board| -> Vec<String> {
            let name =
                |(stage, file): (&str, Option<&FileState>)| file.map_or(stage, |file| &file.name).to_owned();
            told.news(board).into_iter().map(name).collect()
        };
        assert_eq!(names(&mut told, &board), ["asking the hub"]);
        assert!(names(&mut told, &board).is_empty());
        let (a, b) = (file("a", 10, FileStatus::Done), file("b", 5, FileStatus::Downloading));
        board = Board { stage: "".into(), files: vec![a, b, file("c", 0, FileStatus::Waiting)] };
        assert_eq!(names(&mut told, &board), ["a", "b"]);
        assert!(names(&mut told, &board).is_empty());
        told.forget();
        assert_eq!(names(&mut told, &board), ["b"]);
        board.files[1].done = 6;
        board.files[2].status = FileStatus::Downloading;
        assert_eq!(names(&mut told, &board), ["b", "c"]);
    }
}
