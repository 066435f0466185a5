//! From a Messages answer to an OpenAI-shaped one.

use serde_json::{Map, Value, json};

use crate::types::{Answer, AssistantMessage, Choice, FinishReason, Usage};

type Parsed<T> = std::result::Result<T, String>;

/// Text blocks make the content, `tool_use` blocks the tool calls. Thinking is told twice: as text in
/// `reasoning_content`, where clients look for it, and whole in `thinking_blocks`, to be sent back. Blocks of other
/// kinds (searches, code execution…) are kept in `content_blocks`.
pub fn convert(body: Value) -> Parsed<Answer> {
    let Value::Object(mut fields) = body else { return Err("the answer is not an object".into()) };
    let Some(Value::Array(blocks)) = fields.shift_remove("content") else {
        return Err("it has no content".into());
    };
    let mut message = AssistantMessage::default();
    blocks.into_iter().for_each(|block| add_block(&mut message, block));
    let finish = fields.shift_remove("stop_reason").as_ref().and_then(Value::as_str).map(finish).unwrap_or_default();
    let choice = Choice { index: 0, message, finish, extra: choice_extra(&mut fields) };
    let model = fields.shift_remove("model").and_then(|m| m.as_str().map(str::to_owned)).unwrap_or_default();
    let usage = match fields.shift_remove("usage") {
        Some(Value::Object(counts)) => usage(counts),
        _ => Usage::default(),
    };
    Ok(Answer { model, choices: vec![choice], usage, extra: envelope(fields) })
}

pub fn finish(reason: &str) -> FinishReason {
    match reason {
        "end_turn" | "stop_sequence" => FinishReason::Stop,
        "max_tokens" | "model_context_window_exceeded" => FinishReason::Length,
        "tool_use" => FinishReason::ToolCalls,
        "refusal" => FinishReason::ContentFilter,
        other => FinishReason::Other(other.to_owned()),
    }
}

/// Prompt tokens are all that the model read: Anthropic's `input_tokens` leaves out what was read from its cache or
/// written to it. Those counts, which have prices of their own, stay in `extra`.
pub fn usage(mut counts: Map<String, Value>) -> Usage {
    let count = |v: Option<&Value>| v.and_then(Value::as_u64).unwrap_or(0);
    let cached = count(counts.get("cache_read_input_tokens")) + count(counts.get("cache_creation_input_tokens"));
    let input = count(counts.shift_remove("input_tokens").as_ref());
    let output = count(counts.shift_remove("output_tokens").as_ref());
    Usage { prompt_tokens: input.saturating_add(cached), completion_tokens: output, extra: counts }
}

/// Which of the stop sequences it was, if any.
pub fn choice_extra(fields: &mut Map<String, Value>) -> Map<String, Value> {
    let sequence = fields.shift_remove("stop_sequence").filter(|s| !s.is_null());
    sequence.map(|s| Map::from_iter([("stop_sequence".to_owned(), s)])).unwrap_or_default()
}

/// The fields Reprise does not know.
pub fn envelope(mut fields: Map<String, Value>) -> Map<String, Value> {
    for own in ["id", "type", "role"] {
        fields.shift_remove(own);
    }
    fields
}

pub fn tool_call(id: &Value, name: &Value, arguments: String) -> Value {
    json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
}

fn add_block(message: &mut AssistantMessage, block: Value) {
    let text = |name: &str| block.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    match block.get("type").and_then(Value::as_str) {
        Some("text") => message.content.get_or_insert_default().push_str(&text("text")),
        Some("tool_use") => {
            let input = block.get("input").cloned().unwrap_or_else(|| json!({}));
            message.tool_calls.push(tool_call(&block["id"], &block["name"], input.to_string()));
        }
        Some("thinking") => {
            let told = message.extra.entry("reasoning_content").or_insert_with(|| json!(""));
            *told = json!(format!("{}{}", told.as_str().unwrap_or_default(), text("thinking")));
            keep(message, "thinking_blocks", block);
        }
        Some("redacted_thinking") => keep(message, "thinking_blocks", block),
        _ => keep(message, "content_blocks", block),
    }
}

fn keep(message: &mut AssistantMessage, place: &str, block: Value) {
    if let Value::Array(kept) = message.extra.entry(place).or_insert_with(|| json!([])) {
        kept.push(block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_become_content_calls_and_extra() {
        let answer = convert(json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "m-1",
            "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "Hel"},
                {"type": "text", "text": "lo"}, {"type": "tool_use", "id": "t1", "name": "f", "input": {"b": 1, "a": 2}},
                {"type": "server_tool_use", "id": "s1"}],
            "stop_reason": "tool_use", "stop_sequence": null, "container": {"id": "c"},
            "usage": {"input_tokens": 10, "cache_read_input_tokens": 5, "output_tokens": 3, "service_tier": "standard"}}))
        .unwrap();
        assert_eq!((answer.model.as_str(), answer.content(), answer.finish().as_str()), ("m-1", "Hello", "tool_calls"));
        let call = json!({"id": "t1", "type": "function", "function": {"name": "f", "arguments": "{\"b\":1,\"a\":2}"}});
        assert_eq!(answer.choices[0].message.tool_calls, [call]);
        assert_eq!(
            Value::Object(answer.choices[0].message.extra.clone()),
            json!({"reasoning_content": "hm",
                "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}],
                "content_blocks": [{"type": "server_tool_use", "id": "s1"}]})
        );
        assert_eq!((answer.usage.prompt_tokens, answer.usage.completion_tokens), (15, 3));
        let extra = json!({"cache_read_input_tokens": 5, "service_tier": "standard"});
        assert_eq!(Value::Object(answer.usage.extra), extra);
        assert_eq!(Value::Object(answer.extra), json!({"container": {"id": "c"}}));
    }

    #[test]
    fn stop_reasons_have_their_openai_names() {
        for (reason, name) in [
            ("end_turn", "stop"),
            ("stop_sequence", "stop"),
            ("max_tokens", "length"),
            ("tool_use", "tool_calls"),
            ("refusal", "content_filter"),
            ("pause_turn", "pause_turn"),
        ] {
            assert_eq!(finish(reason).as_str(), name);
        }
    }

    #[test]
    fn an_answer_without_content_is_malformed() {
        assert_eq!(convert(json!({"type": "message"})).unwrap_err(), "it has no content");
        assert_eq!(*convert(json!({"content": []})).unwrap().finish(), FinishReason::Missing);
    }
}
