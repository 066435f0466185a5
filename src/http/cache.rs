//! `/v1/cache/…`: why a request would hit or miss, and whether a hit was right.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::Failure;
use super::incoming::Incoming;
use super::server::App;
use crate::cache::Rule;
use crate::gateway::{ExplainedCandidate, Explanation};
use crate::surface::{chat_from_json, from_json};
use crate::types::HitId;

/// `POST /v1/cache/explain`, with the body of a chat completion.
pub async fn explain(
    State(app): State<App>,
    Incoming { context, body, mut errors }: Incoming,
) -> Result<Json<Value>, Failure> {
    let chat = errors.under("", chat_from_json(body));
    let (context, chat) = errors.finish(context.zip(chat))?;
    Ok(Json(explained(&app.gateway.explain(context.with_chat(chat)).await?)))
}

/// `POST /v1/cache/report`: `{"hit": the header X-Reprise-Hit, "right": true or false}`.
pub async fn report(
    State(app): State<App>,
    Incoming { context, body, mut errors }: Incoming,
) -> Result<Json<Value>, Failure> {
    let said = errors.under("", from_json::<Said>(Value::Object(body)));
    let hit = said.as_ref().and_then(|said| errors.check("hit", said.hit.parse::<HitId>()));
    let ((context, said), hit) = errors.finish(context.zip(said).zip(hit))?;
    let reported = app.gateway.report(&context.owner, &hit, said.right).await?;
    Ok(Json(json!({ "counted": reported.counted, "deleted": reported.deleted })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    hit: String,
    right: bool,
}

fn explained(explanation: &Explanation) -> Value {
    let outcome = &explanation.outcome;
    let (min_similarity, max_wrong_rate) = match explanation.rule {
        Rule::MinSimilarity(lowest) => (Some(lowest.get()), None),
        Rule::MaxWrongRate(rate) => (None, Some(rate.get())),
    };
    let stages = explanation.stages.iter();
    json!({
        "cache": outcome.status.as_str(),
        "reason": outcome.reason,
        "entry": outcome.entry.to_string(),
        "key": explanation.key.to_string(),
        "scope": explanation.scope.to_string(),
        "min_similarity": min_similarity,
        "max_wrong_rate": max_wrong_rate,
        "max_risk": max_wrong_rate.map(|_| explanation.max_risk),
        "labels": explanation.labels,
        "wrong_labels": explanation.wrong_labels,
        "embedded_tokens": explanation.embedded_tokens,
        "truncated": explanation.truncated,
        "candidates": explanation.candidates.iter().map(candidate).collect::<Vec<_>>(),
        "stages": stages.map(|(name, took)| json!({"name": name, "seconds": took.as_secs_f64()})).collect::<Vec<_>>(),
    })
}

fn candidate(candidate: &ExplainedCandidate) -> Value {
    let judgement = candidate.judgement.as_ref();
    json!({
        "entry": candidate.key.to_string(),
        "prompt": candidate.prompt,
        "age_seconds": candidate.age.as_secs_f64(),
        "verdict": candidate.verdict.as_str(),
        "similarity": candidate.similarity.get(),
        "guards": judgement.map(|j| j.compared.guards.iter().map(|guard| guard.as_str()).collect::<Vec<_>>()),
        "likeness": judgement.map(|j| j.compared.likeness),
        "logit": judgement.and_then(|j| j.logit),
        "risk": judgement.map(|j| j.risk),
    })
}
