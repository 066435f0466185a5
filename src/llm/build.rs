//! From a provider's settings to the provider.

use std::path::Path;
use std::sync::Arc;

use super::anthropic::AnthropicProvider;
use super::local::{DEFAULT_MODELS, LocalProvider};
use super::openai::OpenAiProvider;
use super::scripted::ScriptedProvider;
use super::{Provider, http};
use crate::config::{ProviderConfig, ProviderKind};
use crate::types::{Error, Result};

/// Builds the provider that `config` describes. `gguf` is the model file of the kind `local`, which is loaded here,
/// on a thread of its own. Nothing is sent to a server yet. Errors name the setting at fault.
pub async fn connect(config: &ProviderConfig, gguf: Option<&Path>) -> Result<Arc<dyn Provider>> {
    if config.models.is_empty() && config.kind != ProviderKind::Local {
        return Err(http::setting(config, "models", "is empty; name the models it serves, or \"*\" for any"));
    }
    if config.models.iter().any(|m| m.trim().is_empty()) {
        return Err(http::setting(config, "models", "holds an empty name"));
    }
    if config.timeout.is_zero() {
        return Err(http::setting(config, "timeout", "must be longer than zero"));
    }
    if config.connect_timeout.is_zero() {
        return Err(http::setting(config, "connect_timeout", "must be longer than zero"));
    }
    Ok(match config.kind {
        ProviderKind::Openai => Arc::new(OpenAiProvider::new(config)?),
        ProviderKind::Anthropic => Arc::new(AnthropicProvider::new(config)?),
        ProviderKind::Scripted => Arc::new(ScriptedProvider::new(config)?),
        ProviderKind::Local => Arc::new(local(config, gguf).await?),
    })
}

async fn local(config: &ProviderConfig, gguf: Option<&Path>) -> Result<LocalProvider> {
    let Some(path) = gguf else {
        return Err(http::setting(config, "kind", "a local provider needs a GGUF model file"));
    };
    let mut models = config.models.clone();
    if models.is_empty() {
        models.extend(DEFAULT_MODELS.map(str::to_owned));
    }
    let (name, path) = (config.name.clone(), path.to_owned());
    let loading = tokio::task::spawn_blocking(move || LocalProvider::load(name, models, &path));
    let loaded = loading.await.map_err(|e| Error::internal("the local model cannot be loaded").with_source(e))?;
    let provider = loaded?.timeout(config.timeout);
    Ok(match config.max_tokens {
        Some(tokens) => provider.longest_answer(tokens),
        None => provider,
    })
}
