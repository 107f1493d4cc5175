//! One error for everything that a caller may hear, with the class that decides its status on every protocol.

/// What kind of failure it is. HTTP and gRPC each have one table from class to status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// The request is malformed.
    Invalid,
    /// The request is well formed and can never be right.
    Unprocessable,
    /// No credential, or a wrong one.
    Unauthenticated,
    /// There is no such thing.
    NotFound,
    /// It contradicts what is there.
    Conflict,
    /// Too much at once; later it may work.
    Overloaded,
    /// The part that answers is starting again; it works in a moment.
    Restarting,
    /// Another machine cannot be reached.
    Unreachable,
    /// No answer in time; whether it happened is unknown.
    Timeout,
    /// A fault of ours.
    Internal,
}

/// A failure as its caller sees it: never an address, a credential or another part's inner error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What kind of failure it is.
    pub class: ErrorClass,
    /// One line that names the thing, no full stop.
    pub message: String,
}

impl Error {
    /// An error of `class`.
    #[must_use]
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into() }
    }

    /// Too many wait already.
    #[must_use]
    pub fn overloaded() -> Self {
        Self::new(ErrorClass::Overloaded, "too many requests wait here, try again later")
    }

    /// The part that answers is starting again.
    #[must_use]
    pub fn restarting() -> Self {
        Self::new(
            ErrorClass::Restarting,
            "this part of the control plane is restarting, try again in a moment",
        )
    }
}
