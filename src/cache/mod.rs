//! What is remembered, and whether it may be served. Lookups cost at most the budget they are given, and an error in
//! any store is told to the caller, who goes on without the cache.

pub mod decide;
mod evidence;
mod lookup;
mod orphans;
#[cfg(test)]
mod tests;
mod write;

use std::sync::Arc;

use crate::embed::Embedder;
use crate::store::entry::EntryStore;
use crate::store::evidence::EvidenceStore;
use crate::store::vector::VectorStore;

pub use decide::{Judge, Judgement, Languages, Policy, Rule, Verdict};
pub use evidence::{Bounds, Known, Tuned};
pub use lookup::{Candidate, Query, Semantic};
pub use orphans::Orphans;
pub use write::{Invalidated, vector_point};

/// The stores and the embedder, as one thing to ask.
#[derive(Clone)]
pub struct Cache {
    pub(crate) entries: Arc<dyn EntryStore>,
    pub(crate) vectors: Arc<dyn VectorStore>,
    pub(crate) embedder: Arc<dyn Embedder>,
    judge: Judge,
    bounds: Bounds,
    orphans: Arc<Orphans>,
}

impl Cache {
    pub fn new(
        entries: Arc<dyn EntryStore>,
        vectors: Arc<dyn VectorStore>,
        embedder: Arc<dyn Embedder>,
        (judge, evidence): (Judge, Arc<dyn EvidenceStore>),
    ) -> Self {
        let bounds = Bounds::new(evidence, &judge);
        let orphans = Arc::new(Orphans::default());
        let told = orphans.clone();
        entries.on_evicted(Arc::new(move |keys| told.add(keys)));
        Self { entries, vectors, embedder, judge, bounds, orphans }
    }

    pub fn judge(&self) -> &Judge {
        &self.judge
    }

    pub fn embedder(&self) -> &Arc<dyn Embedder> {
        &self.embedder
    }
}
