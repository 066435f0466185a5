//! The exact key of a request and the scope it may be compared in. Both are BLAKE3 hashes of a canonical form:
//! the same request in any JSON field order gives the same key, and any change in scope gives another.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::str::FromStr;

use super::canonical::Canonical;
use super::{Audience, ChatRequest, Content, Error, Message, Owner, Result};

/// Versions of the canonical forms; a change of form needs a new one, or old entries would be found by chance.
const SCOPE_FORM: &str = "reprise 2026-11 scope v1";
const KEY_FORM: &str = "reprise 2026-11 exact key v1";

/// Request fields that cannot change the answer: neither key nor scope depends on them.
const IRRELEVANT: &[&str] =
    &["metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"];

macro_rules! hash_id {
    ($(#[$doc:meta])* $name:ident, $field:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; 32]);

        impl $name {
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(hex: &str) -> Result<Self> {
                let hash = blake3::Hash::from_hex(hex)
                    .map_err(|_| Error::invalid($field, format!("{hex:?} is not 64 hexadecimal digits")))?;
                Ok(Self(*hash.as_bytes()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(hex: String) -> Result<Self> {
                hex.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }
    };
}

hash_id!(
    /// The exact key of a request, and so the id of the entry that answers it. 64 hexadecimal digits in text.
    EntryKey,
    "entry"
);
hash_id!(
    /// Hash of everything that must match exactly before meaning is compared.
    ScopeId,
    "scope"
);

/// What must match exactly before meaning is compared, apart from what stands in the request itself.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    pub owner: &'a Owner,
    pub audience: &'a Audience,
    /// Version of the caller's prompt template, when it names one.
    pub template: Option<&'a str>,
    /// Vectors of different models are never compared.
    pub embedding_model: &'a str,
}

impl Scope<'_> {
    /// The exact key and the scope of a request.
    ///
    /// Everything that must match exactly is hashed once and shared by both; the key goes on with all messages and
    /// parameters, the scope with the embedding model and everything but the text of the last turn. (A follow-up
    /// such as "cancel it" means nothing without its conversation, so until conversations are compared by meaning
    /// they must match exactly.)
    pub fn identify(&self, request: &ChatRequest) -> (EntryKey, ScopeId) {
        let mut base = Canonical::new(SCOPE_FORM);
        base.text(self.owner.tenant.as_str());
        base.text(self.owner.namespace.as_str());
        match self.audience {
            Audience::Shared => base.none(),
            Audience::User(user) => {
                base.text("user");
                base.text(user.as_str());
            }
            Audience::Session(session) => {
                base.text("session");
                base.text(session.as_str());
            }
            Audience::UserSession(user, session) => {
                base.text("user session");
                base.text(user.as_str());
                base.text(session.as_str());
            }
        }
        base.optional_text(self.template);
        write_fixed(&mut base, request);

        let mut scope = base.fork();
        scope.text(self.embedding_model);
        write_all_but_the_probe(&mut scope, request);

        let mut key = Canonical::new(KEY_FORM);
        key.bytes(&base.finish());
        write_messages(&mut key, request.messages.iter());
        write_parameters(&mut key, request);
        (EntryKey(key.finish()), ScopeId(scope.finish()))
    }
}

/// The part of a request outside its messages that must be equal for a semantic hit: model, tools, format, where the
/// answer stops, and every field whose meaning is not known here.
fn write_fixed(out: &mut Canonical, request: &ChatRequest) {
    out.text(&request.model);
    // An answer that was cut at a stop sequence is whole only for a request with the same one.
    out.list(request.stop_sequences().len());
    request.stop_sequences().iter().for_each(|s| out.text(s));
    out.list(request.tools.as_ref().map_or(0, Vec::len));
    request.tools.iter().flatten().for_each(|tool| out.value(tool));
    out.optional_value(request.tool_choice.as_ref());
    out.optional_value(request.response_format.as_ref());
    out.integer(request.n.unwrap_or(1).into());
    out.integer(request.logprobs.unwrap_or(false).into());
    out.object(&request.extra, |key| !IRRELEVANT.contains(&key));
}

fn write_parameters(out: &mut Canonical, request: &ChatRequest) {
    out.optional_float(request.temperature);
    out.optional_float(request.top_p);
    out.optional_integer(request.max_answer_tokens().map(i128::from));
    out.optional_integer(request.seed.map(i128::from));
    out.optional_float(request.presence_penalty);
    out.optional_float(request.frequency_penalty);
}

/// The conversation and system prompts in their order, and of the last message all but its text, which is what is
/// compared by meaning.
fn write_all_but_the_probe(out: &mut Canonical, request: &ChatRequest) {
    let Some((last, before)) = request.messages.split_last() else { return };
    write_messages(out, before.iter());
    out.text(role(last));
    out.object(&last.extra, |_| true);
    if let Some(Content::Parts(parts)) = &last.content {
        let beside_text = |key: &str| !matches!(key, "type" | "text");
        // A plain text part says no more than the bare text.
        for (at, part) in parts.iter().filter_map(Value::as_object).enumerate() {
            if part.keys().any(|key| beside_text(key)) {
                out.integer(at as i128);
                out.object(part, beside_text);
            }
        }
    }
}

/// `developer` is the newer name of `system`, not another role.
fn role(message: &Message) -> &'static str {
    if message.role.is_system() { "system" } else { message.role.as_str() }
}

fn write_messages<'m>(out: &mut Canonical, messages: impl Iterator<Item = &'m Message>) {
    let mut count = 0;
    for message in messages {
        count += 1;
        out.text(role(message));
        write_content(out, message.content.as_ref());
        out.object(&message.extra, |_| true);
    }
    out.list(count);
}

/// A list with one plain text part says the same as the bare text.
fn write_content(out: &mut Canonical, content: Option<&Content>) {
    match content {
        None => out.none(),
        Some(Content::Text(text)) => out.text(text),
        Some(Content::Parts(parts)) => match parts.as_slice() {
            [Value::Object(part)] if part.len() == 2 && part.get("type").is_some_and(|t| t == "text") => {
                match part.get("text") {
                    Some(Value::String(text)) => out.text(text),
                    _ => out.value(&parts[0]),
                }
            }
            parts => {
                out.list(parts.len());
                parts.iter().for_each(|part| out.value(part));
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Namespace, SessionId, TenantId, UserId};
    use super::*;
    use serde_json::json;
    use std::collections::HashSet;

    fn owner(tenant: &str, namespace: &str) -> Owner {
        Owner { tenant: TenantId::new(tenant).unwrap(), namespace: Namespace::new(namespace).unwrap() }
    }

    fn identify(body: Value) -> (EntryKey, ScopeId) {
        identify_as(&owner("t", "n"), &Audience::Shared, body)
    }

    fn identify_as(owner: &Owner, audience: &Audience, body: Value) -> (EntryKey, ScopeId) {
        let request: ChatRequest = serde_json::from_value(body).unwrap();
        Scope { owner, audience, template: None, embedding_model: "minilm" }.identify(&request)
    }

    fn body() -> Value {
        json!({"model": "m", "temperature": 0, "messages": [
            {"role": "system", "content": "s"}, {"role": "user", "content": "q"}]})
    }

    /// `body()` with one change.
    fn with(edit: impl FnOnce(&mut Value)) -> Value {
        let mut b = body();
        edit(&mut b);
        b
    }

    #[test]
    fn same_request_in_other_spelling_has_the_same_key() {
        let original = identify(body());
        let spellings = [
            json!({"messages": [{"content": "s", "role": "system"}, {"content": "q", "role": "user"}],
                   "temperature": 0.0, "model": "m"}),
            with(|b| b["stream"] = json!(true)),
            with(|b| b["stream_options"] = json!({"include_usage": true})),
            with(|b| b["metadata"] = json!({"trace": "1"})),
            with(|b| b["user"] = json!("bo")),
            with(|b| b["top_p"] = Value::Null),
            with(|b| b["messages"][0]["role"] = json!("developer")),
            with(|b| b["messages"][1]["content"] = json!([{"type": "text", "text": "q"}])),
        ];
        for spelling in spellings {
            assert_eq!(identify(spelling.clone()), original, "{spelling}");
        }
    }

    #[test]
    fn any_change_in_scope_changes_scope_and_key() {
        let (key, scope) = identify(body());
        let changes = [
            with(|b| b["model"] = json!("m2")),
            with(|b| b["messages"][0]["content"] = json!("other system prompt")),
            with(|b| b["tools"] = json!([{"type": "function", "function": {"name": "f"}}])),
            with(|b| b["tool_choice"] = json!("none")),
            with(|b| b["response_format"] = json!({"type": "json_object"})),
            with(|b| b["reasoning_effort"] = json!("high")),
            with(|b| b["stop"] = json!("x")),
            with(|b| b["messages"][1]["name"] = json!("bo")),
            with(|b| b["messages"].as_array_mut().unwrap().swap(0, 1)),
            with(|b| b["messages"].as_array_mut().unwrap().insert(1, json!({"role": "user", "content": "earlier"}))),
        ];
        for change in changes {
            let (other_key, other_scope) = identify(change.clone());
            assert_ne!(other_key, key, "{change}");
            assert_ne!(other_scope, scope, "{change}");
        }
        let (user, session) = (UserId::new("bo").unwrap(), SessionId::new("bo").unwrap());
        let identities = [
            (owner("t", "n"), Audience::Shared),
            (owner("t2", "n"), Audience::Shared),
            (owner("t", "n2"), Audience::Shared),
            (owner("t", "n"), Audience::User(user.clone())),
            (owner("t", "n"), Audience::Session(session.clone())),
            (owner("t", "n"), Audience::UserSession(user, session)),
        ];
        let keys: HashSet<_> = identities.iter().map(|(who, audience)| identify_as(who, audience, body())).collect();
        assert_eq!(keys.len(), identities.len());
    }

    #[test]
    fn parameters_and_prompt_change_the_key_but_not_the_scope() {
        let (key, scope) = identify(body());
        for change in [
            with(|b| b["messages"][1]["content"] = json!("another question")),
            with(|b| b["temperature"] = json!(0.5)),
            with(|b| b["max_tokens"] = json!(7)),
            with(|b| b["seed"] = json!(1)),
        ] {
            let (other_key, other_scope) = identify(change.clone());
            assert_ne!(other_key, key, "{change}");
            assert_eq!(other_scope, scope, "{change}");
        }
    }

    #[test]
    fn the_embedding_model_changes_the_scope_only() {
        let owner = owner("t", "n");
        let request = ChatRequest::prompt("m", "q");
        let of = |model| {
            Scope { owner: &owner, audience: &Audience::Shared, template: None, embedding_model: model }
                .identify(&request)
        };
        assert_eq!(of("a").0, of("b").0);
        assert_ne!(of("a").1, of("b").1);
    }

    #[test]
    fn ids_round_trip_through_hex() {
        let (key, _) = identify(body());
        assert_eq!(key.to_string().parse::<EntryKey>().unwrap(), key);
        assert!("zz".parse::<EntryKey>().is_err());
    }
}
