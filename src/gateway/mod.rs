//! The service itself, without wire types: `grpc` and `http` decode into [`Request`], call [`Gateway`], and encode
//! what comes back.
//!
//! [`answer`] is the whole story of a request, to be read top to bottom; its siblings are the steps it names.

mod account;
mod admit;
mod answer;
mod audit;
mod cacheability;
mod changes;
mod flight;
mod found;
mod manage;
mod orphans;
mod remember;
mod replay;
#[cfg(test)]
mod testing;

use futures::stream::BoxStream;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::cache::{Cache, Judgement, Rule, Verdict};
use crate::config::Config;
use crate::embed::EmbeddingModel;
use crate::llm::Directory;
use crate::types::{
    Answer, CacheControls, ChatRequest, Delta, Entry, EntryKey, FinishReason, Outcome, Owner, Priority, Result,
    ScopeId, SessionId, Similarity, UnixMillis, Usage, Usd, UserId,
};

pub use audit::Reported;

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    cache: Cache,
    directory: Directory,
    flights: flight::Flights<answer::FlightKey>,
    remember: remember::Remember,
    changes: Arc<changes::Changes>,
    removal: orphans::Removal,
    account: account::Account,
    audits: audit::Audits,
    /// Requests that may be worked on at once.
    places: Arc<Semaphore>,
}

impl Gateway {
    /// Must be called inside a tokio runtime: write-behind runs as a task.
    pub fn new(config: Config, cache: Cache, directory: Directory) -> Self {
        let changes = Arc::new(changes::Changes::new());
        let remember = remember::Remember::start(cache.clone(), config.stores.write_queue, changes.clone());
        let removal = orphans::Removal::start(cache.clone(), changes.clone());
        let places = Arc::new(Semaphore::new(config.limits.max_concurrent));
        let (flights, account, audits) = (flight::Flights::default(), account::Account::new(), audit::Audits::new());
        let inner = Inner { config, cache, directory, flights, remember, changes, removal, account, audits, places };
        Self { inner: Arc::new(inner) }
    }

    /// The settings in force.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    pub fn embedding_model(&self) -> &EmbeddingModel {
        self.inner.cache.embedder().model()
    }

    /// Waits until every answer given out before this call is remembered, at most `limit`; false when time ran out.
    pub async fn settle(&self, limit: Duration) -> bool {
        self.inner.remember.settle(limit).await
    }

    /// Writes what waits to be remembered; answers that come later are not remembered.
    pub async fn close(&self) -> Result<()> {
        self.inner.audits.close();
        let written = self.inner.remember.close(self.inner.config.server.drain_timeout).await;
        self.inner.removal.close().await;
        written
    }
}

/// One request as every surface hands it over.
#[derive(Debug, Clone)]
pub struct Request {
    /// Made up by the surface when the caller names none; stands in logs and replies.
    pub id: String,
    pub owner: Owner,
    pub user: Option<UserId>,
    pub session: Option<SessionId>,
    /// Version of the caller's prompt template.
    pub template: Option<String>,
    /// An empty model means the default one.
    pub chat: ChatRequest,
    pub controls: CacheControls,
    pub priority: Priority,
    /// When the caller stops waiting; the service's own limit holds when absent.
    pub deadline: Option<Instant>,
}

impl Request {
    /// A request that asks for nothing special.
    pub fn new(id: impl Into<String>, owner: Owner, chat: ChatRequest) -> Self {
        Self {
            id: id.into(),
            owner,
            user: None,
            session: None,
            template: None,
            chat,
            controls: CacheControls::default(),
            priority: Priority::default(),
            deadline: None,
        }
    }
}

/// A request answered as a whole.
#[derive(Debug, Clone)]
pub struct Completed {
    pub outcome: Outcome,
    pub answer: Arc<Answer>,
    pub summary: Summary,
}

/// A request answered in pieces; how it was answered is known before the first piece.
pub struct Streamed {
    pub outcome: Outcome,
    /// Deltas, then exactly one [`StreamEvent::Final`]; or an error, which ends it. Dropping it hangs up.
    pub events: BoxStream<'static, Result<StreamEvent>>,
}

#[allow(clippy::large_enum_variant, reason = "moved once, to the surface; almost always a delta")]
#[derive(Debug, Clone)]
pub enum StreamEvent {
    Delta(Delta),
    Final(Summary),
}

/// What there is to say about a finished request.
#[derive(Debug, Clone)]
pub struct Summary {
    /// The model that answered.
    pub model: String,
    pub finish: FinishReason,
    pub usage: Usage,
    /// What this request cost; zero for a hit.
    pub cost: Usd,
    /// What a hit saved.
    pub saved: Usd,
    /// From the arrival of the request to its last byte.
    pub latency: Duration,
}

/// What the cache would answer.
#[derive(Debug, Clone)]
pub struct Looked {
    pub outcome: Outcome,
    /// Set on a hit.
    pub entry: Option<Arc<Entry>>,
}

#[derive(Debug, Clone)]
pub struct Stored {
    pub key: EntryKey,
    pub expires: UnixMillis,
    /// False when only the same request finds the entry.
    pub semantic: bool,
}

/// Why a request would hit or miss.
#[derive(Debug, Clone)]
pub struct Explanation {
    pub outcome: Outcome,
    pub key: EntryKey,
    pub scope: ScopeId,
    /// Nearest entries of the scope, best first.
    pub candidates: Vec<ExplainedCandidate>,
    /// How hits are decided.
    pub rule: Rule,
    /// The highest risk that is served under a rule by wrong rate.
    pub max_risk: f64,
    /// Labelled hits that it rests on, and how many of them were wrong.
    pub labels: usize,
    pub wrong_labels: usize,
    /// Tokens of the prompt that the embedding model read; 0 when it was not embedded.
    pub embedded_tokens: u32,
    pub truncated: bool,
    /// Steps of the lookup, with the time each took.
    pub stages: Vec<(&'static str, Duration)>,
}

#[derive(Debug, Clone)]
pub struct ExplainedCandidate {
    pub key: EntryKey,
    pub similarity: Similarity,
    /// The prompt that entry answered.
    pub prompt: String,
    pub age: Duration,
    /// What is known of its prompt and the new one.
    pub judgement: Option<Judgement>,
    pub verdict: Verdict,
}

/// What the cache holds, and how it has answered since start.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    pub entries: u64,
    pub entry_bytes: u64,
    pub vectors: u64,
    pub evicted: u64,
    pub exact_hits: u64,
    pub semantic_hits: u64,
    pub misses: u64,
    pub bypasses: u64,
    pub stale_hits: u64,
    pub errors: u64,
    pub spent: Usd,
    pub saved: Usd,
    pub embedding_model: String,
    pub uptime: Duration,
    pub writes_dropped: u64,
    /// Stores that could not say what they hold: their numbers are 0.
    pub unavailable: Vec<&'static str>,
}

/// State of one dependency.
#[derive(Debug, Clone)]
pub struct Health {
    /// `entries`, `vectors`, `embedding`, or `provider:<name>`.
    pub name: String,
    /// Whether the service can answer anything without it.
    pub required: bool,
    /// What is wrong; `None` when it works.
    pub error: Option<String>,
}

/// A model that may be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    pub name: String,
    /// The provider that serves it.
    pub provider: String,
}
