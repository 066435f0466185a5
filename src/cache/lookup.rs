//! Finding what could answer a request: first by its exact key, then by meaning.

use futures::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use super::Cache;
use super::decide::{Judgement, Limits, Policy, Rule, Verdict, fits, is_fresh};
use super::evidence::Known;
use crate::store::vector::Match;
use crate::types::{
    ChatRequest, Embedding, Entry, EntryKey, ErrorKind, Owner, Result, ScopeId, Similarity, TenantId, UnixMillis,
};

/// When vectors without entries hide the live ones behind them, the next search asks for so many times as many...
const WIDER: usize = 4;
/// ... up to so many. What is hidden behind even more is found once these are removed.
const WIDEST: usize = 256;

/// Candidates that are read for one request, where more than similarity decides.
const COMPARED: usize = 4;

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
    /// What is known of its prompt and the new one; `None` when that was not asked.
    pub judgement: Option<Judgement>,
    pub verdict: Verdict,
}

/// What a lookup by meaning found.
#[derive(Debug, Clone, Default)]
pub struct Semantic {
    /// Most similar first.
    pub candidates: Vec<Candidate>,
    /// Time to search the scope.
    pub search_time: Duration,
    /// Time to read the candidates' bodies.
    pub read_time: Duration,
}

impl Semantic {
    /// The candidate that is served.
    pub fn hit(&self) -> Option<(&Arc<Entry>, &Candidate)> {
        let hit = self.candidates.iter().find(|c| c.verdict == Verdict::Hit)?;
        Some((hit.entry.as_ref()?, hit))
    }

    /// The least risk among what could have been served.
    fn least_risk(&self) -> Option<f64> {
        let could = |c: &&Candidate| matches!(c.verdict, Verdict::Hit | Verdict::Outdone | Verdict::TooRisky);
        let risks = self.candidates.iter().filter(could).filter_map(|c| Some(c.judgement.as_ref()?.risk));
        risks.min_by(f64::total_cmp)
    }

    fn count(&self, is: impl Fn(Verdict) -> bool) -> usize {
        self.candidates.iter().filter(|c| is(c.verdict)).count()
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

    /// The nearest entries of the scope, as far as the rule in force looks at them and until there are enough that nothing but
    /// their meaning can speak against; all `top_k` of them when `all` is set.
    ///
    /// Vectors whose entries are gone do not count among the `top_k`: they are told to be removed, and others are
    /// searched for behind them.
    pub async fn near(&self, query: &Query<'_>, vector: &[f32], all: bool) -> Result<Semantic> {
        let floor = query.policy.rule.floor();
        let wanted = match query.policy.rule {
            _ if all => query.top_k,
            Rule::MinSimilarity(_) => 1,
            Rule::MaxWrongRate(_) => query.top_k.min(COMPARED),
        };
        let mut found = Semantic::default();
        let mut k = query.top_k;
        loop {
            let started = Instant::now();
            let matches = self.vectors.search(query.scope, vector, k).await?;
            found.search_time += started.elapsed();
            let more_behind =
                matches.len() >= k && k < WIDEST && matches.last().is_some_and(|last| last.similarity >= floor);
            let started = Instant::now();
            self.read_matches(query, matches, wanted, all, &mut found).await?;
            found.read_time += started.elapsed();
            let live = found.count(|verdict| verdict != Verdict::Gone);
            let starved = live < query.top_k && live < found.candidates.len();
            if !(starved && more_behind) || found.count(|verdict| verdict == Verdict::Open) >= wanted {
                return Ok(found);
            }
            metrics::counter!("reprise_searches_widened_total").increment(1);
            k = k.saturating_mul(WIDER).min(WIDEST);
        }
    }

    /// Adds the candidates that were not found before, up to `top_k` live ones and until `wanted` are open.
    async fn read_matches(
        &self,
        query: &Query<'_>,
        matches: Vec<Match>,
        wanted: usize,
        all: bool,
        found: &mut Semantic,
    ) -> Result<()> {
        let (now, floor) = (UnixMillis::now(), query.policy.rule.floor());
        let new: Vec<Match> =
            matches.into_iter().filter(|near| found.candidates.iter().all(|c| c.key != near.key)).collect();
        let mut new = new.into_iter();
        loop {
            let open = found.count(|verdict| verdict == Verdict::Open);
            let room = query.top_k.saturating_sub(found.count(|verdict| verdict != Verdict::Gone));
            // Bodies that are needed are read together: a store may be a network away.
            let chunk: Vec<Match> = new
                .by_ref()
                .take(room.min(wanted.saturating_sub(open)))
                .take_while(|near| all || near.similarity >= floor)
                .collect();
            if chunk.is_empty() {
                return Ok(());
            }
            let bodies = chunk.iter().map(|near| self.body(&near.key));
            for (near, body) in chunk.iter().zip(join_all(bodies).await) {
                let entry = body?;
                let verdict = match &entry {
                    _ if near.similarity < floor => Verdict::BelowThreshold,
                    None => Verdict::Gone,
                    Some(entry) => fits(entry, query.policy, query.request, (query.owner, query.scope), now),
                };
                if entry.is_none() {
                    self.orphans().add(&[near.key]);
                }
                let (key, similarity) = (near.key, near.similarity);
                found.candidates.push(Candidate { key, similarity, entry, judgement: None, verdict });
            }
        }
    }

    /// Judges what [`Cache::near`] found by its meaning; at most one candidate is a hit afterwards. With `all`, every candidate is
    /// judged to the end.
    pub async fn decide(&self, query: &Query<'_>, prompt: &str, found: &mut Semantic, all: bool) -> Result<()> {
        let known = self.bounds.known(query.owner).await?;
        let rule = query.policy.rule;
        let max_risk = self.bounds.max_risk(query.owner, rule, &self.judge, &known);
        let limits = Limits { rule, max_risk, blocked: &known.blocked };
        self.judge.decide((&query.owner.tenant, prompt), limits, &mut found.candidates, all).await?;
        if !all && matches!(rule, Rule::MaxWrongRate(_)) {
            self.bounds.note(query.owner, found.least_risk());
        }
        Ok(())
    }

    /// The highest risk that is served to that request now, and what that rests on. The risk says nothing under a rule by
    /// similarity.
    pub async fn bound(&self, query: &Query<'_>) -> Result<(f64, Arc<Known>)> {
        let known = self.bounds.known(query.owner).await?;
        Ok((self.bounds.max_risk(query.owner, query.policy.rule, &self.judge, &known), known))
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
