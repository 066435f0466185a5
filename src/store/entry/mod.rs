//! Exact keys and bodies. A body lives in exactly one place: here.
//!
//! Backends: [`sqlite`] (embedded) and [`redis`]. Wrappers of the same trait: [`guarded`] gives each call a limit and
//! leaves out a store that is down, [`l1`] keeps entries in process. Composed as `L1Entries(GuardedEntries(backend))`:
//! what is in process is served while the backend is down, as far as it is known to be still valid.

use async_trait::async_trait;
use std::sync::Arc;

use crate::types::{Entry, EntryKey, Error, ErrorKind, Owner, Result, Tag};

mod footprint;
pub mod guarded;
pub mod l1;
pub mod redis;
pub mod sqlite;

#[cfg(test)]
mod contract;

/// Hears the keys of entries that a store dropped for lack of room. It is called on the way of a put: it never waits.
pub type OnEvicted = Arc<dyn Fn(&[EntryKey]) + Send + Sync>;

/// Remembers answers under their exact keys.
///
/// Every backend passes the same contract suite. None of them hides an error: a caller that may go on without the
/// cache says so itself.
#[async_trait]
pub trait EntryStore: Send + Sync + 'static {
    /// The live entry of that key; an expired one is `None`.
    async fn get(&self, key: &EntryKey) -> Result<Option<Arc<Entry>>>;

    /// Stores an entry, in place of one with the same key. When this returns `Ok`, the entry survives `kill -9` (as
    /// far as the backend is durable at all). An entry that has already expired is not stored.
    async fn put(&self, entry: Arc<Entry>) -> Result<()>;

    /// Deletes an entry of that owner; false when the owner has no such entry.
    async fn delete(&self, owner: &Owner, key: &EntryKey) -> Result<bool>;

    /// Deletes every entry of that owner with that tag; gives their keys, so that their vectors can go too.
    async fn delete_by_tag(&self, owner: &Owner, tag: &Tag) -> Result<Vec<EntryKey>>;

    /// A hint that an entry was served without [`EntryStore::get`], so that it does not pass for unused. Never waits.
    fn touch(&self, _key: &EntryKey) {}

    /// From here on, `hear` is told what is dropped for lack of room, once that is committed, in place of whoever was
    /// told before. A hint, so that their vectors can go too: a backend that does not learn what it drops (Redis), or a
    /// caller that gives up in the middle of its put, tells nobody.
    fn on_evicted(&self, _hear: OnEvicted) {}

    /// What it holds now.
    async fn stats(&self) -> Result<EntryStats>;

    /// Answers when the store can be reached and works.
    async fn ping(&self) -> Result<()>;

    /// Waits until everything acknowledged is written, and releases what is held.
    async fn close(&self) -> Result<()>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EntryStats {
    /// Entries held, expired ones not yet swept included.
    pub entries: u64,
    /// Bytes of their stored form.
    pub bytes: u64,
    /// Entries dropped for lack of room since start.
    pub evicted: u64,
}

/// The stored form of an entry's body: JSON.
fn encode(entry: &Entry) -> Result<Vec<u8>> {
    serde_json::to_vec(entry).map_err(|e| Error::internal("an entry cannot be encoded").with_source(e))
}

fn decode(body: &[u8]) -> Result<Entry> {
    serde_json::from_slice(body)
        .map_err(|e| Error::new(ErrorKind::Corrupt, "a stored entry does not decode").with_source(e))
}
