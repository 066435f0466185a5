//! What the test server says, in the words of either protocol.

use serde_json::{Map, Value, json};

use super::Behaviour;

/// What the answer says, in neither protocol's words.
pub struct Script {
    model: Value,
    tokens: Vec<String>,
    tool_calls: Vec<(String, Value)>,
    finish: &'static str,
    prompt_tokens: u64,
    extra: Map<String, Value>,
}

/// One event of a stream; `true` marks those that count as tokens.
pub type Events = Vec<(String, bool)>;

impl Script {
    pub fn new(behaviour: &Behaviour, body: &Value) -> Self {
        let messages = body["messages"].as_array().cloned().unwrap_or_default();
        let said = messages.last().map(|m| text_of(&m["content"])).unwrap_or_default();
        let text = behaviour.text.clone().unwrap_or_else(|| format!("You said: {said}"));
        let has_tools = !behaviour.tool_calls.is_empty();
        Self {
            model: body["model"].clone(),
            tokens: if has_tools { Vec::new() } else { text.split_inclusive(' ').map(str::to_owned).collect() },
            tool_calls: behaviour.tool_calls.clone(),
            finish: if has_tools { "tool_calls" } else { behaviour.finish },
            prompt_tokens: messages.iter().map(|m| text_of(&m["content"]).split_whitespace().count() as u64).sum(),
            extra: behaviour.extra.clone(),
        }
    }

    fn completion_tokens(&self) -> u64 {
        self.tokens.len() as u64 + 10 * self.tool_calls.len() as u64
    }

    fn with_extra(&self, mut value: Value) -> Value {
        if let Some(fields) = value.as_object_mut() {
            fields.extend(self.extra.clone());
        }
        value
    }

    fn openai_usage(&self) -> Value {
        let (prompt, completion) = (self.prompt_tokens, self.completion_tokens());
        self.with_extra(json!({
            "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}))
    }

    fn openai_calls(&self) -> Vec<Value> {
        let call = |(i, (name, arguments)): (usize, &(String, Value))| {
            json!({"id": format!("call_{i}"), "type": "function",
                "function": {"name": name, "arguments": arguments.to_string()}})
        };
        self.tool_calls.iter().enumerate().map(call).collect()
    }

    pub fn openai(&self) -> Value {
        let mut message = json!({"role": "assistant", "content": self.tokens.concat()});
        if !self.tool_calls.is_empty() {
            message["content"] = Value::Null;
            message["tool_calls"] = json!(self.openai_calls());
        }
        let choice = json!({"index": 0, "message": self.with_extra(message), "finish_reason": self.finish});
        self.with_extra(json!({
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": self.model,
            "choices": [self.with_extra(choice)], "usage": self.openai_usage()}))
    }

    pub fn openai_chunks(&self, body: &Value) -> Events {
        let chunk = |choices: Value| {
            self.with_extra(json!({
                "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": self.model,
                "choices": choices}))
        };
        let choice = |delta: Value| chunk(json!([{"index": 0, "delta": delta, "finish_reason": null}]));
        let data = |value: Value| format!("data: {value}\n\n");
        let content = if self.tool_calls.is_empty() { json!("") } else { Value::Null };
        // Unknown fields of the message come once, or their pieces would be joined.
        let role = self.with_extra(json!({"role": "assistant", "content": content}));
        let mut events = vec![(data(choice(role)), false)];
        events.extend(self.tokens.iter().map(|t| (data(choice(json!({"content": t}))), true)));
        for (i, call) in self.openai_calls().into_iter().enumerate() {
            let arguments = call["function"]["arguments"].as_str().unwrap_or_default();
            let (first, second) = arguments.split_at(arguments.floor_char_boundary(arguments.len() / 2));
            let head = json!({"index": i, "id": call["id"], "type": "function",
                "function": {"name": call["function"]["name"], "arguments": ""}});
            events.push((data(choice(json!({"tool_calls": [head]}))), false));
            for piece in [first, second] {
                let fragment = json!({"index": i, "function": {"arguments": piece}});
                events.push((data(choice(json!({"tool_calls": [fragment]}))), true));
            }
        }
        let last = self.with_extra(json!({"index": 0, "delta": {}, "finish_reason": self.finish}));
        events.push((data(chunk(json!([last]))), false));
        if body["stream_options"]["include_usage"] == true {
            let mut usage = chunk(json!([]));
            usage["usage"] = self.openai_usage();
            events.push((data(usage), false));
        }
        events.push(("data: [DONE]\n\n".into(), false));
        events
    }

    fn anthropic_stop(&self) -> &'static str {
        match self.finish {
            "stop" => "end_turn",
            "length" => "max_tokens",
            "tool_calls" => "tool_use",
            "content_filter" => "refusal",
            other => other,
        }
    }

    pub fn anthropic(&self) -> Value {
        let mut content: Vec<_> = Vec::new();
        if !self.tokens.is_empty() {
            content.push(json!({"type": "text", "text": self.tokens.concat()}));
        }
        for (i, (name, input)) in self.tool_calls.iter().enumerate() {
            content.push(json!({"type": "tool_use", "id": format!("call_{i}"), "name": name, "input": input}));
        }
        self.with_extra(json!({
            "id": "msg_1", "type": "message", "role": "assistant", "model": self.model, "content": content,
            "stop_reason": self.anthropic_stop(), "stop_sequence": null,
            "usage": {"input_tokens": self.prompt_tokens, "output_tokens": self.completion_tokens()}}))
    }

    pub fn anthropic_events(&self) -> Events {
        let event = |value: Value, token: bool| {
            (format!("event: {}\ndata: {value}\n\n", value["type"].as_str().unwrap_or_default()), token)
        };
        let message = self.with_extra(json!({
            "id": "msg_1", "type": "message", "role": "assistant", "model": self.model, "content": [],
            "stop_reason": null, "stop_sequence": null,
            "usage": {"input_tokens": self.prompt_tokens, "output_tokens": 1}}));
        let mut events = vec![event(json!({"type": "message_start", "message": message}), false)];
        events.push(event(json!({"type": "ping"}), false));
        let block = |events: &mut Events, index: usize, start: Value, deltas: Vec<Value>| {
            events.push(event(json!({"type": "content_block_start", "index": index, "content_block": start}), false));
            for delta in deltas {
                events.push(event(json!({"type": "content_block_delta", "index": index, "delta": delta}), true));
            }
            events.push(event(json!({"type": "content_block_stop", "index": index}), false));
        };
        if !self.tokens.is_empty() {
            let deltas = self.tokens.iter().map(|t| json!({"type": "text_delta", "text": t})).collect();
            block(&mut events, 0, json!({"type": "text", "text": ""}), deltas);
        }
        for (i, (name, input)) in self.tool_calls.iter().enumerate() {
            let text = input.to_string();
            let (first, second) = text.split_at(text.floor_char_boundary(text.len() / 2));
            let piece = |p: &str| json!({"type": "input_json_delta", "partial_json": p});
            let start = json!({"type": "tool_use", "id": format!("call_{i}"), "name": name, "input": {}});
            block(&mut events, i, start, vec![piece(first), piece(second)]);
        }
        let delta = json!({"stop_reason": self.anthropic_stop(), "stop_sequence": null});
        let usage = json!({"output_tokens": self.completion_tokens()});
        events.push(event(json!({"type": "message_delta", "delta": delta, "usage": usage}), false));
        events.push(event(json!({"type": "message_stop"}), false));
        events
    }
}

/// Text of a message's content: a string, or parts of which the text ones count.
fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|p| p["text"].as_str()).collect::<Vec<_>>().join(" "),
        _ => String::new(),
    }
}
