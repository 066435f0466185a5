//! Routes, what surrounds every request, and the listener.

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use std::any::Any;
use std::future::Future;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

use super::controls::REQUEST_ID;
use super::error::Failure;
use super::{cache, chat, embeddings, health, models, openai};
use crate::gateway::Gateway;
use crate::surface::{caught, check_label, new_request_id, until_drained};
use crate::types::{Error, ErrorKind, Result};

/// Serves HTTP until `shutdown`, then until the running requests end or `server.drain_timeout` passes. `metrics`
/// gives the text of `/metrics`.
pub async fn serve(
    gateway: Arc<Gateway>,
    listener: TcpListener,
    metrics: impl Fn() -> String + Clone + Send + Sync + 'static,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let drain = gateway.config().server.drain_timeout;
    let app = App { gateway, metrics: Arc::new(metrics) };
    let listener = listener.tap_io(|socket| {
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
    });
    let stopping = CancellationToken::new();
    let stop = stopping.clone();
    let signal = async move {
        shutdown.await;
        stop.cancel();
    };
    let server = axum::serve(listener, surround(routes()).with_state(app)).with_graceful_shutdown(signal);
    let server = async { server.await.map_err(|e| Error::internal("the HTTP server failed").with_source(e)) };
    until_drained(server, stopping, drain).await
}

/// What the handlers share.
#[derive(Clone)]
pub struct App {
    pub gateway: Arc<Gateway>,
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

/// The id of a request, from its header or made up; every reply carries it.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

fn routes() -> Router<App> {
    Router::new()
        .route("/v1/chat/completions", post(openai::completions))
        .route("/v1/embeddings", post(embeddings::embeddings))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/v1/cache/explain", post(cache::explain))
        .route("/v1/cache/report", post(cache::report))
        .route("/chat", post(chat::chat))
        .route("/health", get(health::live))
        .route("/ready", get(health::ready))
        .route("/metrics", get(health::metrics))
}

/// What holds for every request: an id, errors in one shape, and a panic that ends that request alone.
fn surround<S: Clone + Send + Sync + 'static>(routes: Router<S>) -> Router<S> {
    routes
        .fallback(|| refuse(StatusCode::NOT_FOUND, ErrorKind::NotFound, "there is nothing at this path"))
        .method_not_allowed_fallback(|| {
            refuse(StatusCode::METHOD_NOT_ALLOWED, ErrorKind::InvalidArgument, "this path takes another method")
        })
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn(identify))
}

async fn refuse(status: StatusCode, kind: ErrorKind, why: &'static str) -> Failure {
    Failure::new(status, Error::new(kind, why))
}

fn panicked(panic: Box<dyn Any + Send>) -> Response {
    Failure::from(caught(panic)).into_response()
}

async fn identify(mut request: Request, next: Next) -> Response {
    let given = request.headers().get(REQUEST_ID).map(|value| match value.to_str() {
        Ok(text) => check_label(text).map(|()| text.to_owned()),
        Err(_) => Err("contains characters other than visible ASCII".to_owned()),
    });
    let (id, complaint) = match given {
        Some(Ok(id)) => (id, None),
        Some(Err(why)) => (new_request_id(), Some(why)),
        None => (new_request_id(), None),
    };
    let mut response = match complaint {
        Some(why) => Failure::from(Error::invalid(REQUEST_ID, why)).into_response(),
        None => {
            request.extensions_mut().insert(RequestId(id.clone()));
            next.run(request).await
        }
    };
    if let Ok(value) = HeaderValue::try_from(id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::http::Method;
    use serde_json::Value;
    use tower::ServiceExt;

    async fn call(method: Method, path: &str, id: Option<&str>) -> (StatusCode, Option<String>, Value) {
        let routes = Router::new().route("/fine", get(|| async { "{}" })).route(
            "/panics",
            get(|| async {
                if true {
                    panic!("quotes a secret")
                }
            }),
        );
        let mut request = Request::builder().method(method).uri(path);
        if let Some(id) = id {
            request = request.header(REQUEST_ID, id);
        }
        let response = surround(routes).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let status = response.status();
        let id = response.headers().get(REQUEST_ID).map(|v| v.to_str().unwrap().to_owned());
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, id, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_error_of_that_request() {
        let (status, id, body) = call(Method::GET, "/panics", Some("r1")).await;
        assert_eq!((status, id.as_deref()), (StatusCode::INTERNAL_SERVER_ERROR, Some("r1")));
        assert_eq!(body["error"]["code"], "INTERNAL");
        assert!(!body.to_string().contains("secret"));
    }

    #[tokio::test]
    async fn unknown_paths_and_methods_are_json_errors() {
        let (status, _, body) = call(Method::GET, "/nothing", None).await;
        assert_eq!((status, &body["error"]["code"]), (StatusCode::NOT_FOUND, &Value::from("NOT_FOUND")));
        let (status, _, body) = call(Method::POST, "/fine", None).await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(body["error"]["type"], "invalid_request_error");
    }

    #[tokio::test]
    async fn a_request_keeps_its_id_or_gets_one() {
        assert_eq!(call(Method::GET, "/fine", Some("abc")).await.1.as_deref(), Some("abc"));
        assert_eq!(call(Method::GET, "/fine", None).await.1.unwrap().len(), 36);
        let (status, id, body) = call(Method::GET, "/fine", Some("a b")).await;
        assert_eq!((status, &body["error"]["param"]), (StatusCode::BAD_REQUEST, &Value::from(REQUEST_ID)));
        assert_eq!(id.unwrap().len(), 36);
    }
}
