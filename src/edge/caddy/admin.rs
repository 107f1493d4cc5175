//! Caddy's admin API: one request at a time, each with a deadline and a bounded answer.

use std::error::Error as _;
use std::time::Duration;

use http_body_util::BodyExt as _;
use nebula_core::address::is_loopback_host;
use nebula_core::exit::{Exit, Fatal};
use reqwest::header::{CONTENT_TYPE, ETAG, HeaderMap, IF_MATCH};
use reqwest::redirect::Policy;
use reqwest::{Body, Client, RequestBuilder, StatusCode, Url};
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::task::spawn_blocking;

use super::diff::{Method, SERVERS_PATH, Write};
use super::listen::Listener;
use super::{seen, words};
use crate::domain::edge::EdgeError;

/// How long one request may take, with its answer; or all tries of one reading.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// How much of that making the connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How often something is read when the connection breaks. Caddy takes up its admin server anew with each change, ours
/// as well, and resets connections that came to the old one in that moment.
const READ_TRIES: u32 = 3;
/// Between two such tries.
const READ_PAUSE: Duration = Duration::from_millis(50);
/// Largest answer that is read, in bytes. Ten thousand nodes are less than 3 MiB.
const ANSWER_MAX: usize = 64 * 1024 * 1024;
/// The whole configuration.
const WHOLE_PATH: &str = "/config/";
/// Something small that can be asked for in every configuration, there or not.
const SMALL_PATH: &str = "/config/apps/http/http_port";

/// Where the admin API is.
#[derive(Debug)]
pub(super) struct Admin {
    http: Client,
    /// Without a slash at the end.
    base: String,
    /// The same for people, without a user's name and password.
    shown: String,
    /// What it listens on, when that is on this machine.
    listener: Option<Listener>,
}

/// The HTTP servers as they are.
#[derive(Debug)]
pub(super) struct Look {
    /// Their object, or `null`.
    pub(super) servers: String,
    /// What guards a write against changes since; in what form is Caddy's affair.
    pub(super) etag: Option<String>,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// Caddy took it.
    Done,
    /// Somebody else changed the configuration since it was looked at; nothing was written.
    Overtaken,
    /// The connection broke, perhaps as the admin server was just taken up anew; whether it was written is to be seen.
    Broken(EdgeError),
}

/// A whole answer.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    trailers: HeaderMap,
    text: String,
    /// Whether it was found to be JSON.
    is_json: bool,
}

/// Why there is no whole answer.
enum Failure {
    Late,
    /// There was no connection.
    Away(String),
    /// There was one, and it broke.
    Broken(String),
    TooLarge,
}

impl Admin {
    /// A client for the admin API at `url`.
    ///
    /// # Errors
    /// The URL cannot be one of it.
    pub(super) fn new(url: &str) -> Result<Self, Fatal> {
        let wrong = |why: String| Fatal::new(Exit::Config, format!("--caddy-admin-url is of no use: {why}"));
        let mut parsed = Url::parse(url).map_err(|error| wrong(error.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") || !parsed.has_host() {
            return Err(wrong("it is no http:// or https:// address".to_owned()));
        }
        let base = parsed.as_str().trim_end_matches('/').to_owned();
        // Neither can fail for a URL with a host.
        let _ = (parsed.set_username(""), parsed.set_password(None));
        let shown = parsed.as_str().trim_end_matches('/').to_owned();
        let host = parsed.host_str().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let listener = is_loopback_host(bare).then(|| {
            Listener::parse(&format!("{host}:{}", parsed.port_or_known_default().unwrap_or_default()))
        });
        // Each change makes Caddy start its admin server anew, so connections are not kept.
        let http = Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(0)
            .user_agent(concat!("nebulad/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| wrong(format!("no HTTP client can be made: {error}")))?;
        Ok(Self { http, base, shown, listener: listener.flatten() })
    }

    /// Where it is, for people.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// What it listens on itself, when that is on this machine.
    pub(super) fn listener(&self) -> Option<&Listener> {
        self.listener.as_ref()
    }

    /// Whether Caddy answers. What it has at the path, if anything, does not matter.
    pub(super) async fn probe(&self) -> Result<(), EdgeError> {
        self.read(SMALL_PATH).await.map(|_| ())
    }

    /// The HTTP servers.
    pub(super) async fn look(&self) -> Result<Look, EdgeError> {
        if let Some((servers, etag)) = self.read(SERVERS_PATH).await? {
            return Ok(Look { servers, etag });
        }
        // There is no HTTP app, or no configuration at all; what is not there cannot guard a write, the whole can.
        let Some((whole, etag)) = self.read(WHOLE_PATH).await? else {
            return Err(words::nonsense(&self.shown, "it has no configuration"));
        };
        let servers = seen::servers_within(&whole)
            .map_err(|seen::Nonsense| words::nonsense(&self.shown, "its configuration is no object"))?;
        Ok(Look { servers, etag })
    }

    /// What is at a path, and its ETag; nothing when Caddy has no such path.
    async fn read(&self, path: &str) -> Result<Option<(String, Option<String>)>, EdgeError> {
        let shown = &self.shown;
        let answer = match in_time(self.fetch(path)).await {
            Ok(answer) => answer,
            Err(Failure::Late) => return Err(words::away(shown, &late())),
            Err(Failure::Away(why) | Failure::Broken(why)) => return Err(words::away(shown, &why)),
            Err(Failure::TooLarge) => return Err(words::nonsense(shown, &too_large())),
        };
        let answer = answer.checked().await;
        if answer.status == StatusCode::OK && answer.is_json {
            let etag = answer.etag();
            return Ok(Some((answer.text, etag)));
        }
        match answer.said() {
            Some(said) if said.contains("invalid traversal path") => Ok(None),
            Some(said) => Err(words::unread(shown, answer.status.as_u16(), &said)),
            None => Err(words::nonsense(shown, &answer.described())),
        }
    }

    async fn fetch(&self, path: &str) -> Result<Answer, Failure> {
        let mut tries = 1;
        loop {
            match exchange(self.http.get(self.at(path))).await {
                Err(Failure::Broken(_)) if tries < READ_TRIES => tries += 1,
                other => return other,
            }
            tokio::time::sleep(READ_PAUSE).await;
        }
    }

    /// Makes one change if nothing has changed since `etag`; `listen` is what our server would listen on.
    pub(super) async fn write(&self, write: Write, etag: &str, listen: &str) -> Result<Written, EdgeError> {
        let shown = &self.shown;
        let url = self.at(&write.path);
        let request = match write.method {
            Method::Put => self.http.put(url),
            Method::Patch => self.http.patch(url),
            Method::Delete => self.http.delete(url),
        };
        let json = request.header(CONTENT_TYPE, "application/json").header(IF_MATCH, etag).body(write.body);
        let answer = match in_time(exchange(json)).await {
            Ok(answer) => answer,
            Err(Failure::Late) => return Err(words::unanswered(shown, &late())),
            Err(Failure::Away(why)) => return Err(words::away(shown, &why)),
            Err(Failure::Broken(why)) => return Ok(Written::Broken(words::away(shown, &why))),
            Err(Failure::TooLarge) => return Err(words::nonsense(shown, &too_large())),
        };
        if answer.status == StatusCode::OK {
            return Ok(Written::Done);
        }
        let Some(said) = answer.said() else {
            return Err(words::nonsense(shown, &answer.described()));
        };
        match words::unwritten(shown, listen, answer.status.as_u16(), &said) {
            Some(error) => Err(error),
            None => Ok(Written::Overtaken),
        }
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }
}

impl Answer {
    /// Looks whether it is JSON. Of thousands of nodes that takes some milliseconds, which others need not wait for.
    async fn checked(mut self) -> Self {
        let text = std::mem::take(&mut self.text);
        let checked = spawn_blocking(move || {
            let is_json = serde_json::from_str::<IgnoredAny>(&text).is_ok();
            (text, is_json)
        });
        (self.text, self.is_json) = checked.await.unwrap_or_default();
        self
    }

    /// Caddy 2.6 sends it behind the body, as it is only known then.
    fn etag(&self) -> Option<String> {
        let etag = self.trailers.get(ETAG).or_else(|| self.headers.get(ETAG))?;
        etag.to_str().ok().map(ToOwned::to_owned)
    }

    /// The text of an error of Caddy's; nothing when it is none.
    fn said(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Said {
            error: String,
        }
        if self.status.is_success() || !self.text.trim_start().starts_with('{') {
            return None;
        }
        serde_json::from_str::<Said>(&self.text).ok().map(|said| said.error)
    }

    /// An answer that is not Caddy's.
    fn described(&self) -> String {
        let kind = self.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("no type");
        format!("{} with {}", self.status.as_u16(), words::quote(kind))
    }
}

async fn in_time(answer: impl Future<Output = Result<Answer, Failure>>) -> Result<Answer, Failure> {
    tokio::time::timeout(REQUEST_DEADLINE, answer).await.unwrap_or(Err(Failure::Late))
}

/// Sends a request and reads the whole answer.
async fn exchange(request: RequestBuilder) -> Result<Answer, Failure> {
    let response = request.send().await.map_err(broken)?;
    let (status, headers) = (response.status(), response.headers().clone());
    let mut body = Body::from(response);
    let mut bytes = Vec::new();
    let mut trailers = HeaderMap::new();
    while let Some(frame) = body.frame().await {
        match frame.map_err(broken)?.into_data() {
            Ok(data) if bytes.len() + data.len() > ANSWER_MAX => return Err(Failure::TooLarge),
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
        }
    }
    // What is no text is no JSON either, and is told by its status and type.
    let text = String::from_utf8(bytes).unwrap_or_default();
    Ok(Answer { status, headers, trailers, text, is_json: false })
}

/// The innermost reason, as the outer ones repeat the URL or say little.
fn broken(error: reqwest::Error) -> Failure {
    if error.is_timeout() {
        return Failure::Away(format!("no connection within {} s", CONNECT_TIMEOUT.as_secs()));
    }
    let kind = if error.is_connect() { Failure::Away } else { Failure::Broken };
    let error = error.without_url();
    let mut why = error.to_string();
    let mut inner = error.source();
    while let Some(error) = inner {
        why = error.to_string();
        inner = error.source();
    }
    kind(words::quote(&why))
}

fn late() -> String {
    format!("did not answer within {} s", REQUEST_DEADLINE.as_secs())
}

fn too_large() -> String {
    format!("more than {} MiB", ANSWER_MAX / (1024 * 1024))
}
