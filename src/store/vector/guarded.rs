//! A vector store whose calls have a limit, and that is left alone while it is down.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Match, Point, VectorStore};
use crate::store::breaker::Breaker;
use crate::types::{EntryKey, Owner, Result, ScopeId, Tag};

pub struct GuardedVectors {
    inner: Arc<dyn VectorStore>,
    breaker: Arc<Breaker>,
}

impl GuardedVectors {
    /// `name` names the store in logs and metrics; `limit` is the longest a search may take.
    pub fn new(inner: Arc<dyn VectorStore>, name: &'static str, limit: Duration) -> Arc<Self> {
        Arc::new(Self { breaker: Breaker::guarding(name, limit, &inner, |store| store.ping()), inner })
    }

    pub fn is_up(&self) -> bool {
        self.breaker.is_up()
    }
}

#[async_trait]
impl VectorStore for GuardedVectors {
    async fn search(&self, scope: &ScopeId, vector: &[f32], k: usize) -> Result<Vec<Match>> {
        self.breaker.call(self.inner.search(scope, vector, k)).await
    }

    async fn upsert(&self, points: Vec<Point>) -> Result<()> {
        self.breaker.call_bulk(self.inner.upsert(points)).await
    }

    async fn delete(&self, keys: &[EntryKey]) -> Result<u64> {
        self.breaker.call_bulk(self.inner.delete(keys)).await
    }

    async fn delete_by_tag(&self, owner: &Owner, tag: &Tag) -> Result<u64> {
        self.breaker.call_bulk(self.inner.delete_by_tag(owner, tag)).await
    }

    async fn delete_by_dependency(&self, owner: &Owner, document: &str) -> Result<u64> {
        self.breaker.call_bulk(self.inner.delete_by_dependency(owner, document)).await
    }

    async fn count(&self, scope: Option<&ScopeId>) -> Result<u64> {
        self.breaker.call_bulk(self.inner.count(scope)).await
    }

    /// While the store is down this says so at once: the breaker asks by itself.
    async fn ping(&self) -> Result<()> {
        self.breaker.call(self.inner.ping()).await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}
