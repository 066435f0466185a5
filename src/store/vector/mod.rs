//! Vectors, with the scope they may be compared in and the key of the entry they stand for. No bodies here.

#[cfg(test)]
mod contract;
pub mod flat;
pub mod guarded;
pub mod qdrant;
#[cfg(test)]
mod qdrant_double;

use async_trait::async_trait;
use std::sync::Arc;

use crate::types::{EntryKey, Error, Owner, Result, ScopeId, Similarity, Tag, UnixMillis};

/// How far the length of a vector may be from 1.
const LENGTH_TOLERANCE: f32 = 1e-3;

/// Finds the entries of a scope whose vectors are closest to a given one.
///
/// The scope filter is applied by the store, never after the search.
#[async_trait]
pub trait VectorStore: Send + Sync + 'static {
    /// The `k` live points of `scope` with the highest cosine to `vector` (unit length, `dim` values), best first.
    /// Similarities are exact f32 cosines as far as the backend can give them. In a large scope a backend may miss some of
    /// the best when they are far; there are `k` all the same, if the scope has them.
    async fn search(&self, scope: &ScopeId, vector: &[f32], k: usize) -> Result<Vec<Match>>;

    /// Adds points, each in place of one with the same key. Refuses vectors of another dimension, of other than
    /// unit length, or with values that are not finite. Visible to searches, and durable as far as the backend is,
    /// when this returns.
    async fn upsert(&self, points: Vec<Point>) -> Result<()>;

    /// Deletes points by key; unknown keys are no error. Gives how many there were, where the backend knows.
    async fn delete(&self, keys: &[EntryKey]) -> Result<u64>;

    async fn delete_by_tag(&self, owner: &Owner, tag: &Tag) -> Result<u64>;

    /// Deletes the points of an owner that depend on that document, at any version.
    async fn delete_by_dependency(&self, owner: &Owner, document: &str) -> Result<u64>;

    /// Live points, in one scope or in all.
    async fn count(&self, scope: Option<&ScopeId>) -> Result<u64>;

    async fn ping(&self) -> Result<()>;

    /// Waits until everything acknowledged is written, and releases what is held.
    async fn close(&self) -> Result<()>;
}

/// One vector and what it stands for.
#[derive(Debug, Clone)]
pub struct Point {
    pub key: EntryKey,
    pub scope: ScopeId,
    pub owner: Owner,
    /// Unit length, `dim` values.
    pub vector: Arc<[f32]>,
    pub expires: UnixMillis,
    pub tags: Vec<Tag>,
    /// Documents the entry was made from, as `id@version`.
    pub depends_on: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Match {
    pub key: EntryKey,
    pub similarity: Similarity,
}

/// Refuses a vector that cannot be compared: of other than `dim` values, not finite, or not of unit length.
fn check_vector(vector: &[f32], dim: usize) -> Result<()> {
    if vector.len() != dim {
        return Err(Error::invalid("vector", format!("has {} values; this store holds {dim}", vector.len())));
    }
    let length = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    if !length.is_finite() {
        return Err(Error::invalid("vector", "has values that are not finite"));
    }
    if (length - 1.0).abs() > f64::from(LENGTH_TOLERANCE) {
        return Err(Error::invalid("vector", format!("has length {length:.4}; only unit vectors are compared")));
    }
    Ok(())
}

fn check_points(points: &[Point], dim: usize) -> Result<()> {
    points.iter().try_for_each(|point| check_vector(&point.vector, dim))
}

/// The owner as one text. Ids hold no white space, so no two owners share it (a slash would not do: ids may hold one).
fn owner_text(owner: &Owner) -> String {
    format!("{} {}", owner.tenant, owner.namespace)
}

/// The document of a dependency `id@version`. Ids may hold an `@` too; the version is what follows the last one.
fn document_id(dependency: &str) -> &str {
    dependency.rsplit_once('@').map_or(dependency, |(id, _)| id)
}
