//! The way to the Docker Engine: where it is, and a deadline on every call.

use std::error::Error as _;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bollard::errors::Error;
use nebula_core::exit::{Exit, Fatal};

/// For a call that only asks.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(10);
/// For a call that makes or removes something: disks, networks and GPUs take their time.
pub(super) const CHANGE_LIMIT: Duration = Duration::from_secs(60);

const USUAL_SOCKET: &str = "/var/run/docker.sock";
const USUAL_PORT: u16 = 2375;
/// What is shown of an answer, in bytes.
const MESSAGE_MAX: usize = 500;

/// Where the Engine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    Unix(PathBuf),
    /// Host and port.
    Tcp(String),
}

impl Host {
    /// Where it is when nobody says.
    pub(super) fn usual() -> Self {
        Self::Unix(USUAL_SOCKET.into())
    }
}

impl FromStr for Host {
    type Err = Fatal;

    fn from_str(text: &str) -> Result<Self, Fatal> {
        let wrong = || {
            Fatal::new(Exit::Config, format!("\"{text}\" is no address of a Docker Engine"))
                .hint("--docker-host takes unix:///var/run/docker.sock, tcp://host:port or http://host:port")
        };
        match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(("tcp" | "http", address)) => {
                let address = address.trim_end_matches('/');
                let (host, port) = match address.rsplit_once(':').filter(|_| !address.ends_with(']')) {
                    Some((host, port)) => (host, port.parse().map_err(|_| wrong())?),
                    None => (address, USUAL_PORT),
                };
                let legal =
                    |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
                if host.is_empty() || !host.chars().all(legal) || port == 0 {
                    return Err(wrong());
                }
                Ok(Self::Tcp(format!("{host}:{port}")))
            }
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// Why the Engine did not do what it was asked: one line for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EngineError {
    /// Nobody is there, or the connection broke.
    #[error("the Docker Engine at {host} cannot be reached: {cause}")]
    Absent {
        /// Its address.
        host: String,
        /// What the system says.
        cause: String,
    },
    /// It did not answer in time.
    #[error("the Docker Engine at {host} did not {what} within {} s", .limit.as_secs())]
    TimedOut {
        /// Its address.
        host: String,
        /// What it was asked.
        what: &'static str,
        /// How long it had.
        limit: Duration,
    },
    /// It said no.
    #[error("the Docker Engine says: {message}")]
    Answered {
        /// The HTTP status; 0: said in the middle of an answer.
        status: u16,
        /// Its own words.
        message: String,
    },
    /// Its answer is none that we know.
    #[error("the answer of the Docker Engine at {host} is not understood: {cause}")]
    Garbled {
        /// Its address.
        host: String,
        /// What is wrong with it.
        cause: String,
    },
}

impl EngineError {
    /// Whether the thing that was asked for does not exist.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Answered { status: 404, .. })
    }

    /// Whether it is in the state that was asked for already, or in one that excludes it.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Answered { status: 304 | 409, .. })
    }
}

/// The Engine, by its address. Each call makes a connection of its own, so nothing is left of an Engine that went.
#[derive(Clone, Debug)]
pub(super) struct Engine {
    host: Host,
}

impl Engine {
    pub(super) fn new(host: Host) -> Self {
        Self { host }
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    /// A client whose answers begin within a limit; how long they go on is up to the caller.
    ///
    /// # Errors
    /// When the Engine's socket is not there.
    pub(super) fn client(&self, limit: Duration) -> Result<bollard::Docker, EngineError> {
        // The paths that this client asks for carry no version: the Engine takes its newest one. Both sides leave out
        // or ignore what the other does not know.
        let (seconds, version) = (limit.as_secs(), bollard::API_DEFAULT_VERSION);
        let client = match &self.host {
            Host::Unix(path) => bollard::Docker::connect_with_unix(&path.to_string_lossy(), seconds, version),
            Host::Tcp(address) => bollard::Docker::connect_with_http(address, seconds, version),
        };
        client
            .map(|client| client.with_request_modifier(url_safe_credentials))
            .map_err(|error| self.error(error, "", limit))
    }

    /// Asks something that has an end. `what` completes "the Docker Engine did not …".
    ///
    /// # Errors
    /// See [`EngineError`].
    pub(super) async fn call<T, F>(
        &self,
        what: &'static str,
        limit: Duration,
        ask: impl FnOnce(bollard::Docker) -> F,
    ) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let client = self.client(limit)?;
        match tokio::time::timeout(limit, ask(client)).await {
            Ok(answer) => answer.map_err(|error| self.error(error, what, limit)),
            Err(_) => Err(EngineError::TimedOut { host: self.host.to_string(), what, limit }),
        }
    }

    /// What an error of the client means.
    pub(super) fn error(&self, error: Error, what: &'static str, limit: Duration) -> EngineError {
        let host = self.host.to_string();
        match error {
            Error::DockerResponseServerError { status_code, message } => {
                EngineError::Answered { status: status_code, message: one_line(&message) }
            }
            Error::DockerStreamError { error } => {
                EngineError::Answered { status: 0, message: one_line(&error) }
            }
            Error::RequestTimeoutError => EngineError::TimedOut { host, what, limit },
            Error::SocketNotFoundError(_) => {
                EngineError::Absent { host, cause: "there is no such socket".to_owned() }
            }
            Error::HyperLegacyError { .. } | Error::HyperResponseError { .. } | Error::IOError { .. } => {
                EngineError::Absent { host, cause: innermost(&error) }
            }
            other => EngineError::Garbled { host, cause: one_line(&other.to_string()) },
        }
    }
}

/// The Engine reads credentials only in the alphabet for URLs; the client writes the other one.
fn url_safe_credentials(mut request: bollard::BollardRequest) -> bollard::BollardRequest {
    if let Some(value) = request.headers_mut().get_mut("x-registry-auth")
        && let Ok(text) = value.to_str()
        && let Ok(mut safe) = text.replace('+', "-").replace('/', "_").parse()
    {
        std::mem::swap(value, &mut safe);
        value.set_sensitive(true);
    }
    request
}

/// The cause under all others, which is what the system said.
fn innermost(error: &Error) -> String {
    let mut cause = error.source();
    let mut text = error.to_string();
    while let Some(inner) = cause {
        text = inner.to_string();
        cause = inner.source();
    }
    one_line(&text)
}

/// A text of the Engine as one line for people.
pub(super) fn one_line(text: &str) -> String {
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect();
    crate::text::clip(nebula_core::telemetry::redact(words.join(" ")), MESSAGE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_an_engine() {
        for (text, shown) in [
            ("unix:///run/docker.sock", Some("unix:///run/docker.sock")),
            ("tcp://10.0.0.7:2376", Some("tcp://10.0.0.7:2376")),
            ("http://gpu-1/", Some("tcp://gpu-1:2375")),
            ("tcp://[::1]:99", Some("tcp://[::1]:99")),
            ("tcp://[::1]", Some("tcp://[::1]:2375")),
            ("unix://docker.sock", None),
            ("ssh://host", None),
            ("tcp://", None),
            ("tcp://host:0", None),
            ("tcp://host:x", None),
            ("tcp://host:1/path", None),
            ("/var/run/docker.sock", None),
            ("", None),
        ] {
            let host = text.parse::<Host>().map(|host| host.to_string());
            assert_eq!(host.as_deref().ok(), shown, "{text}");
        }
    }

    #[tokio::test]
    async fn an_engine_that_is_not_there_is_absent() {
        let engine = Engine::new("unix:///nowhere/docker.sock".parse().expect("an address"));
        let error = engine.call("answer", CALL_LIMIT, |docker| async move { docker.ping().await }).await;
        let text = error.expect_err("nobody is there").to_string();
        assert_eq!(
            text,
            "the Docker Engine at unix:///nowhere/docker.sock cannot be reached: there is no such socket"
        );
    }

    #[tokio::test]
    async fn an_engine_that_says_nothing_is_given_up() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let host = format!("tcp://{}", silent.local_addr().expect("an address"));
        let engine = Engine::new(host.parse().expect("an address"));
        let limit = Duration::from_secs(1);
        let answer = engine.call("answer a ping", limit, |docker| async move { docker.ping().await });
        let error = answer.await.expect_err("nobody answers");
        assert_eq!(
            error.to_string(),
            format!("the Docker Engine at {host} did not answer a ping within 1 s")
        );
    }
}
