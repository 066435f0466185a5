//! `POST /chat`: one message in, one reply out.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::Duration;

use super::controls::add_outcome;
use super::error::Failure;
use super::incoming::Incoming;
use super::server::App;
use super::sse::{self, Encoder};
use crate::gateway::Summary;
use crate::surface::from_json;
use crate::types::{ChatRequest, Delta, Priority};

pub async fn chat(
    State(app): State<App>,
    Incoming { context, body, mut errors }: Incoming,
) -> Result<Response, Failure> {
    let asked = errors.under("", from_json::<Asked>(Value::Object(body)));
    let level = asked.as_ref().and_then(|a| a.priority);
    let priority = level.and_then(|level| errors.check("priority", Priority::new(level)));
    if asked.as_ref().is_some_and(|a| a.message.is_empty()) {
        errors.add("message", "is empty");
    }
    let (mut context, asked) = errors.finish(context.zip(asked))?;
    context.priority = priority.unwrap_or(context.priority);
    let chat = ChatRequest::prompt(asked.model.unwrap_or_default(), asked.message);
    if asked.stream {
        let streamed = app.gateway.stream(context.with_chat(chat)).await?;
        let reply = Pieces { cached: streamed.outcome.status.is_hit(), text: String::new() };
        return Ok(sse::response(streamed, reply));
    }
    let completed = app.gateway.complete(context.with_chat(chat)).await?;
    let cached = completed.outcome.status.is_hit();
    let reply = Reply::new(completed.answer.content().to_owned(), &completed.summary, cached);
    let mut response = Json(reply).into_response();
    add_outcome(response.headers_mut(), &completed.outcome);
    Ok(response)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    message: String,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    stream: bool,
    /// 0 to 9; the header `X-Reprise-Priority` holds when absent.
    #[serde(default)]
    priority: Option<u32>,
}

#[derive(Debug, Serialize)]
struct Reply {
    response: String,
    model_used: String,
    latency_ms: f64,
    cached: bool,
}

impl Reply {
    fn new(response: String, summary: &Summary, cached: bool) -> Self {
        Self { response, model_used: summary.model.clone(), latency_ms: milliseconds(summary.latency), cached }
    }
}

/// The reply as events: `{"delta": …}` for each piece of text, then the whole reply.
struct Pieces {
    cached: bool,
    text: String,
}

impl Encoder for Pieces {
    fn delta(&mut self, delta: Delta) -> Vec<String> {
        match delta.content {
            Some(text) if delta.choice == 0 && !text.is_empty() => {
                self.text.push_str(&text);
                vec![json!({ "delta": text }).to_string()]
            }
            _ => Vec::new(),
        }
    }

    fn last(&mut self, summary: Summary) -> Vec<String> {
        let reply = Reply::new(std::mem::take(&mut self.text), &summary, self.cached);
        vec![json!(reply).to_string()]
    }
}

/// To the microsecond: a hit takes less than a millisecond.
fn milliseconds(latency: Duration) -> f64 {
    latency.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::StreamEvent;
    use crate::http::sse::data;
    use crate::types::{FinishReason, Usage, Usd};
    use futures::{StreamExt, stream};

    fn summary() -> Summary {
        Summary {
            model: "m".into(),
            finish: FinishReason::Stop,
            usage: Usage::new(3, 2),
            cost: Usd::default(),
            saved: Usd::default(),
            latency: Duration::from_micros(1500),
        }
    }

    #[tokio::test]
    async fn pieces_then_the_whole_reply() {
        let usage = Delta { usage: Some(Usage::new(3, 2)), ..Delta::default() };
        let events = [Delta::text("Hel"), Delta::text("lo"), usage].map(|d| Ok(StreamEvent::Delta(d)));
        let events = stream::iter(events).chain(stream::iter([Ok(StreamEvent::Final(summary()))]));
        let lines: Vec<_> = data(events, Pieces { cached: true, text: String::new() }).collect().await;
        assert_eq!(
            lines,
            [
                r#"{"delta":"Hel"}"#,
                r#"{"delta":"lo"}"#,
                r#"{"response":"Hello","model_used":"m","latency_ms":1.5,"cached":true}"#
            ]
        );
    }

    #[test]
    fn a_wrong_or_unknown_field_is_named() {
        for (body, field) in [
            (json!({}), "message"),
            (json!({"message": 3}), "message"),
            (json!({"message": "a", "stream": "yes"}), "stream"),
            (json!({"message": "a", "priority": -1}), "priority"),
        ] {
            assert_eq!(from_json::<Asked>(body.clone()).unwrap_err().violations[0].field, field, "{body}");
        }
        let error = from_json::<Asked>(json!({"message": "a", "mesage": "b"})).unwrap_err();
        assert!(error.message.contains("unknown field `mesage`"), "{error}");
    }
}
