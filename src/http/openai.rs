//! `POST /v1/chat/completions`, whole and streamed.

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::controls::{add_outcome, context};
use super::error::Failure;
use super::server::{App, RequestId, read_json};
use super::sse::{self, Encoder};
use crate::gateway::Summary;
use crate::surface::{Violations, add_unknown, chat_from_json, finish_reason, render_answer, render_usage};
use crate::types::{Delta, FinishReason, UnixMillis, Usage};

pub async fn completions(
    State(app): State<App>,
    Extension(RequestId(id)): Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let arrived = Instant::now();
    let body = read_json(&app, body).await?;
    let mut errors = Violations::default();
    let context = context(&headers, id, arrived, &mut errors);
    let chat = errors.under("", chat_from_json(body));
    let (context, chat) = errors.finish(context.zip(chat))?;
    if chat.stream == Some(true) {
        let wants_usage = chat.stream_options.as_ref().is_some_and(|o| o.include_usage == Some(true));
        let chunks = Chunks::new(chat.model.clone(), wants_usage);
        let streamed = app.gateway.stream(context.with_chat(chat)).await?;
        return Ok(sse::response(streamed, chunks));
    }
    let completed = app.gateway.complete(context.with_chat(chat)).await?;
    let mut whole = head("chat.completion");
    for (key, value) in render_answer(&completed.answer) {
        whole.entry(key).or_insert(value);
    }
    let mut response = Json(Value::Object(whole)).into_response();
    add_outcome(response.headers_mut(), &completed.outcome);
    Ok(response)
}

/// Deltas to `chat.completion.chunk` objects, the same for a live answer and for a replayed one: a role chunk for each
/// choice, its content, its finish reason; then the usage if it was asked for, then `[DONE]`.
pub struct Chunks {
    /// Fields every chunk begins with; the model is known once the first delta came.
    head: Map<String, Value>,
    wants_usage: bool,
    usage: Option<Usage>,
    /// Choices begun so far, and whether they are finished.
    choices: Vec<(u32, bool)>,
    /// Unknown top-level fields that wait for the next chunk.
    extra: Map<String, Value>,
}

impl Chunks {
    pub fn new(model: String, wants_usage: bool) -> Self {
        let mut head = head("chat.completion.chunk");
        head.insert("model".into(), model.into());
        Self { head, wants_usage, usage: None, choices: Vec::new(), extra: Map::new() }
    }

    /// The role chunk of a choice, once. Its content is text to append to, or null where tools are called.
    fn begin(&mut self, choice: u32, calls_tools: bool, out: &mut Vec<String>) {
        if !self.choices.iter().any(|(index, _)| *index == choice) {
            self.choices.push((choice, false));
            let content = if calls_tools { Value::Null } else { "".into() };
            let role = json!({"role": "assistant", "content": content});
            out.push(self.chunk(choice, role, Value::Null, Map::new()));
        }
    }

    fn end(&mut self, choice: u32, reason: &FinishReason, extra: Map<String, Value>, out: &mut Vec<String>) {
        if let Some((_, finished)) = self.choices.iter_mut().find(|(index, _)| *index == choice) {
            *finished = true;
        }
        out.push(self.chunk(choice, json!({}), finish_reason(reason), extra));
    }

    fn chunk(&mut self, index: u32, delta: Value, finish: Value, extra: Map<String, Value>) -> String {
        let mut choice = Map::new();
        choice.insert("index".into(), index.into());
        choice.insert("delta".into(), delta);
        choice.insert("logprobs".into(), Value::Null);
        choice.insert("finish_reason".into(), finish);
        for (key, value) in extra {
            if !matches!(key.as_str(), "index" | "delta" | "finish_reason") {
                choice.insert(key, value);
            }
        }
        self.top(json!([choice]), Value::Null)
    }

    fn top(&mut self, choices: Value, usage: Value) -> String {
        let mut out = self.head.clone();
        out.insert("choices".into(), choices);
        if self.wants_usage {
            out.insert("usage".into(), usage);
        }
        add_unknown(&mut out, &std::mem::take(&mut self.extra));
        Value::Object(out).to_string()
    }
}

impl Encoder for Chunks {
    fn delta(&mut self, delta: Delta) -> Vec<String> {
        let mut out = Vec::new();
        if let Some(model) = delta.model {
            self.head.insert("model".into(), model.into());
        }
        self.usage = delta.usage.or(self.usage.take());
        self.extra.extend(delta.extra);
        let mut message = Map::new();
        let calls_tools = delta.content.is_none() && !delta.tool_calls.is_empty();
        if let Some(content) = delta.content.filter(|text| !text.is_empty()) {
            message.insert("content".into(), content.into());
        }
        if !delta.tool_calls.is_empty() {
            message.insert("tool_calls".into(), delta.tool_calls.into());
        }
        add_unknown(&mut message, &delta.message_extra);
        let mut choice_extra = delta.choice_extra;
        let only_finishes = message.is_empty() && delta.finish.is_some();
        if message.is_empty() && choice_extra.is_empty() && !only_finishes {
            return out;
        }
        self.begin(delta.choice, calls_tools, &mut out);
        if !only_finishes {
            let extra = std::mem::take(&mut choice_extra);
            out.push(self.chunk(delta.choice, Value::Object(message), Value::Null, extra));
        }
        if let Some(reason) = delta.finish {
            self.end(delta.choice, &reason, choice_extra, &mut out);
        }
        out
    }

    fn last(&mut self, summary: Summary) -> Vec<String> {
        let mut out = Vec::new();
        if self.choices.is_empty() {
            self.begin(0, false, &mut out);
        }
        let open: Vec<_> = self.choices.iter().filter(|(_, finished)| !finished).map(|(index, _)| *index).collect();
        for choice in open {
            self.end(choice, &summary.finish, Map::new(), &mut out);
        }
        if self.wants_usage {
            let usage = self.usage.take().unwrap_or(summary.usage);
            out.push(self.top(json!([]), render_usage(&usage)));
        }
        if !self.extra.is_empty() {
            // Clients read the first choice of every chunk but the one with the usage, so there has to be one.
            out.push(self.chunk(0, json!({}), Value::Null, Map::new()));
        }
        out.push("[DONE]".to_owned());
        out
    }
}

/// What every completion and chunk begins with.
fn head(object: &str) -> Map<String, Value> {
    let mut head = Map::new();
    head.insert("id".into(), format!("chatcmpl-{}", uuid::Uuid::now_v7().simple()).into());
    head.insert("object".into(), object.into());
    head.insert("created".into(), (UnixMillis::now().0 / 1000).into());
    head
}
