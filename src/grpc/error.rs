//! Errors on gRPC: one table from class to code.

use tonic::{Code, Status};

use crate::domain::error::{Error, ErrorClass};

/// The status that a caller gets.
pub(super) fn status(error: &Error) -> Status {
    let code = match error.class {
        ErrorClass::Invalid | ErrorClass::Unprocessable => Code::InvalidArgument,
        ErrorClass::Unauthenticated => Code::Unauthenticated,
        ErrorClass::NotFound => Code::NotFound,
        ErrorClass::Conflict => Code::FailedPrecondition,
        ErrorClass::Overloaded => Code::ResourceExhausted,
        ErrorClass::Restarting | ErrorClass::Unreachable => Code::Unavailable,
        ErrorClass::Timeout => Code::DeadlineExceeded,
        ErrorClass::Internal => Code::Internal,
    };
    Status::new(code, error.message.clone())
}
