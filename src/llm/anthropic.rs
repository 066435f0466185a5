//! Anthropic's Messages API behind the OpenAI chat shape.
//!
//! `base_url` is `https://api.anthropic.com` unless told; it may end in `/v1` or not. What the Messages API cannot
//! express (`n` above 1, `logprobs`, penalties…) is refused, except `seed`, which OpenAI itself only promises to try.

mod events;
mod request;
mod response;

use async_trait::async_trait;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use std::sync::Arc;

use super::http::{self, Endpoint, KeyHeader};
use super::{DeltaStream, Provider};
use crate::config::ProviderConfig;
use crate::types::{Answer, ChatRequest, Error, ErrorKind, Result};

const DEFAULT_BASE: &str = "https://api.anthropic.com";
const API_VERSION: &str = "2023-06-01";

#[derive(Debug)]
pub struct AnthropicProvider {
    name: String,
    models: Vec<String>,
    endpoint: Arc<Endpoint>,
}

impl AnthropicProvider {
    /// Errors name the setting at fault. The key may only be left out where another `base_url` is set.
    pub fn new(config: &ProviderConfig) -> Result<Self> {
        let base = config.base_url.as_deref().unwrap_or(DEFAULT_BASE).trim_end_matches('/');
        let base = format!("{}/v1", base.strip_suffix("/v1").unwrap_or(base));
        let key = KeyHeader { header: HeaderName::from_static("x-api-key"), prefix: "" };
        let version = (HeaderName::from_static("anthropic-version"), HeaderValue::from_static(API_VERSION));
        let endpoint = Arc::new(Endpoint::new(config, &base, &key, HeaderMap::from_iter([version]))?);
        if config.base_url.is_none() && !endpoint.has_key() {
            return Err(http::setting(config, "api_key_env", format!("{DEFAULT_BASE} takes no request without a key")));
        }
        Ok(Self { name: config.name.clone(), models: config.models.clone(), endpoint })
    }
}

#[async_trait]
impl Provider for AnthropicProvider {
    fn name(&self) -> &str {
        &self.name
    }

    fn models(&self) -> &[String] {
        &self.models
    }

    async fn complete(&self, request: &ChatRequest) -> Result<Answer> {
        let response = self.endpoint.post("/messages", &request::convert(request)?).await?;
        let body = self.endpoint.json(response).await?;
        if body.get("type").and_then(Value::as_str) == Some("error") {
            return Err(reported(&self.endpoint, &body));
        }
        response::convert(body).map_err(|e| self.endpoint.unusable(e))
    }

    async fn stream(&self, request: &ChatRequest) -> Result<DeltaStream> {
        let mut body = request::convert(request)?;
        body["stream"] = json!(true);
        let response = self.endpoint.post("/messages", &body).await?;
        let endpoint = self.endpoint.clone();
        let mut reader = events::Reader::default();
        Ok(super::events::deltas(self.endpoint.clone(), response, move |event| reader.step(&endpoint, &event)))
    }

    async fn ping(&self) -> Result<()> {
        self.endpoint.ping("/models").await
    }
}

/// An error told in a body, by its type: <https://docs.anthropic.com/en/api/errors>.
fn reported(endpoint: &Endpoint, body: &Value) -> Error {
    let kind = match body.pointer("/error/type").and_then(Value::as_str).unwrap_or_default() {
        "invalid_request_error" | "request_too_large" => ErrorKind::InvalidArgument,
        "authentication_error" => ErrorKind::Unauthenticated,
        "permission_error" => ErrorKind::PermissionDenied,
        "not_found_error" => ErrorKind::NotFound,
        "rate_limit_error" | "billing_error" => ErrorKind::RateLimited,
        "timeout_error" => ErrorKind::DeadlineExceeded,
        "overloaded_error" => ErrorKind::Unavailable,
        _ => ErrorKind::Upstream,
    };
    endpoint.reported(kind, http::said(body).unwrap_or("an error without a message"))
}
