//! Entries in process, in front of another store.
//!
//! A hit touches nothing but memory. A put is acknowledged once the store behind has acknowledged it, and only then
//! becomes visible here. [`Hot`] holds the entries and the rules by which they stay true to the store behind.

use std::sync::Arc;

use async_trait::async_trait;

use super::{EntryStats, EntryStore, OnEvicted};
use crate::types::{Entry, EntryKey, Error, Owner, Result, Tag};

mod hot;

pub use hot::{Coherence, Hot};

pub struct L1Entries {
    inner: Arc<dyn EntryStore>,
    hot: Arc<Hot>,
}

impl L1Entries {
    /// In front of a store that only this process writes to, through this wrapper alone. `bytes` bounds the memory.
    pub fn new(inner: Arc<dyn EntryStore>, bytes: u64) -> Arc<Self> {
        Self::with(inner, Hot::new(bytes, Coherence::OnlyWriter))
    }

    /// In front of a store that others write to as well, and that tells `hot` what they change.
    pub fn with(inner: Arc<dyn EntryStore>, hot: Arc<Hot>) -> Arc<Self> {
        Arc::new(Self { inner, hot })
    }
}

#[async_trait]
impl EntryStore for L1Entries {
    async fn get(&self, key: &EntryKey) -> Result<Option<Arc<Entry>>> {
        if let Some(hit) = self.hot.get(key) {
            if hit.is_due {
                self.inner.touch(key);
            }
            return Ok(Some(hit.entry));
        }
        let ticket = self.hot.begin_read(key);
        let found = self.inner.get(key).await?;
        if let Some(entry) = &found {
            self.hot.fill(ticket, entry);
        }
        Ok(found)
    }

    async fn put(&self, entry: Arc<Entry>) -> Result<()> {
        let (inner, write) = (self.inner.clone(), self.hot.begin_write(&entry.key));
        uncancelled(async move {
            let outcome = inner.put(entry.clone()).await;
            settle(write, &outcome, Some(entry));
            outcome
        })
        .await
    }

    async fn delete(&self, owner: &Owner, key: &EntryKey) -> Result<bool> {
        let (inner, write, owner, key) = (self.inner.clone(), self.hot.begin_write(key), owner.clone(), *key);
        uncancelled(async move {
            let outcome = inner.delete(&owner, &key).await;
            settle(write, &outcome, None);
            outcome
        })
        .await
    }

    async fn delete_by_tag(&self, owner: &Owner, tag: &Tag) -> Result<Vec<EntryKey>> {
        let (inner, hot, owner, tag) = (self.inner.clone(), self.hot.clone(), owner.clone(), tag.clone());
        uncancelled(async move {
            // Which keys it is about is known afterwards; if it fails, it may be about any.
            let mut keys = inner.delete_by_tag(&owner, &tag).await.inspect_err(|error| {
                if !hot::is_refusal(error) {
                    hot.doubt_all();
                }
            })?;
            keys.iter().for_each(|key| hot.invalidate(key));
            // The store may have dropped entries for lack of room that are still served from here.
            keys.extend(hot.invalidate_tagged(&owner, &tag));
            keys.sort_unstable();
            keys.dedup();
            Ok(keys)
        })
        .await
    }

    fn touch(&self, key: &EntryKey) {
        self.inner.touch(key);
    }

    /// What the store behind has dropped is not served from here either: whoever hears of it may count on that.
    fn on_evicted(&self, hear: OnEvicted) {
        let hot = self.hot.clone();
        self.inner.on_evicted(Arc::new(move |keys| {
            keys.iter().for_each(|key| hot.invalidate(key));
            hear(keys);
        }));
    }

    async fn stats(&self) -> Result<EntryStats> {
        self.inner.stats().await
    }

    async fn ping(&self) -> Result<()> {
        self.inner.ping().await
    }

    async fn close(&self) -> Result<()> {
        self.hot.close();
        self.inner.close().await
    }
}

/// `stored` is what the store holds now if the outcome is good.
fn settle<T>(write: hot::Write, outcome: &Result<T>, stored: Option<Arc<Entry>>) {
    match outcome {
        Ok(_) => write.done(stored),
        Err(error) => write.failed(error),
    }
}

/// Runs to its end even when the caller hangs up: a write may take effect then, and [`Hot`] must learn of it.
async fn uncancelled<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(work).await.unwrap_or_else(|_| Err(Error::internal("a write to the entry store panicked")))
}

#[cfg(test)]
mod tests;
