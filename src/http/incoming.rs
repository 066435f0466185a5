//! What every handler of a request with a JSON body begins with.

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use serde_json::{Map, Value};
use std::error::Error as _;
use std::time::Duration;
use tokio::time::Instant;

use super::controls::context;
use super::error::Failure;
use super::server::{App, RequestId};
use crate::surface::{Context, Violations, object};
use crate::types::json::parse_strict;
use crate::types::{Error, ErrorKind};

/// Longest wait for the whole body of a request.
const BODY_WITHIN: Duration = Duration::from_secs(60);

/// A request as its handler gets it: who asks and how, and the JSON object in its body.
pub struct Incoming {
    /// `None` only after a violation.
    pub context: Option<Context>,
    pub body: Map<String, Value>,
    /// What is wrong with the headers, to be told together with what is wrong with the body.
    pub errors: Violations,
}

impl FromRequest<App> for Incoming {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &App) -> Result<Self, Failure> {
        let arrived = Instant::now();
        let (head, body) = request.into_parts();
        let id = head.extensions.get::<RequestId>().map(|id| id.0.clone());
        let id = id.ok_or_else(|| Error::internal("a request was not given an id"))?;
        let body = read(body, app.gateway.config().server.max_body_bytes).await?;
        let body = object(parse_strict(&body)?).map_err(|why| Error::invalid("body", why))?;
        let mut errors = Violations::default();
        let context = context(&head.headers, id, arrived, &mut errors);
        Ok(Self { context, body, errors })
    }
}

async fn read(body: Body, most: usize) -> Result<Bytes, Failure> {
    let too_slow = || {
        let error = Error::new(ErrorKind::DeadlineExceeded, format!("the body took more than {BODY_WITHIN:?}"));
        Failure::new(StatusCode::REQUEST_TIMEOUT, error)
    };
    let read = tokio::time::timeout(BODY_WITHIN, axum::body::to_bytes(body, most)).await.map_err(|_| too_slow())?;
    read.map_err(|error| {
        if error.source().is_some_and(|cause| cause.to_string().contains("length limit")) {
            let error = Error::invalid("body", format!("is larger than {most} bytes"));
            return Failure::new(StatusCode::PAYLOAD_TOO_LARGE, error);
        }
        Error::invalid("body", "could not be read to its end").with_source(error).into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::response::IntoResponse;

    #[tokio::test]
    async fn a_body_beyond_the_limit_is_too_large() {
        let read = |size| read(Body::from(vec![b' '; size]), 10);
        assert_eq!(read(10).await.unwrap().len(), 10);
        let response = read(11).await.unwrap_err().into_response();
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_comes_is_given_up() {
        let body = Body::from_stream(futures::stream::pending::<std::io::Result<Bytes>>());
        let response = read(body, 10).await.unwrap_err().into_response();
        assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
    }
}
