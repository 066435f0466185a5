//! An OpenAI request body to a [`ChatRequest`], with the field at fault named when it does not fit.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::types::{ChatRequest, Error, Result};

/// The object a document holds, or the complaint that it is something else.
pub fn object(value: Value) -> Result<Map<String, Value>, String> {
    match value {
        Value::Object(map) => Ok(map),
        other => Err(format!("expected a JSON object, not {}", kind_of(&other))),
    }
}

/// Reads a chat request. An absent model stays empty, which stands for the default one.
pub fn chat_from_json(mut body: Map<String, Value>) -> Result<ChatRequest> {
    body.entry("model").or_insert_with(|| Value::String(String::new()));
    from_json(Value::Object(body))
}

/// Like `serde_json::from_value`, but an error names the path to the field.
pub fn from_json<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let (path, text) = (error.path().to_string(), error.inner().to_string());
        // A field that is absent is told of at the place of its object.
        let absent = text.strip_prefix("missing field `").and_then(|t| t.split_once('`')).map(|(name, _)| name);
        match (path.as_str(), absent) {
            (".", Some(name)) => Error::invalid(name, "is missing"),
            (path, Some(name)) => Error::invalid(format!("{path}.{name}"), "is missing"),
            (".", None) => Error::invalid("body", text),
            (path, None) => Error::invalid(path, in_plain_words(&text)),
        }
    })
}

/// serde names Rust types where it cannot choose between the forms a field may have.
fn in_plain_words(text: &str) -> &str {
    if text.contains("untagged enum Content") {
        "expected a text or a list of parts"
    } else if text.contains("untagged enum Stop") {
        "expected a text or a list of texts"
    } else {
        text
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn field_at_fault(body: Value) -> String {
        chat_from_json(object(body).unwrap()).unwrap_err().violations[0].field.clone()
    }

    #[test]
    fn the_field_at_fault_is_named() {
        let user = json!([{"role": "user", "content": "a"}]);
        for (body, field) in [
            (json!({}), "messages"),
            (json!({"messages": "hi"}), "messages"),
            (json!({"messages": [{"content": "a"}]}), "messages[0].role"),
            (json!({"messages": [{"role": "king", "content": "a"}]}), "messages[0].role"),
            (json!({"messages": [{"role": "user", "content": 3}]}), "messages[0].content"),
            (json!({"messages": user, "temperature": "hot"}), "temperature"),
            (json!({"messages": user, "max_tokens": -1}), "max_tokens"),
            (json!({"messages": user, "stop": {"a": 1}}), "stop"),
            (json!({"messages": user, "stream": "yes"}), "stream"),
            (json!({"messages": user, "model": null}), "model"),
        ] {
            assert_eq!(field_at_fault(body.clone()), field, "{body}");
        }
    }

    #[test]
    fn complaints_name_no_rust_types() {
        let body = json!({"messages": [{"role": "user", "content": 3}]});
        let error = chat_from_json(object(body).unwrap()).unwrap_err();
        assert_eq!(error.message, "messages[0].content: expected a text or a list of parts");
    }

    #[test]
    fn an_absent_model_is_the_default_one_and_unknown_fields_stay() {
        let body = json!({"messages": [{"role": "user", "content": "a"}], "reasoning_effort": "low"});
        let chat = chat_from_json(object(body).unwrap()).unwrap();
        assert_eq!(chat.model, "");
        assert_eq!(chat.extra["reasoning_effort"], "low");
    }

    #[test]
    fn only_an_object_is_a_body() {
        assert_eq!(object(json!([1])).unwrap_err(), "expected a JSON object, not an array");
    }
}
