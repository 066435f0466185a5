//! The settings in force, as TOML that can be loaded again. Secrets are no settings; passwords in URLs are left out.

use std::collections::BTreeSet;
use std::fmt::Write;
use toml::Value;
use url::Url;

use super::{Config, Loaded, names};
use crate::types::{Error, Result};

/// Stands for a password.
const REDACTED: &str = "redacted";

impl Loaded {
    /// The whole configuration, with comments that say which layer set what and which keys have no value.
    pub fn to_toml(&self) -> Result<String> {
        let settings = toml::to_string(&self.config.redacted())
            .map_err(|e| Error::internal("cannot write the configuration as TOML").with_source(e))?;
        let mut text = String::new();
        if !self.origins.is_empty() {
            text += "# Not a default:\n";
            for (key, layer) in &self.origins {
                let _ = writeln!(text, "#   {key} (from {layer})");
            }
        }
        let unset = unset(&settings);
        if !unset.is_empty() {
            let _ = writeln!(text, "# Not set: {}", unset.into_iter().collect::<Vec<_>>().join(", "));
        }
        Ok(text + &settings)
    }
}

impl Config {
    /// The same, without passwords in URLs.
    pub fn redacted(&self) -> Config {
        let mut config = self.clone();
        redact(&mut config.stores.redis_url);
        config.stores.redis_cluster_urls.iter_mut().for_each(redact);
        redact(&mut config.stores.qdrant_url);
        config.providers.iter_mut().filter_map(|p| p.base_url.as_mut()).for_each(redact);
        config
    }
}

fn redact(url: &mut String) {
    match Url::parse(url) {
        Ok(mut parsed) if parsed.password().is_some() => {
            let hidden = parsed.set_password(Some(REDACTED)).map(|()| parsed.into());
            *url = hidden.unwrap_or_else(|()| REDACTED.into());
        }
        Ok(_) => {}
        // Where the password is cannot be told.
        Err(_) if url.contains('@') => *url = REDACTED.into(),
        Err(_) => {}
    }
}

/// Keys that the schema has and the text has not.
fn unset(settings: &str) -> BTreeSet<String> {
    let table: toml::Table = toml::from_str(settings).unwrap_or_default();
    let has = |path: &String| {
        let mut segments = path.split('.');
        let first = segments.next().and_then(|s| table.get(s));
        segments.try_fold(first?, |value: &Value, segment| value.get(segment))
    };
    names::schema_paths().into_iter().filter(|path| has(path).is_none()).collect()
}
