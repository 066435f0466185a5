//! [`Error`] to a gRPC status with `google.rpc` details: the only place of that mapping.

use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::surface::{retry_after, shorten};
use crate::types::{Error, ErrorKind};

/// `google.rpc.ErrorInfo.domain` of every error.
const DOMAIN: &str = "reprise";

/// Longest message sent: it travels in a header.
const MAX_MESSAGE_BYTES: usize = 1000;

/// Most violations sent, and the longest field path or description, in bytes.
const MAX_VIOLATIONS: usize = 10;
const MAX_FIELD_BYTES: usize = 200;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        if matches!(error.kind, ErrorKind::Internal | ErrorKind::Corrupt) {
            // The caller is not told the cause, so it is written down here.
            tracing::error!(kind = error.kind.as_str(), %error, "request failed");
        }
        let message = shorten(&error.message, MAX_MESSAGE_BYTES).into_owned();
        Status::with_error_details(code(error.kind), message, details(&error))
    }
}

/// The same error as a message, for one prompt of a batch.
pub fn to_message(error: Error) -> tonic_types::pb::Status {
    let status = Status::from(error);
    tonic_types::pb::Status::decode(status.details()).unwrap_or_else(|_| tonic_types::pb::Status {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}

/// Replaces what the transport says of a message it could not read: bad input is no INTERNAL error, and it has the
/// details every error has.
pub fn clear(status: Status) -> Status {
    let unreadable = match status.code() {
        Code::Internal => status.message().starts_with("failed to decode Protobuf message"),
        Code::OutOfRange => status.message().contains("message length too large"),
        _ => false,
    };
    if unreadable { Error::invalid("message", status.message()).into() } else { status }
}

fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::Unauthenticated => Code::Unauthenticated,
        ErrorKind::PermissionDenied => Code::PermissionDenied,
        ErrorKind::NotFound | ErrorKind::NotCached => Code::NotFound,
        ErrorKind::FailedPrecondition => Code::FailedPrecondition,
        ErrorKind::Overloaded | ErrorKind::RateLimited => Code::ResourceExhausted,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::Cancelled => Code::Cancelled,
        // gRPC maps a gateway's 502 to UNAVAILABLE too: another try may reach a healthy upstream.
        ErrorKind::Unavailable | ErrorKind::Upstream => Code::Unavailable,
        ErrorKind::Unsupported => Code::Unimplemented,
        ErrorKind::Corrupt => Code::DataLoss,
        ErrorKind::Internal => Code::Internal,
    }
}

fn details(error: &Error) -> ErrorDetails {
    let mut details = ErrorDetails::new();
    details.set_error_info(error.kind.as_str(), DOMAIN, std::collections::HashMap::new());
    for violation in error.violations.iter().take(MAX_VIOLATIONS) {
        let (field, description) = (&violation.field, &violation.description);
        details.add_bad_request_violation(shorten(field, MAX_FIELD_BYTES), shorten(description, MAX_FIELD_BYTES));
    }
    if let Some(after) = retry_after(error) {
        details.set_retry_info(Some(after));
    }
    let exhausted = match error.kind {
        ErrorKind::Overloaded => Some("service capacity"),
        ErrorKind::RateLimited => Some("rate limit"),
        _ => None,
    };
    if let Some(subject) = exhausted {
        details.add_quota_failure_violation(subject, shorten(&error.message, MAX_MESSAGE_BYTES));
    }
    details
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_error_names_its_kind_and_domain() {
        let status = Status::from(Error::new(ErrorKind::NotCached, "no answer"));
        let info = status.get_details_error_info().unwrap();
        assert_eq!((status.code(), &*info.reason, &*info.domain), (Code::NotFound, "NOT_CACHED", "reprise"));
    }

    #[test]
    fn violations_become_a_bad_request() {
        let status = Status::from(Error::invalid("context.priority", "12 is not a priority"));
        assert_eq!(status.code(), Code::InvalidArgument);
        let told = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!((&*told[0].field, &*told[0].description), ("context.priority", "12 is not a priority"));
    }

    #[test]
    fn a_full_queue_and_a_used_up_quota_say_when_to_return() {
        let full = Status::from(Error::new(ErrorKind::Overloaded, "the queue is full"));
        assert_eq!(full.code(), Code::ResourceExhausted);
        assert_eq!(full.get_details_quota_failure().unwrap().violations[0].subject, "service capacity");
        assert_eq!(full.get_details_retry_info().unwrap().retry_delay, Some(Duration::from_secs(1)));
        let limited = Error::new(ErrorKind::RateLimited, "slow down").with_retry_after(Duration::from_secs(7));
        let limited = Status::from(limited);
        assert_eq!(limited.get_details_retry_info().unwrap().retry_delay, Some(Duration::from_secs(7)));
        assert_eq!(limited.get_details_quota_failure().unwrap().violations[0].description, "slow down");
    }

    #[test]
    fn the_cause_of_an_internal_error_stays_inside() {
        let error = Error::internal("the store failed").with_source(std::io::Error::other("/secret/path"));
        let status = Status::from(error);
        assert_eq!(status.message(), "the store failed");
        assert!(!String::from_utf8_lossy(status.details()).contains("secret"));
    }

    #[test]
    fn a_huge_message_fits_into_a_header() {
        let status = Status::from(Error::internal("é".repeat(1 << 20)));
        assert!(status.message().len() <= MAX_MESSAGE_BYTES + 4);
        assert!(status.details().len() < 4096);
    }

    #[test]
    fn a_message_that_does_not_decode_is_bad_input() {
        let why = "failed to decode Protobuf message: Message.content: invalid string value: data is not UTF-8 encoded";
        let status = clear(Status::internal(why));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].description, why);
        let large =
            clear(Status::out_of_range("Error, decoded message length too large: found 9 bytes, the limit is 8"));
        assert_eq!(large.code(), Code::InvalidArgument);
        assert_eq!(clear(Status::internal("broken")).code(), Code::Internal);
    }

    #[test]
    fn a_batch_error_carries_the_same_details() {
        let message = to_message(Error::invalid("chats[1].messages", "is empty"));
        assert_eq!(message.code, i32::from(Code::InvalidArgument));
        assert_eq!(message.message, "chats[1].messages: is empty");
        assert_eq!(message.details.len(), 2);
    }
}
