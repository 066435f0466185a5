//! Labelled pairs from JSON Lines: `{"a": …, "b": …, "label": 0 or 1, "source": "set/kind"}`. `a` is the prompt that was
//! answered, `b` the new one; each is a text, or a conversation as a list of `{"role", "content"}` that ends in a user's turn.
//! Label 1: one answer serves both. Other fields are ignored.

use serde::Deserialize;
use std::path::Path;

use crate::types::{ChatRequest, Error, ErrorKind, Result};

/// Longest line that is read.
const MAX_LINE: usize = 4 << 20;

/// A labelled pair.
#[derive(Debug, Clone)]
pub struct Pair {
    /// What was asked first, and what is asked now.
    pub cached: ChatRequest,
    pub new: ChatRequest,
    pub is_right: bool,
    /// As the file says; what stands behind the first `/` is the kind.
    pub source: String,
}

impl Pair {
    /// The set, for example `fow-cache` of `fow-cache/negation`.
    pub fn set(&self) -> &str {
        self.source.split_once('/').map_or(self.source.as_str(), |(set, _)| set)
    }

    /// Whether the conversations before the last turns are the same: only then the two can meet.
    pub fn same_history(&self) -> bool {
        self.cached.probe().map(|probe| probe.history) == self.new.probe().map(|probe| probe.history)
    }

    /// The kind of pair within its set.
    pub fn kind(&self) -> &str {
        self.source.split_once('/').map_or("", |(_, kind)| kind)
    }
}

#[derive(Deserialize)]
struct Row {
    a: Prompt,
    b: Prompt,
    label: u8,
    #[serde(default)]
    source: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Prompt {
    Text(String),
    Conversation(Vec<Turn>),
}

#[derive(Deserialize)]
struct Turn {
    role: String,
    content: String,
}

/// Every pair of a file, in order, asked of `model`.
///
/// Errors: `InvalidArgument` with the number of the first line that is no labelled pair.
pub fn read(path: &Path, model: &str) -> Result<Vec<Pair>> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        Error::new(ErrorKind::InvalidArgument, format!("cannot read {}", path.display())).with_source(e)
    })?;
    let set = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let mut pairs = Vec::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let pair = parse(line, model, &set);
        pairs.push(pair.map_err(|why| {
            Error::new(ErrorKind::InvalidArgument, format!("{}, line {number}: {why}", path.display()))
        })?);
    }
    if pairs.is_empty() {
        return Err(Error::new(ErrorKind::InvalidArgument, format!("{} has no pairs", path.display())));
    }
    Ok(pairs)
}

fn parse(line: &str, model: &str, set: &str) -> Result<Pair, String> {
    if line.len() > MAX_LINE {
        return Err(format!("longer than {MAX_LINE} bytes"));
    }
    let row: Row = serde_json::from_str(line).map_err(|e| format!("not a labelled pair: {e}"))?;
    let is_right = match row.label {
        0 => false,
        1 => true,
        other => return Err(format!("label {other}, where 0 or 1 belongs")),
    };
    let source = if row.source.is_empty() { set.to_owned() } else { row.source };
    Ok(Pair { cached: request(row.a, model)?, new: request(row.b, model)?, is_right, source })
}

fn request(prompt: Prompt, model: &str) -> Result<ChatRequest, String> {
    let messages = match prompt {
        Prompt::Text(text) => return Ok(ChatRequest::prompt(model, text)),
        Prompt::Conversation(turns) => turns
            .into_iter()
            .map(|turn| serde_json::json!({"role": turn.role, "content": turn.content}))
            .collect::<Vec<_>>(),
    };
    let request = serde_json::json!({"model": model, "messages": messages});
    let request: ChatRequest = serde_json::from_value(request).map_err(|e| format!("not a conversation: {e}"))?;
    match request.probe() {
        Some(_) => Ok(request),
        None => Err("a conversation must end in a user's turn".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(lines: &str) -> Result<Vec<Pair>> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("own.jsonl");
        std::fs::write(&file, lines).unwrap();
        read(&file, "m")
    }

    #[test]
    fn texts_and_conversations_are_read() {
        let pairs = written(concat!(
            r#"{"a": "x", "b": "y", "label": 0, "source": "set/number/date", "ambiguous": true}"#,
            "\n\n",
            r#"{"a": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "q"}, {"role": "user", "content": "r"}], "b": "s", "label": 1}"#,
        ))
        .unwrap();
        assert_eq!((pairs[0].set(), pairs[0].kind(), pairs[0].is_right), ("set", "number/date", false));
        assert_eq!((pairs[1].set(), pairs[1].kind(), pairs[1].is_right), ("own", "", true));
        let probe = pairs[1].cached.probe().unwrap();
        assert_eq!((probe.prompt.as_str(), probe.history.len()), ("r", 2));
    }

    #[test]
    fn a_line_that_is_no_pair_is_named() {
        let good = r#"{"a": "x", "b": "y", "label": 1}"#;
        for bad in [
            "{",
            r#"{"a": "x", "label": 1}"#,
            r#"{"a": "x", "b": "y", "label": 2}"#,
            r#"{"a": "x", "b": [{"role": "assistant", "content": "z"}], "label": 1}"#,
            r#"{"a": "x", "b": [], "label": 1}"#,
        ] {
            let error = written(&format!("{good}\n{bad}\n")).unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidArgument);
            assert!(error.to_string().contains("own.jsonl, line 2: "), "{error}");
        }
        assert!(written("\n").unwrap_err().to_string().contains("has no pairs"));
    }
}
