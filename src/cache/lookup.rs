//! Finding what could answer a request: first by its exact key, then by meaning.

use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use super::decide::is_fresh;
use super::{Cache, Policy, Verdict, judge};
use crate::store::vector::Match;
use crate::types::{
    ChatRequest, Embedding, Entry, EntryKey, ErrorKind, Owner, Result, ScopeId, Similarity, TenantId, UnixMillis,
};

/// When vectors without entries hide the live ones behind them, the next search asks for so many times as many...
const WIDER: usize = 4;
/// ... up to so many. What is hidden behind even more is found once these are removed.
const WIDEST: usize = 256;

/// One request, as the cache sees it.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    pub owner: &'a Owner,
    pub key: &'a EntryKey,
    pub scope: &'a ScopeId,
    pub request: &'a ChatRequest,
    pub policy: &'a Policy,
    /// Candidates to ask the vector store for.
    pub top_k: usize,
}

/// An entry near a request, and what was decided about it.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub key: EntryKey,
    pub similarity: Similarity,
    /// `None` when its body is gone, or was not fetched because the decision did not need it.
    pub entry: Option<Arc<Entry>>,
    pub verdict: Verdict,
}

/// What the semantic lookup found.
#[derive(Debug, Clone, Default)]
pub struct Semantic {
    /// Best first. Ends with the hit, unless all were asked for.
    pub candidates: Vec<Candidate>,
    /// Time to embed the prompt and to search its scope.
    pub search_time: Duration,
}

impl Semantic {
    /// The candidate that is served.
    pub fn hit(&self) -> Option<(&Arc<Entry>, Similarity)> {
        let hit = self.candidates.iter().find(|c| c.verdict == Verdict::Hit)?;
        Some((hit.entry.as_ref()?, hit.similarity))
    }
}

impl Query<'_> {
    /// Whether an entry is an exact hit: of that very request and owner, alive and young enough.
    pub fn is_answered_by(&self, entry: &Entry) -> bool {
        let now = UnixMillis::now();
        entry.key == *self.key
            && entry.owner == *self.owner
            && !entry.is_expired(now)
            && is_fresh(entry, self.policy.max_age, now)
    }
}

impl Cache {
    /// The entry of that very request. Touches neither embedder nor vectors.
    pub async fn exact(&self, query: &Query<'_>) -> Result<Option<Arc<Entry>>> {
        Ok(self.entries.get(query.key).await?.filter(|entry| query.is_answered_by(entry)))
    }

    /// The prompt as a vector; computed once per request and handed along.
    pub async fn embed(&self, tenant: &TenantId, prompt: String) -> Result<Embedding> {
        let mut embeddings = self.embedder.embed(tenant, vec![prompt]).await?;
        embeddings.pop().ok_or_else(|| crate::types::Error::internal("the embedder gave no vector for a text"))
    }

    /// The nearest entries of the scope, judged best first, up to the first hit; all of them when `all` is set.
    ///
    /// Vectors whose entries are gone do not count among the `top_k`: they are told to be removed, and others are
    /// searched for behind them.
    pub async fn semantic(&self, query: &Query<'_>, vector: &[f32], all: bool) -> Result<Semantic> {
        let mut found = Semantic::default();
        let mut k = query.top_k;
        loop {
            let started = Instant::now();
            let matches = self.vectors.search(query.scope, vector, k).await?;
            found.search_time += started.elapsed();
            let more_behind = matches.len() >= k
                && k < WIDEST
                && matches.last().is_some_and(|last| last.similarity >= query.policy.min_similarity);
            let is_starved = self.judge_matches(query, matches, all, &mut found).await?;
            if !(is_starved && more_behind) {
                return Ok(found);
            }
            metrics::counter!("reprise_searches_widened_total").increment(1);
            k = k.saturating_mul(WIDER).min(WIDEST);
        }
    }

    /// Adds the candidates that were not found before, up to `top_k` live ones. True when there is no hit, and vectors
    /// without entries took the places of others.
    async fn judge_matches(
        &self,
        query: &Query<'_>,
        matches: Vec<Match>,
        all: bool,
        found: &mut Semantic,
    ) -> Result<bool> {
        let now = UnixMillis::now();
        let mut live = found.candidates.iter().filter(|c| c.verdict != Verdict::Gone).count();
        for near in matches {
            if live >= query.top_k {
                break;
            }
            if found.candidates.iter().any(|c| c.key == near.key) {
                continue;
            }
            let worth_reading = all || near.similarity >= query.policy.min_similarity;
            let entry = if worth_reading { self.body(&near.key).await? } else { None };
            if worth_reading && entry.is_none() {
                self.orphans().add(&[near.key]);
            }
            let verdict =
                judge(entry.as_deref(), near.similarity, query.policy, query.request, (query.owner, query.scope), now);
            live += usize::from(verdict != Verdict::Gone);
            found.candidates.push(Candidate { key: near.key, similarity: near.similarity, entry, verdict });
            if verdict == Verdict::Hit && !all {
                break;
            }
        }
        let has = |verdict| found.candidates.iter().any(|c| c.verdict == verdict);
        Ok(live < query.top_k && has(Verdict::Gone) && !has(Verdict::Hit))
    }

    /// The entry of a vector; one that does not decode is as good as gone.
    pub(super) async fn body(&self, key: &EntryKey) -> Result<Option<Arc<Entry>>> {
        match self.entries.get(key).await {
            Err(error) if error.kind == ErrorKind::Corrupt => {
                metrics::counter!("reprise_corrupt_entries_total").increment(1);
                tracing::warn!(%error, "an entry does not decode; its vector is to be removed");
                Ok(None)
            }
            read => read,
        }
    }
}
