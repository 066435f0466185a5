//! `POST /v1/chat/completions`, whole and streamed.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::controls::add_outcome;
use super::error::Failure;
use super::incoming::Incoming;
use super::server::App;
use super::sse::{self, Encoder};
use crate::gateway::Summary;
use crate::surface::{add_unknown, chat_from_json, finish_reason, render_answer, render_usage};
use crate::types::{Delta, FinishReason, UnixMillis, Usage};

pub async fn completions(
    State(app): State<App>,
    Incoming { context, body, mut errors }: Incoming,
) -> Result<Response, Failure> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::StreamEvent;
    use crate::http::sse::data;
    use crate::types::{Error, Result, Usd};
    use futures::{StreamExt, stream};
    use std::time::Duration;

    fn summary() -> Summary {
        Summary {
            model: "m-1".into(),
            finish: FinishReason::Stop,
            usage: Usage::new(3, 2),
            cost: Usd::default(),
            saved: Usd::default(),
            latency: Duration::ZERO,
        }
    }

    fn finished(reason: FinishReason) -> Delta {
        Delta { finish: Some(reason), ..Delta::default() }
    }

    /// The lines of a stream, its JSON parsed; `[DONE]` stays text.
    async fn lines(events: Vec<Result<StreamEvent>>, wants_usage: bool) -> Vec<Value> {
        let lines: Vec<_> = data(stream::iter(events), Chunks::new("m".into(), wants_usage)).collect().await;
        lines.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|_| json!(line))).collect()
    }

    async fn whole(deltas: Vec<Delta>, wants_usage: bool) -> Vec<Value> {
        let deltas = deltas.into_iter().map(|d| Ok(StreamEvent::Delta(d)));
        lines(deltas.chain([Ok(StreamEvent::Final(summary()))]).collect(), wants_usage).await
    }

    fn choice(line: &Value) -> &Value {
        &line["choices"][0]
    }

    #[tokio::test]
    async fn role_then_content_then_finish_then_done() {
        let first = Delta { model: Some("m-1".into()), ..Delta::text("Hel") };
        let usage = Delta { usage: Some(Usage::new(3, 2)), ..Delta::default() };
        let lines = whole(vec![first, Delta::text("lo"), finished(FinishReason::Stop), usage], false).await;
        assert_eq!(lines.len(), 5);
        for chunk in &lines[..4] {
            assert_eq!((&chunk["object"], &chunk["model"]), (&json!("chat.completion.chunk"), &json!("m-1")));
            assert_eq!(chunk["id"], lines[0]["id"]);
            assert!(chunk["id"].as_str().unwrap().starts_with("chatcmpl-"));
            assert!(chunk["created"].as_u64().unwrap() > 1_600_000_000);
            assert!(chunk.get("usage").is_none());
        }
        let empty = json!({"index": 0, "delta": {}, "logprobs": null, "finish_reason": null});
        let with = |delta: Value| {
            let mut choice = empty.clone();
            choice["delta"] = delta;
            choice
        };
        assert_eq!(choice(&lines[0]), &with(json!({"role": "assistant", "content": ""})));
        assert_eq!(choice(&lines[1]), &with(json!({"content": "Hel"})));
        assert_eq!(choice(&lines[2]), &with(json!({"content": "lo"})));
        assert_eq!(choice(&lines[3])["finish_reason"], "stop");
        assert_eq!(choice(&lines[3])["delta"], json!({}));
        assert_eq!(lines[4], "[DONE]");
    }

    #[tokio::test]
    async fn a_whole_answer_in_one_delta_has_the_same_shape() {
        let one = Delta { finish: Some(FinishReason::Stop), usage: Some(Usage::new(3, 2)), ..Delta::text("Hello") };
        let lines = whole(vec![one], true).await;
        let finishes: Vec<_> = lines[..3].iter().map(|l| choice(l)["finish_reason"].clone()).collect();
        assert_eq!(finishes, [Value::Null, Value::Null, json!("stop")]);
        assert_eq!(lines[3]["choices"], json!([]));
        assert_eq!(lines[3]["usage"], json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}));
        assert!(lines[..3].iter().all(|l| l["usage"].is_null() && l.get("usage").is_some()));
        assert_eq!(lines[4], "[DONE]");
    }

    #[tokio::test]
    async fn an_empty_answer_still_has_a_role_a_finish_and_the_usage_of_the_summary() {
        let lines = whole(vec![], true).await;
        assert_eq!(choice(&lines[0])["delta"]["role"], "assistant");
        assert_eq!(choice(&lines[1])["finish_reason"], "stop");
        assert_eq!(lines[2]["usage"]["total_tokens"], 5);
        assert_eq!(lines[3], "[DONE]");
    }

    #[tokio::test]
    async fn each_choice_has_its_own_role_and_finish() {
        let second = |delta| Delta { choice: 1, ..delta };
        let deltas = vec![Delta::text("a"), second(Delta::text("b")), finished(FinishReason::Length)];
        let lines = whole(deltas, false).await;
        let of = |index: u32| lines.iter().filter(move |l| choice(l)["index"] == index).collect::<Vec<_>>();
        for (index, text, reason) in [(0, "a", "length"), (1, "b", "stop")] {
            let [role, content, finish] = of(index)[..] else { panic!("{lines:?}") };
            assert_eq!(choice(role)["delta"]["role"], "assistant");
            assert_eq!(choice(content)["delta"]["content"], text);
            assert_eq!(choice(finish)["finish_reason"], reason);
        }
    }

    #[tokio::test]
    async fn unknown_fields_pass_at_their_levels() {
        let map = |value: Value| value.as_object().unwrap().clone();
        let delta = Delta {
            message_extra: map(json!({"reasoning_content": "hm"})),
            choice_extra: map(json!({"logprobs": {"content": []}})),
            extra: map(json!({"system_fingerprint": "fp"})),
            ..Delta::default()
        };
        let late = Delta { extra: map(json!({"provider": "x"})), ..Delta::default() };
        let lines = whole(vec![delta, late], false).await;
        assert_eq!(lines[0]["system_fingerprint"], "fp");
        assert_eq!(choice(&lines[1])["delta"], json!({"reasoning_content": "hm"}));
        assert_eq!(choice(&lines[1])["logprobs"], json!({"content": []}));
        assert_eq!(lines[2]["provider"], "x");
    }

    #[tokio::test]
    async fn tool_calls_begin_with_null_content() {
        let call = json!({"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}});
        let delta = Delta { tool_calls: vec![call.clone()], ..Delta::default() };
        let lines = whole(vec![delta, finished(FinishReason::ToolCalls)], false).await;
        assert_eq!(choice(&lines[0])["delta"], json!({"role": "assistant", "content": null}));
        assert_eq!(choice(&lines[1])["delta"], json!({"tool_calls": [call]}));
        assert_eq!(choice(&lines[2])["finish_reason"], "tool_calls");
    }

    #[tokio::test]
    async fn an_error_in_the_middle_ends_the_stream_without_done() {
        let error = Error::new(crate::types::ErrorKind::Upstream, "the provider broke off");
        let lines = lines(vec![Ok(StreamEvent::Delta(Delta::text("Hel"))), Err(error)], true).await;
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[2]["error"]["code"], "UPSTREAM");
        assert_eq!(lines[2]["error"]["message"], "the provider broke off");
    }

    #[tokio::test]
    async fn a_stream_without_a_final_event_is_an_error() {
        let lines = lines(vec![Ok(StreamEvent::Delta(Delta::text("Hel")))], false).await;
        assert_eq!(lines.last().unwrap()["error"]["code"], "INTERNAL");
    }
}
