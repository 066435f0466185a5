//! The vectors as they came, for the last comparison: in the SQLite file, and the latest in memory.

use std::cmp::Reverse;
use std::sync::Arc;

use moka::sync::Cache;

use super::best::{Best, Ordered};
use super::kernels::dot_f32;
use super::scan::Candidate;
use super::table;
use crate::store::sqlite::Sqlite;
use crate::store::vector::Match;
use crate::types::{EntryKey, Result, Similarity};

/// Memory for vectors that were read or written last.
pub const CACHE_BYTES: u64 = 8 << 20;
/// What an entry takes beside its values.
const ENTRY_BYTES: usize = 160;
/// Vectors read at once: the best few hundred candidates hold the answer, nearly always the first few.
const BATCH: std::ops::RangeInclusive<usize> = 16..=512;

/// An id stands for the same key and values for ever: one that is written anew gets a new id. So nothing in the cache
/// goes stale; what was deleted is no longer asked for.
pub struct Originals {
    sqlite: Arc<Sqlite>,
    dim: usize,
    cache: Cache<i64, Original>,
}

#[derive(Debug, Clone)]
pub struct Original {
    pub key: EntryKey,
    pub vector: Arc<[f32]>,
}

/// The best of a search, and whether rows were gone from the file that the search had seen in memory.
pub struct Settled {
    pub matches: Vec<Match>,
    pub missing: bool,
}

impl Originals {
    pub fn new(sqlite: Arc<Sqlite>, dim: usize) -> Self {
        let weight = |_: &i64, original: &Original| {
            u32::try_from(original.vector.len() * size_of::<f32>() + ENTRY_BYTES).unwrap_or(u32::MAX)
        };
        Self { sqlite, dim, cache: Cache::builder().max_capacity(CACHE_BYTES).weigher(weight).build() }
    }

    pub fn keep(&self, id: i64, original: Original) {
        self.cache.insert(id, original);
    }

    pub fn forget(&self, id: i64) {
        self.cache.invalidate(&id);
    }

    /// The `k` candidates with the highest f32 dot product with `query`, best first. `candidates` come with the
    /// highest upper limit first; they are read until no upper limit reaches the k-th best.
    pub async fn settle(&self, candidates: &[Candidate], query: &[f32], k: usize) -> Result<Settled> {
        let mut best = Best::new(k);
        let mut matches = Vec::new();
        let mut missing = false;
        let mut rest = candidates;
        loop {
            let floor = best.floor().unwrap_or(f32::NEG_INFINITY);
            let size = k.clamp(*BATCH.start(), *BATCH.end());
            let size = rest.iter().take(size).take_while(|candidate| candidate.upper >= floor).count();
            if size == 0 {
                break;
            }
            let (batch, later) = rest.split_at(size);
            rest = later;
            for original in self.get(batch).await? {
                let Some(original) = original else {
                    missing = true;
                    continue;
                };
                let dot = dot_f32(&original.vector, query);
                best.offer(dot);
                matches.push((dot, original.key));
            }
        }
        matches.sort_unstable_by_key(|&(dot, key)| (Reverse(Ordered(dot)), key));
        matches.truncate(k);
        let matches = matches.into_iter().map(|(dot, key)| Match { key, similarity: Similarity::from_dot(dot) });
        Ok(Settled { matches: matches.collect(), missing })
    }

    /// In the order asked for; `None` for one that is gone, or does not decode.
    async fn get(&self, candidates: &[Candidate]) -> Result<Vec<Option<Original>>> {
        let mut originals: Vec<_> = candidates.iter().map(|candidate| self.cache.get(&candidate.id)).collect();
        let absent: Vec<usize> = (0..originals.len()).filter(|&i| originals[i].is_none()).collect();
        if absent.is_empty() {
            return Ok(originals);
        }
        let (ids, dim) = (absent.iter().map(|&i| candidates[i].id).collect::<Vec<_>>(), self.dim);
        let found = self.sqlite.read(move |connection| table::by_ids(connection, &ids, dim)).await?;
        for (i, found) in absent.into_iter().zip(found) {
            if let Some(original) = &found {
                self.keep(candidates[i].id, original.clone());
            }
            originals[i] = found;
        }
        Ok(originals)
    }
}
