//! `GET /v1/models` and `GET /v1/models/{id}`.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::error::Failure;
use super::server::App;
use crate::surface::shorten;
use crate::types::{Error, ErrorKind};

pub async fn list(State(app): State<App>) -> Json<Value> {
    Json(json!({"object": "list", "data": models(&app)}))
}

/// The id may hold slashes, as in `org/model`.
pub async fn one(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Value>, Failure> {
    let found = models(&app).into_iter().find(|model| model["id"] == id.as_str());
    let missing = || {
        let mut error = Error::invalid("model", format!("the model {:?} does not exist", shorten(&id, 200)));
        error.kind = ErrorKind::NotFound;
        error
    };
    Ok(Json(found.ok_or_else(missing)?))
}

/// Chat models in the order of their providers, then the embedding model.
fn models(app: &App) -> Vec<Value> {
    // Clients need a number in `created`; when a provider made its model is not known here.
    let model = |id: &str, owner: &str| json!({"id": id, "object": "model", "created": 0, "owned_by": owner});
    let chat = app.gateway.models();
    let embedding = &app.gateway.embedding_model().name;
    chat.iter().map(|m| model(&m.name, &m.provider)).chain([model(embedding, "embedding")]).collect()
}
