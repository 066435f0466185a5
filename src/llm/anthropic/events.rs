//! Events of a streamed Messages answer: <https://docs.anthropic.com/en/docs/build-with-claude/streaming>.

use serde_json::{Map, Value, json};
use std::collections::HashMap;

use super::{reported, response};
use crate::llm::events::Step;
use crate::llm::http::Endpoint;
use crate::llm::sse::Event;
use crate::types::{Delta, Result};

/// Folds the events of one answer into deltas.
#[derive(Debug, Default)]
pub struct Reader {
    usage: Map<String, Value>,
    blocks: HashMap<u64, Block>,
    tool_calls: usize,
}

/// A content block that is under way.
#[derive(Debug)]
enum Block {
    Text,
    /// Ordinal among the tool calls, and whether any arguments came.
    Tool(usize, bool),
    /// Collected, to be told whole: thinking with its signature, or a kind that has no place in OpenAI's shape.
    Whole {
        place: &'static str,
        block: Map<String, Value>,
        json: String,
    },
}

impl Reader {
    pub fn step(&mut self, endpoint: &Endpoint, event: &Event) -> Result<Step> {
        let body: Value = serde_json::from_str(&event.data)
            .map_err(|e| endpoint.unusable(format!("an event of its stream is not valid JSON: {e}")))?;
        let deltas = match body["type"].as_str().unwrap_or_default() {
            "message_start" => self.message_start(&body),
            "content_block_start" => self.block_start(&body),
            "content_block_delta" => self.block_delta(&body),
            "content_block_stop" => self.block_stop(&body),
            "message_delta" => self.message_delta(&body),
            "message_stop" => return Ok(Step::End),
            "error" => return Err(reported(endpoint, &body)),
            // `ping`, and events that will be invented: the API asks clients to skip them.
            _ => None,
        };
        Ok(Step::Deltas(deltas.into_iter().collect()))
    }

    fn message_start(&mut self, body: &Value) -> Option<Delta> {
        let mut message = body.get("message")?.as_object()?.clone();
        self.count(message.shift_remove("usage").as_ref());
        let model = message.shift_remove("model").and_then(|m| m.as_str().map(str::to_owned));
        for told_later in ["content", "stop_reason", "stop_sequence"] {
            message.shift_remove(told_later);
        }
        Some(Delta { model, extra: response::envelope(message), ..Delta::default() })
    }

    fn block_start(&mut self, body: &Value) -> Option<Delta> {
        let start = body.get("content_block")?;
        let text = |name: &str| start.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (block, delta) = match start["type"].as_str().unwrap_or_default() {
            "text" => (Block::Text, Some(Delta::text(text("text")))),
            "tool_use" => {
                let ordinal = self.tool_calls;
                self.tool_calls += 1;
                // Empty as a rule; the arguments come in pieces.
                let input = start.get("input").filter(|i| i.as_object().is_some_and(|i| !i.is_empty()));
                let arguments = input.map(Value::to_string).unwrap_or_default();
                let complete = !arguments.is_empty();
                let mut call = response::tool_call(&start["id"], &start["name"], arguments);
                call["index"] = json!(ordinal);
                (Block::Tool(ordinal, complete), Some(Delta { tool_calls: vec![call], ..Delta::default() }))
            }
            kind => {
                let thinking = matches!(kind, "thinking" | "redacted_thinking");
                let place = if thinking { "thinking_blocks" } else { "content_blocks" };
                let block = start.as_object().cloned().unwrap_or_default();
                let delta = (kind == "thinking").then(|| reasoning(text("thinking")));
                (Block::Whole { place, block, json: String::new() }, delta)
            }
        };
        self.blocks.insert(body["index"].as_u64()?, block);
        delta
    }

    fn block_delta(&mut self, body: &Value) -> Option<Delta> {
        let delta = body.get("delta")?;
        let text = |name: &str| delta.get(name).and_then(Value::as_str);
        match self.blocks.get_mut(&body["index"].as_u64()?)? {
            Block::Text => text("text").map(Delta::text),
            Block::Tool(ordinal, told) => {
                let piece = text("partial_json").filter(|p| !p.is_empty())?;
                *told = true;
                Some(arguments(*ordinal, piece))
            }
            Block::Whole { block, json, .. } => {
                json.push_str(text("partial_json").unwrap_or_default());
                for name in ["thinking", "signature", "text"] {
                    if let Some(piece) = text(name) {
                        let old = block.get(name).and_then(Value::as_str).unwrap_or_default();
                        block.insert(name.into(), json!(format!("{old}{piece}")));
                    }
                }
                text("thinking").map(|t| reasoning(t.to_owned()))
            }
        }
    }

    fn block_stop(&mut self, body: &Value) -> Option<Delta> {
        match self.blocks.remove(&body["index"].as_u64()?)? {
            Block::Text | Block::Tool(_, true) => None,
            Block::Tool(ordinal, false) => Some(arguments(ordinal, "{}")),
            Block::Whole { place, mut block, json } => {
                if let Ok(input) = serde_json::from_str::<Value>(&json) {
                    block.insert("input".into(), input);
                }
                let message_extra = Map::from_iter([(place.to_owned(), json!([block]))]);
                Some(Delta { message_extra, ..Delta::default() })
            }
        }
    }

    /// Its counts are totals so far, and stand in place of those of `message_start`.
    fn message_delta(&mut self, body: &Value) -> Option<Delta> {
        self.count(body.get("usage"));
        let mut delta = body.get("delta")?.as_object()?.clone();
        let finish = delta.shift_remove("stop_reason").as_ref().and_then(Value::as_str).map(response::finish);
        let usage = finish.is_some().then(|| response::usage(self.usage.clone()));
        let choice_extra = response::choice_extra(&mut delta);
        Some(Delta { finish, usage, choice_extra, extra: delta, ..Delta::default() })
    }

    fn count(&mut self, usage: Option<&Value>) {
        if let Some(Value::Object(counts)) = usage {
            self.usage.extend(counts.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())));
        }
    }
}

fn reasoning(text: String) -> Delta {
    Delta { message_extra: Map::from_iter([("reasoning_content".to_owned(), json!(text))]), ..Delta::default() }
}

fn arguments(ordinal: usize, piece: &str) -> Delta {
    Delta { tool_calls: vec![json!({"index": ordinal, "function": {"arguments": piece}})], ..Delta::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::contract::endpoint;
    use crate::types::{Answer, Assembler, ErrorKind, FinishReason};

    fn assemble(events: &[Value]) -> Result<Answer> {
        let (endpoint, mut reader, mut assembler) = (endpoint(), Reader::default(), Assembler::default());
        for event in events {
            let event = Event { name: String::new(), data: event.to_string() };
            match reader.step(&endpoint, &event)? {
                Step::Deltas(deltas) => deltas.iter().for_each(|d| assembler.push(d)),
                Step::End => break,
            }
        }
        Ok(assembler.finish())
    }

    #[test]
    fn events_spell_what_the_whole_answer_says() {
        let streamed = assemble(&[
            json!({"type": "message_start", "message": {"id": "i", "type": "message", "role": "assistant", "model": "m",
                "content": [], "stop_reason": null, "stop_sequence": null,
                "usage": {"input_tokens": 9, "cache_read_input_tokens": 4, "output_tokens": 1}}}),
            json!({"type": "ping"}),
            json!({"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "h"}}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "m"}}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "s"}}),
            json!({"type": "content_block_stop", "index": 0}),
            json!({"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}}),
            json!({"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Hel"}}),
            json!({"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "lo"}}),
            json!({"type": "content_block_stop", "index": 1}),
            json!({"type": "content_block_start", "index": 2, "content_block": {"type": "tool_use", "id": "a", "name": "f", "input": {}}}),
            json!({"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": ""}}),
            json!({"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": "{\"x\":"}}),
            json!({"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": "1}"}}),
            json!({"type": "content_block_stop", "index": 2}),
            json!({"type": "content_block_start", "index": 3, "content_block": {"type": "tool_use", "id": "b", "name": "g", "input": {}}}),
            json!({"type": "content_block_stop", "index": 3}),
            json!({"type": "content_block_start", "index": 4, "content_block": {"type": "server_tool_use", "id": "c", "input": {}}}),
            json!({"type": "content_block_delta", "index": 4, "delta": {"type": "input_json_delta", "partial_json": "{\"q\":2}"}}),
            json!({"type": "content_block_stop", "index": 4}),
            json!({"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": null}, "usage": {"output_tokens": 7}}),
            json!({"type": "message_stop"}),
        ])
        .unwrap();
        let whole = response::convert(
            json!({"id": "i", "type": "message", "role": "assistant", "model": "m", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "Hello"},
                {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
                {"type": "tool_use", "id": "b", "name": "g", "input": {}},
                {"type": "server_tool_use", "id": "c", "input": {"q": 2}}],
            "stop_reason": "tool_use", "usage": {"input_tokens": 9, "cache_read_input_tokens": 4, "output_tokens": 7}}),
        );
        assert_eq!(streamed, whole.unwrap());
        assert_eq!(streamed.usage.prompt_tokens, 13);
    }

    #[test]
    fn an_error_event_has_the_kind_of_its_type() {
        let error = json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
        let error = assemble(&[error]).unwrap_err();
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Unavailable, "provider test: Overloaded"));
    }

    #[test]
    fn a_stream_without_its_end_has_no_finish_reason() {
        let cut = assemble(&[
            json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hel"}}),
        ]);
        let cut = cut.unwrap();
        assert_eq!((cut.content(), cut.finish()), ("Hel", &FinishReason::Missing));
    }
}
