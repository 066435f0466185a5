//! What a provider answers: whole, or as a stream of deltas that an [`Assembler`] folds into the same whole.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A whole answer, in the shape of an OpenAI chat completion.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Answer {
    /// The model that answered, as the provider named it.
    pub model: String,
    pub choices: Vec<Choice>,
    pub usage: Usage,
    /// Top-level response fields Reprise does not know (`system_fingerprint`, `service_tier`…).
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub extra: Map<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Choice {
    pub index: u32,
    pub message: AssistantMessage,
    pub finish: FinishReason,
    /// Choice fields Reprise does not know (`logprobs`…).
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub extra: Map<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct AssistantMessage {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// OpenAI tool calls, as they came.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<Value>,
    /// Message fields Reprise does not know (`refusal`, `reasoning_content`, `annotations`…).
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub extra: Map<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    Stop,
    /// The token limit cut the answer off.
    Length,
    ToolCalls,
    ContentFilter,
    /// The stream ended without a reason: the answer is not known to be whole.
    #[default]
    Missing,
    /// Something else the provider said.
    #[serde(untagged)]
    Other(String),
}

impl FinishReason {
    pub fn as_str(&self) -> &str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
            Self::ContentFilter => "content_filter",
            Self::Other(text) => text,
            Self::Missing => "missing",
        }
    }
}

impl From<&str> for FinishReason {
    fn from(text: &str) -> Self {
        match text {
            "stop" => Self::Stop,
            "length" => Self::Length,
            "tool_calls" => Self::ToolCalls,
            "content_filter" => Self::ContentFilter,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// Tokens of one request and its answer.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Usage {
    #[serde(default)]
    pub prompt_tokens: u64,
    #[serde(default)]
    pub completion_tokens: u64,
    /// Details Reprise does not know (`prompt_tokens_details`…).
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Usage {
    pub fn new(prompt_tokens: u64, completion_tokens: u64) -> Self {
        Self { prompt_tokens, completion_tokens, extra: Map::new() }
    }

    pub fn total_tokens(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }
}

/// One piece of a streamed answer. Every field but `choice` may be absent.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Delta {
    /// Index of the choice it belongs to.
    pub choice: u32,
    pub model: Option<String>,
    pub content: Option<String>,
    /// Fragments in OpenAI's form: `index` names the call, `function.arguments` is to be appended.
    pub tool_calls: Vec<Value>,
    pub finish: Option<FinishReason>,
    /// Sent once, with or after the last delta.
    pub usage: Option<Usage>,
    /// Unknown fields of the delta (`refusal`, `reasoning_content`…): strings are appended, others replaced.
    pub message_extra: Map<String, Value>,
    /// Unknown fields of the choice.
    pub choice_extra: Map<String, Value>,
    /// Unknown fields of the chunk; each chunk repeats them whole.
    pub extra: Map<String, Value>,
}

impl Delta {
    pub fn text(content: impl Into<String>) -> Self {
        Self { content: Some(content.into()), ..Self::default() }
    }
}

impl Answer {
    /// An answer of plain text, as most are.
    pub fn text(model: impl Into<String>, content: impl Into<String>, usage: Usage) -> Self {
        let message = AssistantMessage { content: Some(content.into()), ..AssistantMessage::default() };
        Self {
            model: model.into(),
            choices: vec![Choice { message, finish: FinishReason::Stop, ..Choice::default() }],
            usage,
            extra: Map::new(),
        }
    }

    /// Text of the first choice; empty when it only calls tools.
    pub fn content(&self) -> &str {
        self.choices.first().and_then(|c| c.message.content.as_deref()).unwrap_or_default()
    }

    /// Why the first choice ended.
    pub fn finish(&self) -> &FinishReason {
        self.choices.first().map_or(&FinishReason::Missing, |c| &c.finish)
    }
}

/// Folds deltas into the answer they spell.
#[derive(Debug, Default)]
pub struct Assembler {
    answer: Answer,
}

impl Assembler {
    pub fn push(&mut self, delta: &Delta) {
        if let Some(model) = &delta.model {
            self.answer.model.clone_from(model);
        }
        if let Some(usage) = &delta.usage {
            self.answer.usage = usage.clone();
        }
        // Every chunk repeats these whole.
        self.answer.extra.extend(delta.extra.iter().map(|(k, v)| (k.clone(), v.clone())));
        let says_nothing = delta.content.is_none()
            && delta.tool_calls.is_empty()
            && delta.finish.is_none()
            && delta.message_extra.is_empty()
            && delta.choice_extra.is_empty();
        if says_nothing {
            return;
        }
        let choice = self.choice(delta.choice);
        if let Some(text) = &delta.content {
            choice.message.content.get_or_insert_default().push_str(text);
        }
        for fragment in &delta.tool_calls {
            push_tool_call(&mut choice.message.tool_calls, fragment);
        }
        if let Some(finish) = &delta.finish {
            choice.finish = finish.clone();
        }
        merge(&mut choice.message.extra, &delta.message_extra);
        merge(&mut choice.extra, &delta.choice_extra);
    }

    /// The answer so far; whole when every choice has a finish reason.
    pub fn finish(mut self) -> Answer {
        // Only fragments have an index; the calls of a whole answer stand in order.
        for call in self.answer.choices.iter_mut().flat_map(|c| &mut c.message.tool_calls) {
            call.as_object_mut().map(|call| call.shift_remove("index"));
        }
        self.answer
    }

    fn choice(&mut self, index: u32) -> &mut Choice {
        let at = match self.answer.choices.iter().position(|c| c.index >= index) {
            Some(at) if self.answer.choices[at].index == index => at,
            place => {
                let at = place.unwrap_or(self.answer.choices.len());
                self.answer.choices.insert(at, Choice { index, ..Choice::default() });
                at
            }
        };
        &mut self.answer.choices[at]
    }
}

/// Strings and arrays are appended, objects merged, anything else replaced: OpenAI's own rule for chunks. An empty text
/// says nothing: some servers repeat `"id": ""` and `"name": ""` in every fragment after the first.
fn merge(into: &mut Map<String, Value>, from: &Map<String, Value>) {
    for (key, value) in from {
        match (into.get_mut(key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => merge(old, new),
            (Some(Value::Array(old)), Value::Array(new)) => old.extend(new.iter().cloned()),
            (Some(Value::String(old)), Value::String(new)) if appends(key) => old.push_str(new),
            (Some(Value::String(_)), Value::String(new)) if new.is_empty() => {}
            (Some(_), Value::Null) => {}
            _ => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}

/// Names and ids are sent whole with every chunk; everything else that is text comes in pieces.
fn appends(key: &str) -> bool {
    !matches!(key, "id" | "type" | "name" | "role" | "system_fingerprint" | "service_tier" | "object")
}

/// A fragment belongs to the call that has its index, or else its id; one that has neither to the last call.
fn push_tool_call(calls: &mut Vec<Value>, fragment: &Value) {
    let Value::Object(fragment) = fragment else { return };
    let says = |value: &&Value| !value.is_null() && value.as_str() != Some("");
    let told = ["index", "id"].into_iter().find_map(|key| Some((key, fragment.get(key).filter(says)?)));
    let mut open = calls.iter_mut().filter_map(Value::as_object_mut);
    let found = match told {
        Some((key, value)) => open.find(|call| call.get(key) == Some(value)),
        None => open.next_back(),
    };
    match found {
        Some(call) => merge(call, fragment),
        None => calls.push(Value::Object(fragment.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn assemble(deltas: &[Delta]) -> Answer {
        let mut assembler = Assembler::default();
        deltas.iter().for_each(|d| assembler.push(d));
        assembler.finish()
    }

    #[test]
    fn text_deltas_spell_the_whole_answer() {
        let answer = assemble(&[
            Delta { model: Some("m".into()), ..Delta::text("Hel") },
            Delta { finish: Some(FinishReason::Stop), ..Delta::text("lo") },
            Delta { usage: Some(Usage::new(3, 2)), ..Delta::default() },
        ]);
        assert_eq!(answer, Answer::text("m", "Hello", Usage::new(3, 2)));
    }

    #[test]
    fn a_stream_cut_short_is_not_whole() {
        assert_eq!(*assemble(&[Delta::text("Hel")]).finish(), FinishReason::Missing);
        assert_eq!(*assemble(&[]).finish(), FinishReason::Missing);
    }

    #[test]
    fn tool_call_fragments_join_by_index() {
        let fragment = |v: Value| Delta { tool_calls: vec![v], ..Delta::default() };
        let answer = assemble(&[
            fragment(
                json!({"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\""}}),
            ),
            fragment(json!({"index": 1, "id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}})),
            fragment(json!({"index": 0, "function": {"arguments": ":1}"}})),
        ]);
        let calls = &answer.choices[0].message.tool_calls;
        assert_eq!(calls.len(), 2);
        assert_eq!(calls[0]["function"], json!({"name": "f", "arguments": "{\"a\":1}"}));
        assert_eq!(calls[0]["id"], "c1");
        assert_eq!(calls[0].get("index"), None);
    }

    #[test]
    fn tool_call_fragments_without_an_index_join_by_id_or_go_to_the_last() {
        let fragment = |v: Value| Delta { tool_calls: vec![v], ..Delta::default() };
        let answer = assemble(&[
            fragment(json!({"id": "c1", "function": {"name": "f", "arguments": "{"}})),
            fragment(json!({"id": "c2", "function": {"name": "g", "arguments": "{"}})),
            fragment(json!({"function": {"arguments": "}"}})),
            fragment(json!({"id": "c1", "function": {"arguments": "}"}})),
        ]);
        let call = |id: &str, name: &str| json!({"id": id, "function": {"name": name, "arguments": "{}"}});
        assert_eq!(answer.choices[0].message.tool_calls, [call("c1", "f"), call("c2", "g")]);
    }

    #[test]
    fn an_empty_id_or_name_in_a_later_fragment_says_nothing() {
        let fragment = |v: Value| Delta { tool_calls: vec![v], ..Delta::default() };
        let first = json!({"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{"}});
        let rest = json!({"id": "", "type": "", "function": {"name": "", "arguments": "}"}});
        let whole = json!({"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}});
        let numbered = |mut v: Value| {
            v["index"] = json!(0);
            fragment(v)
        };
        for deltas in
            [[numbered(first.clone()), numbered(rest.clone())], [fragment(first.clone()), fragment(rest.clone())]]
        {
            assert_eq!(assemble(&deltas).choices[0].message.tool_calls, std::slice::from_ref(&whole));
        }
        let late = [json!({"id": "", "function": {"name": ""}}), first, json!({"function": {"arguments": "}"}})];
        assert_eq!(assemble(&late.map(numbered)).choices[0].message.tool_calls, [whole]);
    }

    #[test]
    fn fields_that_every_chunk_repeats_are_kept_once() {
        let chunk = || Delta {
            extra: Map::from_iter([("provider".to_owned(), json!("one"))]),
            message_extra: Map::from_iter([("reasoning_content".to_owned(), json!("hm"))]),
            ..Delta::text("a")
        };
        let answer = assemble(&[chunk(), chunk()]);
        assert_eq!(answer.extra["provider"], "one");
        assert_eq!(answer.choices[0].message.extra["reasoning_content"], "hmhm");
    }

    #[test]
    fn choices_stay_apart_and_in_order() {
        let answer = assemble(&[Delta { choice: 1, ..Delta::text("b") }, Delta::text("a")]);
        let texts: Vec<_> = answer.choices.iter().map(|c| c.message.content.as_deref().unwrap()).collect();
        assert_eq!(texts, ["a", "b"]);
    }
}
