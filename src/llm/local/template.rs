//! The chat template of a model: Jinja with the Python habits that templates on the model hubs rely on.

use minijinja::value::{Value, ValueKind, from_args};
use minijinja::{Environment, ErrorKind as Jinja, State, context, syntax::SyntaxConfig};

use super::tokens::Tokens;
use crate::types::{ChatRequest, Error, ErrorKind, Result};

const NAME: &str = "chat";

pub struct Template {
    environment: Environment<'static>,
}

impl Template {
    pub fn new(source: String) -> Result<Self> {
        let mut environment = Environment::new();
        // As Hugging Face's transformers render them.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| Error::internal(e.to_string()))?);
        environment.set_unknown_method_callback(python_method);
        environment.add_function("raise_exception", |what: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(Jinja::InvalidOperation, what))
        });
        environment.add_filter("tojson", |value: Value| {
            serde_json::to_string(&value).map_err(|e| minijinja::Error::new(Jinja::BadSerialization, e.to_string()))
        });
        let added = environment.add_template_owned(NAME, source);
        added.map_err(|e| Error::new(ErrorKind::Unsupported, format!("its chat template does not parse: {e}")))?;
        Ok(Self { environment })
    }

    /// The prompt in the model's format, up to where its answer begins.
    pub fn render(&self, request: &ChatRequest, tokens: &Tokens) -> Result<String> {
        let mut messages = Vec::new();
        for (i, message) in request.messages.iter().enumerate() {
            let text = match &message.content {
                None => Some(String::new()),
                Some(_) => message.text(),
            };
            let text = text.ok_or_else(|| {
                Error::invalid(format!("messages[{i}].content"), "the local model reads nothing but text")
            })?;
            let role = if message.role.is_system() { "system" } else { message.role.as_str() };
            messages.push(context! { role, content => tokens.disarm(text) });
        }
        let template = self.environment.get_template(NAME).map_err(|e| Error::internal(e.to_string()))?;
        let rendered = template.render(context! {
            messages, add_generation_prompt => true, bos_token => tokens.bos.clone(),
            eos_token => tokens.eos.clone(),
        });
        // Templates refuse what the model was not trained on (roles out of order…).
        let rendered =
            rendered.map_err(|e| Error::invalid("messages", format!("the model's chat template refuses them: {e}")))?;
        Ok(match &tokens.bos {
            Some(bos) if tokens.add_bos && !rendered.starts_with(bos.as_str()) => format!("{bos}{rendered}"),
            _ => rendered,
        })
    }
}

/// The methods of Python's `str` and `dict` that chat templates call.
fn python_method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, minijinja::Error> {
    let unknown = || minijinja::Error::from(Jinja::UnknownMethod);
    match (value.kind(), method) {
        (ValueKind::Map, "items") => state.apply_filter("items", std::slice::from_ref(value)),
        (ValueKind::Map, "get") => {
            let (key, default): (Value, Option<Value>) = from_args(args)?;
            let found = value.get_item(&key)?;
            Ok(if found.is_undefined() { default.unwrap_or(Value::from(())) } else { found })
        }
        (ValueKind::String, _) => {
            let text = value.as_str().ok_or_else(unknown)?;
            let chars: Option<String> = args.first().and_then(|a| a.as_str().map(str::to_owned));
            let part = |c: char| chars.as_ref().map_or(c.is_whitespace(), |chars| chars.contains(c));
            let argument = || chars.as_deref().ok_or_else(|| minijinja::Error::from(Jinja::MissingArgument));
            Ok(match method {
                "strip" => text.trim_matches(part).into(),
                "lstrip" => text.trim_start_matches(part).into(),
                "rstrip" => text.trim_end_matches(part).into(),
                "upper" => text.to_uppercase().into(),
                "lower" => text.to_lowercase().into(),
                "startswith" => text.starts_with(argument()?).into(),
                "endswith" => text.ends_with(argument()?).into(),
                "split" => match &chars {
                    Some(by) => text.split(by.as_str()).map(Value::from).collect(),
                    None => text.split_whitespace().map(Value::from).collect(),
                },
                "replace" => {
                    let (old, new): (String, String) = from_args(args)?;
                    text.replace(&old, &new).into()
                }
                _ => return Err(unknown()),
            })
        }
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(source: &str, value: serde_json::Value) -> std::result::Result<String, String> {
        let template = Template::new(source.into()).map_err(|e| e.to_string())?;
        let compiled = template.environment.get_template(NAME).map_err(|e| e.to_string())?;
        compiled.render(minijinja::value::Serde(value)).map_err(|e| e.to_string())
    }

    #[test]
    fn python_methods_work_as_templates_expect() {
        let source = "{{ a.strip() }}|{{ a.split('</t>')[-1].lstrip('\\n') }}|{{ m.get('x', 1) }}|\
                      {% for k, v in m.items() %}{{ k }}={{ v }}{% endfor %}|{{ a.startswith(' q') }}|{{ m | tojson }}";
        let out = render(source, json!({"a": " q</t>\nr ", "m": {"k": 2}})).unwrap();
        assert_eq!(out, "q</t>\nr|r |1|k=2|True|{\"k\":2}");
    }

    #[test]
    fn blocks_leave_no_line_of_their_own() {
        let source =
            "{% for m in messages %}\n  {% if m.role == 'user' %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}\nend";
        assert_eq!(render(source, json!({"messages": [{"role": "user", "content": "hi"}]})).unwrap(), "hi\nend");
    }

    #[test]
    fn a_template_can_refuse() {
        let error = render("{{ raise_exception('roles must alternate') }}", json!({})).unwrap_err();
        assert!(error.contains("roles must alternate"), "{error}");
        assert!(Template::new("{% if %}".into()).is_err());
    }
}
