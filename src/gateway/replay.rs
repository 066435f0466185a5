//! A remembered answer, in the pieces a live one would have come in.

use crate::types::{Answer, Choice, Delta};

/// Characters per content delta: what a few tokens of a live stream hold.
const PIECE_CHARS: usize = 48;

/// The deltas that spell `answer`: content in pieces, then tool calls and the finish reason of each choice, then usage.
/// An [`crate::types::Assembler`] makes the same answer of them.
pub fn deltas(answer: &Answer) -> Vec<Delta> {
    let mut deltas: Vec<Delta> = answer.choices.iter().flat_map(choice_deltas).collect();
    if let Some(first) = deltas.first_mut() {
        first.model = Some(answer.model.clone());
        first.extra = answer.extra.clone();
    }
    deltas.push(Delta { usage: Some(answer.usage.clone()), model: Some(answer.model.clone()), ..Delta::default() });
    deltas
}

fn choice_deltas(choice: &Choice) -> Vec<Delta> {
    let content = choice.message.content.as_deref().unwrap_or_default();
    let mut deltas: Vec<Delta> =
        pieces(content).map(|piece| Delta { choice: choice.index, ..Delta::text(piece) }).collect();
    let mut tool_calls = choice.message.tool_calls.clone();
    for (index, call) in tool_calls.iter_mut().enumerate() {
        if let Some(call) = call.as_object_mut() {
            call.entry("index").or_insert_with(|| index.into());
        }
    }
    deltas.push(Delta {
        choice: choice.index,
        tool_calls,
        finish: Some(choice.finish.clone()),
        message_extra: choice.message.extra.clone(),
        choice_extra: choice.extra.clone(),
        ..Delta::default()
    });
    deltas
}

/// `text` cut into pieces of at most [`PIECE_CHARS`] characters, after white space where there is some.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let limit = rest.char_indices().nth(PIECE_CHARS).map_or(rest.len(), |(at, _)| at);
        let cut = if limit == rest.len() {
            limit
        } else {
            rest[..limit]
                .rfind(char::is_whitespace)
                .map_or(limit, |at| at + rest[at..].chars().next().map_or(0, char::len_utf8))
        };
        let (piece, after) = rest.split_at(cut);
        rest = after;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Assembler, Usage};
    use proptest::prelude::*;
    use serde_json::json;

    fn assembled(answer: &Answer) -> Answer {
        let mut assembler = Assembler::default();
        deltas(answer).iter().for_each(|d| assembler.push(d));
        assembler.finish()
    }

    #[test]
    fn unknown_fields_and_tool_calls_are_replayed() {
        let mut answer = Answer::text("m", "", Usage::new(1, 2));
        answer.extra.insert("system_fingerprint".into(), json!("fp"));
        answer.choices[0].message.content = None;
        answer.choices[0].message.tool_calls =
            vec![json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}})];
        answer.choices[0].message.extra.insert("refusal".into(), json!(null));
        assert_eq!(assembled(&answer), answer);
    }

    #[test]
    fn a_long_answer_comes_in_several_pieces() {
        let answer = Answer::text("m", "word ".repeat(100), Usage::new(1, 100));
        assert!(deltas(&answer).len() > 8);
    }

    proptest! {
        #[test]
        fn any_text_is_spelled_again(text in "\\PC{1,300}", finish in "stop|length|odd") {
            let mut answer = Answer::text("m", text, Usage::new(3, 4));
            answer.choices[0].finish = finish.as_str().into();
            prop_assert_eq!(assembled(&answer), answer);
        }
    }
}
