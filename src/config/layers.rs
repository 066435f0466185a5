//! From the layers (defaults, file, environment, `--set`) to one [`Config`].

use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

use super::Config;
use super::names::{self, join, suggest};
use super::schema::{self, Node};
use crate::types::{Error, ErrorKind, Result, Violation};

/// Where a value that is not a default came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layer {
    File(PathBuf),
    /// The environment variable.
    Environment(String),
    Set,
}

/// A configuration, and which layer set what in it (by dotted path; defaults are absent).
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    pub origins: BTreeMap<String, Layer>,
}

/// Variables `REPRISE_<word>` and `REPRISE_<word>_…` that are not settings: the file to load, the address the client
/// commands call, what tests and benchmarks read, and what Kubernetes sets in every pod next to a service named
/// `reprise` (`REPRISE_PORT`, `REPRISE_SERVICE_HOST`…).
pub const RESERVED: &[&str] = &["CONFIG", "ADDR", "TEST", "BENCH", "PORT", "SERVICE"];

/// The file to load: the one that is named, else `REPRISE_CONFIG`, else `reprise.toml` in `folder` if it is there.
pub fn find_file(named: Option<PathBuf>, environment: Option<PathBuf>, folder: &Path) -> Option<PathBuf> {
    let usual = || Some(folder.join("reprise.toml")).filter(|path| path.is_file());
    named.or(environment.filter(|path| !path.as_os_str().is_empty())).or_else(usual)
}

impl Config {
    /// Loads and validates. `env` is the whole environment: what does not begin with `REPRISE_` is not looked at, an
    /// empty variable counts as absent. `sets` are `key=value`, later ones win. The error tells every problem.
    pub fn load(file: Option<&Path>, env: impl Iterator<Item = (String, String)>, sets: &[String]) -> Result<Config> {
        Self::load_with_origins(file, env, sets).map(|loaded| loaded.config)
    }

    /// As [`Config::load`], with the layer each value came from.
    pub fn load_with_origins(
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
        sets: &[String],
    ) -> Result<Loaded> {
        let mut layers = Layers::default();
        if let Some(path) = file {
            layers.add_file(path)?;
        }
        layers.add_environment(env);
        for set in sets {
            layers.add_set(set);
        }
        layers.finish()
    }
}

/// Names, types and the ways they are written, while the layers are put over each other.
#[derive(Default)]
struct Layers {
    table: Table,
    origins: BTreeMap<String, Layer>,
    problems: Vec<Violation>,
    /// Variables that are no known setting; they are forgiven when a setting names them as holder of a secret.
    unknown_variables: Vec<(String, Violation)>,
}

/// What a part of a layer asks for at one path.
enum Change {
    Put(Value),
    /// A table that is there, even if nothing is in it.
    Ensure,
    /// A list is given as a whole: what lower layers had in it goes.
    Clear,
}

impl Layers {
    fn add_file(&mut self, path: &Path) -> Result<()> {
        let name = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::invalid("config", format!("cannot read {name}")).with_source(e))?;
        let table: Table = toml::from_str(&text).map_err(|e| {
            let line = e.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            Error::invalid("config", format!("{name} line {line}: {}", e.message()))
        })?;
        self.walk(&Node::Table(schema::ROOT), &mut Vec::new(), Value::Table(table), &Layer::File(path.into()));
        Ok(())
    }

    fn add_environment(&mut self, env: impl Iterator<Item = (String, String)>) {
        let mut settings: Vec<(String, String)> = env.filter(|(name, value)| is_setting(name, value)).collect();
        settings.sort_by(|(a, _), (b, _)| segments(a).cmp(segments(b)).then_with(|| a.cmp(b)));
        for (name, raw) in settings {
            let path: Vec<String> = name[names::PREFIX.len()..].split("__").map(str::to_lowercase).collect();
            let layer = Layer::Environment(name.clone());
            match names::find(&path) {
                Some(node) => self.write(node, path, &raw, &layer),
                None => {
                    let hint = suggest(&path).map(|known| names::variable_of(&known));
                    self.unknown_variables.push((name, unknown(&path, &layer, hint)));
                }
            }
        }
    }

    fn add_set(&mut self, set: &str) {
        let Some((key, raw)) = set.split_once('=') else {
            let description = format!("{set:?} is not key=value");
            return self.problems.push(Violation { field: "--set".into(), description });
        };
        let Some(path) = names::split_key(key.trim()) else {
            let description = format!("{key:?} is not a key; write for example cache.min_similarity=0.9");
            return self.problems.push(Violation { field: "--set".into(), description });
        };
        match names::find(&path) {
            Some(node) => self.write(node, path, raw.trim(), &Layer::Set),
            None => self.problems.push(unknown(&path, &Layer::Set, suggest(&path))),
        }
    }

    /// A value that came as text.
    fn write(&mut self, node: Node, mut path: Vec<String>, raw: &str, layer: &Layer) {
        let value = match node {
            Node::Leaf(kind) => kind.parse(raw),
            _ => schema::parse_value(raw).unwrap_or_else(|| Value::from(raw)),
        };
        self.walk(&node, &mut path, value, layer);
    }

    /// Checks a value and everything in it, and puts over the lower layers what fits.
    fn walk(&mut self, node: &Node, path: &mut Vec<String>, value: Value, layer: &Layer) {
        match (node, value) {
            (Node::Leaf(kind), value) => match kind.check(&value) {
                Ok(()) => self.change(path, Change::Put(value), layer),
                Err(why) => self.problem(path, layer, &why),
            },
            (Node::Table(keys), Value::Table(table)) => {
                self.change(path, Change::Ensure, layer);
                for (name, value) in table {
                    path.push(name);
                    match names::child(keys, path) {
                        Some(node) => self.walk(&node, path, value, layer),
                        None => self.problems.push(unknown(path, layer, suggest(path))),
                    }
                    path.pop();
                }
            }
            (Node::Map(keys), Value::Table(table)) => {
                for (name, value) in table {
                    path.push(name);
                    self.walk(&Node::Table(keys), path, value, layer);
                    path.pop();
                }
            }
            (Node::List(keys), Value::Array(items)) => {
                self.change(path, Change::Clear, layer);
                for (index, item) in items.into_iter().enumerate() {
                    path.push(index.to_string());
                    self.walk(&Node::Table(keys), path, item, layer);
                    path.pop();
                }
            }
            (node, value) => {
                let why = format!("expected {}, got {}", node.expected(), schema::describe_type(&value));
                self.problem(path, layer, &why);
            }
        }
    }

    fn change(&mut self, path: &[String], change: Change, layer: &Layer) {
        if path.is_empty() {
            return;
        }
        let dotted = join(path);
        match &change {
            Change::Put(_) => {
                self.origins.insert(dotted, layer.clone());
            }
            Change::Clear => self.origins.retain(|key, _| !key.starts_with(&format!("{dotted}."))),
            Change::Ensure => {}
        }
        if let Err(why) = apply(&mut self.table, path, 0, change) {
            self.problem(path, layer, &why);
        }
    }

    fn problem(&mut self, path: &[String], layer: &Layer, why: &str) {
        self.problems.push(Violation { field: join(path), description: format!("{why} (from {layer})") });
    }

    fn finish(mut self) -> Result<Loaded> {
        let holders = secret_holders(&self.table);
        let strangers = std::mem::take(&mut self.unknown_variables);
        self.problems.extend(strangers.into_iter().filter(|(name, _)| !holders.contains(name)).map(|(_, p)| p));
        missing(&Node::Table(schema::ROOT), &Value::Table(self.table.clone()), &mut Vec::new(), &mut self.problems);
        match Config::deserialize(Value::Table(self.table)) {
            Ok(config) => {
                self.problems.extend(config.problems());
                refuse(self.problems)?;
                Ok(Loaded { config, origins: self.origins })
            }
            Err(e) => {
                refuse(self.problems)?;
                Err(Error::invalid("config", e.message()))
            }
        }
    }
}

/// One error for all problems; `Ok` when there are none.
pub(super) fn refuse(problems: Vec<Violation>) -> Result<()> {
    let told: Vec<_> = problems.iter().map(|p| format!("{}: {}", p.field, p.description)).collect();
    let message = match told.as_slice() {
        [] => return Ok(()),
        [one] => format!("configuration: {one}"),
        many => format!("the configuration has {} problems:\n  - {}", many.len(), many.join("\n  - ")),
    };
    let mut error = Error::new(ErrorKind::InvalidArgument, message);
    error.violations = problems;
    Err(error)
}

/// What variables are sorted by: the items of a list have to come in order, the tenth after the second.
fn segments(name: &str) -> impl Iterator<Item = Result<usize, &str>> {
    name.split("__").map(|segment| segment.parse().map_err(|_| segment))
}

fn is_setting(name: &str, value: &str) -> bool {
    let Some(rest) = name.strip_prefix(names::PREFIX) else { return false };
    let reserved = |word: &str| rest.strip_prefix(word).is_some_and(|r| r.is_empty() || r.starts_with('_'));
    !value.is_empty() && !RESERVED.iter().any(|word| reserved(word))
}

fn unknown(path: &[String], layer: &Layer, hint: Option<String>) -> Violation {
    let mut description = match hint {
        Some(known) => format!("unknown key; did you mean {known}?"),
        None => "unknown key".into(),
    };
    if path.last().is_some_and(|name| name == "api_key") {
        description += " (secrets are read from the environment or from files)";
    }
    Violation { field: join(path), description: format!("{description} (from {layer})") }
}

/// Puts a change at `path[depth..]` of `table`, which stands at `path[..depth]`.
fn apply(table: &mut Table, path: &[String], depth: usize, change: Change) -> Result<(), String> {
    let Some(name) = path.get(depth) else { return Ok(()) };
    if depth + 1 == path.len() {
        match change {
            Change::Put(value) => drop(table.insert(name.clone(), value)),
            Change::Ensure => drop(table.entry(name.clone()).or_insert_with(|| Value::Table(Table::new()))),
            Change::Clear => drop(table.insert(name.clone(), Value::Array(Vec::new()))),
        }
        return Ok(());
    }
    let is_list = matches!(names::find(&path[..=depth]), Some(Node::List(_)));
    let empty = || if is_list { Value::Array(Vec::new()) } else { Value::Table(Table::new()) };
    match table.entry(name.clone()).or_insert_with(empty) {
        Value::Table(inner) => apply(inner, path, depth + 1, change),
        Value::Array(items) => {
            let index = path[depth + 1].parse::<usize>().unwrap_or(usize::MAX);
            if index > items.len() {
                return Err(format!("there are {} so far; the next one is number {}", items.len(), items.len()));
            }
            if index == items.len() {
                items.push(Value::Table(Table::new()));
            }
            match &mut items[index] {
                Value::Table(inner) => apply(inner, path, depth + 2, change),
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// Names of the variables that the settings name as holders of secrets (`…_env`).
fn secret_holders(table: &Table) -> Vec<String> {
    let mut holders = Vec::new();
    for (key, value) in table {
        match value {
            Value::String(name) if key.ends_with("_env") => holders.push(name.clone()),
            Value::Table(inner) => holders.extend(secret_holders(inner)),
            Value::Array(items) => holders.extend(items.iter().filter_map(Value::as_table).flat_map(secret_holders)),
            _ => {}
        }
    }
    holders
}

/// Tells the required keys that no layer gave.
fn missing(node: &Node, value: &Value, path: &mut Vec<String>, problems: &mut Vec<Violation>) {
    let mut below = |node: Node, name: &str, value: &Value, path: &mut Vec<String>| {
        path.push(name.to_string());
        missing(&node, value, path, problems);
        path.pop();
    };
    match (node, value) {
        (Node::Table(keys), Value::Table(table)) => {
            for key in keys.iter() {
                if let Some(value) = table.get(key.name) {
                    below(key.node, key.name, value, path);
                }
            }
            let told: Vec<_> = problems.iter().map(|p| p.field.clone()).collect();
            let lacks = keys.iter().filter(|key| key.required && !table.contains_key(key.name));
            for key in lacks {
                let field = join(&[path.as_slice(), &[key.name.to_string()]].concat());
                if !told.contains(&field) {
                    let description = format!("must be given: {}", key.node.expected());
                    problems.push(Violation { field, description });
                }
            }
        }
        (Node::Map(keys), Value::Table(table)) => {
            table.iter().for_each(|(name, value)| below(Node::Table(keys), name, value, path));
        }
        (Node::List(keys), Value::Array(items)) => {
            items.iter().enumerate().for_each(|(i, value)| below(Node::Table(keys), &i.to_string(), value, path));
        }
        _ => {}
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Set => f.write_str("--set"),
        }
    }
}
