//! All rows in memory, grouped by scope. Any number of searches read; one [`IndexWriter`] changes.

use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;

use super::rows::{Row, Rows};
use crate::types::{EntryKey, ScopeId, UnixMillis};

/// What searches see. Locks are held for a look at a map or a change of one row, never for a scan.
#[derive(Debug, Default)]
pub struct Index {
    scopes: RwLock<HashMap<ScopeId, Arc<Segment>>>,
}

#[derive(Debug)]
struct Segment {
    scope: ScopeId,
    rows: RwLock<Arc<Rows>>,
}

impl Index {
    /// The rows of a scope as they are now; later changes do not show in them.
    pub fn rows(&self, scope: &ScopeId) -> Option<Arc<Rows>> {
        let segment = self.scopes.read().get(scope).cloned()?;
        let rows = segment.rows.read();
        Some(Arc::clone(&rows))
    }

    /// Live rows of one scope, or of all.
    pub fn count(&self, scope: Option<&ScopeId>, now: UnixMillis) -> usize {
        let live = |rows: Arc<Rows>| rows.iter().filter(|row| row.is_live(now)).count();
        if let Some(scope) = scope {
            return self.rows(scope).map_or(0, live);
        }
        let segments: Vec<_> = self.scopes.read().values().cloned().collect();
        segments.iter().map(|segment| live(Arc::clone(&segment.rows.read()))).sum()
    }
}

/// The only one that changes an [`Index`]: it knows where each key's row is.
pub struct IndexWriter {
    index: Arc<Index>,
    places: HashMap<EntryKey, Place>,
}

struct Place {
    segment: Arc<Segment>,
    position: usize,
}

impl IndexWriter {
    pub fn new() -> Self {
        Self { index: Arc::default(), places: HashMap::new() }
    }

    pub fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// Rows held, expired ones included.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Adds a row, in place of one with the same key in whatever scope.
    pub fn insert(&mut self, scope: ScopeId, row: Row) {
        let key = row.key;
        if let Some(place) = self.places.get(&key) {
            if place.segment.scope == scope {
                Arc::make_mut(&mut place.segment.rows.write()).replace(place.position, row);
                return;
            }
            self.remove(&key);
        }
        let segment = self.segment(scope);
        let position = Arc::make_mut(&mut segment.rows.write()).push(row);
        self.places.insert(key, Place { segment, position });
    }

    /// Removes a key's row; false when there is none.
    pub fn remove(&mut self, key: &EntryKey) -> bool {
        let Some(Place { segment, position }) = self.places.remove(key) else { return false };
        let mut rows = segment.rows.write();
        let moved = Arc::make_mut(&mut rows).swap_remove(position);
        if let Some(place) = moved.and_then(|moved| self.places.get_mut(&moved)) {
            place.position = position;
        }
        if rows.len() == 0 {
            drop(rows);
            self.index.scopes.write().remove(&segment.scope);
        }
        true
    }

    fn segment(&self, scope: ScopeId) -> Arc<Segment> {
        let new = || Arc::new(Segment { scope, rows: RwLock::default() });
        Arc::clone(self.index.scopes.write().entry(scope).or_insert_with(new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> EntryKey {
        EntryKey::from_bytes([n; 32])
    }

    fn scope(n: u8) -> ScopeId {
        ScopeId::from_bytes([n; 32])
    }

    fn row(n: u8, expires: u64) -> Row {
        Row { key: key(n), expires: UnixMillis(expires), vector: [1.0, 0.0].into() }
    }

    fn keys(index: &Index, scope: &ScopeId) -> Vec<EntryKey> {
        let mut keys: Vec<_> = index.rows(scope).iter().flat_map(|rows| rows.iter().map(|row| row.key)).collect();
        keys.sort();
        keys
    }

    #[test]
    fn rows_are_found_after_others_took_their_places() {
        let mut writer = IndexWriter::new();
        let index = Arc::clone(writer.index());
        (0..200).for_each(|n| writer.insert(scope(n % 2), row(n, 10)));
        (0..100).for_each(|n| assert!(writer.remove(&key(n))));
        assert!(!writer.remove(&key(0)));
        assert_eq!(keys(&index, &scope(0)), (100..200).step_by(2).map(key).collect::<Vec<_>>());
        (100..200).for_each(|n| assert!(writer.remove(&key(n))));
        assert_eq!(index.scopes.read().len(), 0, "an empty scope takes no memory");
        assert_eq!(writer.len(), 0);
    }

    #[test]
    fn a_key_is_in_one_scope_only() {
        let mut writer = IndexWriter::new();
        let index = Arc::clone(writer.index());
        writer.insert(scope(1), row(7, 10));
        writer.insert(scope(2), row(7, 10));
        assert_eq!(keys(&index, &scope(1)), []);
        assert_eq!(keys(&index, &scope(2)), [key(7)]);
        writer.insert(scope(2), row(7, 20));
        assert_eq!((index.count(None, UnixMillis(15)), writer.len()), (1, 1), "replaced in place");
    }

    #[test]
    fn a_row_counts_until_it_expires() {
        let mut writer = IndexWriter::new();
        writer.insert(scope(1), row(1, 10));
        writer.insert(scope(1), row(2, 20));
        let index = writer.index();
        assert_eq!(index.count(None, UnixMillis(9)), 2);
        assert_eq!(index.count(Some(&scope(1)), UnixMillis(10)), 1);
        assert_eq!(index.count(Some(&scope(2)), UnixMillis(10)), 0);
    }
}
