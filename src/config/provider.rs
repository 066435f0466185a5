//! Upstreams and what they cost.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

use super::duration;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderConfig {
    pub name: String,
    pub kind: ProviderKind,
    /// Models it serves; `*` stands for any.
    #[serde(default)]
    pub models: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// Environment variable that holds the API key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// File that holds the API key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_file: Option<PathBuf>,
    /// PEM file of the CA that signed the certificate of its server; trusted in place of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    #[serde(default = "default_connect_timeout", with = "duration")]
    pub connect_timeout: Duration,
    /// Longest wait for the whole answer.
    #[serde(default = "default_provider_timeout", with = "duration")]
    pub timeout: Duration,
    /// `local` only: tokens in an answer at most, where the request sets no limit of its own; 256 unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// `scripted` only: wait before the first token.
    #[serde(default, with = "duration")]
    pub latency: Duration,
    /// `scripted` only: wait between tokens.
    #[serde(default, with = "duration")]
    pub token_latency: Duration,
    /// `scripted` only: tokens in an answer.
    #[serde(default = "default_scripted_tokens")]
    pub tokens: u32,
    /// `scripted` only: share of requests that fail, from 0 to 1.
    #[serde(default)]
    pub error_rate: f64,
    /// `scripted` only: how they fail: `unavailable`, `rate_limited`, `timeout`, `invalid`, `cut` (mid-stream).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl ProviderConfig {
    /// One that makes its answers up, for one model.
    pub fn scripted(model: &str) -> Self {
        Self { name: "scripted".into(), kind: ProviderKind::Scripted, models: vec![model.to_owned()], ..Self::local() }
    }

    /// The local model, as it stands when no provider is configured.
    pub fn local() -> Self {
        Self {
            name: "local".into(),
            kind: ProviderKind::Local,
            models: Vec::new(),
            base_url: None,
            api_key_env: None,
            api_key_file: None,
            ca_file: None,
            connect_timeout: default_connect_timeout(),
            timeout: default_provider_timeout(),
            max_tokens: None,
            latency: Duration::ZERO,
            token_latency: Duration::ZERO,
            tokens: default_scripted_tokens(),
            error_rate: 0.0,
            error: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderKind {
    Openai,
    Anthropic,
    Local,
    Scripted,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceConfig {
    /// Dollars per million prompt tokens, as a decimal in quotes: `"0.15"`.
    pub input: rust_decimal::Decimal,
    /// Dollars per million completion tokens.
    pub output: rust_decimal::Decimal,
}

fn default_connect_timeout() -> Duration {
    Duration::from_secs(5)
}

fn default_provider_timeout() -> Duration {
    Duration::from_secs(120)
}

fn default_scripted_tokens() -> u32 {
    24
}
