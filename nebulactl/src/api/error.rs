//! What went wrong with a request, in words, with advice and the exit code.

use std::error::Error;
use std::time::Duration;

use nebula_core::duration;
use nebula_core::exit::{Exit, Fatal};
use reqwest::header::{HeaderMap, LOCATION};
use reqwest::{Method, StatusCode, Url};

use super::{Json, is_loopback};
use crate::failure::{Failure, failed, one_line};
use crate::settings::Origin;

/// A request that did not succeed.
#[derive(Debug)]
pub(crate) struct ApiError {
    /// The status, when there was an answer.
    pub(crate) status: Option<StatusCode>,
    /// What the user is told.
    pub(crate) fatal: Fatal,
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Fatal(error.fatal)
    }
}

impl ApiError {
    /// Whether the same request may well succeed a moment later, as after a restart of nebulad.
    pub(crate) fn is_passing(&self) -> bool {
        self.fatal.exit == Exit::Unreachable || self.status.is_some_and(|status| status.is_server_error())
    }

    pub(super) fn unreachable(server: &str, url: &Url, error: &reqwest::Error) -> Self {
        let start = match url.scheme() {
            _ if is_loopback(url) => "start nebulad with `nebulad` (or try `nebulad dev`)",
            "https" => "start nebulad there, write http:// before an address that speaks plain HTTP",
            _ => "start nebulad there",
        };
        let message = format!("nebulad at {server} cannot be reached: {}", innermost(error));
        Self::no_answer(message, server, start)
    }

    pub(super) fn silent(server: &str, patience: Duration) -> Self {
        let message = format!("nebulad at {server} did not answer within {}", duration::human(patience));
        Self::no_answer(message, server, "see what nebulad's log says")
    }

    pub(super) fn broken_off(server: &str, error: &reqwest::Error) -> Self {
        let message = format!("the answer of {server} broke off: {}", innermost(error));
        Self { status: None, fatal: failed(message) }
    }

    pub(super) fn too_long(url: &Url, mebibytes: usize) -> Self {
        Self { status: None, fatal: failed(format!("the answer of {url} is longer than {mebibytes} MiB")) }
    }

    /// A success that is not what nebulad would send; `found` is the content type or another short description.
    pub(crate) fn no_json(url: &Url, method: &str, found: &str) -> Self {
        let found = if found.is_empty() { "no content type" } else { found };
        let fatal = failed(format!("{method} {url} was answered by something that is not nebulad ({found})"))
            .hint("check the address given with --server or NEBULA_SERVER");
        Self { status: None, fatal }
    }

    /// An answer with a status other than success.
    pub(super) fn refused(
        method: &Method,
        url: &Url,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
        origin: Option<&Origin>,
    ) -> Self {
        let fatal = match said(body) {
            Some(said) => {
                let exit = if is_denial(status) { Exit::NotAllowed } else { Exit::Failed };
                let fatal = Fatal::new(exit, said.message);
                match advice(status, url, said.request_id.as_deref(), origin) {
                    Some(hint) => fatal.hint(hint),
                    None => fatal,
                }
            }
            None if is_denial(status) => {
                let message = format!("{method} {url} is not allowed ({status})");
                Fatal::new(Exit::NotAllowed, message).hint(token_advice(origin))
            }
            None => {
                let target = headers.get(LOCATION).and_then(|value| value.to_str().ok());
                let target = target.map(|target| format!(" to {}", one_line(target))).unwrap_or_default();
                failed(format!(
                    "{method} {url} was answered with {status}{target} and no reason that nebulad gives"
                ))
                .hint("check the address given with --server or NEBULA_SERVER")
            }
        };
        Self { status: Some(status), fatal }
    }

    fn no_answer(message: String, server: &str, first: &str) -> Self {
        let hint = format!("{first}, or give another address than {server} with --server or NEBULA_SERVER");
        Self { status: None, fatal: Fatal::new(Exit::Unreachable, message).hint(hint) }
    }
}

/// What an error body says, in the management API's shape or in OpenAI's.
struct Said {
    message: String,
    request_id: Option<String>,
}

fn said(body: &[u8]) -> Option<Said> {
    let json = Json::parse(body)?;
    let error = json.value.get("error")?;
    let message = error.get("message").unwrap_or(error).as_str()?;
    let request_id = error.get("request_id").and_then(|id| id.as_str()).map(one_line);
    Some(Said { message: one_line(message), request_id })
}

/// The message of an error object in a stream or a body; nothing when `value` holds no error.
pub(crate) fn message_of(value: &serde_json::Value) -> Option<String> {
    let error = value.get("error").filter(|error| !error.is_null())?;
    let text = error.get("message").unwrap_or(error);
    Some(text.as_str().map_or_else(|| one_line(&text.to_string()), one_line))
}

fn is_denial(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

fn advice(
    status: StatusCode,
    url: &Url,
    request_id: Option<&str>,
    origin: Option<&Origin>,
) -> Option<String> {
    match status.as_u16() {
        401 | 403 => Some(token_advice(origin)),
        404 => Some(whats_there(url).to_owned()),
        500.. => request_id.map(|id| format!("nebulad's log says more under request_id {id}")),
        _ => None,
    }
}

/// Which command lists the things that are asked for here.
fn whats_there(url: &Url) -> &'static str {
    match url.path_segments().and_then(|parts| parts.skip_while(|part| *part != "v1").nth(1)) {
        Some("deployments") => "`nebulactl list` and `nebulactl aliases list` show what there is",
        Some("aliases") => "`nebulactl aliases list` and `nebulactl list` show what there is",
        Some("nodes") => "`nebulactl nodes list` shows what there is",
        Some("operations") => "`nebulactl operations list` shows what there is",
        Some("keys") => "`nebulactl keys list` shows what there is",
        _ => "`nebulactl list`, `models`, `nodes list`, `operations list` and `keys list` show what there is",
    }
}

fn token_advice(origin: Option<&Origin>) -> String {
    match origin {
        None => "no token was found: give --token or NEBULA_TOKEN; nebulad keeps its admin token in the file \
                 admin.token of its data directory"
            .to_owned(),
        Some(Origin::KeyFlag) => {
            "the key given with --api-key was not accepted; a model takes its own access token, or the admin token"
                .to_owned()
        }
        Some(origin) => format!(
            "the token from {origin} was not accepted; nebulad keeps its admin token in the file admin.token of its \
             data directory"
        ),
    }
}

/// The deepest cause of an error: what the system said.
pub(super) fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    one_line(&cause.to_string())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn refused(status: u16, body: &str, origin: Option<&Origin>) -> Fatal {
        let url = Url::parse("http://h/api/v1/x").expect("url");
        let status = StatusCode::from_u16(status).expect("status");
        ApiError::refused(&Method::GET, &url, status, &HeaderMap::new(), body.as_bytes(), origin).fatal
    }

    #[test]
    fn both_error_shapes_are_understood() {
        let ours =
            r#"{"error":{"message":"deployment \"x\"\nis not there","code":"not_found","request_id":"r1"}}"#;
        let openai =
            r#"{"error":{"message":"no such model","type":"invalid_request_error","param":null,"code":"x"}}"#;
        let bare = r#"{"error":"no"}"#;
        assert_eq!(refused(404, ours, None).message, "deployment \"x\" is not there");
        assert_eq!(refused(404, openai, None).message, "no such model");
        assert_eq!(refused(400, bare, None).message, "no");
        assert_eq!(refused(400, bare, None).exit, Exit::Failed);
        assert_eq!(
            refused(503, ours, None).hint.as_deref(),
            Some("nebulad's log says more under request_id r1")
        );
    }

    #[test]
    fn advice_for_what_is_not_there_names_the_list_of_such_things() {
        for (path, part) in [
            ("/api/v1/deployments/x/why", "`nebulactl list`"),
            ("/api/v1/nodes/x/drain", "`nebulactl nodes list`"),
            ("/api/v1/operations/x", "`nebulactl operations list`"),
            ("/api/v1/aliases/x", "`nebulactl aliases list`"),
            ("/v1/chat/completions", "`models`"),
        ] {
            let url = Url::parse(&format!("http://h{path}")).expect("url");
            let hint = advice(StatusCode::NOT_FOUND, &url, None, None).expect("a hint");
            assert!(hint.contains(part), "{path}: {hint}");
        }
    }

    #[test]
    fn denials_say_which_token_was_used() {
        let body = r#"{"error":{"message":"wrong token"}}"#;
        let file = Origin::File(PathBuf::from("data/admin.token"));
        for (status, body, origin, part) in [
            (401, body, None, "no token was found"),
            (403, body, Some(&Origin::Environment), "the token from NEBULA_TOKEN"),
            (401, body, Some(&file), "the token from data/admin.token"),
            (401, body, Some(&Origin::KeyFlag), "--api-key"),
            (401, "<html>", None, "no token was found"),
        ] {
            let fatal = refused(status, body, origin);
            assert_eq!(fatal.exit, Exit::NotAllowed);
            assert!(fatal.hint.as_deref().is_some_and(|hint| hint.contains(part)), "{fatal:?}");
        }
    }

    #[test]
    fn an_error_page_is_not_passed_off_as_a_reason() {
        let fatal = refused(404, "<html>nginx</html>", None);
        assert!(
            fatal.message.contains("404 Not Found and no reason that nebulad gives"),
            "{}",
            fatal.message
        );
        assert!(fatal.hint.expect("a hint").contains("--server"));
    }
}
