//! The sections of the configuration and their defaults.

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::duration::{self, optional as optional_duration};
use crate::types::CacheMode;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    pub grpc_addr: SocketAddr,
    pub http_addr: SocketAddr,
    /// Longest a request may take when it brings no deadline of its own.
    #[serde(with = "duration")]
    pub request_timeout: Duration,
    /// How long running requests may go on after SIGTERM.
    #[serde(with = "duration")]
    pub drain_timeout: Duration,
    /// Largest request body or gRPC message, in bytes.
    pub max_body_bytes: usize,
    /// Tenants that are served; empty means any.
    pub tenants: Vec<String>,
}

/// Defaults of every namespace; the same keys stand in `[namespaces.<name>.cache]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    pub mode: CacheMode,
    /// The largest share of requests that may get a wrong answer from another prompt.
    pub max_wrong_rate: f64,
    /// When set, hits are decided by cosine similarity alone, from this one up, in place of `max_wrong_rate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_similarity: Option<f32>,
    /// How long an entry may be served.
    #[serde(with = "duration")]
    pub ttl: Duration,
    /// Candidates the vector store is asked for.
    pub top_k: usize,
    /// Longest a lookup may take in all its steps, embedding included; then the request goes upstream.
    #[serde(with = "duration")]
    pub lookup_budget: Duration,
    /// `shared`: entries serve everybody in the namespace. `user`: the OpenAI field `user` (or the gRPC one) narrows
    /// them to that user.
    pub audience: AudienceRule,
    /// Whether prompts that ask for the present moment ("today", "right now", "现在") bypass the cache.
    pub bypass_time_sensitive: bool,
    /// Share of the semantic hits that is asked again upstream, after the reply, to find out whether they were right.
    pub audit_share: f64,
    /// Answers larger than this, in bytes, are not remembered.
    pub max_entry_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AudienceRule {
    #[default]
    Shared,
    User,
}

/// A namespace's own settings; what is absent comes from `[cache]`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NamespaceConfig {
    pub cache: CacheOverride,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheOverride {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<CacheMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_wrong_rate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_similarity: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none", with = "optional_duration")]
    pub ttl: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none", with = "optional_duration")]
    pub lookup_budget: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<AudienceRule>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bypass_time_sensitive: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_share: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_entry_bytes: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stores {
    pub entries: EntryBackend,
    pub vectors: VectorBackend,
    pub redis_url: String,
    /// Seed nodes of a Redis Cluster; when set, `redis_url` is not used.
    pub redis_cluster_urls: Vec<String>,
    /// Prefix of every key in Redis.
    pub redis_prefix: String,
    /// PEM file of the CA that signed the certificate of a `rediss://` server; trusted in place of the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis_ca_file: Option<PathBuf>,
    /// PEM files of the certificate, and of its key, that this service shows to a `rediss://` server which asks for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis_cert_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis_key_file: Option<PathBuf>,
    pub qdrant_url: String,
    /// Environment variable that holds the Qdrant API key.
    pub qdrant_api_key_env: Option<String>,
    pub qdrant_collection: String,
    /// Keep int8 copies of the vectors in memory and rescore with the originals.
    pub qdrant_quantization: bool,
    /// Longest one call to Redis or Qdrant may take.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// Memory for entries kept in process, in bytes.
    pub l1_bytes: u64,
    /// Room for entries in the SQLite file, in bytes of bodies; the least recently used go first.
    pub max_bytes: u64,
    /// Answers waiting to be written; beyond it, new ones are dropped and counted.
    pub write_queue: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryBackend {
    #[default]
    Sqlite,
    Redis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VectorBackend {
    #[default]
    Flat,
    Qdrant,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Embedding {
    /// Name in the models manifest.
    pub model: String,
    pub device: Device,
    /// How the weights are kept; the arithmetic is in f32 either way. bfloat16 takes half the memory and three quarters
    /// of the time for a short prompt; its vectors differ from those in full precision by up to 3e-5 in cosine.
    pub precision: Precision,
    /// Threads of the forward pass; 0 means one per core.
    pub threads: usize,
    /// Most tokens in one batch.
    pub batch_tokens: usize,
    /// Texts waiting for a batch; beyond it, callers are refused.
    pub queue: usize,
    /// Memory for the vectors of recent texts, so that a repeated one is not embedded again; 0 for none.
    pub memo_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    #[default]
    Cpu,
    Cuda,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    #[default]
    Bf16,
    F32,
}

/// What reads two prompts together before an answer is served by meaning. It runs with the threads and the precision of the
/// embedding, on the same cores.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Verifier {
    pub model: VerifierChoice,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerifierChoice {
    /// The one that is part of the program. It reads English.
    #[default]
    RepriseVerifier,
    /// Similarity and guards alone: fewer hits for the same bound.
    None,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Models {
    /// Where model files are kept; `<data_dir>/models` unless told.
    pub dir: Option<PathBuf>,
    /// A folder with model files from elsewhere, tried before any download.
    pub local_dir: Option<PathBuf>,
    /// Never download.
    pub offline: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    pub max_messages: usize,
    /// Content of all messages of a request together.
    pub max_prompt_bytes: usize,
    /// Texts in one `Embed` or `CompleteBatch` call.
    pub max_batch: usize,
    /// Requests worked on at once; beyond it, callers are refused.
    pub max_concurrent: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    pub format: LogFormat,
    /// Filter in the form of `tracing`, for example `info,reprise=debug`.
    pub level: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Human,
    Json,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            grpc_addr: SocketAddr::from(([127, 0, 0, 1], 7070)),
            http_addr: SocketAddr::from(([127, 0, 0, 1], 7071)),
            request_timeout: Duration::from_secs(300),
            drain_timeout: Duration::from_secs(20),
            max_body_bytes: 8 << 20,
            tenants: Vec::new(),
        }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            mode: CacheMode::On,
            max_wrong_rate: 0.01,
            min_similarity: None,
            ttl: Duration::from_secs(24 * 3600),
            top_k: 8,
            lookup_budget: Duration::from_millis(250),
            audience: AudienceRule::Shared,
            bypass_time_sensitive: true,
            audit_share: 0.02,
            max_entry_bytes: 1 << 20,
        }
    }
}

impl Default for Stores {
    fn default() -> Self {
        Self {
            entries: EntryBackend::Sqlite,
            vectors: VectorBackend::Flat,
            redis_url: "redis://127.0.0.1:6379".into(),
            redis_cluster_urls: Vec::new(),
            redis_prefix: "reprise".into(),
            redis_ca_file: None,
            redis_cert_file: None,
            redis_key_file: None,
            qdrant_url: "http://127.0.0.1:6334".into(),
            qdrant_api_key_env: None,
            qdrant_collection: "reprise".into(),
            qdrant_quantization: false,
            timeout: Duration::from_millis(200),
            l1_bytes: 256 << 20,
            max_bytes: 8 << 30,
            write_queue: 10_000,
        }
    }
}

impl Default for Embedding {
    fn default() -> Self {
        Self {
            model: "all-MiniLM-L6-v2".into(),
            device: Device::Cpu,
            precision: Precision::Bf16,
            threads: 0,
            batch_tokens: 512,
            queue: 1024,
            memo_bytes: 64 << 20,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_messages: 2048, max_prompt_bytes: 1 << 20, max_batch: 1024, max_concurrent: 1024 }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Human, level: "info".into() }
    }
}
