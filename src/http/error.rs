//! [`Error`] to an OpenAI-shaped error reply: the only place of that mapping.

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::controls::CACHE_STATUS;
use crate::surface::{retry_after, shorten};
use crate::types::{Error, ErrorKind};

/// Longest message sent.
const MAX_MESSAGE_BYTES: usize = 2000;

/// Read by the OpenAI SDKs, which would otherwise try again on every 5xx.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// An error on its way to an HTTP caller.
#[derive(Debug)]
pub struct Failure {
    error: Error,
    /// Where the kind alone says too little: 404, 405, 408, 413.
    status: Option<StatusCode>,
}

impl Failure {
    pub fn new(status: StatusCode, error: Error) -> Self {
        Self { error, status: Some(status) }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, status: None }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self { error, status } = self;
        let status = status.unwrap_or_else(|| status_of(error.kind));
        let mut reply = (status, Json(body(&error))).into_response();
        let headers = reply.headers_mut();
        if let Some(after) = retry_after(&error) {
            // Whole seconds, rounded up: zero would say "at once".
            let seconds = (after.as_secs() + u64::from(after.subsec_nanos() > 0)).max(1);
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if status.is_server_error() && !error.kind.is_transient() {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        if error.kind == ErrorKind::NotCached {
            headers.insert(CACHE_STATUS, HeaderValue::from_static("miss"));
        }
        reply
    }
}

/// `{"error": …}` as OpenAI writes it, for a reply or for an event in a stream that broke off.
pub fn body(error: &Error) -> Value {
    if matches!(error.kind, ErrorKind::Internal | ErrorKind::Corrupt) {
        // The caller is not told the cause, so it is written down here.
        tracing::error!(kind = error.kind.as_str(), %error, "request failed");
    }
    json!({"error": {
        "message": shorten(&error.message, MAX_MESSAGE_BYTES),
        "type": type_of(error.kind),
        "code": error.kind.as_str(),
        "param": error.violations.first().map(|v| &v.field),
    }})
}

fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::InvalidArgument | ErrorKind::FailedPrecondition => StatusCode::BAD_REQUEST,
        ErrorKind::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorKind::PermissionDenied => StatusCode::FORBIDDEN,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        // RFC 9111, section 5.2.1.7: what a cache answers to `only-if-cached` when it holds nothing.
        ErrorKind::NotCached | ErrorKind::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::Overloaded | ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Upstream => StatusCode::BAD_GATEWAY,
        ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        // "Client closed request", as nginx and google.rpc number it; nobody is left to read it.
        ErrorKind::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        ErrorKind::Corrupt | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn type_of(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidArgument
        | ErrorKind::FailedPrecondition
        | ErrorKind::NotFound
        | ErrorKind::Unsupported
        | ErrorKind::Cancelled => "invalid_request_error",
        ErrorKind::Unauthenticated => "authentication_error",
        ErrorKind::PermissionDenied => "permission_error",
        ErrorKind::RateLimited => "rate_limit_error",
        ErrorKind::NotCached => "cache_error",
        ErrorKind::Overloaded
        | ErrorKind::DeadlineExceeded
        | ErrorKind::Unavailable
        | ErrorKind::Upstream
        | ErrorKind::Corrupt
        | ErrorKind::Internal => "server_error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn reply(error: Error) -> Response {
        Failure::from(error).into_response()
    }

    #[test]
    fn an_invalid_field_is_named_in_the_openai_shape() {
        let error = Error::invalid("temperature", "3 is out of range");
        assert_eq!(
            body(&error),
            json!({"error": {"message": "temperature: 3 is out of range", "type": "invalid_request_error",
                             "code": "INVALID_ARGUMENT", "param": "temperature"}})
        );
        assert_eq!(reply(error).status(), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn only_if_cached_without_an_answer_is_a_gateway_timeout_that_is_not_tried_again() {
        let reply = reply(Error::new(ErrorKind::NotCached, "not in the cache"));
        assert_eq!(reply.status(), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(reply.headers()["x-reprise-cache"], "miss");
        assert_eq!(reply.headers()["x-should-retry"], "false");
    }

    #[test]
    fn retry_after_is_in_whole_seconds_rounded_up() {
        let limited = |wait| reply(Error::new(ErrorKind::RateLimited, "slow").with_retry_after(wait));
        assert_eq!(limited(Duration::from_millis(1200)).headers()[header::RETRY_AFTER], "2");
        assert_eq!(limited(Duration::ZERO).headers()[header::RETRY_AFTER], "1");
        assert_eq!(limited(Duration::ZERO).status(), StatusCode::TOO_MANY_REQUESTS);
        let full = reply(Error::new(ErrorKind::Overloaded, "full"));
        assert_eq!(
            (full.status(), &full.headers()[header::RETRY_AFTER]),
            (StatusCode::SERVICE_UNAVAILABLE, &HeaderValue::from_static("1"))
        );
        assert!(full.headers().get(SHOULD_RETRY).is_none());
    }

    #[test]
    fn the_cause_of_an_internal_error_stays_inside() {
        let error = Error::internal("the store failed").with_source(std::io::Error::other("/secret/path"));
        assert!(!body(&error).to_string().contains("secret"));
    }
}
