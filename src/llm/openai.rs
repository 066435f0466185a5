//! Any server that speaks OpenAI's chat completions: OpenAI itself, vLLM, Ollama, llama.cpp, DeepSeek…
//!
//! `base_url` is what stands before `/chat/completions`, for example `https://api.openai.com/v1`.

mod calls;
mod wire;

use async_trait::async_trait;
use futures::stream::{self, StreamExt};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use serde_json::Value;
use std::sync::Arc;

use self::calls::Calls;
use super::events::{self, Step};
use super::http::{self, Endpoint, KeyHeader};
use super::sse::Event;
use super::{DeltaStream, Provider};
use crate::config::ProviderConfig;
use crate::types::{Answer, ChatRequest, Error, ErrorKind, Result};

#[derive(Debug)]
pub struct OpenAiProvider {
    name: String,
    models: Vec<String>,
    endpoint: Arc<Endpoint>,
}

impl OpenAiProvider {
    /// Errors name the setting at fault: no `base_url`, a key file that cannot be read.
    pub fn new(config: &ProviderConfig) -> Result<Self> {
        let Some(base) = &config.base_url else {
            return Err(http::setting(config, "base_url", "is missing; for example \"https://api.openai.com/v1\""));
        };
        let key = KeyHeader { header: AUTHORIZATION, prefix: "Bearer " };
        let endpoint = Arc::new(Endpoint::new(config, base, &key, HeaderMap::new())?);
        Ok(Self { name: config.name.clone(), models: config.models.clone(), endpoint })
    }
}

#[async_trait]
impl Provider for OpenAiProvider {
    fn name(&self) -> &str {
        &self.name
    }

    fn models(&self) -> &[String] {
        &self.models
    }

    async fn complete(&self, request: &ChatRequest) -> Result<Answer> {
        let response = self.endpoint.post("/chat/completions", &wire::request(request, false)?).await?;
        let body = self.endpoint.json(response).await?;
        answer(&self.endpoint, body)
    }

    async fn stream(&self, request: &ChatRequest) -> Result<DeltaStream> {
        let response = self.endpoint.post("/chat/completions", &wire::request(request, true)?).await?;
        let kind = response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if kind.starts_with("application/json") {
            // A server without streaming: its one answer is the stream.
            let answer = answer(&self.endpoint, self.endpoint.json(response).await?)?;
            return Ok(stream::iter(wire::deltas(answer).into_iter().map(Ok)).boxed());
        }
        let endpoint = self.endpoint.clone();
        let mut calls = Calls::default();
        Ok(events::deltas(self.endpoint.clone(), response, move |event| step(&endpoint, &event, &mut calls)))
    }

    async fn ping(&self) -> Result<()> {
        self.endpoint.ping("/models").await
    }
}

fn answer(endpoint: &Endpoint, body: Value) -> Result<Answer> {
    match body.get("error") {
        None | Some(Value::Null) => wire::answer(body).map_err(|e| endpoint.unusable(e)),
        Some(_) => Err(body_error(endpoint, &body)),
    }
}

fn step(endpoint: &Endpoint, event: &Event, calls: &mut Calls) -> Result<Step> {
    if event.data.trim() == "[DONE]" {
        return Ok(Step::End);
    }
    let body: Value = serde_json::from_str(&event.data)
        .map_err(|e| endpoint.unusable(format!("a chunk of its stream is not valid JSON: {e}")))?;
    match body.get("error") {
        None | Some(Value::Null) => wire::chunk(body, calls).map(Step::Deltas).map_err(|e| endpoint.unusable(e)),
        Some(_) => Err(body_error(endpoint, &body)),
    }
}

/// An error inside a response that began as a success. Its `type` or `code` is all there is to go by.
fn body_error(endpoint: &Endpoint, body: &Value) -> Error {
    let label = |path| body.pointer(path).map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned));
    let labels = [label("/error/type"), label("/error/code")];
    let is = |names: &[&str]| labels.iter().flatten().any(|l| names.contains(&l.as_str()));
    let kind = if is(&["rate_limit_exceeded", "rate_limit_error", "insufficient_quota", "429"]) {
        ErrorKind::RateLimited
    } else if is(&["invalid_request_error", "400", "422", "BadRequestError"]) {
        ErrorKind::InvalidArgument
    } else if is(&["overloaded_error", "502", "503"]) {
        ErrorKind::Unavailable
    } else {
        ErrorKind::Upstream
    };
    endpoint.reported(kind, http::said(body).unwrap_or("an error without a message"))
}
