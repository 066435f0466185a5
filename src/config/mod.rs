//! Settings: built-in defaults, then a TOML file, then `REPRISE_*` from the environment, then `--set`; validated as
//! a whole before anything starts. Unknown keys are refused in every layer, with the nearest known name.
//!
//! - `sections`, `provider`: the settings and their defaults.
//! - `schema`: the same keys as data, to check names and types before anything is deserialised.
//! - `names`: how a key is written, and which known one was meant by an unknown one.
//! - `layers`: from the layers to one [`Config`].
//! - `validate`: what must hold between and within values.
//! - `print`: the settings in force, as text that can be loaded again;
//! - [`tls`]: the PEM files that settings name.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

mod duration;
mod layers;
mod names;
mod print;
mod provider;
mod schema;
mod sections;
#[cfg(test)]
mod tests;
pub mod tls;
mod validate;

pub use layers::{Layer, Loaded, RESERVED, find_file};
pub use provider::{PriceConfig, ProviderConfig, ProviderKind};
pub use sections::{
    AudienceRule, Cache, CacheOverride, Device, Embedding, EntryBackend, Limits, Log, LogFormat, Models,
    NamespaceConfig, Precision, Server, Stores, VectorBackend, Verifier, VerifierChoice,
};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Folder for everything embedded: the SQLite file, and models unless `models.dir` says otherwise.
    pub data_dir: PathBuf,
    /// Model for requests that name none; the first model of the first provider unless told.
    pub default_model: Option<String>,
    pub server: Server,
    pub cache: Cache,
    pub stores: Stores,
    pub embedding: Embedding,
    pub verifier: Verifier,
    pub models: Models,
    pub limits: Limits,
    pub log: Log,
    /// In the order in which they are asked. None configured: the local model.
    pub providers: Vec<ProviderConfig>,
    /// Settings of one namespace, over the defaults.
    pub namespaces: BTreeMap<String, NamespaceConfig>,
    /// Dollars per million tokens, by model name.
    pub prices: BTreeMap<String, PriceConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("data"),
            default_model: None,
            server: Server::default(),
            cache: Cache::default(),
            stores: Stores::default(),
            embedding: Embedding::default(),
            verifier: Verifier::default(),
            models: Models::default(),
            limits: Limits::default(),
            log: Log::default(),
            providers: Vec::new(),
            namespaces: BTreeMap::new(),
            prices: BTreeMap::new(),
        }
    }
}

impl Config {
    /// The cache settings in force in a namespace.
    pub fn cache_of(&self, namespace: &str) -> Cache {
        let Some(own) = self.namespaces.get(namespace).map(|n| &n.cache) else { return self.cache.clone() };
        Cache {
            mode: own.mode.unwrap_or(self.cache.mode),
            max_wrong_rate: own.max_wrong_rate.unwrap_or(self.cache.max_wrong_rate),
            // The nearer word holds: a namespace that states a rate does not inherit a similarity.
            min_similarity: match own.max_wrong_rate {
                Some(_) => own.min_similarity,
                None => own.min_similarity.or(self.cache.min_similarity),
            },
            ttl: own.ttl.unwrap_or(self.cache.ttl),
            top_k: own.top_k.unwrap_or(self.cache.top_k),
            lookup_budget: own.lookup_budget.unwrap_or(self.cache.lookup_budget),
            audience: own.audience.unwrap_or(self.cache.audience),
            bypass_time_sensitive: own.bypass_time_sensitive.unwrap_or(self.cache.bypass_time_sensitive),
            audit_share: own.audit_share.unwrap_or(self.cache.audit_share),
            max_entry_bytes: own.max_entry_bytes.unwrap_or(self.cache.max_entry_bytes),
        }
    }
}
