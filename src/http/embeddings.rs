//! `POST /v1/embeddings`.

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::Failure;
use super::incoming::Incoming;
use super::server::App;
use crate::embed::EmbeddingModel;
use crate::surface::{Violations, from_json, rename_fields, shorten, within};
use crate::types::{Embedding, Error, ErrorKind, Result};

pub async fn embeddings(
    State(app): State<App>,
    Incoming { context, body, mut errors }: Incoming,
) -> Result<Response, Failure> {
    let asked = errors.under("", from_json::<Asked>(Value::Object(body)));
    let (context, asked) = errors.finish(context.zip(asked))?;
    let model = app.gateway.embedding_model();
    let (texts, format) = asked.check(model)?;
    let limit = app.gateway.config().server.request_timeout;
    let embedded = within(context.deadline, limit, app.gateway.embed(&context.owner, texts)).await;
    let embedded = embedded.map_err(|error| rename_fields(error, |field| field.replace("texts", "input")))?;
    let reply = serde_json::to_vec(&render(&embedded, format, &model.name));
    let reply = reply.map_err(|e| Error::internal("the reply could not be written").with_source(e))?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], reply).into_response())
}

#[derive(Debug, Deserialize)]
struct Asked {
    input: Value,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    encoding_format: Option<Format>,
    #[serde(default)]
    dimensions: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Float,
    Base64,
}

impl Asked {
    /// The texts to embed, once everything asked for is what the model gives.
    fn check(self, model: &EmbeddingModel) -> Result<(Vec<String>, Format)> {
        if let Some(name) = self.model.filter(|name| !name.is_empty() && *name != model.name) {
            let (name, own) = (shorten(&name, 200), &model.name);
            let mut error = Error::invalid("model", format!("{name:?} does not exist; the embedding model is {own:?}"));
            error.kind = ErrorKind::NotFound;
            return Err(error);
        }
        let mut errors = Violations::default();
        if self.dimensions.is_some_and(|d| d != model.dim as u64) {
            errors.add("dimensions", format!("{} gives {} values, no other number", model.name, model.dim));
        }
        let texts = errors.under("", texts(self.input));
        errors.finish(texts.map(|texts| (texts, self.encoding_format.unwrap_or_default())))
    }
}

/// A text or a list of texts; token ids are of a tokeniser that is not ours.
fn texts(input: Value) -> Result<Vec<String>> {
    let texts = match input {
        Value::String(text) => vec![text],
        Value::Array(items) if items.is_empty() => return Err(Error::invalid("input", "holds no text")),
        Value::Array(items) => items.into_iter().enumerate().map(|(i, item)| text(i, item)).collect::<Result<_>>()?,
        _ => return Err(Error::invalid("input", "expected a text or a list of texts")),
    };
    match texts.iter().position(String::is_empty) {
        Some(i) => Err(Error::invalid(format!("input[{i}]"), "the text is empty")),
        None => Ok(texts),
    }
}

fn text(index: usize, item: Value) -> Result<String> {
    match item {
        Value::String(text) => Ok(text),
        Value::Number(_) | Value::Array(_) => {
            Err(Error::invalid(format!("input[{index}]"), "token ids are not supported; send text"))
        }
        _ => Err(Error::invalid(format!("input[{index}]"), "expected a text")),
    }
}

#[derive(Serialize)]
struct Reply<'a> {
    object: &'static str,
    data: Vec<Row<'a>>,
    model: &'a str,
    usage: Tokens,
}

#[derive(Serialize)]
struct Row<'a> {
    object: &'static str,
    index: usize,
    embedding: Vector<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector<'a> {
    Floats(&'a [f32]),
    Base64(String),
}

#[derive(Serialize)]
struct Tokens {
    prompt_tokens: u64,
    total_tokens: u64,
}

fn render<'a>(embeddings: &'a [Embedding], format: Format, model: &'a str) -> Reply<'a> {
    let tokens = embeddings.iter().map(|e| u64::from(e.tokens)).sum();
    let row = |(index, embedding): (usize, &'a Embedding)| Row {
        object: "embedding",
        index,
        embedding: match format {
            Format::Float => Vector::Floats(&embedding.vector),
            Format::Base64 => Vector::Base64(base64_of(&embedding.vector)),
        },
    };
    Reply {
        object: "list",
        data: embeddings.iter().enumerate().map(row).collect(),
        model,
        usage: Tokens { prompt_tokens: tokens, total_tokens: tokens },
    }
}

/// The bytes of the values as little-endian f32, as the OpenAI SDKs decode them.
fn base64_of(vector: &[f32]) -> String {
    STANDARD.encode(vector.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(body: Value) -> Result<(Vec<String>, Format)> {
        let model = EmbeddingModel { id: "m@1".into(), name: "m".into(), dim: 2, max_tokens: 8 };
        from_json::<Asked>(body)?.check(&model)
    }

    #[test]
    fn one_text_or_several_in_either_format() {
        assert_eq!(check(json!({"input": "a"})).unwrap(), (vec!["a".into()], Format::Float));
        let (texts, format) =
            check(json!({"input": ["a", "b"], "model": "m", "dimensions": 2, "encoding_format": "base64"})).unwrap();
        assert_eq!((texts.len(), format), (2, Format::Base64));
    }

    #[test]
    fn what_the_model_does_not_do_is_refused_with_its_field() {
        for (body, field) in [
            (json!({}), "input"),
            (json!({"input": []}), "input"),
            (json!({"input": ""}), "input[0]"),
            (json!({"input": ["a", ""]}), "input[1]"),
            (json!({"input": [1, 2]}), "input[0]"),
            (json!({"input": [[1, 2]]}), "input[0]"),
            (json!({"input": {"a": 1}}), "input"),
            (json!({"input": "a", "dimensions": 3}), "dimensions"),
            (json!({"input": "a", "encoding_format": "hex"}), "encoding_format"),
            (json!({"input": "a", "model": "other"}), "model"),
        ] {
            assert_eq!(check(body.clone()).unwrap_err().violations[0].field, field, "{body}");
        }
        let tokens = check(json!({"input": [1, 2]})).unwrap_err();
        assert_eq!(tokens.message, "input[0]: token ids are not supported; send text");
        assert_eq!(check(json!({"input": "a", "model": "other"})).unwrap_err().kind, ErrorKind::NotFound);
    }

    #[test]
    fn vectors_are_floats_or_little_endian_base64() {
        let embeddings = [Embedding { vector: vec![1.0, -0.1].into(), tokens: 3, truncated: false, unknown: 0 }];
        let floats = serde_json::to_string(&render(&embeddings, Format::Float, "m")).unwrap();
        assert!(floats.contains(r#""embedding":[1.0,-0.1]"#), "{floats}");
        assert!(floats.contains(r#""usage":{"prompt_tokens":3,"total_tokens":3}"#), "{floats}");
        let coded = serde_json::to_value(render(&embeddings, Format::Base64, "m")).unwrap();
        let bytes = STANDARD.decode(coded["data"][0]["embedding"].as_str().unwrap()).unwrap();
        assert_eq!(bytes, [1.0f32.to_le_bytes(), (-0.1f32).to_le_bytes()].concat());
    }
}
