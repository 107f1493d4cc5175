//! Models of Ollama's library: Ollama fetches them itself; it is asked to on its loopback port, and what it says of
//! its progress is passed on.

pub(super) mod library;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::Inner;
use super::board::Chalk;
use super::download::in_time;
use super::error::{Kind, ModelError};
use super::flights::Outcome;

/// The longest line of an answer, in bytes.
const LINE_MAX: usize = 64 * 1024;
/// Layers that are told of one model.
const LAYERS_MAX: usize = 256;
/// What Ollama says before it reads all that it has fetched once more, or writes it down; then it is silent for as long
/// as its disk takes.
const SILENT_STAGES: [&str; 3] = ["verifying", "writing", "removing"];
/// How long that may be: a model of a terabyte on a slow disk.
const SILENT_MAX: Duration = Duration::from_secs(3_600);
/// The longest name of a model, in bytes.
const TAG_MAX: usize = 300;

/// What is to be fetched, and by whom.
#[derive(Clone, Debug)]
pub(crate) struct Pull {
    /// Ollama's port on loopback.
    pub(crate) port: u16,
    /// `name`, `name:tag` or `namespace/name:tag`.
    pub(crate) tag: String,
}

impl Pull {
    /// Two with the same key are one fetch.
    pub(super) fn key(&self) -> String {
        format!("ollama {} {}", self.port, self.tag)
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

/// A line of the answer.
#[derive(Debug, Deserialize)]
struct Line {
    #[serde(default)]
    status: String,
    #[serde(default)]
    digest: String,
    #[serde(default)]
    total: u64,
    #[serde(default)]
    completed: u64,
    error: Option<String>,
}

/// Whether Ollama has the model already.
///
/// # Errors
/// When it does not answer, or answers something else.
pub(super) async fn has(inner: &Inner, pull: &Pull) -> Result<bool, ModelError> {
    let request = inner.loopback()?.post(pull.url("/api/show")).json(&json!({ "model": pull.tag }));
    let response = in_time(inner.limits.stall, &pull.tag, request.send()).await?;
    match response.map_err(|error| silent(pull, error))?.status() {
        StatusCode::OK => Ok(true),
        StatusCode::NOT_FOUND => Ok(false),
        status => Err(ModelError::network(format!("Ollama answers {status} about {}", pull.tag))),
    }
}

/// Lets a model that Ollama has answer to `name` too: that is what clients ask for.
///
/// # Errors
/// When it does not answer, or will not.
pub(super) async fn rename(inner: &Inner, pull: &Pull, name: &str) -> Result<(), ModelError> {
    if name == pull.tag {
        return Ok(());
    }
    let body = json!({ "source": pull.tag, "destination": name });
    let request = inner.loopback()?.post(pull.url("/api/copy")).json(&body);
    let response = in_time(inner.limits.stall, &pull.tag, request.send()).await?;
    match response.map_err(|error| silent(pull, error))?.status() {
        status if status.is_success() => Ok(()),
        // The model is there, so it is copying that is not: this is something that only speaks Ollama's API.
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
            tracing::warn!(model = pull.tag, name, "ollama does not let the model answer to the name");
            Ok(())
        }
        status => {
            let tag = &pull.tag;
            Err(ModelError::network(format!("Ollama answers {status} when {tag} is to be called {name}")))
        }
    }
}

/// Lets Ollama fetch a model; the outcome has no path, as only Ollama knows where it keeps what.
pub(super) async fn fetch(inner: Arc<Inner>, pull: Pull, chalk: Chalk) -> Outcome {
    let is_name = !pull.tag.is_empty() && pull.tag.len() <= TAG_MAX && !pull.tag.contains(char::is_control);
    if !is_name {
        return Err(ModelError::new(Kind::Invalid, "that is no name of a model of Ollama's library"));
    }
    chalk.stage("asking Ollama");
    let body = json!({ "model": pull.tag, "stream": true });
    let request = inner.loopback()?.post(pull.url("/api/pull")).json(&body);
    let response = in_time(inner.limits.stall, &pull.tag, request.send()).await?;
    let response = response.map_err(|error| silent(&pull, error))?;
    let status = response.status();
    let (mut body, mut rest, mut last) = (response.bytes_stream(), Vec::new(), String::new());
    while let Some(bytes) = in_time(patience(inner.limits.stall, &last), &pull.tag, body.next()).await? {
        rest.extend_from_slice(&bytes.map_err(|error| silent(&pull, error))?);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            take(&line, &pull, &chalk, &mut last)?;
        }
        if rest.len() > LINE_MAX {
            return Err(ModelError::network(format!("Ollama says too much at once about {}", pull.tag)));
        }
    }
    take(&rest, &pull, &chalk, &mut last)?;
    if !status.is_success() {
        return Err(ModelError::network(format!("Ollama answers {status} about {}", pull.tag)));
    }
    if last != "success" {
        return Err(ModelError::network(format!("Ollama broke off while it fetched {}", pull.tag)));
    }
    Ok(PathBuf::new())
}

/// How long Ollama may be silent after what it said last.
pub(super) fn patience(stall: Duration, said: &str) -> Duration {
    if SILENT_STAGES.iter().any(|stage| said.starts_with(stage)) { SILENT_MAX.max(stall) } else { stall }
}

/// Takes in a line of the answer.
fn take(line: &[u8], pull: &Pull, chalk: &Chalk, last: &mut String) -> Result<(), ModelError> {
    if line.trim_ascii().is_empty() {
        return Ok(());
    }
    let line: Line = serde_json::from_slice(line)
        .map_err(|_| ModelError::network(format!("Ollama's answer about {} is not understood", pull.tag)))?;
    if let Some(error) = line.error {
        return Err(said(&error, pull));
    }
    if line.digest.is_empty() {
        chalk.stage(&line.status);
    } else {
        chalk.layer(&line.status, &line.digest, line.completed, line.total, LAYERS_MAX);
    }
    *last = line.status;
    Ok(())
}

/// An error as Ollama words it.
fn said(error: &str, pull: &Pull) -> ModelError {
    let text: String = error.chars().filter(|c| !c.is_control()).take(300).collect();
    let is = |part: &str| text.contains(part);
    let (kind, advice) = if is("file does not exist") || is("not found") || is("manifest unknown") {
        (Kind::NotFound, "; there is no such model in its library, look at https://ollama.com/library")
    } else if is("no space left") {
        (Kind::NoRoom, "; make room on this node")
    } else if is("invalid model name") || is("invalid model") {
        (Kind::Invalid, "")
    } else if is("unauthorized") || is("access denied") {
        (Kind::Denied, "")
    } else {
        (Kind::Network, "")
    };
    ModelError::new(kind, format!("Ollama cannot fetch {}: {text}{advice}", pull.tag))
}

fn silent(pull: &Pull, error: reqwest::Error) -> ModelError {
    ModelError::request(&format!("Ollama on port {} does not answer, so {}", pull.port, pull.tag), error)
}
