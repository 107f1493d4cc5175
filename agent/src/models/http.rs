//! Requests for small answers, and the clients that send them.

use std::time::Duration;

use futures_util::StreamExt as _;
use reqwest::header::{HeaderMap, RANGE};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, StatusCode};

use super::download::{Limits, in_time};
use super::error::{Kind, ModelError};

/// How long making a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Redirects in a row.
const REDIRECTS_MAX: usize = 10;
/// Tries for a small answer.
const TRIES: u32 = 3;
/// How the agent names itself.
const USER_AGENT: &str = concat!("nebula-agent/", env!("CARGO_PKG_VERSION"));

/// A client for the world outside. It goes through the proxies that the environment names.
pub(super) fn outside() -> Result<Client, ModelError> {
    let policy = Policy::custom(|attempt| {
        let was_safe = attempt.previous().last().is_some_and(|before| before.scheme() == "https");
        if was_safe && attempt.url().scheme() != "https" {
            return attempt.error("sent on from https to plain text");
        }
        if attempt.previous().len() > REDIRECTS_MAX {
            return attempt.error("sent on too often");
        }
        attempt.follow()
    });
    made(Client::builder().redirect(policy))
}

/// A client for runtimes on loopback.
pub(super) fn loopback() -> Result<Client, ModelError> {
    made(Client::builder().no_proxy().redirect(Policy::none()))
}

fn made(builder: reqwest::ClientBuilder) -> Result<Client, ModelError> {
    builder
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(USER_AGENT)
        .build()
        .map_err(|error| ModelError::new(Kind::Local, format!("no HTTP client can be made: {error}")))
}

/// Tries something a few times while it fails in a way that may pass.
pub(super) async fn retrying<T, W>(limits: Limits, what: impl Fn() -> W) -> Result<T, ModelError>
where
    W: Future<Output = Result<T, ModelError>>,
{
    let mut failures = 0;
    loop {
        match what().await {
            Err(error) if error.is_retryable() && failures + 1 < TRIES => {
                tokio::time::sleep(error.retry_after.unwrap_or(limits.retry * (1 << failures))).await;
                failures += 1;
            }
            other => return other,
        }
    }
}

/// The first `most` bytes of an answer: no more is asked for, and no more is read.
pub(super) async fn head(
    limits: Limits,
    request: impl Fn() -> Result<RequestBuilder, ModelError>,
    what: &str,
    most: usize,
    refused: fn(&str, StatusCode, &HeaderMap) -> ModelError,
) -> Result<Vec<u8>, ModelError> {
    retrying(limits, || async {
        let request = request()?.header(RANGE, format!("bytes=0-{}", most.saturating_sub(1)));
        let response = in_time(limits.stall, what, request.send()).await?;
        let response = response.map_err(|error| ModelError::request(what, error))?;
        if !response.status().is_success() {
            return Err(refused(what, response.status(), response.headers()));
        }
        let (mut body, mut bytes) = (response.bytes_stream(), Vec::new());
        while bytes.len() < most
            && let Some(more) = in_time(limits.stall, what, body.next()).await?
        {
            bytes.extend_from_slice(&more.map_err(|error| ModelError::request(what, error))?);
        }
        bytes.truncate(most);
        Ok(bytes)
    })
    .await
}

/// The body of an answer of at most `most` bytes.
pub(super) async fn text(
    request: RequestBuilder,
    stall: Duration,
    what: &str,
    most: usize,
    refused: fn(&str, StatusCode, &HeaderMap) -> ModelError,
) -> Result<String, ModelError> {
    let response = in_time(stall, what, request.send()).await?;
    let response = response.map_err(|error| ModelError::request(what, error))?;
    if !response.status().is_success() {
        return Err(refused(what, response.status(), response.headers()));
    }
    let (mut body, mut bytes) = (response.bytes_stream(), Vec::new());
    while let Some(more) = in_time(stall, what, body.next()).await? {
        bytes.extend_from_slice(&more.map_err(|error| ModelError::request(what, error))?);
        if bytes.len() > most {
            return Err(ModelError::new(Kind::Invalid, format!("the answer about {what} is too long")));
        }
    }
    String::from_utf8(bytes).map_err(|_| ModelError::network(format!("the answer about {what} is not text")))
}
