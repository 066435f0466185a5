//! From an OpenAI-shaped request to a Messages one: <https://docs.anthropic.com/en/api/messages>.

use serde_json::{Map, Value, json};

use crate::types::{ChatRequest, Content, Error, Message, Result, Role};

/// `max_tokens` must be sent; this is what is asked for when the caller names none.
const DEFAULT_MAX_TOKENS: u32 = 4096;

/// The request's body, without `stream`. What cannot be expressed is an `InvalidArgument` that names the field.
pub fn convert(request: &ChatRequest) -> Result<Value> {
    refuse_inexpressible(request)?;
    let mut body = Map::new();
    body.insert("model".into(), json!(request.model));
    body.insert("max_tokens".into(), json!(request.max_answer_tokens().unwrap_or(DEFAULT_MAX_TOKENS)));
    if let Some(system) = system(&request.messages)? {
        body.insert("system".into(), system);
    }
    body.insert("messages".into(), Value::Array(messages(&request.messages)?));
    let optional = [
        ("temperature", request.temperature.map(|t| json!(t))),
        ("top_p", request.top_p.map(|p| json!(p))),
        ("stop_sequences", request.stop.as_ref().map(|s| json!(s.sequences()))),
        ("metadata", request.user.as_ref().map(|user| json!({"user_id": user}))),
        ("tools", request.tools.as_ref().map(|t| t.iter().enumerate().map(tool).collect()).transpose()?),
        ("tool_choice", tool_choice(request)?),
    ];
    for (name, value) in optional {
        value.map(|v| body.insert(name.into(), v));
    }
    for (name, value) in &request.extra {
        // Fields of the Messages API itself (`thinking`, `top_k`, `metadata`…), or ones it will refuse in its own words.
        if name != "parallel_tool_calls" {
            body.insert(name.clone(), value.clone());
        }
    }
    Ok(Value::Object(body))
}

fn refuse_inexpressible(request: &ChatRequest) -> Result<()> {
    let refuse = |field: &str, what: &str| Err(Error::invalid(field, format!("Anthropic's API has no {what}")));
    if request.n.is_some_and(|n| n > 1) {
        return refuse("n", "way to ask for several choices");
    }
    if request.logprobs == Some(true) || request.extra.contains_key("top_logprobs") {
        return refuse("logprobs", "log probabilities");
    }
    if request.presence_penalty.is_some_and(|p| p != 0.0) {
        return refuse("presence_penalty", "penalties");
    }
    if request.frequency_penalty.is_some_and(|p| p != 0.0) {
        return refuse("frequency_penalty", "penalties");
    }
    if request.temperature.is_some_and(|t| t > 1.0) {
        return refuse("temperature", "temperature above 1");
    }
    let format = request.response_format.as_ref().and_then(|f| f.get("type")).and_then(Value::as_str);
    if format.is_some_and(|f| f != "text") {
        return refuse("response_format", "response format but text");
    }
    for (field, what) in [
        ("logit_bias", "logit bias"),
        ("functions", "functions in OpenAI's older form; use tools"),
        ("function_call", "functions in OpenAI's older form; use tool_choice"),
        ("audio", "audio"),
    ] {
        if request.extra.get(field).is_some_and(|v| !v.is_null()) {
            return refuse(field, what);
        }
    }
    Ok(())
}

/// System prompts joined in order: as text, or as blocks when any of them came in parts (they may carry
/// `cache_control`).
fn system(messages: &[Message]) -> Result<Option<Value>> {
    let mut blocks = Vec::new();
    let mut in_parts = false;
    for (i, message) in messages.iter().enumerate().filter(|(_, m)| m.role.is_system()) {
        in_parts |= matches!(message.content, Some(Content::Parts(_)));
        let of_message = content_blocks(i, message)?;
        if of_message.iter().any(|b| b["type"] != "text") {
            return Err(Error::invalid(format!("messages[{i}].content"), "a system prompt can only hold text"));
        }
        blocks.extend(of_message);
    }
    Ok(match (blocks.is_empty(), in_parts) {
        (true, _) => None,
        (false, true) => Some(Value::Array(blocks)),
        (false, false) => {
            let texts: Vec<_> = blocks.iter().filter_map(|b| b["text"].as_str()).collect();
            Some(json!(texts.join("\n\n")))
        }
    })
}

/// Turns of user and assistant in alternation: neighbours of one role are merged, and tool results are part of the
/// user's turn.
fn messages(messages: &[Message]) -> Result<Vec<Value>> {
    let mut turns: Vec<(&str, Vec<Value>)> = Vec::new();
    for (i, message) in messages.iter().enumerate() {
        let (role, blocks) = match message.role {
            Role::System | Role::Developer => continue,
            Role::User => ("user", content_blocks(i, message)?),
            Role::Assistant => ("assistant", assistant_blocks(i, message)?),
            Role::Tool => ("user", vec![tool_result(i, message)?]),
            Role::Function => {
                let what = "Anthropic's API has no functions in OpenAI's older form; use the role tool";
                return Err(Error::invalid(format!("messages[{i}].role"), what));
            }
        };
        match turns.last_mut() {
            Some((last, before)) if *last == role => before.extend(blocks),
            _ => turns.push((role, blocks)),
        }
    }
    turns.retain(|(_, blocks)| !blocks.is_empty());
    Ok(turns.into_iter().map(|(role, blocks)| json!({"role": role, "content": blocks})).collect())
}

/// Thinking of an earlier answer comes back as it was given (its signature is checked), then text, then tool calls.
fn assistant_blocks(index: usize, message: &Message) -> Result<Vec<Value>> {
    let mut blocks = Vec::new();
    if let Some(thinking) = message.extra.get("thinking_blocks").and_then(Value::as_array) {
        blocks.extend(thinking.iter().cloned());
    }
    blocks.extend(content_blocks(index, message)?);
    let calls = message.extra.get("tool_calls").and_then(Value::as_array);
    for (c, call) in calls.into_iter().flatten().enumerate() {
        let field = |name: &str| format!("messages[{index}].tool_calls[{c}].{name}");
        let text = |path: &str| call.pointer(path).and_then(Value::as_str);
        let name = text("/function/name").ok_or_else(|| Error::invalid(field("function.name"), "is missing"))?;
        let id = text("/id").ok_or_else(|| Error::invalid(field("id"), "is missing"))?;
        let input = match text("/function/arguments").unwrap_or_default().trim() {
            "" => json!({}),
            arguments => serde_json::from_str(arguments)
                .map_err(|e| Error::invalid(field("function.arguments"), format!("not valid JSON: {e}")))?,
        };
        blocks.push(json!({"type": "tool_use", "id": id, "name": name, "input": input}));
    }
    Ok(blocks)
}

fn tool_result(index: usize, message: &Message) -> Result<Value> {
    let id = message.extra.get("tool_call_id").and_then(Value::as_str);
    let id = id.ok_or_else(|| Error::invalid(format!("messages[{index}].tool_call_id"), "is missing"))?;
    Ok(json!({"type": "tool_result", "tool_use_id": id, "content": content_blocks(index, message)?}))
}

/// Empty texts are left out: the Messages API refuses them.
fn content_blocks(index: usize, message: &Message) -> Result<Vec<Value>> {
    let blocks = match &message.content {
        None => Vec::new(),
        Some(Content::Text(text)) => vec![json!({"type": "text", "text": text})],
        Some(Content::Parts(parts)) => {
            let block = |(p, part): (usize, &Value)| {
                block(part).map_err(|what| Error::invalid(format!("messages[{index}].content[{p}]"), what))
            };
            parts.iter().enumerate().map(block).collect::<Result<_>>()?
        }
    };
    Ok(blocks.into_iter().filter(|b: &Value| b["type"] != "text" || b["text"] != "").collect())
}

fn block(part: &Value) -> std::result::Result<Value, String> {
    let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
    match kind {
        // As it came: it may carry `cache_control`. The others are in Anthropic's own form already.
        "text" | "image" | "document" => Ok(part.clone()),
        "image_url" => {
            let url = part.pointer("/image_url/url").and_then(Value::as_str).ok_or("image_url.url is missing")?;
            Ok(json!({"type": "image", "source": source(url)?}))
        }
        "file" => {
            let data = part.pointer("/file/file_data").and_then(Value::as_str);
            let data = data.ok_or("only files with file_data can be sent to Anthropic's API")?;
            Ok(json!({"type": "document", "source": source(data)?}))
        }
        _ => Err(format!("Anthropic's API has no content of type {kind:?}")),
    }
}

/// `data:<media type>;base64,<data>`, or a link.
fn source(url: &str) -> std::result::Result<Value, String> {
    let Some(data) = url.strip_prefix("data:") else { return Ok(json!({"type": "url", "url": url})) };
    match data.split_once(";base64,") {
        Some((media, data)) if !media.is_empty() => Ok(json!({"type": "base64", "media_type": media, "data": data})),
        _ => Err("the data URL is not of the form data:<media type>;base64,<data>".into()),
    }
}

/// A function becomes a tool; a tool of another type is Anthropic's own (`web_search_…`) and passes as it is.
fn tool((index, tool): (usize, &Value)) -> Result<Value> {
    if tool.get("type").and_then(Value::as_str) != Some("function") {
        return Ok(tool.clone());
    }
    let field = |name: &str| format!("tools[{index}].{name}");
    let function = tool.get("function").and_then(Value::as_object);
    let function = function.ok_or_else(|| Error::invalid(field("function"), "is missing"))?;
    let name = function.get("name").ok_or_else(|| Error::invalid(field("function.name"), "is missing"))?;
    let schema = function.get("parameters").filter(|p| !p.is_null()).cloned();
    let mut converted = Map::new();
    converted.insert("name".into(), name.clone());
    if let Some(description) = function.get("description").filter(|d| !d.is_null()) {
        converted.insert("description".into(), description.clone());
    }
    converted.insert("input_schema".into(), schema.unwrap_or_else(|| json!({"type": "object", "properties": {}})));
    for (name, value) in tool.as_object().into_iter().flatten().chain(function) {
        if matches!(name.as_str(), "cache_control") || name == "strict" && value == true {
            converted.insert(name.clone(), value.clone());
        }
    }
    Ok(Value::Object(converted))
}

fn tool_choice(request: &ChatRequest) -> Result<Option<Value>> {
    let one_at_a_time = request.extra.get("parallel_tool_calls") == Some(&Value::Bool(false)) && request.has_tools();
    let mut choice = match &request.tool_choice {
        None | Some(Value::Null) if one_at_a_time => json!({"type": "auto"}),
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(word)) => match word.as_str() {
            "auto" => json!({"type": "auto"}),
            "none" => json!({"type": "none"}),
            "required" => json!({"type": "any"}),
            other => return Err(Error::invalid("tool_choice", format!("{other:?} is not known"))),
        },
        Some(value) => match value.pointer("/function/name") {
            Some(name) => json!({"type": "tool", "name": name}),
            None => return Err(Error::invalid("tool_choice", "only a word or a named function can be chosen")),
        },
    };
    if one_at_a_time && choice["type"] != "none" {
        choice["disable_parallel_tool_use"] = json!(true);
    }
    Ok(Some(choice))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ErrorKind;

    fn converted(body: Value) -> Result<Value> {
        convert(&serde_json::from_value(body).unwrap())
    }

    #[test]
    fn system_prompts_are_joined_and_neighbours_of_one_role_merged() {
        let body = converted(json!({"model": "m", "stop": "END", "top_k": 5, "user": "u", "messages": [
            {"role": "system", "content": "a"}, {"role": "user", "content": "b"}, {"role": "developer", "content": "c"},
            {"role": "user", "content": [{"type": "text", "text": "d", "cache_control": {"type": "ephemeral"}}]},
            {"role": "assistant", "content": ""}, {"role": "user", "content": "e"}]}))
        .unwrap();
        let text = |t: &str| json!({"type": "text", "text": t});
        assert_eq!(
            body,
            json!({"model": "m", "max_tokens": 4096, "system": "a\n\nc", "messages": [
                {"role": "user", "content": [text("b"),
                    {"type": "text", "text": "d", "cache_control": {"type": "ephemeral"}}]},
                {"role": "user", "content": [text("e")]}],
                "stop_sequences": ["END"], "metadata": {"user_id": "u"}, "top_k": 5})
        );
    }

    #[test]
    fn system_prompts_in_parts_stay_blocks() {
        let part = json!({"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}});
        let body = converted(json!({"model": "m", "messages": [
            {"role": "system", "content": [part]}, {"role": "system", "content": "b"}, {"role": "user", "content": "c"}]}));
        assert_eq!(body.unwrap()["system"], json!([part, {"type": "text", "text": "b"}]));
    }

    #[test]
    fn tools_calls_and_results_are_carried_over() {
        let body = converted(json!({"model": "m", "max_completion_tokens": 9, "parallel_tool_calls": false,
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}},
                {"type": "function", "function": {"name": "g"}}, {"type": "web_search_20250305", "name": "web_search"}],
            "messages": [{"role": "user", "content": "a"},
                {"role": "assistant", "content": null, "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"x\":[1]}"}},
                    {"id": "2", "type": "function", "function": {"name": "g", "arguments": ""}}]},
                {"role": "tool", "tool_call_id": "1", "content": "r1"},
                {"role": "tool", "tool_call_id": "2", "content": "r2"},
                {"role": "user", "content": "b"}]}))
        .unwrap();
        let text = |t: &str| json!({"type": "text", "text": t});
        assert_eq!(
            body["messages"],
            json!([{"role": "user", "content": [text("a")]},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {"x": [1]}},
                    {"type": "tool_use", "id": "2", "name": "g", "input": {}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": [text("r1")]},
                    {"type": "tool_result", "tool_use_id": "2", "content": [text("r2")]}, text("b")]}])
        );
        assert_eq!(
            body["tools"],
            json!([{"name": "f", "description": "d", "input_schema": {"type": "object"}},
                {"name": "g", "input_schema": {"type": "object", "properties": {}}},
                {"type": "web_search_20250305", "name": "web_search"}])
        );
        assert_eq!(body["tool_choice"], json!({"type": "tool", "name": "f", "disable_parallel_tool_use": true}));
        assert_eq!((body["max_tokens"].clone(), body.get("parallel_tool_calls")), (json!(9), None));
    }

    #[test]
    fn images_travel_as_data_or_as_links() {
        let body = converted(json!({"model": "m", "messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]}]}))
        .unwrap();
        assert_eq!(
            body["messages"][0]["content"],
            json!([{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}},
                {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}])
        );
    }

    #[test]
    fn what_cannot_be_expressed_is_refused_by_name() {
        let user = json!({"role": "user", "content": "a"});
        for (change, field) in [
            (json!({"n": 2}), "n"),
            (json!({"logprobs": true}), "logprobs"),
            (json!({"presence_penalty": 0.5}), "presence_penalty"),
            (json!({"temperature": 1.5}), "temperature"),
            (json!({"response_format": {"type": "json_object"}}), "response_format"),
            (json!({"functions": []}), "functions"),
            (json!({"tool_choice": "maybe"}), "tool_choice"),
            (json!({"messages": [{"role": "function", "content": "a"}]}), "messages[0].role"),
            (json!({"messages": [{"role": "tool", "content": "a"}]}), "messages[0].tool_call_id"),
            (json!({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}), "messages[0].content[0]"),
            (
                json!({"messages": [{"role": "assistant", "tool_calls": [
                    {"id": "1", "function": {"name": "f", "arguments": "{"}}]}]}),
                "messages[0].tool_calls[0].function.arguments",
            ),
        ] {
            let mut body = json!({"model": "m", "messages": [user], "n": 1, "logprobs": false, "seed": 7});
            body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            let error = converted(body).unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidArgument);
            assert_eq!(error.violations[0].field, field);
        }
    }
}
