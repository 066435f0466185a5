//! `GET /health` (the process runs), `GET /ready` (it can answer), `GET /metrics`.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::time::Duration;

use super::server::App;
use crate::gateway::Health;

/// Longest wait for the dependencies to say how they are.
const READY_WITHIN: Duration = Duration::from_secs(5);

const PROMETHEUS_TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

pub async fn live() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

pub async fn ready(State(app): State<App>) -> Response {
    match tokio::time::timeout(READY_WITHIN, app.gateway.health()).await {
        Ok(health) => report(&health).into_response(),
        Err(_) => {
            let error = format!("the dependencies did not answer within {READY_WITHIN:?}");
            let body = json!({"ready": false, "dependencies": [], "error": error});
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

pub async fn metrics(State(app): State<App>) -> Response {
    ([(header::CONTENT_TYPE, PROMETHEUS_TEXT)], (app.metrics)()).into_response()
}

/// Ready when nothing that is required is down.
fn report(health: &[Health]) -> (StatusCode, Json<Value>) {
    let ready = health.iter().all(|h| !h.required || h.error.is_none());
    let dependencies: Vec<_> = health
        .iter()
        .map(|h| json!({"name": h.name, "ok": h.error.is_none(), "required": h.required, "error": h.error}))
        .collect();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({"ready": ready, "dependencies": dependencies})))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(name: &str, required: bool, error: Option<&str>) -> Health {
        Health { name: name.into(), required, error: error.map(Into::into) }
    }

    #[test]
    fn each_dependency_is_told_apart() {
        let (status, Json(body)) =
            report(&[health("entries", false, Some("refused")), health("provider:local", true, None)]);
        assert_eq!(status, StatusCode::OK);
        assert_eq!(
            body,
            json!({"ready": true, "dependencies": [
                {"name": "entries", "ok": false, "required": false, "error": "refused"},
                {"name": "provider:local", "ok": true, "required": true, "error": null}]})
        );
    }

    #[test]
    fn a_required_dependency_that_is_down_is_not_ready() {
        let (status, Json(body)) = report(&[health("provider:local", true, Some("no model"))]);
        assert_eq!((status, &body["ready"]), (StatusCode::SERVICE_UNAVAILABLE, &json!(false)));
    }
}
