//! A remembered answer with its provenance.

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Answer, EntryKey, Owner, Probe, ScopeId, Tag, Usd};

/// Milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Time from `earlier` to this; zero when the clock went back.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// How an entry came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A provider answered a live request.
    #[default]
    Live,
    /// Put by a caller through `CacheService.Store`.
    Stored,
    WarmUp,
    Import,
}

/// How far an entry's writer is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    Untrusted,
    #[default]
    Trusted,
}

/// A remembered answer. Its id is its exact key; it is immutable, and replaced as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub key: EntryKey,
    pub scope: ScopeId,
    pub owner: Owner,
    /// `None` when the request cannot be compared by meaning: then it is found by its exact key only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
    /// Shared, because a hit hands it out as it is.
    pub answer: Arc<Answer>,
    pub cost: Usd,
    pub created: UnixMillis,
    pub expires: UnixMillis,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Tag>,
    /// Documents the answer was made from, as `id@version`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<String>,
    #[serde(default)]
    pub source: Source,
    #[serde(default)]
    pub trust: Trust,
}

impl Entry {
    pub fn is_expired(&self, now: UnixMillis) -> bool {
        now >= self.expires
    }

    pub fn age(&self, now: UnixMillis) -> Duration {
        now.since(self.created)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_goes_back_gives_no_negative_age() {
        assert_eq!(UnixMillis(5).since(UnixMillis(9)), Duration::ZERO);
        assert_eq!(UnixMillis(u64::MAX).after(Duration::from_secs(1)), UnixMillis(u64::MAX));
    }
}
