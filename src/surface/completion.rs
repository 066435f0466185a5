//! An [`Answer`] in the shape of an OpenAI chat completion, and back. Fields Reprise does not know stand at the level
//! where they came.

use serde_json::{Map, Value, json};

use super::body::{from_json, object};
use crate::types::{Answer, AssistantMessage, Choice, Error, FinishReason, Result, Usage};

/// `model`, `choices`, `usage` and the unknown fields: all of a completion but `id`, `object` and `created`.
pub fn render_answer(answer: &Answer) -> Map<String, Value> {
    let mut out = Map::new();
    out.insert("model".into(), answer.model.clone().into());
    out.insert("choices".into(), answer.choices.iter().map(render_choice).collect());
    out.insert("usage".into(), render_usage(&answer.usage));
    add_unknown(&mut out, &answer.extra);
    out
}

pub fn render_usage(usage: &Usage) -> Value {
    let mut out = Map::new();
    out.insert("prompt_tokens".into(), usage.prompt_tokens.into());
    out.insert("completion_tokens".into(), usage.completion_tokens.into());
    out.insert("total_tokens".into(), usage.total_tokens().into());
    add_unknown(&mut out, &usage.extra);
    Value::Object(out)
}

/// Whether an answer says no more than the text of its one choice, why it ended, its model and its token counts.
pub fn is_plain(answer: &Answer) -> bool {
    let plain_choice = |choice: &Choice| {
        let message = &choice.message;
        choice.index == 0
            && choice.extra.is_empty()
            && message.content.is_some()
            && message.tool_calls.is_empty()
            && message.extra.is_empty()
    };
    answer.extra.is_empty() && answer.usage.extra.is_empty() && matches!(&*answer.choices, [one] if plain_choice(one))
}

/// Reads a chat completion; `id`, `object` and `created` are left out, as each reply gets its own.
pub fn parse_answer(completion: Value) -> Result<Answer> {
    let mut top = object(completion).map_err(|why| Error::invalid("", why))?;
    for own in ["id", "object", "created"] {
        top.shift_remove(own);
    }
    let model = text(&mut top, "model", "")?.unwrap_or_default();
    let choices = match top.shift_remove("choices") {
        Some(Value::Array(choices)) if !choices.is_empty() => choices,
        _ => return Err(Error::invalid("choices", "expected a list with at least one choice")),
    };
    let choices = choices.into_iter().enumerate().map(|(i, c)| parse_choice(i, c)).collect::<Result<Vec<_>>>()?;
    let usage = match top.shift_remove("usage") {
        None | Some(Value::Null) => Usage::default(),
        Some(usage) => parse_usage(usage)?,
    };
    Ok(Answer { model, choices, usage, extra: top })
}

fn render_choice(choice: &Choice) -> Value {
    let mut message = Map::new();
    message.insert("role".into(), "assistant".into());
    message.insert("content".into(), choice.message.content.clone().into());
    if !choice.message.tool_calls.is_empty() {
        message.insert("tool_calls".into(), choice.message.tool_calls.clone().into());
    }
    add_unknown(&mut message, &choice.message.extra);
    let mut out = Map::new();
    out.insert("index".into(), choice.index.into());
    out.insert("message".into(), Value::Object(message));
    out.insert("finish_reason".into(), finish_reason(&choice.finish));
    add_unknown(&mut out, &choice.extra);
    out.entry("logprobs").or_insert(Value::Null);
    Value::Object(out)
}

/// The finish reason as OpenAI writes it; `null` when there was none.
pub fn finish_reason(reason: &FinishReason) -> Value {
    match reason {
        FinishReason::Missing => Value::Null,
        known => known.as_str().into(),
    }
}

/// Unknown fields never replace one that is written here.
pub fn add_unknown(out: &mut Map<String, Value>, unknown: &Map<String, Value>) {
    for (key, value) in unknown {
        if !out.contains_key(key) {
            out.insert(key.clone(), value.clone());
        }
    }
}

fn parse_choice(position: usize, choice: Value) -> Result<Choice> {
    let at = format!("choices[{position}]");
    let mut choice = object(choice).map_err(|why| Error::invalid(&at, why))?;
    let index = match choice.shift_remove("index") {
        None => u32::try_from(position).ok(),
        Some(index) => index.as_u64().and_then(|i| u32::try_from(i).ok()),
    };
    let index = index.ok_or_else(|| Error::invalid(format!("{at}.index"), "expected a small number"))?;
    let finish = text(&mut choice, "finish_reason", &at)?.map_or(FinishReason::Missing, |f| f.as_str().into());
    let message = choice.shift_remove("message").unwrap_or(Value::Null);
    let at = format!("{at}.message");
    let mut message = object(message).map_err(|why| Error::invalid(&at, why))?;
    if text(&mut message, "role", &at)?.is_some_and(|role| role != "assistant") {
        return Err(Error::invalid(format!("{at}.role"), "only the assistant answers"));
    }
    let content = text(&mut message, "content", &at)?;
    let tool_calls = match message.shift_remove("tool_calls") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(calls)) => calls,
        Some(_) => return Err(Error::invalid(format!("{at}.tool_calls"), "expected a list")),
    };
    if choice.get("logprobs").is_some_and(Value::is_null) {
        choice.shift_remove("logprobs");
    }
    Ok(Choice { index, message: AssistantMessage { content, tool_calls, extra: message }, finish, extra: choice })
}

fn parse_usage(usage: Value) -> Result<Usage> {
    let mut usage = object(usage).map_err(|why| Error::invalid("usage", why))?;
    usage.shift_remove("total_tokens");
    from_json(json!({ "usage": usage })).map(|Wrapped { usage }| usage)
}

/// Gives an error in `usage` its path.
#[derive(serde::Deserialize)]
struct Wrapped {
    usage: Usage,
}

/// Takes a text field out of an object; `None` when it is absent or null.
fn text(object: &mut Map<String, Value>, field: &str, at: &str) -> Result<Option<String>> {
    match object.shift_remove(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => {
            let separator = if at.is_empty() { "" } else { "." };
            Err(Error::invalid(format!("{at}{separator}{field}"), "expected a text"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_come_back_at_their_levels() {
        let completion = json!({
            "model": "m",
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": "hi", "refusal": null, "reasoning_content": "hm"},
                "finish_reason": "stop", "stop_sequence": 7, "logprobs": {"content": []}}],
            "usage": {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3,
                      "prompt_tokens_details": {"cached_tokens": 1}},
            "system_fingerprint": "fp",
        });
        let answer = parse_answer(completion.clone()).unwrap();
        assert_eq!(answer.content(), "hi");
        assert_eq!(Value::Object(render_answer(&answer)), completion);
        assert!(!is_plain(&answer));
    }

    #[test]
    fn a_plain_answer_has_every_field_clients_read() {
        let answer = Answer::text("m", "hi", Usage::new(2, 1));
        assert!(is_plain(&answer));
        assert_eq!(
            Value::Object(render_answer(&answer)),
            json!({
                "model": "m",
                "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"},
                             "finish_reason": "stop", "logprobs": null}],
                "usage": {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3},
            })
        );
    }

    #[test]
    fn tool_calls_keep_content_null() {
        let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}});
        let completion = json!({"model": "m", "choices": [{"message": {"content": null, "tool_calls": [call]},
                                                           "finish_reason": "tool_calls"}]});
        let answer = parse_answer(completion).unwrap();
        let message = &render_answer(&answer)["choices"][0]["message"];
        assert_eq!(message["content"], Value::Null);
        assert_eq!(message["tool_calls"][0]["id"], "c");
    }

    #[test]
    fn a_malformed_completion_names_its_field() {
        let message = json!({"content": "a"});
        for (completion, field) in [
            (json!({}), "choices"),
            (json!({"choices": []}), "choices"),
            (json!({"choices": [{}]}), "choices[0].message"),
            (json!({"choices": [{"message": {"content": 1}}]}), "choices[0].message.content"),
            (json!({"choices": [{"message": {"role": "user", "content": "a"}}]}), "choices[0].message.role"),
            (json!({"choices": [{"message": message, "index": -1}]}), "choices[0].index"),
            (json!({"choices": [{"message": message}], "usage": {"prompt_tokens": -1}}), "usage.prompt_tokens"),
            (json!({"choices": [{"message": message}], "model": 4}), "model"),
        ] {
            let error = parse_answer(completion.clone()).unwrap_err();
            assert_eq!(error.violations[0].field, field, "{completion}");
        }
    }
}
