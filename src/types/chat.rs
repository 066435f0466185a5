//! A chat request as Reprise understands it: the OpenAI chat shape, with whatever it does not know kept aside
//! in `extra`, to travel to the provider untouched.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::borrow::Cow;

use super::{Error, Result};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatRequest {
    pub model: String,
    pub messages: Vec<Message>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// OpenAI's newer name of `max_tokens`; both are kept as they came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_completion_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_format: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<StreamOptions>,
    /// Fields Reprise does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct StreamOptions {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub include_usage: Option<bool>,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Stop {
    One(String),
    Many(Vec<String>),
}

impl Stop {
    pub fn sequences(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    pub role: Role,
    /// `None` for an assistant turn that only calls tools.
    #[serde(default)]
    pub content: Option<Content>,
    /// Fields other than role and content: `name`, `tool_calls`, `tool_call_id` and what Reprise does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Message {
    pub fn new(role: Role, text: impl Into<String>) -> Self {
        Self { role, content: Some(Content::Text(text.into())), extra: Map::new() }
    }

    /// The text of the message, its text parts joined; `None` when it holds anything but text.
    pub fn text(&self) -> Option<String> {
        match self.content.as_ref()? {
            Content::Text(text) => Some(text.clone()),
            Content::Parts(parts) => parts.iter().map(part_text).collect::<Option<Vec<_>>>().map(|t| t.join("\n")),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    /// OpenAI's newer name of `system`.
    Developer,
    User,
    Assistant,
    Tool,
    /// OpenAI's older name of `tool`.
    Function,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Developer => "developer",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
            Self::Function => "function",
        }
    }

    /// A system prompt by either of its names.
    pub fn is_system(self) -> bool {
        matches!(self, Self::System | Self::Developer)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    Text(String),
    /// Typed parts (`text`, `image_url`, `input_audio`…) as they came.
    Parts(Vec<Value>),
}

fn part_text(part: &Value) -> Option<&str> {
    match part.get("type").and_then(Value::as_str) {
        Some("text") => part.get("text").and_then(Value::as_str),
        _ => None,
    }
}

/// What is compared by meaning: the last user turn, and the conversation before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Turns before the last one, system prompts left out (they belong to the scope).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Turn>,
    pub prompt: String,
}

impl Probe {
    /// As one text: a prompt without a conversation as it is, else one line for each turn with its role before it. The
    /// verifier was trained on this form (`models/verifier/prompts.py`).
    pub fn text(&self) -> Cow<'_, str> {
        if self.history.is_empty() {
            return Cow::Borrowed(&self.prompt);
        }
        let mut text = String::new();
        for turn in &self.history {
            text.push_str(turn.role.as_str());
            text.push_str(": ");
            text.push_str(turn.text.trim());
            text.push('\n');
        }
        text.push_str("user: ");
        text.push_str(self.prompt.trim());
        Cow::Owned(text)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    pub role: Role,
    pub text: String,
}

impl ChatRequest {
    /// A request with one user message and nothing else set.
    pub fn prompt(model: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(model, vec![Message::new(Role::User, text)])
    }

    pub fn new(model: impl Into<String>, messages: Vec<Message>) -> Self {
        Self {
            model: model.into(),
            messages,
            temperature: None,
            top_p: None,
            max_tokens: None,
            max_completion_tokens: None,
            stop: None,
            seed: None,
            presence_penalty: None,
            frequency_penalty: None,
            n: None,
            logprobs: None,
            response_format: None,
            tools: None,
            tool_choice: None,
            user: None,
            stream: None,
            stream_options: None,
            extra: Map::new(),
        }
    }

    /// The most tokens the answer may have, by whichever of its two names it was asked for.
    pub fn max_answer_tokens(&self) -> Option<u32> {
        match (self.max_tokens, self.max_completion_tokens) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    pub fn stop_sequences(&self) -> &[String] {
        self.stop.as_ref().map_or(&[], Stop::sequences)
    }

    pub fn has_tools(&self) -> bool {
        self.tools.as_ref().is_some_and(|t| !t.is_empty())
            || self.extra.get("functions").is_some_and(|f| f.as_array().is_some_and(|f| !f.is_empty()))
    }

    /// The probe, when the request can be compared by meaning at all: it ends in a user turn, and every turn is
    /// plain text without tool calls. An agent's tool result, an image or audio has none.
    pub fn probe(&self) -> Option<Probe> {
        let (last, before) = self.messages.split_last()?;
        if last.role != Role::User {
            return None;
        }
        let mut history = Vec::new();
        for message in before.iter().filter(|m| !m.role.is_system()) {
            if !matches!(message.role, Role::User | Role::Assistant) || message.extra.contains_key("tool_calls") {
                return None;
            }
            history.push(Turn { role: message.role, text: message.text()? });
        }
        let prompt = last.text()?;
        (!prompt.trim().is_empty()).then_some(Probe { history, prompt })
    }

    /// Checks what can be checked without knowing providers. `limits`: most messages, and most bytes of text in
    /// all of them together.
    pub fn validate(&self, max_messages: usize, max_prompt_bytes: usize) -> Result<()> {
        if self.messages.is_empty() {
            return Err(Error::invalid("messages", "must hold at least one message"));
        }
        if self.messages.len() > max_messages {
            let count = self.messages.len();
            return Err(Error::invalid("messages", format!("{count} messages; at most {max_messages} are allowed")));
        }
        let mut bytes = 0;
        for (i, message) in self.messages.iter().enumerate() {
            bytes += message.check(i)?;
        }
        if bytes > max_prompt_bytes {
            return Err(Error::invalid(
                "messages",
                format!("{bytes} bytes of content; at most {max_prompt_bytes} are allowed"),
            ));
        }
        in_range("temperature", self.temperature, 0.0, 2.0)?;
        in_range("top_p", self.top_p, 0.0, 1.0)?;
        in_range("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        in_range("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?;
        if self.max_answer_tokens() == Some(0) {
            return Err(Error::invalid("max_tokens", "must be at least 1"));
        }
        if self.n.is_some_and(|n| !(1..=128).contains(&n)) {
            return Err(Error::invalid("n", "must be from 1 to 128"));
        }
        if self.stop_sequences().iter().any(String::is_empty) {
            return Err(Error::invalid("stop", "a stop sequence must not be empty"));
        }
        Ok(())
    }
}

impl Message {
    /// Refuses an empty or malformed message; gives the bytes of its content.
    fn check(&self, index: usize) -> Result<usize> {
        let field = || format!("messages[{index}].content");
        match &self.content {
            Some(Content::Text(text)) if text.is_empty() && self.role == Role::User => {
                Err(Error::invalid(field(), "the prompt is empty"))
            }
            Some(Content::Text(text)) => Ok(text.len()),
            Some(Content::Parts(parts)) if parts.is_empty() => Err(Error::invalid(field(), "has no parts")),
            Some(Content::Parts(parts)) => {
                for (p, part) in parts.iter().enumerate() {
                    if part.get("type").and_then(Value::as_str).is_none() {
                        return Err(Error::invalid(format!("{}[{p}].type", field()), "every part needs a type"));
                    }
                }
                Ok(parts.iter().map(value_bytes).sum())
            }
            None if self.role == Role::User => Err(Error::invalid(field(), "a user message needs content")),
            None => Ok(0),
        }
    }
}

/// Bytes of the strings in a value: what a body of that shape weighs, near enough for a limit.
fn value_bytes(value: &Value) -> usize {
    match value {
        Value::String(s) => s.len(),
        Value::Array(items) => items.iter().map(value_bytes).sum(),
        Value::Object(map) => map.iter().map(|(k, v)| k.len() + value_bytes(v)).sum(),
        _ => 8,
    }
}

fn in_range(field: &'static str, value: Option<f64>, low: f64, high: f64) -> Result<()> {
    match value {
        Some(x) if !(low..=high).contains(&x) => {
            Err(Error::invalid(field, format!("{x} is out of range; expected {low} to {high}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request(body: Value) -> ChatRequest {
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn unknown_fields_survive_a_round_trip_at_every_level() {
        let body = json!({
            "model": "m", "reasoning_effort": "high", "stream_options": {"include_usage": true, "x": 1},
            "messages": [{"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": {"a": 1}}], "name": "bo"}],
        });
        assert_eq!(serde_json::to_value(request(body.clone())).unwrap(), body);
    }

    #[test]
    fn probe_is_the_last_user_turn_with_its_history() {
        let r = request(json!({"model": "m", "messages": [
            {"role": "system", "content": "be brief"}, {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]}));
        let probe = r.probe().unwrap();
        assert_eq!(probe.prompt, "c");
        assert_eq!(probe.history.iter().map(|t| t.text.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn tool_results_images_and_blank_prompts_have_no_probe() {
        let tool = json!([{"role": "user", "content": "a"}, {"role": "tool", "content": "42", "tool_call_id": "x"}]);
        let after_tool = json!([{"role": "tool", "content": "42"}, {"role": "user", "content": "so?"}]);
        let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]);
        let blank = json!([{"role": "user", "content": "  \n"}]);
        for messages in [tool, after_tool, image, blank] {
            assert_eq!(request(json!({"model": "m", "messages": messages})).probe(), None, "{messages}");
        }
    }

    #[test]
    fn validation_names_the_field() {
        let limits = |r: &ChatRequest| r.validate(4, 64).unwrap_err().violations[0].field.clone();
        assert_eq!(limits(&ChatRequest::new("m", vec![])), "messages");
        assert_eq!(limits(&ChatRequest::prompt("m", "")), "messages[0].content");
        assert_eq!(limits(&ChatRequest::prompt("m", "x".repeat(65))), "messages");
        assert_eq!(limits(&ChatRequest::new("m", vec![Message::new(Role::User, "a"); 5])), "messages");
        let mut hot = ChatRequest::prompt("m", "a");
        hot.temperature = Some(f64::NAN);
        assert_eq!(limits(&hot), "temperature");
    }
}
