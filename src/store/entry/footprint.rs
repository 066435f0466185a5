//! How much memory an entry takes.

use serde_json::{Map, Value};

use crate::types::Entry;

/// Fixed parts of an entry, its allocations, and its slot in the cache.
const BASE: usize = 1024;
/// A string or a value beyond its bytes: header and allocation.
const ITEM: usize = 64;

/// Bytes of memory an entry takes, nearly.
pub(super) fn footprint(entry: &Entry) -> u32 {
    let mut bytes = BASE + text(&entry.answer.model) + map(&entry.answer.extra) + map(&entry.answer.usage.extra);
    for choice in &entry.answer.choices {
        let message = &choice.message;
        bytes += size_of_val(choice) + message.content.as_deref().map_or(0, text);
        bytes += message.tool_calls.iter().map(value).sum::<usize>() + map(&message.extra) + map(&choice.extra);
    }
    if let Some(probe) = &entry.probe {
        bytes +=
            text(&probe.prompt) + probe.history.iter().map(|turn| size_of_val(turn) + text(&turn.text)).sum::<usize>();
    }
    bytes += entry.tags.iter().map(|tag| text(tag.as_str())).sum::<usize>();
    bytes += entry.depends_on.iter().map(|document| text(document)).sum::<usize>();
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn text(text: &str) -> usize {
    ITEM + text.len()
}

fn map(map: &Map<String, Value>) -> usize {
    map.iter().map(|(name, inner)| text(name) + value(inner)).sum()
}

fn value(of: &Value) -> usize {
    match of {
        Value::Null | Value::Bool(_) | Value::Number(_) => ITEM,
        Value::String(string) => ITEM + text(string),
        Value::Array(items) => ITEM + items.iter().map(value).sum::<usize>(),
        Value::Object(fields) => ITEM + map(fields),
    }
}
