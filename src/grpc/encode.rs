//! The service's own types to messages of the protocol.

use serde_json::Value;

use super::pb;
use crate::gateway::Summary;
use crate::surface::{is_plain, render_answer};
use crate::types::{Answer, CacheStatus, Delta, Embedding, FinishReason, Outcome, UnixMillis, Usage};

pub fn to_answer(answer: &Answer) -> pb::Answer {
    pb::Answer {
        content: answer.content().to_owned(),
        finish_reason: finish(answer.finish()),
        model: answer.model.clone(),
        completion_json: if is_plain(answer) {
            String::new()
        } else {
            Value::Object(render_answer(answer)).to_string()
        },
    }
}

pub fn to_usage(usage: &Usage) -> pb::Usage {
    pb::Usage { prompt_tokens: usage.prompt_tokens, completion_tokens: usage.completion_tokens }
}

pub fn to_outcome(outcome: &Outcome) -> pb::CacheOutcome {
    let status = match outcome.status {
        CacheStatus::Exact => pb::CacheStatus::Exact,
        CacheStatus::Semantic => pb::CacheStatus::Semantic,
        CacheStatus::Miss => pb::CacheStatus::Miss,
        CacheStatus::Bypass => pb::CacheStatus::Bypass,
        CacheStatus::Stale => pb::CacheStatus::Stale,
    };
    pb::CacheOutcome {
        status: status.into(),
        entry: outcome.entry.to_string(),
        similarity: outcome.similarity.map(f32::from),
        age: outcome.age.map(to_duration),
        reason: outcome.reason.unwrap_or_default().to_owned(),
        risk: outcome.risk,
        hit: outcome.hit.map(|hit| hit.to_string()).unwrap_or_default(),
    }
}

pub fn to_completion(request_id: String, outcome: &Outcome, summary: &Summary) -> pb::Completion {
    pb::Completion {
        usage: Some(to_usage(&summary.usage)),
        cost_usd: summary.cost.to_string(),
        saved_usd: summary.saved.to_string(),
        cache: Some(to_outcome(outcome)),
        model: summary.model.clone(),
        finish_reason: finish(&summary.finish),
        request_id,
        latency: Some(to_duration(summary.latency)),
    }
}

/// `None` for a delta that holds nothing to append, such as the one that brings the usage.
pub fn to_delta(delta: Delta) -> Option<pb::Delta> {
    let mut extra = delta.message_extra;
    if !delta.tool_calls.is_empty() {
        extra.insert("tool_calls".into(), delta.tool_calls.into());
    }
    let content = delta.content.unwrap_or_default();
    if content.is_empty() && extra.is_empty() {
        return None;
    }
    let extra_json = if extra.is_empty() { String::new() } else { Value::Object(extra).to_string() };
    Some(pb::Delta { content, choice: delta.choice, extra_json })
}

pub fn to_embedding(embedding: &Embedding) -> pb::Embedding {
    pb::Embedding { values: embedding.vector.to_vec(), tokens: embedding.tokens, truncated: embedding.truncated }
}

pub fn to_timestamp(time: UnixMillis) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: i64::try_from(time.0 / 1000).unwrap_or(i64::MAX),
        // Below a thousand before it is multiplied.
        nanos: (time.0 % 1000) as i32 * 1_000_000,
    }
}

pub fn to_duration(duration: std::time::Duration) -> prost_types::Duration {
    duration.try_into().unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 0 })
}

fn finish(reason: &FinishReason) -> String {
    match reason {
        FinishReason::Missing => String::new(),
        known => known.as_str().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{EntryKey, Similarity, Usd};
    use serde_json::json;
    use std::time::Duration;

    #[test]
    fn a_plain_answer_needs_no_completion_json() {
        let wire = to_answer(&Answer::text("m", "hi", Usage::new(3, 2)));
        assert_eq!((wire.content.as_str(), wire.finish_reason.as_str()), ("hi", "stop"));
        assert_eq!(wire.completion_json, "");
    }

    #[test]
    fn a_completion_tells_exact_money_and_how_it_was_answered() {
        let outcome = Outcome {
            status: CacheStatus::Semantic,
            entry: EntryKey::from_bytes([1; 32]),
            similarity: Some(Similarity::new(0.5).unwrap()),
            risk: Some(0.004),
            hit: None,
            age: Some(Duration::from_millis(1500)),
            reason: None,
            saved: None,
        };
        let summary = Summary {
            model: "m".into(),
            finish: FinishReason::Other("pause".into()),
            usage: Usage::new(3, 2),
            cost: Usd("0.000150600".parse().unwrap()),
            saved: Usd::default(),
            latency: Duration::from_micros(7),
        };
        let wire = to_completion("r".into(), &outcome, &summary);
        assert_eq!((wire.cost_usd.as_str(), wire.saved_usd.as_str()), ("0.0001506", "0"));
        assert_eq!((wire.finish_reason.as_str(), wire.request_id.as_str()), ("pause", "r"));
        let cache = wire.cache.unwrap();
        assert_eq!((cache.status(), cache.similarity), (pb::CacheStatus::Semantic, Some(0.5)));
        assert_eq!(cache.risk, Some(0.004));
        assert_eq!(cache.entry, "01".repeat(32));
        assert_eq!(cache.age, Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }));
    }

    #[test]
    fn only_deltas_with_something_to_append_are_sent() {
        assert_eq!(to_delta(Delta { usage: Some(Usage::new(1, 1)), ..Delta::default() }), None);
        let call = json!({"index": 0, "id": "c"});
        let sent = to_delta(Delta { tool_calls: vec![call], choice: 1, ..Delta::default() }).unwrap();
        assert_eq!((sent.choice, sent.extra_json.as_str()), (1, r#"{"tool_calls":[{"index":0,"id":"c"}]}"#));
    }

    #[test]
    fn timestamps_keep_their_milliseconds() {
        assert_eq!(to_timestamp(UnixMillis(1_999)), prost_types::Timestamp { seconds: 1, nanos: 999_000_000 });
    }
}
