//! From the agent's errors to gRPC's.

use tonic::Status;

use crate::driver::exec::ExecError;
use crate::replica::machine::Refusal;
use crate::replica::task::Refused;
use crate::request::BadRequest;

/// The status of a command that was not carried out.
pub(super) fn refused(error: Refused) -> Status {
    let message = error.to_string();
    match error {
        Refused::Machine(Refusal::Stale { .. }) => Status::failed_precondition(message),
        Refused::Machine(Refusal::Unknown) => Status::not_found(message),
        Refused::Machine(Refusal::Deleting | Refusal::Halting) | Refused::Unavailable(_) => {
            Status::unavailable(message)
        }
        Refused::Invalid(_) => Status::invalid_argument(message),
        Refused::Exhausted(_) => Status::resource_exhausted(message),
    }
}

/// The status of a request with a wrong field.
pub(super) fn bad_request(error: BadRequest) -> Status {
    let message = error.to_string();
    match error {
        BadRequest::Invalid(_) => Status::invalid_argument(message),
    }
}

/// The status of a command beside a replica that has no exit code.
pub(super) fn exec(error: &ExecError) -> Status {
    match error {
        ExecError::NoProgram(_) => Status::invalid_argument(error.to_string()),
        ExecError::TimedOut(_) => Status::deadline_exceeded(error.to_string()),
        ExecError::Gone => Status::failed_precondition(error.to_string()),
        ExecError::Engine(_) => Status::unavailable(error.to_string()),
        ExecError::Io(_) => Status::internal(error.to_string()),
    }
}
