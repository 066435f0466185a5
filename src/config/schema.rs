//! Every key with the type of its value, as data: names and types are checked against it layer by layer, so that a
//! mistake is told with its key, its layer and what was expected. A test holds it equal to the structs.

use toml::Value;

/// What stands at a key.
#[derive(Debug, Clone, Copy)]
pub(super) enum Node {
    /// A table with these keys and no others.
    Table(&'static [Key]),
    /// A table with any names in it.
    Map(&'static [Key]),
    /// A list of tables.
    List(&'static [Key]),
    Leaf(Kind),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    pub name: &'static str,
    pub node: Node,
    /// Must be given in every table of its kind.
    pub required: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Text,
    Path,
    /// Text that may hold a password, so its value is never told in a message.
    Url,
    Flag,
    Whole(u64),
    Number,
    Money,
    Duration,
    Address,
    Texts,
    Choice(&'static [&'static str]),
}

pub(super) const ROOT: &[Key] = &[
    leaf("data_dir", Kind::Path),
    leaf("default_model", Kind::Text),
    table("server", SERVER),
    table("cache", CACHE),
    table("stores", STORES),
    table("embedding", EMBEDDING),
    table("verifier", VERIFIER),
    table("models", MODELS),
    table("limits", LIMITS),
    table("log", LOG),
    Key { name: "providers", node: Node::List(PROVIDER), required: false },
    Key { name: "namespaces", node: Node::Map(NAMESPACE), required: false },
    Key { name: "prices", node: Node::Map(PRICE), required: false },
];

const SERVER: &[Key] = &[
    leaf("grpc_addr", Kind::Address),
    leaf("http_addr", Kind::Address),
    leaf("request_timeout", Kind::Duration),
    leaf("drain_timeout", Kind::Duration),
    leaf("max_body_bytes", SIZE),
    leaf("tenants", Kind::Texts),
];

const CACHE: &[Key] = &[
    leaf("mode", Kind::Choice(&["on", "shadow", "off"])),
    leaf("max_wrong_rate", Kind::Number),
    leaf("min_similarity", Kind::Number),
    leaf("ttl", Kind::Duration),
    leaf("top_k", SIZE),
    leaf("lookup_budget", Kind::Duration),
    leaf("audience", Kind::Choice(&["shared", "user"])),
    leaf("bypass_time_sensitive", Kind::Flag),
    leaf("audit_share", Kind::Number),
    leaf("max_entry_bytes", SIZE),
];

const STORES: &[Key] = &[
    leaf("entries", Kind::Choice(&["sqlite", "redis"])),
    leaf("vectors", Kind::Choice(&["flat", "qdrant"])),
    leaf("redis_url", Kind::Url),
    leaf("redis_cluster_urls", Kind::Texts),
    leaf("redis_prefix", Kind::Text),
    leaf("redis_ca_file", Kind::Path),
    leaf("redis_cert_file", Kind::Path),
    leaf("redis_key_file", Kind::Path),
    leaf("qdrant_url", Kind::Url),
    leaf("qdrant_api_key_env", Kind::Text),
    leaf("qdrant_collection", Kind::Text),
    leaf("qdrant_quantization", Kind::Flag),
    leaf("timeout", Kind::Duration),
    leaf("l1_bytes", SIZE),
    leaf("max_bytes", SIZE),
    leaf("write_queue", SIZE),
];

const EMBEDDING: &[Key] = &[
    leaf("model", Kind::Text),
    leaf("device", Kind::Choice(&["cpu", "cuda"])),
    leaf("precision", Kind::Choice(&["bf16", "f32"])),
    leaf("threads", SIZE),
    leaf("batch_tokens", SIZE),
    leaf("queue", SIZE),
    leaf("memo_bytes", SIZE),
];

const VERIFIER: &[Key] = &[leaf("model", Kind::Choice(&["reprise-verifier", "none"]))];

const MODELS: &[Key] = &[leaf("dir", Kind::Path), leaf("local_dir", Kind::Path), leaf("offline", Kind::Flag)];

const LIMITS: &[Key] = &[
    leaf("max_messages", SIZE),
    leaf("max_prompt_bytes", SIZE),
    leaf("max_batch", SIZE),
    leaf("max_concurrent", SIZE),
];

const LOG: &[Key] = &[leaf("format", Kind::Choice(&["human", "json"])), leaf("level", Kind::Text)];

const PROVIDER: &[Key] = &[
    required("name", Kind::Text),
    required("kind", Kind::Choice(&["openai", "anthropic", "local", "scripted"])),
    leaf("models", Kind::Texts),
    leaf("base_url", Kind::Url),
    leaf("api_key_env", Kind::Text),
    leaf("api_key_file", Kind::Path),
    leaf("ca_file", Kind::Path),
    leaf("connect_timeout", Kind::Duration),
    leaf("timeout", Kind::Duration),
    leaf("max_tokens", Kind::Whole(u32::MAX as u64)),
    leaf("latency", Kind::Duration),
    leaf("token_latency", Kind::Duration),
    leaf("tokens", Kind::Whole(u32::MAX as u64)),
    leaf("error_rate", Kind::Number),
    leaf("error", Kind::Choice(&["unavailable", "rate_limited", "timeout", "invalid", "cut"])),
];

const NAMESPACE: &[Key] = &[table("cache", CACHE)];

const PRICE: &[Key] = &[required("input", Kind::Money), required("output", Kind::Money)];

/// TOML's integers are 64 bits with a sign.
const SIZE: Kind = Kind::Whole(i64::MAX as u64);

const fn leaf(name: &'static str, kind: Kind) -> Key {
    Key { name, node: Node::Leaf(kind), required: false }
}

const fn required(name: &'static str, kind: Kind) -> Key {
    Key { name, node: Node::Leaf(kind), required: true }
}

const fn table(name: &'static str, keys: &'static [Key]) -> Key {
    Key { name, node: Node::Table(keys), required: false }
}

impl Node {
    pub(super) fn expected(&self) -> String {
        match self {
            Self::Table(_) | Self::Map(_) => "a table".into(),
            Self::List(_) => "a list of tables".into(),
            Self::Leaf(kind) => kind.expected(),
        }
    }
}

impl Kind {
    pub(super) fn expected(&self) -> String {
        match self {
            Self::Text => "text".into(),
            Self::Path => "a path as text".into(),
            Self::Url => "a URL as text".into(),
            Self::Flag => "true or false".into(),
            Self::Whole(max) if *max == i64::MAX as u64 => "a whole number from 0".into(),
            Self::Whole(max) => format!("a whole number from 0 to {max}"),
            Self::Number => "a number".into(),
            Self::Money => "dollars as a decimal in quotes, for example \"0.15\"".into(),
            Self::Duration => "a duration, for example \"250ms\" or \"24h\"".into(),
            Self::Address => "an address and port, for example \"127.0.0.1:7070\"".into(),
            Self::Texts => "a list of texts".into(),
            Self::Choice(names) => format!("one of {}", names.join(", ")),
        }
    }

    /// Whether a value can be taken; the error says what was expected instead.
    pub(super) fn check(&self, value: &Value) -> Result<(), String> {
        let fits = match (self, value) {
            (Self::Text | Self::Path | Self::Url, Value::String(_)) => true,
            (Self::Flag, Value::Boolean(_)) => true,
            (Self::Whole(max), Value::Integer(n)) => u64::try_from(*n).is_ok_and(|n| n <= *max),
            (Self::Number, Value::Integer(_) | Value::Float(_)) => true,
            (Self::Money, Value::String(text)) => text.parse::<rust_decimal::Decimal>().is_ok(),
            (Self::Money, Value::Integer(_)) => true,
            (Self::Duration, Value::String(text)) => humantime::parse_duration(text).is_ok(),
            (Self::Address, Value::String(text)) => text.parse::<std::net::SocketAddr>().is_ok(),
            (Self::Texts, Value::Array(items)) => items.iter().all(Value::is_str),
            (Self::Choice(names), Value::String(text)) => names.contains(&text.as_str()),
            _ => false,
        };
        if fits { Ok(()) } else { Err(format!("expected {}, got {}", self.expected(), self.describe(value))) }
    }

    /// The value written in an environment variable or after `--set key=`: TOML where the type asks for it, and the
    /// bare text where text is wanted.
    pub(super) fn parse(&self, raw: &str) -> Value {
        let parsed = parse_value(raw);
        match (self, parsed) {
            (Self::Flag | Self::Whole(_) | Self::Number, Some(value)) => value,
            (Self::Texts, Some(value @ Value::Array(_))) => value,
            (Self::Texts, Some(Value::String(one))) => Value::Array(vec![Value::String(one)]),
            (Self::Texts, _) => {
                let items = raw.split(',').map(str::trim).filter(|item| !item.is_empty());
                Value::Array(items.map(Value::from).collect())
            }
            (_, Some(value @ (Value::String(_) | Value::Array(_) | Value::Table(_)))) => value,
            _ => Value::from(raw),
        }
    }

    /// A value in words: quoted only where it cannot be a secret that strayed.
    fn describe(&self, value: &Value) -> String {
        match (self, value) {
            (Self::Duration | Self::Address | Self::Choice(_) | Self::Flag | Self::Whole(_) | Self::Number, v) => {
                match v {
                    Value::String(text) if text.len() <= 40 => format!("{text:?}"),
                    Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => v.to_string(),
                    _ => describe_type(v).into(),
                }
            }
            (_, v) => describe_type(v).into(),
        }
    }
}

/// One TOML value; `None` when the text is not TOML.
pub(super) fn parse_value(raw: &str) -> Option<Value> {
    let mut table: toml::Table = toml::from_str(&format!("value = {raw}")).ok()?;
    let value = table.remove("value")?;
    table.is_empty().then_some(value)
}

pub(super) fn describe_type(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "text",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}
