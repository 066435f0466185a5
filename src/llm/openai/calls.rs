//! Which tool call a fragment of a stream belongs to, where the server does not say.

use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// Numbers the tool calls of one stream, apart for each choice.
#[derive(Debug, Default)]
pub struct Calls {
    choices: HashMap<u32, Choice>,
}

#[derive(Debug, Default)]
struct Choice {
    /// Above every index seen.
    next: u64,
    last: Option<u64>,
    /// Whether the last call has its name already.
    named: bool,
    indexes: HashMap<String, u64>,
}

impl Calls {
    /// Sees that every fragment of one delta has its `index`.
    pub fn number(&mut self, choice: u32, fragments: &mut [Value]) {
        let choice = self.choices.entry(choice).or_default();
        fragments.iter_mut().filter_map(Value::as_object_mut).for_each(|fragment| choice.number(fragment));
    }
}

impl Choice {
    /// A fragment without an index belongs to the call that has its id. One without an id either belongs to the last
    /// call, unless both tell a name: that is told once, so a second one begins another call.
    fn number(&mut self, fragment: &mut Map<String, Value>) {
        let id = fragment.get("id").and_then(Value::as_str).filter(|id| !id.is_empty());
        let name = fragment.get("function").and_then(|f| f.get("name")).and_then(Value::as_str);
        let names = name.is_some_and(|name| !name.is_empty());
        let told = fragment.get("index").filter(|index| !index.is_null());
        let index = match (told, id) {
            (Some(told), _) => match told.as_u64() {
                Some(index) => index,
                // Not a number; it still tells this call from others.
                None => return,
            },
            (None, Some(id)) => self.indexes.get(id).copied().unwrap_or(self.next),
            (None, None) if names && self.named => self.next,
            (None, None) => self.last.unwrap_or(self.next),
        };
        if let Some(id) = id {
            self.indexes.insert(id.to_owned(), index);
        }
        self.named = names || (self.named && self.last == Some(index));
        self.last = Some(index);
        self.next = self.next.max(index.saturating_add(1));
        fragment.insert("index".into(), json!(index));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(calls: &mut Calls, choice: u32, fragments: Value) -> Vec<u64> {
        let mut fragments = fragments.as_array().unwrap().clone();
        calls.number(choice, &mut fragments);
        fragments.iter().map(|f| f["index"].as_u64().unwrap()).collect()
    }

    #[test]
    fn a_new_id_takes_the_next_number_and_a_known_one_its_own() {
        let mut calls = Calls::default();
        assert_eq!(numbered(&mut calls, 0, json!([{"id": "a", "function": {"name": "f"}}])), [0]);
        assert_eq!(numbered(&mut calls, 0, json!([{"id": "b"}, {"id": "c", "index": null}])), [1, 2]);
        assert_eq!(numbered(&mut calls, 0, json!([{"id": "a"}, {"function": {"arguments": "{"}}])), [0, 0]);
        assert_eq!(numbered(&mut calls, 1, json!([{"id": "d"}])), [0], "another choice");
    }

    #[test]
    fn a_fragment_without_id_and_index_belongs_to_the_last() {
        let mut calls = Calls::default();
        assert_eq!(numbered(&mut calls, 0, json!([{"id": "a"}, {"id": "b"}])), [0, 1]);
        assert_eq!(numbered(&mut calls, 0, json!([{"function": {"arguments": "}"}}, {"id": ""}])), [1, 1]);
        assert_eq!(numbered(&mut calls, 0, json!([{"function": {"name": "g"}}])), [1], "its name comes late");
    }

    #[test]
    fn whole_calls_without_ids_stay_apart() {
        let whole = json!({"function": {"name": "f", "arguments": "{}"}});
        let mut calls = Calls::default();
        assert_eq!(numbered(&mut calls, 0, json!([whole, whole])), [0, 1]);
        assert_eq!(numbered(&mut calls, 0, json!([whole])), [2]);
    }

    #[test]
    fn the_servers_own_numbers_stand_and_are_not_given_again() {
        let mut calls = Calls::default();
        assert_eq!(numbered(&mut calls, 0, json!([{"id": "a", "index": 3}, {"id": "b"}])), [3, 4]);
        let mut odd = [json!({"index": "x"})];
        calls.number(0, &mut odd);
        assert_eq!(odd, [json!({"index": "x"})]);
    }
}
