//! Messages of the protocol to and from the service's own types, with every check on input.

use serde_json::{Map, Value};

use super::pb;
use crate::gateway::Summary;
use crate::surface::{Violations, chat_from_json, is_plain, object, parse_answer, render_answer};
use crate::types::json::parse_strict;
use crate::types::{
    Answer, CacheStatus, ChatRequest, Content, Delta, Embedding, FinishReason, Message, Outcome, Result, Role,
    UnixMillis, Usage,
};

/// Fields of a chat request that have a field of their own in the protocol, or that the call itself decides.
const OWN_CHAT_FIELDS: &[&str] =
    &["model", "messages", "temperature", "top_p", "max_tokens", "stop", "seed", "stream", "stream_options"];
const OWN_MESSAGE_FIELDS: &[&str] = &["role", "content"];

/// Reads a chat request; what is wrong goes to `errors`, under `at`. `None` only after a violation.
pub fn chat(wire: Option<pb::ChatRequest>, at: &str, errors: &mut Violations) -> Option<ChatRequest> {
    let Some(wire) = wire else {
        errors.add(at, "is missing");
        return None;
    };
    let extra = extra_json(&wire.extra_json, OWN_CHAT_FIELDS, at, errors)?;
    let messages = wire.messages.into_iter().enumerate();
    // All messages are read before the first failure counts, so that every violation is told.
    let messages: Vec<_> = messages.map(|(i, m)| message(m, &format!("{at}.messages[{i}]"), errors)).collect();
    let messages = messages.into_iter().collect::<Option<Vec<_>>>()?;
    let mut chat = if extra.is_empty() {
        ChatRequest::new(wire.model, messages)
    } else {
        let mut body = extra;
        body.insert("messages".into(), Value::Array(Vec::new()));
        let read = errors.under(&format!("{at}.extra_json"), chat_from_json(body))?;
        ChatRequest { model: wire.model, messages, ..read }
    };
    chat.temperature = wire.temperature;
    chat.top_p = wire.top_p;
    chat.max_tokens = wire.max_tokens;
    chat.seed = wire.seed;
    chat.stop = (!wire.stop.is_empty()).then_some(crate::types::Stop::Many(wire.stop));
    Some(chat)
}

fn message(wire: pb::Message, at: &str, errors: &mut Violations) -> Option<Message> {
    let role = match pb::Role::try_from(wire.role) {
        Ok(pb::Role::System) => Some(Role::System),
        Ok(pb::Role::User) => Some(Role::User),
        Ok(pb::Role::Assistant) => Some(Role::Assistant),
        Ok(pb::Role::Tool) => Some(Role::Tool),
        Ok(pb::Role::Unspecified) => {
            errors.add(format!("{at}.role"), "must be set");
            None
        }
        Err(_) => {
            errors.add(format!("{at}.role"), format!("{} is not a Role", wire.role));
            None
        }
    };
    let extra = extra_json(&wire.extra_json, OWN_MESSAGE_FIELDS, at, errors);
    let content = if wire.content_json.is_empty() {
        Some(Content::Text(wire.content))
    } else if wire.content.is_empty() {
        parts(&wire.content_json, &format!("{at}.content_json"), errors)
    } else {
        errors.add(format!("{at}.content_json"), "content is set too; only one of the two may be");
        None
    };
    let (role, content, extra) = (role?, content?, extra?);
    // An assistant turn that only calls tools has no content at all, in OpenAI's shape.
    let only_calls =
        role == Role::Assistant && (extra.contains_key("tool_calls") || extra.contains_key("function_call"));
    let content = (!only_calls || content != Content::Text(String::new())).then_some(content);
    Some(Message { role, content, extra })
}

fn parts(json: &str, at: &str, errors: &mut Violations) -> Option<Content> {
    match parse_strict(json.as_bytes()) {
        Ok(Value::Array(parts)) => Some(Content::Parts(parts)),
        Ok(_) => {
            errors.add(at, "expected a JSON array of content parts");
            None
        }
        Err(error) => errors.check(at, Err(error)),
    }
}

/// The object in an `extra_json` field, without fields that the protocol has under their own name: two places for one
/// thing could disagree.
fn extra_json(json: &str, own: &[&str], at: &str, errors: &mut Violations) -> Option<Map<String, Value>> {
    if json.is_empty() {
        return Some(Map::new());
    }
    let at = format!("{at}.extra_json");
    let map = errors.check(&at, parse_strict(json.as_bytes()))?;
    let map = errors.check(&at, object(map))?;
    let mut twice = own.iter().filter(|name| map.contains_key(**name)).peekable();
    if twice.peek().is_none() {
        return Some(map);
    }
    for name in twice {
        errors.add(
            format!("{at}.{name}"),
            match *name {
                "stream" | "stream_options" => "is decided by the call".to_owned(),
                name => format!("belongs into the field {name}"),
            },
        );
    }
    None
}

/// Reads an answer to be stored; what is wrong goes to `errors`, under `answer`. `None` only after a violation.
pub fn answer(wire: Option<pb::Answer>, usage: Option<pb::Usage>, errors: &mut Violations) -> Option<Answer> {
    let Some(wire) = wire else {
        errors.add("answer", "is missing");
        return None;
    };
    let usage = usage.map(|u| Usage::new(u.prompt_tokens, u.completion_tokens));
    if wire.completion_json.is_empty() {
        let mut answer = Answer::text(wire.model, wire.content, usage.unwrap_or_default());
        if !wire.finish_reason.is_empty() {
            answer.choices[0].finish = FinishReason::from(wire.finish_reason.as_str());
        }
        return Some(answer);
    }
    const AT: &str = "answer.completion_json";
    let completion = errors.check(AT, parse_strict(wire.completion_json.as_bytes()))?;
    let mut answer = errors.under(AT, parse_answer(completion))?;
    for (field, said, meant) in [
        ("answer.content", &wire.content, answer.content()),
        ("answer.model", &wire.model, answer.model.as_str()),
        ("answer.finish_reason", &wire.finish_reason, answer.finish().as_str()),
    ] {
        if !said.is_empty() && said != meant {
            errors.add(field, "is not what completion_json says");
        }
    }
    if let Some(usage) = usage {
        answer.usage = Usage { extra: answer.usage.extra, ..usage };
    }
    Some(answer)
}

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

/// Puts the fields an inner check complained about under the place of the chat request in the message.
pub fn under<T>(at: &str, result: Result<T>) -> Result<T> {
    result.map_err(|mut error| {
        for violation in &mut error.violations {
            if !violation.field.starts_with("answer") {
                violation.field = format!("{at}.{}", violation.field);
            }
        }
        error
    })
}

fn finish(reason: &FinishReason) -> String {
    match reason {
        FinishReason::Missing => String::new(),
        known => known.as_str().to_owned(),
    }
}
