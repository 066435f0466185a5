//! Options that several commands share.

use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

use super::failure::Failure;
use crate::config::{self, Config, Loaded};
use crate::grpc::pb;
use crate::types::WrongRate;

#[derive(Debug, Default, Args)]
pub(super) struct ConfigArgs {
    /// Configuration file; else REPRISE_CONFIG, else ./reprise.toml if it is there
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder for everything embedded (`data_dir`)
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// One setting, over file and environment: cache.min_similarity=0.9 (may be given several times)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
}

impl ConfigArgs {
    /// The settings in force. A wrong configuration is a usage error.
    pub(super) fn load(&self, more: &[String]) -> Result<Loaded, Failure> {
        let named_in_env = std::env::var_os("REPRISE_CONFIG").map(PathBuf::from);
        let file = config::find_file(self.config.clone(), named_in_env, std::path::Path::new(""));
        // A variable that is not Unicode cannot be one of ours.
        let env =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let mut sets = self.sets.clone();
        sets.extend(self.data_dir.iter().map(|dir| format!("data_dir={}", dir.display())));
        sets.extend_from_slice(more);
        Config::load_with_origins(file.as_deref(), env, &sets).map_err(|e| Failure::usage(e.to_string()))
    }
}

/// Whether an environment variable has a value.
pub(super) fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.is_empty())
}

#[derive(Debug, Args)]
pub(super) struct ClientArgs {
    /// Where the service listens for gRPC
    #[arg(long, env = "REPRISE_ADDR", value_name = "URL", default_value = "http://127.0.0.1:7070")]
    pub addr: String,
    #[command(flatten)]
    pub owner: OwnerArgs,
}

#[derive(Debug, Args)]
pub(super) struct OwnerArgs {
    /// Who owns the data
    #[arg(long, default_value = "default")]
    pub tenant: String,
    /// Application or use case within the tenant
    #[arg(long, default_value = "default")]
    pub namespace: String,
}

impl OwnerArgs {
    pub(super) fn context(&self, cache: Option<pb::CacheControls>) -> pb::RequestContext {
        let (tenant, namespace) = (self.tenant.clone(), self.namespace.clone());
        pb::RequestContext { tenant, namespace, cache, ..Default::default() }
    }
}

/// A prompt and how the cache is to treat it.
#[derive(Debug, Args)]
pub(super) struct PromptArgs {
    /// The prompt; `-` reads it from standard input
    pub prompt: String,
    /// Model to ask; the service's default one unless told
    #[arg(long)]
    pub model: Option<String>,
    /// System prompt
    #[arg(long)]
    pub system: Option<String>,
    #[command(flatten)]
    pub cache: CacheArgs,
}

#[derive(Debug, Args)]
pub(super) struct CacheArgs {
    /// Do not look up, but remember the new answer
    #[arg(long, group = "use")]
    pub no_cache: bool,
    /// Answer from the cache or fail; never ask an LLM
    #[arg(long, group = "use")]
    pub only_if_cached: bool,
    /// Neither look up nor remember
    #[arg(long, group = "use")]
    pub bypass: bool,
    /// Do not remember the answer
    #[arg(long)]
    pub no_store: bool,
    /// The largest share of requests that may get a wrong answer from another prompt, from 0 to 1
    #[arg(long, value_name = "SHARE", value_parser = wrong_rate)]
    pub max_wrong_rate: Option<f64>,
    /// Serve by cosine similarity alone, from this one up (-1 to 1), in place of the wrong rate
    #[arg(long, value_name = "COSINE", allow_hyphen_values = true, value_parser = similarity)]
    pub min_similarity: Option<f32>,
    /// How long the new answer may be served: 90s, 24h
    #[arg(long, value_name = "DURATION", value_parser = ttl)]
    pub ttl: Option<Duration>,
    /// Label for the new entry, to delete it by (may be given several times)
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
}

impl PromptArgs {
    /// The chat request; reads standard input if the prompt is `-`.
    pub(super) fn chat(&self) -> Result<pb::ChatRequest, Failure> {
        let prompt = match self.prompt.as_str() {
            "-" => {
                let text = std::io::read_to_string(std::io::stdin());
                text.map_err(|e| Failure::failed(format!("cannot read the prompt from standard input: {e}")))?
            }
            prompt => prompt.to_owned(),
        };
        let system = self.system.iter().map(|text| message(pb::Role::System, text.clone()));
        let messages = system.chain([message(pb::Role::User, prompt)]).collect();
        Ok(pb::ChatRequest { model: self.model.clone().unwrap_or_default(), messages, ..Default::default() })
    }
}

impl CacheArgs {
    pub(super) fn controls(&self) -> pb::CacheControls {
        let how = match self {
            Self { no_cache: true, .. } => pb::CacheUse::Refresh,
            Self { only_if_cached: true, .. } => pb::CacheUse::OnlyIfCached,
            Self { bypass: true, .. } => pb::CacheUse::Bypass,
            _ => pb::CacheUse::Use,
        };
        pb::CacheControls {
            r#use: how.into(),
            no_store: self.no_store,
            ttl: self.ttl.and_then(|ttl| ttl.try_into().ok()),
            max_age: None,
            max_wrong_rate: self.max_wrong_rate,
            min_similarity: self.min_similarity,
            tags: self.tags.clone(),
        }
    }
}

pub(super) fn message(role: pb::Role, content: String) -> pb::Message {
    pb::Message { role: role.into(), content, ..Default::default() }
}

fn similarity(text: &str) -> Result<f32, String> {
    let value: f32 = text.parse().map_err(|_| "expected a number from -1 to 1".to_string())?;
    if (-1.0..=1.0).contains(&value) { Ok(value) } else { Err("expected a number from -1 to 1".into()) }
}

pub(super) fn wrong_rate(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().and_then(|share| WrongRate::new(share).ok());
    share.map(WrongRate::get).ok_or_else(|| WrongRate::EXPECTED.into())
}

fn ttl(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be longer than 0".into()),
        Ok(duration) => Ok(duration),
        Err(e) => Err(format!("{e}; write for example 90s or 24h")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: PromptArgs,
    }

    fn controls(line: &str) -> pb::CacheControls {
        Line::try_parse_from(line.split(' ')).unwrap().args.cache.controls()
    }

    #[test]
    fn flags_become_cache_controls() {
        assert_eq!(controls("x hi").r#use(), pb::CacheUse::Use);
        assert_eq!(controls("x hi --no-cache").r#use(), pb::CacheUse::Refresh);
        assert_eq!(controls("x hi --bypass").r#use(), pb::CacheUse::Bypass);
        assert_eq!(controls("x hi --only-if-cached").r#use(), pb::CacheUse::OnlyIfCached);
        let all = controls("x hi --no-store --ttl 90s --min-similarity -0.25 --tag a --tag b");
        assert!(all.no_store);
        assert_eq!(all.ttl.unwrap().seconds, 90);
        assert_eq!(all.min_similarity, Some(-0.25));
        assert_eq!(all.tags, ["a", "b"]);
    }

    #[test]
    fn a_system_prompt_comes_before_the_prompt() {
        let args = Line::try_parse_from(["x", "hi", "--system", "be brief", "--model", "m"]).unwrap().args;
        let chat = args.chat().unwrap();
        let said: Vec<_> = chat.messages.iter().map(|m| (m.role(), m.content.as_str())).collect();
        assert_eq!(said, [(pb::Role::System, "be brief"), (pb::Role::User, "hi")]);
        assert_eq!(chat.model, "m");
    }
}
