//! Remembering and forgetting. The entry is written before its vector, so that a vector never points to an answer that
//! is still to come; and deleted before it, so that a failure in between leaves a vector without a body, which is
//! a miss.

use std::sync::Arc;

use super::Cache;
use crate::store::vector::Point;
use crate::types::{Entry, EntryKey, Owner, Result, Tag};

/// How much an invalidation took away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Invalidated {
    pub entries: u64,
    pub vectors: u64,
}

/// The vector of an entry, as the vector store keeps it.
pub fn vector_point(entry: &Entry, vector: Arc<[f32]>) -> Point {
    Point {
        key: entry.key,
        scope: entry.scope,
        owner: entry.owner.clone(),
        vector,
        expires: entry.expires,
        tags: entry.tags.clone(),
        depends_on: entry.depends_on.clone(),
    }
}

impl Cache {
    /// Stores an entry and, when there is one, its vector. Durable when this returns.
    pub async fn put(&self, entry: Arc<Entry>, vector: Option<Arc<[f32]>>) -> Result<()> {
        self.entries.put(entry.clone()).await?;
        if let Some(vector) = vector {
            self.vectors.upsert(vec![vector_point(&entry, vector)]).await?;
        }
        Ok(())
    }

    pub async fn delete(&self, owner: &Owner, key: &EntryKey) -> Result<bool> {
        let deleted = self.entries.delete(owner, key).await?;
        if deleted {
            self.vectors.delete(&[*key]).await?;
        }
        Ok(deleted)
    }

    pub async fn delete_by_tag(&self, owner: &Owner, tag: &Tag) -> Result<Invalidated> {
        let keys = self.entries.delete_by_tag(owner, tag).await?;
        let vectors = self.vectors.delete_by_tag(owner, tag).await?;
        Ok(Invalidated { entries: keys.len() as u64, vectors })
    }
}
