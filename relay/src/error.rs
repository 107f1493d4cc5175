//! How an exchange with an upstream fails.

/// Why there is no answer, or no whole one. The texts name addresses: they are for logs, never for clients.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// No connection could be made; the upstream has seen nothing of the request.
    #[error("cannot connect to {0}")]
    Connect(String),
    /// Nothing came in time.
    #[error("the upstream did not answer in time")]
    Timeout,
    /// The connection broke or what came is no HTTP.
    #[error("the upstream's answer broke: {0}")]
    Broken(String),
    /// The client's own body broke while it was passed on.
    #[error("the client's body broke: {0}")]
    Request(String),
}

/// What was wrong with a body whose head had already been passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// The connection broke.
    Upstream,
    /// Nothing came for the idle timeout.
    Timeout,
    /// An event stream ended in order, but without `[DONE]`, or its filter missed its end.
    Unfinished,
    /// A line of an event stream is longer than it may be.
    TooLong,
}

/// A body that is no event stream was cut: the client must see that it is not whole.
#[derive(Debug, thiserror::Error)]
#[error("the upstream's answer was cut")]
pub struct Truncated;
