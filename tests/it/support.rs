//! A gateway on real embedded stores, with hashed n-grams as vectors and a scripted provider.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use reprise::cache::{Cache, Judge, Languages};
use reprise::config::{Cache as CacheSettings, Config, ProviderConfig};
use reprise::embed::{Embedder, EmbeddingModel, HashEmbedder};
use reprise::gateway::{Gateway, Request};
use reprise::llm::{Directory, Provider, ScriptedProvider};
use reprise::store::entry::guarded::GuardedEntries;
use reprise::store::entry::l1::L1Entries;
use reprise::store::entry::sqlite::SqliteEntries;
use reprise::store::entry::{EntryStats, EntryStore};
use reprise::store::evidence::sqlite::SqliteEvidence;
use reprise::store::sqlite::Sqlite;
use reprise::store::vector::flat::Flat;
use reprise::store::vector::guarded::GuardedVectors;
use reprise::types::{ChatRequest, Embedding, Entry, EntryKey, Namespace, Owner, Result, Tag, TenantId};

/// Longest one store call may take in these tests.
const STORE_LIMIT: Duration = Duration::from_millis(200);

pub struct Setup {
    pub gateway: Gateway,
    /// Texts that were embedded.
    pub embedded: Arc<AtomicU64>,
    provider: Arc<ScriptedProvider>,
    _folder: tempfile::TempDir,
}

impl Setup {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// With a scripted provider that `edit` changes.
    pub async fn with(edit: impl FnOnce(&mut ProviderConfig)) -> Self {
        Self::build(|config| edit(&mut config.providers[0]), false, 1 << 30).await
    }

    /// With other settings of the cache.
    pub async fn caching(edit: impl FnOnce(&mut CacheSettings)) -> Self {
        Self::build(|config| edit(&mut config.cache), false, 1 << 30).await
    }

    /// With room for so many bytes of entries.
    pub async fn with_room(bytes: u64) -> Self {
        Self::build(|_| {}, false, bytes).await
    }

    /// With an entry store that never answers.
    pub async fn hanging() -> Self {
        Self::build(|_| {}, true, 1 << 30).await
    }

    async fn build(edit: impl FnOnce(&mut Config), hanging: bool, room: u64) -> Self {
        let provider = r#"providers=[{name="scripted",kind="scripted",models=["m","other-model"]}]"#;
        let mut config = Config::load(None, std::iter::empty(), &[provider.to_owned()]).unwrap();
        edit(&mut config);
        let folder = tempfile::tempdir().unwrap();
        let sqlite = Sqlite::open(folder.path()).await.unwrap();
        let embedded = Arc::new(AtomicU64::new(0));
        let embedder = Counted { inner: HashEmbedder::new(), texts: embedded.clone() };
        let model = embedder.model().clone();
        let entries: Arc<dyn EntryStore> = if hanging {
            Arc::new(Hanging)
        } else {
            L1Entries::new(SqliteEntries::new(sqlite.clone(), room).await.unwrap(), 64 << 20)
        };
        let evidence = SqliteEvidence::new(sqlite.clone()).await.unwrap();
        let vectors = Flat::open(sqlite, &model.id, model.dim).await.unwrap();
        let cache = Cache::new(
            GuardedEntries::new(entries, "entries", STORE_LIMIT),
            GuardedVectors::new(Arc::new(vectors), "vectors", STORE_LIMIT),
            Arc::new(embedder),
            (Judge::new(None, Languages::default()).unwrap(), evidence),
        );
        let provider = Arc::new(ScriptedProvider::new(&config.providers[0]).unwrap());
        let directory = Directory::new(vec![provider.clone() as Arc<dyn Provider>], None);
        Self { gateway: Gateway::new(config, cache, directory), embedded, provider, _folder: folder }
    }

    /// Calls that reached the provider.
    pub fn calls(&self) -> u64 {
        self.provider.calls()
    }

    /// Waits until everything given out so far is remembered.
    pub async fn settle(&self) {
        assert!(self.gateway.settle(Duration::from_secs(10)).await);
    }
}

/// A request with one user message, by tenant `t` in namespace `n`, for model `m`.
pub fn request(prompt: &str) -> Request {
    let owner = Owner { tenant: TenantId::new("t").unwrap(), namespace: Namespace::new("n").unwrap() };
    Request::new("test", owner, ChatRequest::prompt("m", prompt))
}

/// Counts the texts that go through an embedder.
struct Counted {
    inner: HashEmbedder,
    texts: Arc<AtomicU64>,
}

#[async_trait]
impl Embedder for Counted {
    fn model(&self) -> &EmbeddingModel {
        self.inner.model()
    }

    async fn embed(&self, tenant: &TenantId, texts: Vec<String>) -> Result<Vec<Embedding>> {
        self.texts.fetch_add(texts.len() as u64, Ordering::SeqCst);
        self.inner.embed(tenant, texts).await
    }
}

/// A store whose every call hangs.
struct Hanging;

#[async_trait]
impl EntryStore for Hanging {
    async fn get(&self, _: &EntryKey) -> Result<Option<Arc<Entry>>> {
        std::future::pending().await
    }
    async fn put(&self, _: Arc<Entry>) -> Result<()> {
        std::future::pending().await
    }
    async fn delete(&self, _: &Owner, _: &EntryKey) -> Result<bool> {
        std::future::pending().await
    }
    async fn delete_by_tag(&self, _: &Owner, _: &Tag) -> Result<Vec<EntryKey>> {
        std::future::pending().await
    }
    async fn stats(&self) -> Result<EntryStats> {
        std::future::pending().await
    }
    async fn ping(&self) -> Result<()> {
        std::future::pending().await
    }
    async fn close(&self) -> Result<()> {
        Ok(())
    }
}
