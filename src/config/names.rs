//! Names of settings: how a path is written in each layer, and which known one was meant by an unknown one.

use super::schema::{self, Key, Node};

/// Begins every environment variable that is a setting.
pub(super) const PREFIX: &str = "REPRISE_";

/// What the schema has at a path; the segments of maps may be anything, those of lists are indexes.
pub(super) fn find(path: &[String]) -> Option<Node> {
    let mut node = Node::Table(schema::ROOT);
    for (depth, segment) in path.iter().enumerate() {
        node = match node {
            Node::Table(keys) => child(keys, &path[..=depth])?,
            Node::Map(keys) => Node::Table(keys),
            Node::List(keys) => segment.parse::<usize>().ok().map(|_| Node::Table(keys))?,
            Node::Leaf(_) => return None,
        };
    }
    Some(node)
}

pub(super) fn child(keys: &[Key], path: &[String]) -> Option<Node> {
    let name = path.last()?;
    keys.iter().find(|key| key.name == name).map(|key| key.node)
}

/// The known key closest to an unknown one: at first among its siblings, then anywhere.
pub(super) fn suggest(path: &[String]) -> Option<String> {
    let (name, parent) = path.split_last()?;
    let siblings: &[Key] = match find(parent) {
        Some(Node::Table(keys)) => keys,
        _ => &[],
    };
    if let Some(key) = closest(siblings.iter().map(|key| key.name), name) {
        return Some(join(&[parent, &[key.to_string()]].concat()));
    }
    // `cache_ttl` for `cache.ttl`, or the right name in the wrong table.
    let all = schema_paths();
    let flat = path.join("_");
    let tail = |known: &&String| known.rsplit('.').next() == Some(name);
    all.iter()
        .find(|known| known.replace('.', "_") == flat)
        .or_else(|| all.iter().find(tail))
        .or_else(|| closest(all.iter().map(String::as_str), &join(path)).and_then(|k| all.iter().find(|a| *a == k)))
        .cloned()
}

fn closest<'a>(names: impl Iterator<Item = &'a str>, to: &str) -> Option<&'a str> {
    let scored = names.map(|name| (strsim::normalized_damerau_levenshtein(name, to), name));
    scored.filter(|(score, _)| *score >= 0.6).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

/// Dotted paths of every key that does not stand in a map or a list.
pub(super) fn schema_paths() -> Vec<String> {
    fn collect(keys: &[Key], prefix: &str, into: &mut Vec<String>) {
        for key in keys {
            let path = format!("{prefix}{}", key.name);
            if let Node::Table(keys) = key.node {
                collect(keys, &format!("{path}."), into);
            } else {
                into.push(path);
            }
        }
    }
    let mut paths = Vec::new();
    collect(schema::ROOT, "", &mut paths);
    paths
}

pub(super) fn variable_of(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "__").to_uppercase())
}

/// The segments of a dotted key; those in double quotes may hold dots.
pub(super) fn split_key(key: &str) -> Option<Vec<String>> {
    let mut segments = Vec::new();
    let mut rest = key;
    loop {
        let (segment, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => rest.split_at(rest.find('.').unwrap_or(rest.len())),
        };
        if segment.is_empty() {
            return None;
        }
        segments.push(segment.to_string());
        match after {
            "" => return Some(segments),
            _ => rest = after.strip_prefix('.')?,
        }
    }
}

/// A path in one word, the way `--set` takes it.
pub(super) fn join(path: &[String]) -> String {
    let bare = |s: &&String| s.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
    let segments: Vec<_> = path.iter().map(|s| if bare(&s) { s.clone() } else { format!("\"{s}\"") }).collect();
    segments.join(".")
}
