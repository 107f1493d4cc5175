//! `POST /deployments/{id}/exec`: a command beside a replica's runtime.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::deployments::parse;
use super::error::refuse;
use super::{Api, origin};
use crate::actors::queries::ExecRequest;
use crate::domain::error::{Error, ErrorClass};

/// How long a command may take when nothing is said, and at most, in seconds.
const TIMEOUT_SECS: u64 = 60;
const TIMEOUT_SECS_MAX: u64 = 3_600;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExecBody {
    command: Vec<String>,
    /// A replica's id or index.
    replica: Option<Value>,
    timeout_seconds: Option<u64>,
}

impl ExecBody {
    fn request(self) -> Result<ExecRequest, Error> {
        let wrong = |message: String| Error::new(ErrorClass::Unprocessable, message);
        if self.command.first().is_none_or(String::is_empty) {
            return Err(wrong("command is empty; it is a list of words, the program first".to_owned()));
        }
        if self.command.iter().any(|word| word.contains('\0')) {
            return Err(wrong("command holds a zero byte".to_owned()));
        }
        let replica = match self.replica {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text),
            Some(Value::Number(index)) => Some(index.to_string()),
            Some(_) => return Err(wrong("replica is neither an id nor an index".to_owned())),
        };
        let seconds = self.timeout_seconds.unwrap_or(TIMEOUT_SECS);
        if !(1..=TIMEOUT_SECS_MAX).contains(&seconds) {
            return Err(wrong(format!("timeout_seconds is {seconds}, not from 1 to {TIMEOUT_SECS_MAX}")));
        }
        Ok(ExecRequest { replica, command: self.command, timeout: Duration::from_secs(seconds) })
    }
}

/// Runs it. A client that hangs up ends the command.
pub(super) async fn post(
    request: HttpRequest,
    api: web::Data<Api>,
    name: web::Path<String>,
    body: Bytes,
) -> HttpResponse {
    let ran = async {
        let wanted = parse::<ExecBody>(&body)?.request()?;
        api.system.exec(&name, wanted, origin(&request)).await
    };
    match ran.await {
        Err(error) => refuse(&request, &error),
        Ok(outcome) => HttpResponse::Ok().json(json!({
            "exit_code": outcome.exit_code,
            "stdout": outcome.stdout,
            "stderr": outcome.stderr,
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<ExecRequest, Error> {
        parse::<ExecBody>(json.as_bytes())?.request()
    }

    #[test]
    fn a_replica_is_named_by_id_or_index_and_the_time_is_bounded() {
        let request =
            read(r#"{"command":["sh","-c","true"],"replica":1,"timeout_seconds":5}"#).expect("valid");
        assert_eq!(request.replica.as_deref(), Some("1"));
        assert_eq!(request.timeout, Duration::from_secs(5));
        let request = read(r#"{"command":["ls"],"replica":"a-b"}"#).expect("valid");
        assert_eq!((request.replica.as_deref(), request.timeout.as_secs()), (Some("a-b"), TIMEOUT_SECS));
    }

    #[test]
    fn what_can_never_run_is_refused() {
        for (json, class, part) in [
            (r#"{"command":[]}"#, ErrorClass::Unprocessable, "command is empty"),
            (r#"{"command":[""]}"#, ErrorClass::Unprocessable, "command is empty"),
            (r#"{"command":["a\u0000b"]}"#, ErrorClass::Unprocessable, "zero byte"),
            (r#"{"command":["a"],"replica":{}}"#, ErrorClass::Unprocessable, "replica"),
            (r#"{"command":["a"],"timeout_seconds":0}"#, ErrorClass::Unprocessable, "timeout_seconds is 0"),
            (r#"{"command":["a"],"timeout_seconds":3601}"#, ErrorClass::Unprocessable, "3601"),
            (r#"{"command":"ls"}"#, ErrorClass::Invalid, "expected a sequence"),
            (r#"{"replica":"0"}"#, ErrorClass::Invalid, "command"),
            (r#"{"command":["a"],"tty":true}"#, ErrorClass::Invalid, "tty"),
        ] {
            let error = read(json).expect_err(json);
            assert!(error.class == class && error.message.contains(part), "{json}: {error}");
        }
    }
}
