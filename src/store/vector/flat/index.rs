//! All rows in memory, grouped by scope. Any number of searches read; one [`IndexWriter`] changes.

use arc_swap::ArcSwap;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;

use super::rows::Rows;
use crate::types::{ScopeId, UnixMillis};

/// Maps of scopes. A map that grows holds up the searches of its scopes until all are in their new places: there are so many
/// maps that this takes well under a millisecond, also with millions of scopes.
const SHARDS: usize = 256;

type Segment = Arc<ArcSwap<Rows>>;

/// What searches see. A scope's rows are replaced by a changed copy, which shares with the old one what is the
/// same; a search that has them reads on undisturbed. Locks are held for a look at a map.
#[derive(Debug)]
pub struct Index {
    shards: Vec<RwLock<HashMap<ScopeId, Segment>>>,
}

impl Index {
    /// The rows of a scope as they are now; later changes do not show in them.
    pub fn rows(&self, scope: &ScopeId) -> Option<Arc<Rows>> {
        self.shard(scope).read().get(scope).map(|segment| segment.load_full())
    }

    /// Live rows of one scope, or of all.
    pub fn count(&self, scope: Option<&ScopeId>, now: UnixMillis) -> usize {
        let live = |rows: &Rows| rows.iter().filter(|&(_, expires)| expires > now).count();
        match scope {
            Some(scope) => self.rows(scope).map_or(0, |rows| live(&rows)),
            None => self.all().iter().map(|rows| live(rows)).sum(),
        }
    }

    /// Bytes of memory that the rows take, without what the allocator adds.
    pub fn bytes(&self) -> usize {
        self.all().iter().map(|rows| rows.bytes()).sum()
    }

    fn all(&self) -> Vec<Arc<Rows>> {
        let segments = |shard: &RwLock<HashMap<_, Segment>>| shard.read().values().cloned().collect::<Vec<_>>();
        self.shards.iter().flat_map(segments).map(|segment| segment.load_full()).collect()
    }

    fn shard(&self, scope: &ScopeId) -> &RwLock<HashMap<ScopeId, Segment>> {
        // Scopes are hashes.
        &self.shards[usize::from(scope.as_bytes()[0]) % SHARDS]
    }
}

/// The only one that changes an [`Index`].
pub struct IndexWriter {
    index: Arc<Index>,
    dim: usize,
    len: usize,
}

impl IndexWriter {
    /// Of vectors of `dim` values; begins with those rows.
    pub fn new(dim: usize, scopes: HashMap<ScopeId, Rows>) -> Self {
        let index = Index { shards: (0..SHARDS).map(|_| RwLock::default()).collect() };
        let mut len = 0;
        for (scope, rows) in scopes {
            len += rows.len();
            index.shard(&scope).write().insert(scope, Arc::new(ArcSwap::from_pointee(rows)));
        }
        Self { index: Arc::new(index), dim, len }
    }

    pub fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// Rows held, expired ones included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Changes the rows of a scope; searches see all of the change or nothing of it.
    pub fn update(&mut self, scope: ScopeId, change: impl FnOnce(&mut Rows)) {
        let shard = self.index.shard(&scope);
        let segment = shard.read().get(&scope).cloned();
        let mut rows = segment.as_ref().map_or_else(|| Rows::new(self.dim), |s| s.load().as_ref().clone());
        self.len -= rows.len();
        change(&mut rows);
        self.len += rows.len();
        match segment {
            _ if rows.len() == 0 => drop(shard.write().remove(&scope)),
            Some(segment) => segment.store(Arc::new(rows)),
            None => drop(shard.write().insert(scope, Arc::new(ArcSwap::from_pointee(rows)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::vector::flat::quantise::{Quantised, Row};
    use crate::store::vector::flat::rotate::Rotation;

    fn scope(n: u8) -> ScopeId {
        ScopeId::from_bytes([n; 32])
    }

    fn push(writer: &mut IndexWriter, n: u8, id: i64, expires: u64) {
        let Quantised { scale, codes } = Quantised::new(&Rotation::new(2), &[1.0, 0.0]);
        let row = Row { id, expires: UnixMillis(expires), scale, codes: &codes };
        writer.update(scope(n), |rows| rows.push(row));
    }

    fn ids(index: &Index, scope: &ScopeId) -> Vec<i64> {
        let mut ids: Vec<_> = index.rows(scope).iter().flat_map(|rows| rows.iter().map(|(id, _)| id)).collect();
        ids.sort();
        ids
    }

    #[test]
    fn rows_are_found_after_others_took_their_places() {
        let mut writer = IndexWriter::new(2, HashMap::new());
        let index = Arc::clone(writer.index());
        (0..200).for_each(|n| push(&mut writer, (n % 2) as u8, n, 10));
        (0..100).for_each(|n| writer.update(scope((n % 2) as u8), |rows| assert!(rows.remove(n))));
        writer.update(scope(0), |rows| assert!(!rows.remove(0)));
        assert_eq!(ids(&index, &scope(0)), (100..200).step_by(2).collect::<Vec<_>>());
        (100..200).for_each(|n| writer.update(scope((n % 2) as u8), |rows| assert!(rows.remove(n))));
        assert!(index.shards.iter().all(|shard| shard.read().is_empty()), "an empty scope takes no memory");
        assert_eq!((writer.len(), index.bytes()), (0, 0));
    }

    #[test]
    fn a_search_keeps_the_rows_it_began_with() {
        let mut writer = IndexWriter::new(2, HashMap::new());
        (0..3).for_each(|n| push(&mut writer, 1, n, 10));
        let before = writer.index().rows(&scope(1)).unwrap();
        writer.update(scope(1), |rows| assert!(rows.remove(1)));
        push(&mut writer, 1, 7, 10);
        assert_eq!(before.iter().map(|row| row.0).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(ids(writer.index(), &scope(1)), [0, 2, 7]);
    }

    #[test]
    fn a_row_counts_until_it_expires() {
        let mut writer = IndexWriter::new(2, HashMap::new());
        push(&mut writer, 1, 1, 10);
        push(&mut writer, 1, 2, 20);
        let index = writer.index();
        assert_eq!(index.count(None, UnixMillis(9)), 2);
        assert_eq!(index.count(Some(&scope(1)), UnixMillis(10)), 1);
        assert_eq!(index.count(Some(&scope(2)), UnixMillis(10)), 0);
        assert_eq!(writer.len(), 2);
    }
}
