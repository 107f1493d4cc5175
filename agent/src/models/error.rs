//! Why a model is not there.

use std::time::Duration;

/// What kind of trouble it is: whoever asked decides by it what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The model, or its source, cannot be what was meant.
    Invalid,
    /// There is no such model.
    NotFound,
    /// It needs a token, or the one that was shown does not open it.
    Denied,
    /// It does not fit on the disk.
    NoRoom,
    /// The network, or whoever is at its other end: it may pass.
    Network,
    /// What came is not what was announced, twice.
    Damaged,
    /// This machine's files.
    Local,
    /// Too much is under way.
    Busy,
}

/// Why a model is not there: one line for people, which never holds a token or a signed address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("model: {message}")]
pub(crate) struct ModelError {
    pub(crate) kind: Kind,
    message: String,
    /// How long the other side wants to be left alone.
    pub(super) retry_after: Option<Duration>,
}

impl ModelError {
    pub(super) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None }
    }

    pub(super) fn network(message: impl Into<String>) -> Self {
        Self::new(Kind::Network, message)
    }

    /// A request that came to nothing. The address is left out: it may be signed.
    pub(super) fn request(what: &str, error: reqwest::Error) -> Self {
        let error = error.without_url();
        let cause = innermost(&error);
        if error.is_builder() {
            return Self::new(Kind::Invalid, format!("{what} cannot be asked for: {cause}"));
        }
        Self::network(format!("{what} cannot be fetched: {cause}"))
    }

    /// Files that cannot be read or written.
    pub(super) fn files(what: &str, error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Self::new(Kind::NoRoom, format!("the disk is full: {what}; make room on this node"))
            }
            _ => Self::new(Kind::Local, format!("{what}: {error}")),
        }
    }

    /// Something that went on in the background has failed.
    pub(super) fn lost(what: &str) -> Self {
        Self::new(Kind::Local, format!("the agent failed while it {what}"))
    }

    /// Whether the same may go well a little later.
    pub(crate) fn is_retryable(&self) -> bool {
        matches!(self.kind, Kind::Network | Kind::Busy)
    }

    /// The line without the word that says that it is about a model.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }
}

/// The first cause: those around it only repeat that a request failed.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
