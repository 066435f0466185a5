//! `CacheService`: the cache by itself.

use std::sync::Arc;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::context::context;
use super::convert::{answer, chat, under};
use super::encode::{to_answer, to_duration, to_outcome, to_timestamp, to_usage};
use super::pb::{self, cache_service_server::CacheService};
use crate::cache::{Rule, Tuned};
use crate::gateway::{self, Explanation, Gateway, Looked, Stats};
use crate::surface::{Context, Violations, within};
use crate::types::{EntryKey, HitId, Result, Tag, WrongRate};

/// Rates that are told of where none are asked for, and most that may be asked for.
const USUAL_RATES: [f64; 7] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1];
const MAX_RATES: usize = 100;

pub struct CacheApi {
    gateway: Arc<Gateway>,
}

impl CacheApi {
    pub fn new(gateway: Arc<Gateway>) -> Self {
        Self { gateway }
    }

    /// Holds a call to the caller's deadline, or to the service's own limit.
    async fn within<T>(&self, context: &Context, call: impl Future<Output = Result<T>>) -> Result<T> {
        within(context.deadline, self.gateway.config().server.request_timeout, call).await
    }
}

#[tonic::async_trait]
impl CacheService for CacheApi {
    async fn lookup(&self, request: Request<pb::LookupRequest>) -> Result<Response<pb::LookupResponse>, Status> {
        let (metadata, _, body) = request.into_parts();
        let request = chat_request(body.context, body.chat, &metadata)?;
        let looked = under("chat", self.gateway.lookup(request).await)?;
        Ok(Response::new(to_lookup(&looked)))
    }

    async fn store(&self, request: Request<pb::StoreRequest>) -> Result<Response<pb::StoreResponse>, Status> {
        let (metadata, _, body) = request.into_parts();
        let mut errors = Violations::default();
        let context = context(body.context, &metadata, Instant::now(), &mut errors);
        let chat = chat(body.chat, "chat", &mut errors);
        let answer = answer(body.answer, body.usage, &mut errors);
        let ((context, chat), mut answer) = errors.finish(context.zip(chat).zip(answer))?;
        if answer.model.is_empty() {
            answer.model.clone_from(&chat.model);
        }
        let stored = under("chat", self.gateway.store(context.with_chat(chat), answer).await)?;
        Ok(Response::new(pb::StoreResponse {
            entry: stored.key.to_string(),
            expires: Some(to_timestamp(stored.expires)),
            semantic: stored.semantic,
        }))
    }

    async fn delete(&self, request: Request<pb::DeleteRequest>) -> Result<Response<pb::DeleteResponse>, Status> {
        let (metadata, _, body) = request.into_parts();
        let mut errors = Violations::default();
        let context = context(body.context, &metadata, Instant::now(), &mut errors);
        let key = errors.check("entry", body.entry.parse::<EntryKey>());
        let (context, key) = errors.finish(context.zip(key))?;
        let deleted = self.within(&context, self.gateway.delete(&context.owner, &key)).await?;
        Ok(Response::new(pb::DeleteResponse { deleted }))
    }

    async fn delete_by_tag(
        &self,
        request: Request<pb::DeleteByTagRequest>,
    ) -> Result<Response<pb::DeleteByTagResponse>, Status> {
        let (metadata, _, body) = request.into_parts();
        let mut errors = Violations::default();
        let context = context(body.context, &metadata, Instant::now(), &mut errors);
        let tag = errors.check("tag", Tag::new(body.tag));
        let (context, tag) = errors.finish(context.zip(tag))?;
        let deleted = self.within(&context, self.gateway.delete_by_tag(&context.owner, &tag)).await?;
        Ok(Response::new(pb::DeleteByTagResponse { deleted }))
    }

    async fn explain(&self, request: Request<pb::ExplainRequest>) -> Result<Response<pb::ExplainResponse>, Status> {
        let (metadata, _, body) = request.into_parts();
        let request = chat_request(body.context, body.chat, &metadata)?;
        let explanation = under("chat", self.gateway.explain(request).await)?;
        Ok(Response::new(to_explanation(explanation)))
    }

    async fn report_hit(
        &self,
        request: Request<pb::ReportHitRequest>,
    ) -> Result<Response<pb::ReportHitResponse>, Status> {
        let (metadata, _, body) = request.into_parts();
        let mut errors = Violations::default();
        let context = context(body.context.clone(), &metadata, Instant::now(), &mut errors);
        let hit = errors.check("hit", body.hit.parse::<HitId>());
        let right = match body.judgement() {
            pb::HitJudgement::Right => true,
            pb::HitJudgement::Wrong => false,
            pb::HitJudgement::Unspecified => {
                errors.add("judgement", "must be right or wrong");
                false
            }
        };
        let (context, hit) = errors.finish(context.zip(hit))?;
        let reported = self.within(&context, self.gateway.report(&context.owner, &hit, right)).await?;
        Ok(Response::new(pb::ReportHitResponse { counted: reported.counted, deleted: reported.deleted }))
    }

    async fn tune(&self, request: Request<pb::TuneRequest>) -> Result<Response<pb::TuneResponse>, Status> {
        let (metadata, _, body) = request.into_parts();
        let mut errors = Violations::default();
        let context = context(body.context, &metadata, Instant::now(), &mut errors);
        if body.rates.len() > MAX_RATES {
            errors.add("rates", format!("{} rates; at most {MAX_RATES} are allowed", body.rates.len()));
        }
        let asked = if body.rates.is_empty() { USUAL_RATES.to_vec() } else { body.rates };
        let rates = asked.into_iter().take(MAX_RATES).enumerate();
        let rates: Vec<_> =
            rates.filter_map(|(i, rate)| errors.check(format!("rates[{i}]"), WrongRate::new(rate))).collect();
        let context = errors.finish(context)?;
        let tuned = self.within(&context, self.gateway.tune(&context.owner, &rates)).await?;
        Ok(Response::new(pb::TuneResponse {
            requests: tuned.first().map_or(0.0, |tuned| tuned.served.requests),
            rates: tuned.into_iter().map(to_tuned).collect(),
        }))
    }

    async fn stats(&self, request: Request<pb::StatsRequest>) -> Result<Response<pb::StatsResponse>, Status> {
        let (metadata, _, body) = request.into_parts();
        let mut errors = Violations::default();
        let context = context(body.context, &metadata, Instant::now(), &mut errors);
        let context = errors.finish(context)?;
        let stats = self.within(&context, self.gateway.stats(&context.owner)).await?;
        Ok(Response::new(to_stats(stats)))
    }
}

fn chat_request(
    wire_context: Option<pb::RequestContext>,
    wire_chat: Option<pb::ChatRequest>,
    metadata: &MetadataMap,
) -> Result<gateway::Request> {
    let mut errors = Violations::default();
    let context = context(wire_context, metadata, Instant::now(), &mut errors);
    let chat = chat(wire_chat, "chat", &mut errors);
    let (context, chat) = errors.finish(context.zip(chat))?;
    Ok(context.with_chat(chat))
}

fn to_lookup(looked: &Looked) -> pb::LookupResponse {
    let entry = looked.entry.as_deref();
    pb::LookupResponse {
        cache: Some(to_outcome(&looked.outcome)),
        answer: entry.map(|e| to_answer(&e.answer)),
        usage: entry.map(|e| to_usage(&e.answer.usage)),
        created: entry.map(|e| to_timestamp(e.created)),
        expires: entry.map(|e| to_timestamp(e.expires)),
    }
}

fn to_explanation(explanation: Explanation) -> pb::ExplainResponse {
    let candidates = explanation.candidates.into_iter().map(|c| pb::Candidate {
        entry: c.key.to_string(),
        similarity: c.similarity.get(),
        prompt: c.prompt,
        age: Some(to_duration(c.age)),
        verdict: c.verdict.as_str().to_owned(),
        risk: c.judgement.as_ref().map(|j| j.risk),
        guards: c.judgement.iter().flat_map(|j| &j.compared.guards).map(|guard| guard.as_str().to_owned()).collect(),
        logit: c.judgement.as_ref().and_then(|j| j.logit),
        likeness: c.judgement.as_ref().map(|j| j.compared.likeness),
    });
    let (min_similarity, max_wrong_rate) = match explanation.rule {
        Rule::MinSimilarity(lowest) => (Some(lowest.get()), None),
        Rule::MaxWrongRate(rate) => (None, Some(rate.get())),
    };
    let stages = explanation.stages.into_iter();
    let stages = stages.map(|(name, took)| pb::Stage { name: name.to_owned(), duration: Some(to_duration(took)) });
    pb::ExplainResponse {
        cache: Some(to_outcome(&explanation.outcome)),
        key: explanation.key.to_string(),
        scope: explanation.scope.to_string(),
        candidates: candidates.collect(),
        min_similarity,
        max_wrong_rate,
        max_risk: max_wrong_rate.map(|_| explanation.max_risk),
        labels: explanation.labels as u64,
        wrong_labels: explanation.wrong_labels as u64,
        embedded_tokens: explanation.embedded_tokens,
        truncated: explanation.truncated,
        stages: stages.collect(),
    }
}

fn to_tuned(tuned: Tuned) -> pb::TunedRate {
    pb::TunedRate {
        max_wrong_rate: tuned.rate.get(),
        max_risk: tuned.max_risk,
        hits: tuned.served.hits,
        wrong: tuned.served.wrong,
        right_labels: tuned.right as u64,
        wrong_labels: tuned.wrong as u64,
    }
}

fn to_stats(stats: Stats) -> pb::StatsResponse {
    pb::StatsResponse {
        entries: stats.entries,
        entry_bytes: stats.entry_bytes,
        vectors: stats.vectors,
        evicted: stats.evicted,
        exact_hits: stats.exact_hits,
        semantic_hits: stats.semantic_hits,
        misses: stats.misses,
        bypasses: stats.bypasses,
        stale_hits: stats.stale_hits,
        errors: stats.errors,
        spent_usd: stats.spent.to_string(),
        saved_usd: stats.saved.to_string(),
        embedding_model: stats.embedding_model,
        uptime: Some(to_duration(stats.uptime)),
        writes_dropped: stats.writes_dropped,
        unavailable: stats.unavailable.into_iter().map(str::to_owned).collect(),
    }
}
