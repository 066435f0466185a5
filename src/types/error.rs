//! One error type for every seam. Callers act on its [`ErrorKind`]; `grpc::status` and `http::error` are the
//! only places that turn it into a wire status.

use std::fmt;
use std::time::Duration;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in the terms a caller can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request is malformed; sending it again will not help.
    InvalidArgument,
    Unauthenticated,
    PermissionDenied,
    /// A named thing (model, entry, tenant) does not exist.
    NotFound,
    /// `only-if-cached` was asked for, and the cache has no answer.
    NotCached,
    /// The service is not in the state this needs (say, embedding is off).
    FailedPrecondition,
    /// A bounded queue is full; try again after `retry_after`.
    Overloaded,
    /// A rate limit or quota, ours or the provider's, is used up.
    RateLimited,
    DeadlineExceeded,
    Cancelled,
    /// A dependency is unreachable or down for now.
    Unavailable,
    /// The provider answered, but not with something usable.
    Upstream,
    Unsupported,
    /// Stored bytes do not decode.
    Corrupt,
    Internal,
}

impl ErrorKind {
    /// Stable upper-case name, used as `google.rpc.ErrorInfo.reason` and as the HTTP error `code`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::NotFound => "NOT_FOUND",
            Self::NotCached => "NOT_CACHED",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::Overloaded => "OVERLOADED",
            Self::RateLimited => "RATE_LIMITED",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::Cancelled => "CANCELLED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Upstream => "UPSTREAM",
            Self::Unsupported => "UNSUPPORTED",
            Self::Corrupt => "CORRUPT",
            Self::Internal => "INTERNAL",
        }
    }

    /// Whether the same call may succeed when it is made again, by this caller or by another.
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            Self::Overloaded
                | Self::RateLimited
                | Self::DeadlineExceeded
                | Self::Cancelled
                | Self::Unavailable
                | Self::Upstream
                | Self::Internal
        )
    }
}

/// One field of a request that is wrong, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Dotted path in the request, for example `messages[2].content`.
    pub field: String,
    pub description: String,
}

/// An error with a kind to act on, a message for a person, and its cause.
///
/// `Clone`, because the followers of a flight all get their leader's error.
#[derive(Debug, Clone)]
pub struct Error {
    pub kind: ErrorKind,
    pub message: String,
    pub retry_after: Option<Duration>,
    pub violations: Vec<Violation>,
    source: Option<std::sync::Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None, violations: Vec::new(), source: None }
    }

    /// An [`ErrorKind::InvalidArgument`] that names the field at fault.
    pub fn invalid(field: impl Into<String>, description: impl Into<String>) -> Self {
        let violation = Violation { field: field.into(), description: description.into() };
        let mut error =
            Self::new(ErrorKind::InvalidArgument, format!("{}: {}", violation.field, violation.description));
        error.violations.push(violation);
        error
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    pub fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(std::sync::Arc::new(source));
        self
    }

    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// The same error with `context: ` before its message.
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|s| s.as_ref() as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_names_the_field_in_message_and_violation() {
        let error = Error::invalid("ttl", "must not be negative");
        assert_eq!(error.kind, ErrorKind::InvalidArgument);
        assert_eq!(error.to_string(), "ttl: must not be negative");
        assert_eq!(error.violations[0].field, "ttl");
    }

    #[test]
    fn display_ends_with_the_cause() {
        let error = Error::unavailable("redis").with_source(std::io::Error::other("refused")).context("get");
        assert_eq!(error.to_string(), "get: redis: refused");
    }
}
