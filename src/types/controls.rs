//! What a caller may ask of the cache, request by request.

use serde::{Deserialize, Serialize};
use std::time::Duration;

use super::{Error, Result, Similarity, Tag, WrongRate};

/// How a namespace uses its cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheMode {
    /// Look up, serve hits, remember answers.
    #[default]
    On,
    /// Look up and record the decision, but serve from upstream; remember answers.
    Shadow,
    Off,
}

/// What one request wants of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UseCache {
    /// Serve a hit if there is one; remember the answer otherwise.
    #[default]
    Use,
    /// Neither look up nor remember.
    Bypass,
    /// Do not look up, but remember the new answer in place of an old one.
    Refresh,
    /// Serve a hit, or fail with [`super::ErrorKind::NotCached`]: never call an LLM.
    OnlyIfCached,
}

/// Cache controls of one request; `None` means the namespace's own setting.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CacheControls {
    pub use_cache: UseCache,
    /// Do not remember the answer.
    pub no_store: bool,
    /// How long the new answer may be served.
    pub ttl: Option<Duration>,
    /// Serve only entries at most this old.
    pub max_age: Option<Duration>,
    /// Largest share of wrong hits.
    pub max_wrong_rate: Option<WrongRate>,
    /// Serve by similarity alone, from this one up: replaces the wrong rate.
    pub min_similarity: Option<Similarity>,
    /// Labels the new entry gets, to delete it by.
    pub tags: Vec<Tag>,
}

/// 0 to 9; higher goes first. 5 unless told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority(u8);

impl Priority {
    pub fn new(level: u32) -> Result<Self> {
        match u8::try_from(level) {
            Ok(level) if level <= 9 => Ok(Self(level)),
            _ => Err(Error::invalid("priority", format!("{level} is not a priority; expected 0 to 9"))),
        }
    }

    pub fn get(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self(5)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_are_0_to_9() {
        assert_eq!(Priority::new(9).unwrap().get(), 9);
        assert!(Priority::new(10).is_err());
        assert!(Priority::new(300).is_err());
    }
}
