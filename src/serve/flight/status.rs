//! Errors as gRPC statuses. This is the only place that knows both.

use arrow::error::ArrowError;
use arrow_flight::error::FlightError;
use tonic::{Code, Status};

use crate::error::{Error, Kind};

/// The status of an error: its code tells a client whether to correct, wait or give up.
pub(super) fn status(error: Error) -> Status {
    let code = match error.kind() {
        Kind::Usage | Kind::Query => Code::InvalidArgument,
        Kind::NotFound => Code::NotFound,
        Kind::Denied => Code::PermissionDenied,
        Kind::Refused => Code::FailedPrecondition,
        Kind::Unavailable => Code::Unavailable,
        Kind::Exhausted => Code::ResourceExhausted,
        Kind::Deadline => Code::DeadlineExceeded,
        Kind::Cancelled => Code::Cancelled,
        Kind::Internal => {
            tracing::error!(error = %error, "statement failed");
            Code::Internal
        }
    };
    Status::new(code, error.to_string())
}

/// A fault in building an answer.
pub(super) fn internal(error: ArrowError) -> Status {
    tracing::error!(error = %error, "answer not encoded");
    Status::internal(error.to_string())
}

/// A fault in building an answer, from the Flight crate.
pub(super) fn flight(error: FlightError) -> Status {
    Status::from(error)
}

/// A message that cannot be read.
pub(super) fn malformed(error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("the message cannot be read: {error}"))
}

/// A handle or ticket that is not known (any more).
pub(super) fn expired(what: &str) -> Status {
    Status::not_found(format!("this {what} is unknown or has expired: run the statement again"))
}
