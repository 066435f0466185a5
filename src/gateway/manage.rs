//! The cache and the embedder by themselves, for callers that ask for just that: no LLM is called here.

use futures::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

use super::admit::Admitted;
use super::answer::{UNKNOWN_LANGUAGE, UNREADABLE, missed, within};
use super::changes::Changed;
use super::found::{Found, Hit, Miss};
use super::remember::is_complete;
use super::{ExplainedCandidate, Explanation, Gateway, Health, Looked, ModelInfo, Request, Stats, Stored};
use crate::cache::{Candidate, Semantic, Tuned};
use crate::types::{
    Answer, CacheMode, CacheStatus, Embedding, EntryKey, Error, ErrorKind, Owner, Result, Source, Tag, UnixMillis,
    WrongRate,
};

/// Longest wait for answers on their way into the stores, so that a deletion finds and counts them. Those that are
/// slower are not remembered at all.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// Longest wait for one dependency to say how it is.
const PING_LIMIT: Duration = Duration::from_secs(2);

impl Gateway {
    /// What the cache would answer. A miss is no error.
    pub async fn lookup(&self, request: Request) -> Result<Looked> {
        let admitted = self.admit_to_cache(request)?;
        let found = within(admitted.deadline, async { Ok(self.find(&admitted).await) }).await?;
        let looked = match found {
            Found::Hit(hit) => Looked { outcome: hit.outcome(), entry: Some(hit.entry) },
            Found::Miss(miss) => Looked { outcome: missed(&admitted, &miss), entry: None },
        };
        self.inner.account.answered(looked.outcome.status, admitted.started.elapsed());
        Ok(looked)
    }

    /// Remembers an answer that the caller brings. Durable when this returns.
    pub async fn store(&self, request: Request, answer: Answer) -> Result<Stored> {
        let admitted = self.admit_to_cache(request)?;
        self.check_storable(&admitted, &answer)?;
        within(admitted.deadline, self.store_admitted(&admitted, answer)).await
    }

    pub async fn delete(&self, owner: &Owner, key: &EntryKey) -> Result<bool> {
        self.check_tenant(&owner.tenant)?;
        self.inner.remember.settle(SETTLE_LIMIT).await;
        self.inner.changes.note(Changed::Key(owner.clone(), *key));
        let _lane = self.inner.changes.lane(key).await?;
        self.inner.cache.delete(owner, key).await
    }

    /// Deletes every entry of `owner` with that tag; gives how many.
    pub async fn delete_by_tag(&self, owner: &Owner, tag: &Tag) -> Result<u64> {
        self.check_tenant(&owner.tenant)?;
        self.inner.remember.settle(SETTLE_LIMIT).await;
        self.inner.changes.note(Changed::Tag(owner.clone(), tag.clone()));
        let _lanes = self.inner.changes.all_lanes().await?;
        Ok(self.inner.cache.delete_by_tag(owner, tag).await?.entries)
    }

    /// Why a request would hit or miss, with every candidate judged.
    pub async fn explain(&self, request: Request) -> Result<Explanation> {
        let admitted = self.admit_to_cache(request)?;
        within(admitted.deadline, self.explain_admitted(&admitted)).await
    }

    /// What each wrong rate would come to, on the recent requests of that owner to this service and on its labels.
    pub async fn tune(&self, owner: &Owner, rates: &[WrongRate]) -> Result<Vec<Tuned>> {
        self.check_tenant(&owner.tenant)?;
        self.inner.cache.tune(owner, rates).await
    }

    /// What the stores hold, as far as they can say, and what was counted here.
    pub async fn stats(&self, owner: &Owner) -> Result<Stats> {
        self.check_tenant(&owner.tenant)?;
        let cache = &self.inner.cache;
        let (entries, vectors) =
            tokio::join!(timeout(PING_LIMIT, cache.entries.stats()), timeout(PING_LIMIT, cache.vectors.count(None)));
        let (entries, vectors) = (entries.ok().and_then(Result::ok), vectors.ok().and_then(Result::ok));
        let silent = [("entries", entries.is_none()), ("vectors", vectors.is_none())];
        let entries = entries.unwrap_or_default();
        Ok(Stats {
            entries: entries.entries,
            entry_bytes: entries.bytes,
            evicted: entries.evicted,
            vectors: vectors.unwrap_or_default(),
            unavailable: silent.into_iter().filter(|(_, silent)| *silent).map(|(name, _)| name).collect(),
            embedding_model: self.embedding_model().id.clone(),
            writes_dropped: self.inner.remember.dropped(),
            ..self.inner.account.stats()
        })
    }

    /// One embedding per text, in order.
    pub async fn embed(&self, owner: &Owner, texts: Vec<String>) -> Result<Vec<Embedding>> {
        self.check_tenant(&owner.tenant)?;
        let limits = &self.inner.config.limits;
        if texts.is_empty() {
            return Err(Error::invalid("texts", "must hold at least one text"));
        }
        if texts.len() > limits.max_batch {
            let (count, most) = (texts.len(), limits.max_batch);
            return Err(Error::invalid("texts", format!("{count} texts; at most {most} are allowed")));
        }
        for (i, text) in texts.iter().enumerate() {
            if text.is_empty() {
                return Err(Error::invalid(format!("texts[{i}]"), "is empty"));
            }
            if text.len() > limits.max_prompt_bytes {
                let (bytes, most) = (text.len(), limits.max_prompt_bytes);
                return Err(Error::invalid(
                    format!("texts[{i}]"),
                    format!("{bytes} bytes; at most {most} are allowed"),
                ));
            }
        }
        let deadline = Instant::now() + self.inner.config.server.request_timeout;
        within(deadline, self.inner.cache.embedder().embed(&owner.tenant, texts)).await
    }

    /// Models that may be asked for, in configuration order.
    pub fn models(&self) -> Vec<ModelInfo> {
        let models = self.inner.directory.models();
        models.into_iter().map(|(name, provider)| ModelInfo { name, provider }).collect()
    }

    /// Asks every dependency how it is, all at once.
    pub async fn health(&self) -> Vec<Health> {
        let cache = &self.inner.cache;
        let providers = self.inner.directory.providers();
        let entries = state("entries".into(), cache.entries.ping());
        let vectors = state("vectors".into(), cache.vectors.ping());
        let embedding = state("embedding".into(), cache.embedder.ping());
        let providers = join_all(providers.iter().map(|p| state(format!("provider:{}", p.name()), p.ping())));
        let (entries, vectors, embedding, mut providers) = tokio::join!(entries, vectors, embedding, providers);
        // Nothing new can be answered without any provider; some requests can while one of several works.
        let required = providers.iter().all(|p| p.error.is_some()) || providers.len() == 1;
        providers.iter_mut().for_each(|provider| provider.required = required);
        [entries, vectors, embedding].into_iter().chain(providers).collect()
    }

    fn check_storable(&self, admitted: &Admitted, answer: &Answer) -> Result<()> {
        if admitted.settings.mode == CacheMode::Off {
            let namespace = &admitted.request.owner.namespace;
            return Err(Error::new(ErrorKind::FailedPrecondition, format!("the cache of {namespace} is off")));
        }
        if !admitted.allowed.write {
            let why = admitted.allowed.reason.unwrap_or("no-store was asked for");
            return Err(Error::new(ErrorKind::FailedPrecondition, format!("such a request is never cached: {why}")));
        }
        if !is_complete(answer) {
            return Err(Error::invalid(
                "answer",
                "only a complete answer can be stored: with content, without tool calls, finish_reason \"stop\"",
            ));
        }
        let (bytes, most) = (answer.content().len(), admitted.settings.max_entry_bytes);
        if bytes > most {
            return Err(Error::invalid("answer", format!("{bytes} bytes; at most {most} are allowed")));
        }
        Ok(())
    }

    async fn store_admitted(&self, admitted: &Admitted, answer: Answer) -> Result<Stored> {
        let cache = &self.inner.cache;
        let comparable = admitted
            .probe
            .as_ref()
            .filter(|probe| !admitted.request.chat.has_tools() && cache.judge().knows_language_of(&probe.prompt));
        let vector = match comparable {
            Some(probe) => {
                let embedding = cache.embed(&admitted.request.owner.tenant, probe.prompt.clone()).await?;
                embedding.is_whole().then_some(embedding.vector)
            }
            None => None,
        };
        // What the caller paid is not known; what a hit will save is counted at the model's price.
        let cost = self.cost(&admitted.request.chat.model, &answer.usage);
        let entry = Arc::new(admitted.entry(Arc::new(answer), cost, Source::Stored));
        let stored = Stored { key: entry.key, expires: entry.expires, semantic: vector.is_some() };
        self.inner.changes.note(Changed::Key(entry.owner.clone(), entry.key));
        let _lane = self.inner.changes.lane(&entry.key).await?;
        cache.put(entry, vector).await?;
        Ok(stored)
    }

    async fn explain_admitted(&self, admitted: &Admitted) -> Result<Explanation> {
        let (cache, query) = (&self.inner.cache, admitted.query());
        let (max_risk, known) = cache.bound(&query).await?;
        let mut explanation = Explanation {
            outcome: missed(admitted, &Miss::new(admitted)),
            key: admitted.key,
            scope: admitted.scope,
            candidates: Vec::new(),
            rule: admitted.policy.rule,
            max_risk,
            labels: known.labels.len(),
            wrong_labels: known.wrong(),
            embedded_tokens: 0,
            truncated: false,
            stages: Vec::new(),
        };
        let started = Instant::now();
        let exact = match self.inner.remember.peek(&admitted.key).filter(|entry| query.is_answered_by(entry)) {
            Some(waiting) => Some(waiting),
            None => cache.exact(&query).await?,
        };
        explanation.stages.push(("exact", started.elapsed()));
        if let Some(entry) = exact.filter(|_| admitted.allowed.read_exact) {
            explanation.outcome = Hit { entry, near: None }.outcome();
        }
        let Some(probe) = &admitted.probe else { return Ok(explanation) };
        if !cache.judge().knows_language_of(&probe.prompt) {
            if explanation.outcome.status != CacheStatus::Exact {
                explanation.outcome.reason = Some(UNKNOWN_LANGUAGE);
            }
            return Ok(explanation);
        }
        let started = Instant::now();
        let embedding = cache.embed(&admitted.request.owner.tenant, probe.prompt.clone()).await?;
        explanation.stages.push(("embed", started.elapsed()));
        (explanation.embedded_tokens, explanation.truncated) = (embedding.tokens, embedding.truncated);
        if !embedding.is_whole() {
            if explanation.outcome.status != CacheStatus::Exact {
                explanation.outcome.reason = Some(UNREADABLE);
            }
            return Ok(explanation);
        }
        let mut semantic = cache.near(&query, &embedding.vector, true).await?;
        let started = Instant::now();
        cache.decide(&query, &probe.prompt, &mut semantic, true).await?;
        let stages = [("search", semantic.search_time), ("read", semantic.read_time), ("decide", started.elapsed())];
        explanation.stages.extend(stages);
        if let Some((entry, candidate)) = semantic.hit()
            && admitted.allowed.read_semantic
            && explanation.outcome.status != CacheStatus::Exact
        {
            explanation.outcome = Hit::near(entry, candidate, &probe.prompt, cache.judge()).outcome();
        }
        explanation.candidates = explained(semantic);
        Ok(explanation)
    }
}

fn explained(semantic: Semantic) -> Vec<ExplainedCandidate> {
    let now = UnixMillis::now();
    let explain = |candidate: Candidate| {
        let prompt = candidate.entry.as_ref().and_then(|e| e.probe.as_ref()).map(|p| p.prompt.clone());
        ExplainedCandidate {
            key: candidate.key,
            similarity: candidate.similarity,
            prompt: prompt.unwrap_or_default(),
            age: candidate.entry.map_or(Duration::ZERO, |e| e.age(now)),
            judgement: candidate.judgement,
            verdict: candidate.verdict,
        }
    };
    semantic.candidates.into_iter().map(explain).collect()
}

async fn state(name: String, ping: impl Future<Output = Result<()>>) -> Health {
    let error = match timeout(PING_LIMIT, ping).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no answer within {} s", PING_LIMIT.as_secs())),
    };
    Health { name, required: false, error }
}
