//! An entry store whose calls have a limit, and that is left alone while it is down.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{EntryStats, EntryStore, OnEvicted};
use crate::store::breaker::Breaker;
use crate::types::{Entry, EntryKey, Owner, Result, Tag};

pub struct GuardedEntries {
    inner: Arc<dyn EntryStore>,
    breaker: Arc<Breaker>,
}

impl GuardedEntries {
    /// `name` names the store in logs and metrics; `limit` is the longest a call may take.
    pub fn new(inner: Arc<dyn EntryStore>, name: &'static str, limit: Duration) -> Arc<Self> {
        Arc::new(Self { breaker: Breaker::guarding(name, limit, &inner, |store| store.ping()), inner })
    }

    pub fn is_up(&self) -> bool {
        self.breaker.is_up()
    }
}

#[async_trait]
impl EntryStore for GuardedEntries {
    async fn get(&self, key: &EntryKey) -> Result<Option<Arc<Entry>>> {
        self.breaker.call(self.inner.get(key)).await
    }

    async fn put(&self, entry: Arc<Entry>) -> Result<()> {
        self.breaker.call(self.inner.put(entry)).await
    }

    async fn delete(&self, owner: &Owner, key: &EntryKey) -> Result<bool> {
        self.breaker.call(self.inner.delete(owner, key)).await
    }

    async fn delete_by_tag(&self, owner: &Owner, tag: &Tag) -> Result<Vec<EntryKey>> {
        self.breaker.call_bulk(self.inner.delete_by_tag(owner, tag)).await
    }

    fn touch(&self, key: &EntryKey) {
        if self.breaker.is_up() {
            self.inner.touch(key);
        }
    }

    fn on_evicted(&self, hear: OnEvicted) {
        self.inner.on_evicted(hear);
    }

    async fn stats(&self) -> Result<EntryStats> {
        self.breaker.call(self.inner.stats()).await
    }

    /// While the store is down this says so at once: the breaker asks by itself.
    async fn ping(&self) -> Result<()> {
        self.breaker.call(self.inner.ping()).await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}
