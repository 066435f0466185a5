//! The OpenAI chat shape: a [`ChatRequest`] out, an [`Answer`] or [`Delta`]s in. Fields that are not known here are
//! kept in the `extra` map of their level.

use serde_json::{Map, Value, json};

use super::calls::Calls;
use crate::types::{Answer, AssistantMessage, ChatRequest, Choice, Delta, Error, FinishReason, Result, Usage};

type Parsed<T> = std::result::Result<T, String>;

/// The body of a request. `stream` is set to what is asked for here, whatever the caller's own request said.
pub fn request(request: &ChatRequest, stream: bool) -> Result<Value> {
    let body = serde_json::to_value(request);
    let mut body = body.map_err(|e| Error::internal("the request does not encode").with_source(e))?;
    let Some(fields) = body.as_object_mut() else { return Err(Error::internal("the request is not an object")) };
    if stream {
        fields.insert("stream".into(), json!(true));
        if let Value::Object(options) = fields.entry("stream_options").or_insert_with(|| json!({})) {
            options.entry("include_usage").or_insert(json!(true));
        }
    } else {
        // A stream asked of Reprise may well be answered from a whole answer.
        fields.shift_remove("stream_options");
        if let Some(asked) = fields.get_mut("stream") {
            *asked = json!(false);
        }
    }
    Ok(body)
}

/// A `chat.completion`.
pub fn answer(body: Value) -> Parsed<Answer> {
    let mut fields = object(body, "the answer")?;
    let choices = array(fields.shift_remove("choices"), "choices")?;
    if choices.is_empty() {
        return Err("it has no choices".into());
    }
    let choices = choices.into_iter().enumerate().map(|(i, c)| choice(c, i)).collect::<Parsed<_>>()?;
    let model = string(fields.shift_remove("model"));
    let usage = fields.shift_remove("usage").map_or(Ok(None), usage)?.unwrap_or_default();
    Ok(Answer { model, choices, usage, extra: envelope(fields) })
}

/// A `chat.completion.chunk`: one delta for each of its choices, or one without a choice's fields (the last
/// chunk of many servers holds nothing but usage). `calls` is that of its stream.
pub fn chunk(body: Value, calls: &mut Calls) -> Parsed<Vec<Delta>> {
    let mut fields = object(body, "a chunk")?;
    let choices = array(fields.shift_remove("choices"), "choices")?;
    let mut deltas = choices.into_iter().map(|c| delta(c, calls)).collect::<Parsed<Vec<_>>>()?;
    if deltas.is_empty() {
        deltas.push(Delta::default());
    }
    let model = Some(string(fields.shift_remove("model"))).filter(|m| !m.is_empty());
    let usage = fields.shift_remove("usage").map_or(Ok(None), usage)?;
    deltas[0].extra = envelope(fields);
    deltas[0].usage = usage;
    deltas[0].model = model;
    Ok(deltas)
}

/// The deltas that spell a whole answer: for servers that answer a streamed request in one piece.
pub fn deltas(answer: Answer) -> Vec<Delta> {
    let mut deltas: Vec<_> = answer.choices.into_iter().map(whole_delta).collect();
    if let Some(first) = deltas.first_mut() {
        first.model = Some(answer.model);
        first.extra = answer.extra;
    }
    if let Some(last) = deltas.last_mut() {
        last.usage = Some(answer.usage);
    }
    deltas
}

fn whole_delta(choice: Choice) -> Delta {
    let mut tool_calls = choice.message.tool_calls;
    for (i, call) in tool_calls.iter_mut().enumerate() {
        call.as_object_mut().map(|call| call.insert("index".into(), json!(i)));
    }
    Delta {
        choice: choice.index,
        content: choice.message.content,
        tool_calls,
        finish: Some(choice.finish).filter(|f| *f != FinishReason::Missing),
        message_extra: choice.message.extra,
        choice_extra: choice.extra,
        ..Delta::default()
    }
}

fn choice(body: Value, place: usize) -> Parsed<Choice> {
    let mut fields = object(body, "a choice")?;
    let mut message = object(fields.shift_remove("message").unwrap_or_default(), "message")?;
    message.shift_remove("role");
    let content = content(message.shift_remove("content"))?;
    let tool_calls = array(message.shift_remove("tool_calls"), "tool_calls")?;
    let index = index(fields.shift_remove("index")).unwrap_or(place as u32);
    let finish = finish(fields.shift_remove("finish_reason")).unwrap_or_default();
    Ok(Choice { index, message: AssistantMessage { content, tool_calls, extra: message }, finish, extra: fields })
}

fn delta(body: Value, calls: &mut Calls) -> Parsed<Delta> {
    let mut fields = object(body, "a choice")?;
    let mut delta = match fields.shift_remove("delta") {
        None | Some(Value::Null) => Map::new(),
        Some(delta) => object(delta, "delta")?,
    };
    delta.shift_remove("role");
    let mut tool_calls = array(delta.shift_remove("tool_calls"), "tool_calls")?;
    let choice = index(fields.shift_remove("index")).unwrap_or(0);
    calls.number(choice, &mut tool_calls);
    Ok(Delta {
        choice,
        content: content(delta.shift_remove("content"))?,
        tool_calls,
        finish: finish(fields.shift_remove("finish_reason")),
        message_extra: delta,
        choice_extra: fields,
        ..Delta::default()
    })
}

/// What every answer has of its own and no cached one may repeat goes; the rest stays.
fn envelope(mut fields: Map<String, Value>) -> Map<String, Value> {
    for own in ["id", "object", "created"] {
        fields.shift_remove(own);
    }
    fields
}

/// `null` in every chunk but the last, on most servers.
fn usage(body: Value) -> Parsed<Option<Usage>> {
    if body.is_null() {
        return Ok(None);
    }
    let mut usage: Usage = serde_json::from_value(body).map_err(|e| format!("its usage is malformed: {e}"))?;
    if usage.extra.get("total_tokens").and_then(Value::as_u64) == Some(usage.total_tokens()) {
        // It follows from the other two, and is kept only where a provider counts otherwise.
        usage.extra.shift_remove("total_tokens");
    }
    Ok(Some(usage))
}

/// Text, or text parts joined (some servers answer in parts). Parts of another kind are refused: they would be lost.
fn content(value: Option<Value>) -> Parsed<Option<String>> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Array(parts)) => {
            let text = |part: &Value| match part.get("type").and_then(Value::as_str) {
                Some("text") => part.get("text").and_then(Value::as_str).map(str::to_owned),
                _ => None,
            };
            let texts: Option<Vec<_>> = parts.iter().map(text).collect();
            texts.map(|t| Some(t.concat())).ok_or_else(|| "its content has parts other than text".into())
        }
        Some(_) => Err("its content is neither text nor parts".into()),
    }
}

fn finish(value: Option<Value>) -> Option<FinishReason> {
    value?.as_str().map(FinishReason::from)
}

fn index(value: Option<Value>) -> Option<u32> {
    value?.as_u64().and_then(|i| u32::try_from(i).ok())
}

fn string(value: Option<Value>) -> String {
    match value {
        Some(Value::String(text)) => text,
        _ => String::new(),
    }
}

fn object(value: Value, what: &str) -> Parsed<Map<String, Value>> {
    match value {
        Value::Object(map) => Ok(map),
        _ => Err(format!("{what} is not an object")),
    }
}

fn array(value: Option<Value>, what: &str) -> Parsed<Vec<Value>> {
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err(format!("{what} is not a list")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Assembler;

    fn chat(body: Value) -> ChatRequest {
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn a_streamed_request_asks_for_usage_unless_the_caller_said() {
        let bare = json!({"model": "m", "messages": [{"role": "user", "content": "a"}], "reasoning_effort": "low"});
        let mut expected = bare.clone();
        assert_eq!(request(&chat(bare.clone()), false).unwrap(), bare);
        expected["stream"] = json!(true);
        expected["stream_options"] = json!({"include_usage": true});
        assert_eq!(request(&chat(bare.clone()), true).unwrap(), expected);

        let mut said = bare.clone();
        said["stream_options"] = json!({"include_usage": false, "include_obfuscation": false});
        assert_eq!(request(&chat(said.clone()), true).unwrap()["stream_options"], said["stream_options"]);
        said["stream_options"] = json!({"include_obfuscation": false});
        let sent = request(&chat(said), true).unwrap();
        assert_eq!(sent["stream_options"], json!({"include_obfuscation": false, "include_usage": true}));
    }

    #[test]
    fn a_plain_request_never_asks_for_a_stream() {
        let asked = json!({"model": "m", "messages": [], "stream": true, "stream_options": {"include_usage": true}});
        assert_eq!(request(&chat(asked), false).unwrap(), json!({"model": "m", "messages": [], "stream": false}));
    }

    #[test]
    fn unknown_fields_of_an_answer_stay_at_their_level() {
        let parsed = answer(json!({
            "id": "c1", "object": "chat.completion", "created": 1, "model": "m-1", "system_fingerprint": "fp",
            "choices": [{"index": 0, "finish_reason": "stop", "logprobs": null, "score": 1,
                "message": {"role": "assistant", "content": "hi", "refusal": null, "annotations": []}}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4,
                "prompt_tokens_details": {"cached_tokens": 2}},
        }))
        .unwrap();
        let maps = [&parsed.extra, &parsed.choices[0].extra, &parsed.choices[0].message.extra, &parsed.usage.extra];
        assert_eq!(
            maps.map(|m| Value::Object(m.clone())),
            [
                json!({"system_fingerprint": "fp"}),
                json!({"logprobs": null, "score": 1}),
                json!({"refusal": null, "annotations": []}),
                json!({"prompt_tokens_details": {"cached_tokens": 2}}),
            ]
        );
        assert_eq!((parsed.model.as_str(), parsed.content(), parsed.usage.total_tokens()), ("m-1", "hi", 4));
    }

    #[test]
    fn a_usage_only_chunk_has_no_choice() {
        let body = json!({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}});
        let deltas = chunk(body, &mut Calls::default()).unwrap();
        assert_eq!(deltas, [Delta { usage: Some(Usage::new(1, 2)), ..Delta::default() }]);
    }

    #[test]
    fn choices_of_one_chunk_become_deltas_of_their_own() {
        let body = json!({"model": "m", "x": 1, "choices": [
            {"index": 1, "delta": {"content": "b"}}, {"index": 0, "delta": {"content": "a"}, "finish_reason": "length"}]});
        let deltas = chunk(body, &mut Calls::default()).unwrap();
        assert_eq!(
            deltas.iter().map(|d| (d.choice, d.content.as_deref())).collect::<Vec<_>>(),
            [(1, Some("b")), (0, Some("a"))]
        );
        assert_eq!(deltas[1].finish, Some(FinishReason::Length));
        assert_eq!((deltas[0].extra.len(), deltas[1].extra.len()), (1, 0));
    }

    #[test]
    fn a_whole_answer_survives_being_told_as_deltas() {
        let whole = answer(json!({"model": "m", "x": [1], "choices": [
            {"index": 0, "message": {"content": null, "y": 2, "tool_calls": [{"id": "a"}, {"id": "b"}]},
             "finish_reason": "tool_calls", "z": 3},
            {"index": 1, "message": {"content": "t"}, "finish_reason": null}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 2}}))
        .unwrap();
        let mut assembler = Assembler::default();
        deltas(whole.clone()).iter().for_each(|d| assembler.push(d));
        assert_eq!(assembler.finish(), whole);
    }

    #[test]
    fn parallel_tool_calls_without_an_index_stay_apart() {
        let call = |id: &str, name: &str| json!([{"id": id, "type": "function", "function": {"name": name, "arguments": "{\"a\":"}}]);
        let rest = json!([{"function": {"arguments": "1}"}}]);
        let (mut calls, mut assembler) = (Calls::default(), Assembler::default());
        for tool_calls in [call("a", "f"), rest.clone(), call("b", "g"), rest] {
            let body = json!({"choices": [{"index": 0, "delta": {"tool_calls": tool_calls}}]});
            chunk(body, &mut calls).unwrap().iter().for_each(|d| assembler.push(d));
        }
        let whole = |id: &str, name: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": "{\"a\":1}"}});
        assert_eq!(assembler.finish().choices[0].message.tool_calls, [whole("a", "f"), whole("b", "g")]);
    }

    #[test]
    fn malformed_answers_say_what_is_wrong() {
        assert_eq!(answer(json!([])).unwrap_err(), "the answer is not an object");
        assert_eq!(answer(json!({"choices": []})).unwrap_err(), "it has no choices");
        assert_eq!(answer(json!({"choices": {}})).unwrap_err(), "choices is not a list");
        let audio = json!({"choices": [{"message": {"content": [{"type": "audio"}]}}]});
        assert_eq!(answer(audio).unwrap_err(), "its content has parts other than text");
        assert!(chunk(json!({"choices": [{"delta": 3}]}), &mut Calls::default()).is_err());
    }
}
