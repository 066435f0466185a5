//! The lines a replay reads: prompts, OpenAI requests, and labelled pairs of prompts.

use serde_json::{Map, Value};
use std::io::{self, BufRead};

use crate::cli::args::message;
use crate::grpc::pb;
use crate::types::json::parse_strict;

/// One line of a replay file.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Row {
    Ask(pb::ChatRequest),
    Pair(Box<Pair>),
}

/// Two prompts, and whether one answer serves both.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pair {
    pub a: pb::ChatRequest,
    pub b: pb::ChatRequest,
    pub label: bool,
    /// The same for every row with the same `a`.
    pub id: String,
}

/// A longer line is no request that any service takes.
const MAX_LINE_BYTES: u64 = 16 << 20;

/// Numbered rows of a file, in bounded memory; blank lines are left out.
pub(super) struct Rows<R> {
    reader: R,
    line: u64,
    /// Bytes read so far.
    pub bytes: u64,
}

impl<R: BufRead> Rows<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, line: 0, bytes: 0 }
    }

    /// The next line that is not blank, with its number from 1; `None` at the end of the file.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, Result<Row, String>)>> {
        loop {
            let mut line = Vec::new();
            let read = io::Read::take(&mut self.reader, MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
            if read == 0 {
                return Ok(None);
            }
            self.line += 1;
            self.bytes += read as u64;
            if read as u64 == MAX_LINE_BYTES && !line.ends_with(b"\n") {
                self.bytes += skip_line(&mut self.reader)?;
                return Ok(Some((self.line, Err(format!("is longer than {} MiB", MAX_LINE_BYTES >> 20)))));
            }
            let text = line.strip_prefix(b"\xef\xbb\xbf").filter(|_| self.line == 1).unwrap_or(&line);
            if !text.trim_ascii().is_empty() {
                return Ok(Some((self.line, parse(text))));
            }
        }
    }
}

/// Reads up to the next line without keeping anything.
fn skip_line(reader: &mut impl BufRead) -> io::Result<u64> {
    let mut skipped = 0;
    loop {
        let buffer = reader.fill_buf()?;
        let end = buffer.iter().position(|b| *b == b'\n');
        let count = end.map_or(buffer.len(), |at| at + 1);
        reader.consume(count);
        skipped += count as u64;
        if end.is_some() || count == 0 {
            return Ok(skipped);
        }
    }
}

/// One line: `{"prompt": …}`, `{"text": …}`, `{"messages": …}`, `{"body": {…}}` or `{"a": …, "b": …, "label": …}`.
pub(super) fn parse(line: &[u8]) -> Result<Row, String> {
    let value = parse_strict(line).map_err(|e| {
        let why = e.violations.first().map_or(e.to_string(), |v| v.description.clone());
        // It is the first line of what the parser was given, and some other line of the file.
        why.replace(" at line 1 column ", " at column ")
    })?;
    let Value::Object(mut row) = value else { return Err("is not a JSON object".into()) };
    if row.contains_key("a") || row.contains_key("b") {
        return pair(&row).map(|pair| Row::Pair(Box::new(pair)));
    }
    if let Some(body) = row.shift_remove("body") {
        return match body {
            Value::Object(body) => request(body).map(Row::Ask),
            _ => Err("body: is not a JSON object".into()),
        };
    }
    if row.contains_key("messages") {
        return request(row).map(Row::Ask);
    }
    for key in ["prompt", "text"] {
        match row.get(key) {
            Some(Value::String(prompt)) => return Ok(Row::Ask(ask(prompt))),
            Some(_) => return Err(format!("{key}: is not text")),
            None => {}
        }
    }
    Err("has none of prompt, text, messages, body, or a and b".into())
}

fn ask(prompt: &str) -> pb::ChatRequest {
    pb::ChatRequest { messages: vec![message(pb::Role::User, prompt.to_owned())], ..Default::default() }
}

fn pair(row: &Map<String, Value>) -> Result<Pair, String> {
    let side = |key: &str| match row.get(key) {
        Some(Value::String(prompt)) => Ok(ask(prompt)),
        Some(Value::Array(turns)) => {
            let turns = turns.iter().enumerate().map(|(i, turn)| read_message(&format!("{key}[{i}]"), turn));
            Ok(pb::ChatRequest { messages: turns.collect::<Result<_, _>>()?, ..Default::default() })
        }
        Some(_) => Err(format!("{key}: is neither text nor a list of messages")),
        None => Err(format!("{key}: is missing")),
    };
    let label = match row.get("label").map(Value::as_i64) {
        Some(Some(label @ (0 | 1))) => label == 1,
        Some(_) => return Err("label: is neither 0 nor 1".into()),
        None => return Err("label: is missing".into()),
    };
    let (a, b) = (side("a")?, side("b")?);
    let id = blake3::hash(row.get("a").unwrap_or(&Value::Null).to_string().as_bytes()).to_hex()[..16].to_owned();
    Ok(Pair { a, b, label, id })
}

/// An OpenAI request body.
fn request(mut body: Map<String, Value>) -> Result<pb::ChatRequest, String> {
    let Some(Value::Array(turns)) = body.shift_remove("messages") else { return Err("messages: is not a list".into()) };
    let turns = turns.iter().enumerate().map(|(i, turn)| read_message(&format!("messages[{i}]"), turn));
    let messages = turns.collect::<Result<Vec<_>, _>>()?;
    // Whether it is streamed is the replay's choice.
    body.shift_remove("stream");
    body.shift_remove("stream_options");
    Ok(pb::ChatRequest {
        messages,
        model: take(&mut body, "model", |v| v.as_str().map(str::to_owned))?.unwrap_or_default(),
        temperature: take(&mut body, "temperature", Value::as_f64)?,
        top_p: take(&mut body, "top_p", Value::as_f64)?,
        max_tokens: take(&mut body, "max_tokens", |v| v.as_u64().and_then(|n| n.try_into().ok()))?,
        stop: take(&mut body, "stop", stops)?.unwrap_or_default(),
        seed: take(&mut body, "seed", Value::as_i64)?,
        extra_json: if body.is_empty() { String::new() } else { Value::Object(body).to_string() },
    })
}

fn read_message(at: &str, turn: &Value) -> Result<pb::Message, String> {
    let Value::Object(mut turn) = turn.clone() else { return Err(format!("{at}: is not a JSON object")) };
    let role = match turn.shift_remove("role").as_ref().and_then(Value::as_str) {
        Some("system" | "developer") => pb::Role::System,
        Some("user") => pb::Role::User,
        Some("assistant") => pb::Role::Assistant,
        Some("tool" | "function") => pb::Role::Tool,
        _ => return Err(format!("{at}.role: is not a role")),
    };
    let (content, content_json) = match turn.shift_remove("content") {
        Some(Value::String(text)) => (text, String::new()),
        Some(parts @ Value::Array(_)) => (String::new(), parts.to_string()),
        None | Some(Value::Null) => Default::default(),
        Some(_) => return Err(format!("{at}.content: is neither text nor a list of parts")),
    };
    let extra_json = if turn.is_empty() { String::new() } else { Value::Object(turn).to_string() };
    Ok(pb::Message { role: role.into(), content, content_json, extra_json })
}

/// Takes a field out of a body; `null` counts as absent.
fn take<T>(body: &mut Map<String, Value>, key: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>, String> {
    match body.shift_remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => read(&value).map(Some).ok_or_else(|| format!("{key}: is not what this field holds")),
    }
}

fn stops(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(many) => many.iter().map(|s| s.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn asked(line: &str) -> pb::ChatRequest {
        match parse(line.as_bytes()).unwrap() {
            Row::Ask(chat) => chat,
            Row::Pair(pair) => panic!("{pair:?}"),
        }
    }

    #[test]
    fn a_prompt_comes_as_prompt_or_text() {
        assert_eq!(asked(r#"{"prompt": "hi", "id": 3}"#).messages, [message(pb::Role::User, "hi".into())]);
        assert_eq!(asked(r#"{"text": "hi", "intent": "x"}"#), asked(r#"{"prompt": "hi"}"#));
    }

    #[test]
    fn an_openai_body_keeps_every_field_but_how_it_is_streamed() {
        let body = r#"{"model": "m", "temperature": 0.5, "max_tokens": 7, "stop": "END", "stream": true, "n": null,
            "messages": [{"role": "developer", "content": "be brief"},
                         {"role": "user", "content": [{"type": "text", "text": "hi"}], "name": "ann"},
                         {"role": "assistant", "content": null, "tool_calls": []}],
            "tools": [{"type": "function"}]}"#;
        let chat = asked(body);
        assert_eq!((chat.model.as_str(), chat.temperature, chat.max_tokens), ("m", Some(0.5), Some(7)));
        assert_eq!(chat.stop, ["END"]);
        assert_eq!(chat.extra_json, r#"{"n":null,"tools":[{"type":"function"}]}"#);
        assert_eq!(chat.messages[0], message(pb::Role::System, "be brief".into()));
        assert_eq!(chat.messages[1].content_json, r#"[{"type":"text","text":"hi"}]"#);
        assert_eq!(chat.messages[1].extra_json, r#"{"name":"ann"}"#);
        assert_eq!(chat.messages[2].extra_json, r#"{"tool_calls":[]}"#);
        let batch = format!(r#"{{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {body}}}"#);
        assert_eq!(asked(&batch), chat);
    }

    #[test]
    fn a_pair_is_two_texts_or_two_conversations_with_a_label() {
        let Row::Pair(pair) = parse(br#"{"a": "x", "b": [{"role": "user", "content": "y"}], "label": 1}"#).unwrap()
        else {
            panic!("no pair")
        };
        assert!(pair.label);
        assert_eq!(pair.a, ask("x"));
        assert_eq!(pair.b, ask("y"));
        let Row::Pair(again) = parse(br#"{"a": "x", "b": "z", "label": 0}"#).unwrap() else { panic!("no pair") };
        assert!(!again.label);
        assert_eq!(pair.id, again.id);
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said() {
        for (line, why) in [
            ("[]", "is not a JSON object"),
            ("{\"q\": 1}", "has none of prompt, text, messages, body, or a and b"),
            ("{\"prompt\": 1}", "prompt: is not text"),
            ("{\"a\": \"x\", \"label\": 1}", "b: is missing"),
            ("{\"a\": \"x\", \"b\": \"y\"}", "label: is missing"),
            ("{\"a\": \"x\", \"b\": \"y\", \"label\": 2}", "label: is neither 0 nor 1"),
            ("{\"messages\": [{\"role\": \"king\"}]}", "messages[0].role: is not a role"),
            ("{\"messages\": [], \"max_tokens\": -1}", "max_tokens: is not what this field holds"),
            ("{\"body\": 1}", "body: is not a JSON object"),
        ] {
            assert_eq!(parse(line.as_bytes()).unwrap_err(), why, "{line}");
        }
        assert!(parse(b"{\"prompt\": \"a\", \"prompt\": \"b\"}").unwrap_err().contains("not valid JSON"));
        assert_eq!(parse(b"nonsense").unwrap_err(), "not valid JSON: expected ident at column 2");
    }

    #[test]
    fn lines_are_numbered_as_they_stand_in_the_file() {
        let file = "\u{feff}{\"prompt\":\"a\"}\r\n\n{\n{\"prompt\":\"b\"}";
        let mut rows = Rows::new(file.as_bytes());
        let mut seen = Vec::new();
        while let Some((line, row)) = rows.next().unwrap() {
            seen.push((line, row.is_ok()));
        }
        assert_eq!(seen, [(1, true), (3, false), (4, true)]);
        assert_eq!(rows.bytes, file.len() as u64);
    }

    #[test]
    fn a_line_without_end_is_refused_and_the_next_one_read() {
        let long = io::Read::take(io::repeat(b'x'), MAX_LINE_BYTES + 5);
        let file = io::Read::chain(long, &b"\n{\"prompt\":\"a\"}\n"[..]);
        let mut rows = Rows::new(io::BufReader::new(file));
        assert_eq!(rows.next().unwrap().unwrap(), (1, Err("is longer than 16 MiB".into())));
        assert!(matches!(rows.next().unwrap(), Some((2, Ok(_)))));
        assert!(rows.next().unwrap().is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_row_or_an_error(line in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&line);
        }

        #[test]
        fn any_json_of_the_right_keys_is_a_row_or_an_error(
            key in prop::sample::select(vec!["a", "b", "label", "prompt", "text", "messages", "body"]),
            other in prop::sample::select(vec!["a", "b", "label", "stop", "model", "max_tokens", "role"]),
            first in "[\\[\\]{}\":,0-9a-z -]{0,20}",
            second in prop::sample::select(vec!["null", "1", "-1", "\"x\"", "[]", "{}", "[{}]", "[{\"role\":\"user\"}]"]),
        ) {
            let _ = parse(format!("{{\"{key}\": {first}, \"{other}\": {second}}}").as_bytes());
            let _ = parse(format!("{{\"{key}\": {second}, \"{other}\": {second}}}").as_bytes());
        }

        #[test]
        fn any_prompt_arrives_unchanged(prompt in "\\PC{0,60}") {
            let line = serde_json::json!({ "prompt": prompt }).to_string();
            prop_assert_eq!(&asked(&line).messages[0].content, &prompt);
        }
    }
}
