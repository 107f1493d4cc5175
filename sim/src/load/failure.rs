//! Why an answer does not count.

use std::fmt;

/// What was wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failure {
    /// No connection could be made.
    Connect,
    /// The connection broke or ended before the answer did.
    Closed,
    /// The answer was not complete in time.
    Timeout,
    /// Another status than 200.
    Status(u16),
    /// What came is no HTTP, or more than one answer.
    Malformed,
    /// A body that does not end as JSON ends, or is no stream where one was asked for.
    Body,
    /// A stream that ended without `[DONE]`.
    NoDone,
    /// A stream with an error event.
    ErrorEvent,
}

impl Failure {
    /// What the reader of the report can do about it.
    pub(crate) fn hint(self) -> &'static str {
        match self {
            Self::Connect => "does a server listen there, and are there ports and open files left?",
            Self::Closed => "the server ended connections within answers: see what its log says",
            Self::Timeout => "the server is slower than --timeout",
            Self::Status(401) => "give a credential with --token or NEBULA_SIM_TOKEN",
            Self::Status(404) => "see which models there are (GET /v1/models), and check --model and --url",
            Self::Status(429) => "the key's or the runtime's limit was reached",
            Self::Status(503) => "nothing could serve the model then: wait until it is ready",
            Self::Status(_) => "the server's log should say why",
            Self::Malformed => "is this an HTTP/1.1 server without TLS?",
            Self::Body => "answers were not what was asked for",
            Self::NoDone => "streams ended too early",
            Self::ErrorEvent => "streams broke behind the server",
        }
    }
}

impl fmt::Display for Failure {
    /// The word under which it is counted.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Status(status) => return write!(f, "status_{status}"),
            Self::Malformed => "malformed",
            Self::Body => "body",
            Self::NoDone => "no_done",
            Self::ErrorEvent => "error_event",
        })
    }
}
