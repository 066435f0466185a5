//! What must hold within and between values. All problems are told together.

use std::collections::BTreeSet;
use std::time::Duration;
use url::Url;

use super::layers::refuse;
use super::{Cache, CacheOverride, Config, EntryBackend, ProviderConfig, ProviderKind, Stores, VectorBackend};
use crate::types::{Namespace, Result, TenantId, Violation};

/// Candidates beyond this cost more than they can find.
const MAX_TOP_K: usize = 100;
/// More threads than any machine this runs on has cores.
const MAX_THREADS: usize = 1024;
/// Far below what the clock and the queues can hold, which end the process or the request where they overflow.
const MAX_DURATION: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const MAX_COUNT: usize = 10_000_000;
const MAX_BYTES: u64 = 1 << 50;

impl Config {
    /// Refuses a configuration that cannot work; the error tells every problem.
    pub fn validate(&self) -> Result<()> {
        refuse(self.problems())
    }

    /// What works but is probably not meant. `is_set` tells whether an environment variable has a value.
    pub fn warnings(&self, is_set: impl Fn(&str) -> bool) -> Vec<String> {
        let mut warnings = Vec::new();
        for (key, addr) in [("server.grpc_addr", self.server.grpc_addr), ("server.http_addr", self.server.http_addr)] {
            if !addr.ip().is_loopback() {
                warnings
                    .push(format!("{key}: {addr} can be reached from other machines, and there is no authentication"));
            }
        }
        if self.stores.entries == EntryBackend::Sqlite && self.stores.vectors == VectorBackend::Qdrant {
            // Vectors without an entry are deleted as orphans, and here only this process knows its entries.
            warnings.push(format!(
                "stores.qdrant_collection: {:?} must not be shared by several replicas while stores.entries is \
                 \"sqlite\": each would delete the vectors of the others; give each its own collection, or use redis",
                self.stores.qdrant_collection
            ));
        }
        let providers = self.providers.iter().enumerate();
        let holders =
            providers.filter_map(|(i, p)| Some((format!("providers.{i}.api_key_env"), p.api_key_env.as_ref()?)));
        let qdrant = self.stores.qdrant_api_key_env.iter().map(|name| ("stores.qdrant_api_key_env".to_string(), name));
        for (key, name) in holders.chain(qdrant) {
            if !is_set(name) {
                warnings.push(format!("{key}: the environment variable {name} is not set"));
            }
        }
        warnings
    }

    pub(super) fn problems(&self) -> Vec<Violation> {
        let mut problems = Problems(Vec::new());
        problems.top(self);
        problems.server(self);
        problems.cache("cache", &CacheOverride::from(&self.cache));
        problems.stores(self);
        problems.counts(self);
        problems.providers(&self.providers);
        for (name, own) in &self.namespaces {
            let path = super::names::join(&["namespaces".to_string(), name.clone()]);
            problems.unless(Namespace::new(name).map(drop), &path);
            problems.cache(&format!("{path}.cache"), &own.cache);
        }
        for (model, price) in &self.prices {
            let path = super::names::join(&["prices".to_string(), model.clone()]);
            for (side, dollars) in [("input", price.input), ("output", price.output)] {
                problems.check(!dollars.is_sign_negative(), &format!("{path}.{side}"), "must not be negative");
            }
        }
        problems.0
    }
}

struct Problems(Vec<Violation>);

impl Problems {
    fn check(&mut self, holds: bool, field: &str, description: impl Into<String>) {
        if !holds {
            self.0.push(Violation { field: field.into(), description: description.into() });
        }
    }

    fn unless(&mut self, result: Result<()>, field: &str) {
        if let Err(e) = result {
            let why = e.violations.first().map_or(e.to_string(), |v| v.description.clone());
            self.check(false, field, why);
        }
    }

    fn top(&mut self, config: &Config) {
        self.check(!config.data_dir.as_os_str().is_empty(), "data_dir", "must not be empty");
        self.check(config.default_model.as_deref() != Some(""), "default_model", "must not be empty");
        self.check(!config.embedding.model.is_empty(), "embedding.model", "must not be empty");
        let filter = tracing_subscriber::EnvFilter::try_new(&config.log.level);
        self.check(filter.is_ok(), "log.level", "is not a filter; write for example \"info,reprise=debug\"");
    }

    fn server(&mut self, config: &Config) {
        let server = &config.server;
        let same = server.grpc_addr == server.http_addr && server.grpc_addr.port() != 0;
        self.check(!same, "server.http_addr", "is the same as server.grpc_addr; they need a port each");
        self.positive("server.request_timeout", server.request_timeout);
        self.at_most_long("server.drain_timeout", server.drain_timeout);
        self.bytes("server.max_body_bytes", server.max_body_bytes as u64);
        let room = server.max_body_bytes >= config.limits.max_prompt_bytes;
        self.check(room, "server.max_body_bytes", "must be at least limits.max_prompt_bytes");
        for (index, tenant) in server.tenants.iter().enumerate() {
            self.unless(TenantId::new(tenant).map(drop), &format!("server.tenants.{index}"));
        }
    }

    fn cache(&mut self, path: &str, cache: &CacheOverride) {
        if let Some(rate) = cache.max_wrong_rate {
            let fits = (0.0..=1.0).contains(&rate);
            self.check(fits, &format!("{path}.max_wrong_rate"), "must be a share from 0 to 1, for example 0.01");
        }
        if let Some(share) = cache.audit_share {
            self.check((0.0..=1.0).contains(&share), &format!("{path}.audit_share"), "must be a share from 0 to 1");
        }
        if let Some(minimum) = cache.min_similarity {
            let fits = (-1.0..=1.0).contains(&minimum);
            self.check(fits, &format!("{path}.min_similarity"), "must be a cosine similarity, from -1 to 1");
        }
        if let Some(ttl) = cache.ttl {
            self.positive(&format!("{path}.ttl"), ttl);
        }
        if let Some(k) = cache.top_k {
            self.check((1..=MAX_TOP_K).contains(&k), &format!("{path}.top_k"), format!("must be 1 to {MAX_TOP_K}"));
        }
        if let Some(budget) = cache.lookup_budget {
            self.positive(&format!("{path}.lookup_budget"), budget);
        }
        if let Some(bytes) = cache.max_entry_bytes {
            self.bytes(&format!("{path}.max_entry_bytes"), bytes as u64);
        }
    }

    fn stores(&mut self, config: &Config) {
        let stores = &config.stores;
        self.positive("stores.timeout", stores.timeout);
        self.bytes("stores.max_bytes", stores.max_bytes);
        self.at_most_bytes("stores.l1_bytes", stores.l1_bytes);
        self.at_most_bytes("embedding.memo_bytes", config.embedding.memo_bytes);
        self.redis_tls(stores);
        if stores.entries == EntryBackend::Redis {
            let redis = &["redis", "rediss", "unix", "redis+unix"];
            if stores.redis_cluster_urls.is_empty() {
                self.url("stores.redis_url", &stores.redis_url, redis);
            }
            for (index, url) in stores.redis_cluster_urls.iter().enumerate() {
                self.url(&format!("stores.redis_cluster_urls.{index}"), url, redis);
            }
        }
        if stores.vectors == VectorBackend::Qdrant {
            self.url("stores.qdrant_url", &stores.qdrant_url, &["http", "https"]);
            self.check(!stores.qdrant_collection.is_empty(), "stores.qdrant_collection", "must not be empty");
        }
        self.variable("stores.qdrant_api_key_env", stores.qdrant_api_key_env.as_deref());
    }

    fn redis_tls(&mut self, stores: &Stores) {
        let urls = match stores.redis_cluster_urls.as_slice() {
            [] => std::slice::from_ref(&stores.redis_url),
            urls => urls,
        };
        // What is left plain by mistake would be sent in the clear.
        let is_tls = urls.iter().all(|url| url.starts_with("rediss://"));
        for (field, file) in
            [("stores.redis_ca_file", &stores.redis_ca_file), ("stores.redis_cert_file", &stores.redis_cert_file)]
        {
            self.check(file.is_none() || is_tls, field, "is for TLS: the address of Redis must begin with rediss://");
        }
        let both = stores.redis_cert_file.is_some() == stores.redis_key_file.is_some();
        self.check(both, "stores.redis_cert_file", "goes with stores.redis_key_file: give both or neither");
    }

    fn counts(&mut self, config: &Config) {
        let (embedding, limits) = (&config.embedding, &config.limits);
        let threads = format!("must be at most {MAX_THREADS}; 0 means one per core");
        self.check(embedding.threads <= MAX_THREADS, "embedding.threads", threads);
        for (field, count) in [
            ("embedding.batch_tokens", embedding.batch_tokens),
            ("embedding.queue", embedding.queue),
            ("stores.write_queue", config.stores.write_queue),
            ("limits.max_messages", limits.max_messages),
            ("limits.max_batch", limits.max_batch),
            ("limits.max_concurrent", limits.max_concurrent),
        ] {
            self.check(count > 0, field, "must not be 0");
            self.check(count <= MAX_COUNT, field, format!("must be at most {MAX_COUNT}"));
        }
        self.bytes("limits.max_prompt_bytes", limits.max_prompt_bytes as u64);
    }

    fn providers(&mut self, providers: &[ProviderConfig]) {
        let mut seen = BTreeSet::new();
        for (index, provider) in providers.iter().enumerate() {
            let at = |key: &str| format!("providers.{index}.{key}");
            // The same rules as for every other name: it stands in logs, metrics and headers.
            self.unless(Namespace::new(provider.name.as_str()).map(drop), &at("name"));
            let twice = format!("{:?} is the name of two providers", provider.name);
            self.check(seen.insert(&provider.name), &at("name"), twice);
            self.check(!provider.models.iter().any(String::is_empty), &at("models"), "holds an empty name");
            self.positive(&at("connect_timeout"), provider.connect_timeout);
            self.positive(&at("timeout"), provider.timeout);
            self.at_most_long(&at("latency"), provider.latency);
            self.at_most_long(&at("token_latency"), provider.token_latency);
            let tokens = provider.tokens as usize <= MAX_COUNT;
            self.check(tokens, &at("tokens"), format!("must be at most {MAX_COUNT}"));
            let share = (0.0..=1.0).contains(&provider.error_rate);
            self.check(share, &at("error_rate"), "must be a share from 0 to 1");
            self.check(provider.max_tokens != Some(0), &at("max_tokens"), "must not be 0");
            let takes_limit = provider.kind == ProviderKind::Local || provider.max_tokens.is_none();
            self.check(
                takes_limit,
                &at("max_tokens"),
                "is for the local model; other providers have limits of their own",
            );
            match provider.kind {
                ProviderKind::Openai | ProviderKind::Anthropic => self.remote(provider, &at),
                ProviderKind::Local | ProviderKind::Scripted => {
                    let unused = "is for providers that are called over HTTP; this one is not";
                    self.check(provider.base_url.is_none(), &at("base_url"), unused);
                    self.check(provider.api_key_env.is_none(), &at("api_key_env"), unused);
                    self.check(provider.api_key_file.is_none(), &at("api_key_file"), unused);
                    self.check(provider.ca_file.is_none(), &at("ca_file"), unused);
                    let named = provider.kind == ProviderKind::Local || !provider.models.is_empty();
                    self.check(named, &at("models"), "must name at least one model; \"*\" stands for any");
                }
            }
        }
    }

    fn remote(&mut self, provider: &ProviderConfig, at: &dyn Fn(&str) -> String) {
        self.check(!provider.models.is_empty(), &at("models"), "must name at least one model; \"*\" stands for any");
        match &provider.base_url {
            Some(url) => {
                self.url(&at("base_url"), url, &["http", "https"]);
                let is_plain = url.starts_with("http://") && provider.ca_file.is_some();
                self.check(!is_plain, &at("ca_file"), "is for TLS: base_url must begin with https://");
                let secret = Url::parse(url).is_ok_and(|u| !u.username().is_empty() || u.password().is_some());
                self.check(!secret, &at("base_url"), "must not hold credentials; use api_key_env or api_key_file");
            }
            None => {
                let needed = provider.kind == ProviderKind::Openai;
                self.check(!needed, &at("base_url"), "must be given, for example \"https://api.openai.com/v1\"");
            }
        }
        self.variable(&at("api_key_env"), provider.api_key_env.as_deref());
        let both = provider.api_key_env.is_some() && provider.api_key_file.is_some();
        self.check(!both, &at("api_key_file"), "give api_key_env or api_key_file, not both");
    }

    fn positive(&mut self, field: &str, duration: Duration) {
        self.check(!duration.is_zero(), field, "must be longer than 0");
        self.at_most_long(field, duration);
    }

    fn at_most_long(&mut self, field: &str, duration: Duration) {
        self.check(duration <= MAX_DURATION, field, "must be at most 3650 days");
    }

    fn bytes(&mut self, field: &str, bytes: u64) {
        self.check(bytes > 0, field, "must not be 0");
        self.at_most_bytes(field, bytes);
    }

    fn at_most_bytes(&mut self, field: &str, bytes: u64) {
        self.check(bytes <= MAX_BYTES, field, format!("must be at most {MAX_BYTES} bytes"));
    }

    /// Says what is wrong with a URL, without repeating it: it may hold a password.
    fn url(&mut self, field: &str, url: &str, schemes: &[&str]) {
        match Url::parse(url) {
            Ok(url) if !schemes.contains(&url.scheme()) => {
                self.check(false, field, format!("must begin with {}", schemes.join("://, ") + "://"));
            }
            Ok(url) if url.scheme().starts_with("http") && !url.has_host() => {
                self.check(false, field, "names no host");
            }
            Ok(_) => {}
            Err(e) => self.check(false, field, format!("is not a URL: {e}")),
        }
    }

    /// The name of an environment variable; somebody's key put there by mistake is not repeated.
    fn variable(&mut self, field: &str, name: Option<&str>) {
        let fits = |name: &str| {
            !name.is_empty() && name.len() <= 128 && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        let meant = "must be the name of an environment variable, not the key itself";
        self.check(name.is_none_or(fits), field, meant);
    }
}

impl From<&Cache> for CacheOverride {
    fn from(cache: &Cache) -> Self {
        Self {
            mode: Some(cache.mode),
            max_wrong_rate: Some(cache.max_wrong_rate),
            min_similarity: cache.min_similarity,
            ttl: Some(cache.ttl),
            top_k: Some(cache.top_k),
            lookup_budget: Some(cache.lookup_budget),
            audience: Some(cache.audience),
            bypass_time_sensitive: Some(cache.bypass_time_sensitive),
            audit_share: Some(cache.audit_share),
            max_entry_bytes: Some(cache.max_entry_bytes),
        }
    }
}
