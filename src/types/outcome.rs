//! How a request was answered.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

use super::{EntryKey, HitId, Similarity, Usd};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheStatus {
    /// The same request, byte for byte in canonical form.
    Exact,
    /// Another request that means the same.
    Semantic,
    Miss,
    /// The cache was not asked, because the caller or the nature of the request said so.
    Bypass,
    /// An expired entry, served by policy.
    Stale,
}

impl CacheStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Semantic => "semantic",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
            Self::Stale => "stale",
        }
    }

    pub fn is_hit(self) -> bool {
        matches!(self, Self::Exact | Self::Semantic | Self::Stale)
    }
}

impl fmt::Display for CacheStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where an answer came from, known before its first byte is sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub status: CacheStatus,
    /// The entry that was served; on a miss, the key under which the new answer is remembered.
    pub entry: EntryKey,
    /// Set on a semantic hit.
    pub similarity: Option<Similarity>,
    /// Set on a semantic hit that more than similarity decided: the chance, from 0 to 1, that its answer is a wrong one.
    pub risk: Option<f64>,
    /// What that hit can be reported by; set on a semantic hit.
    pub hit: Option<HitId>,
    /// How old the served entry is; set on hits.
    pub age: Option<Duration>,
    /// Why the cache was bypassed, or what kept it from answering; a stable lower-case word or two.
    pub reason: Option<&'static str>,
    /// What a hit saved: the recorded cost of the answer it replays.
    pub saved: Option<Usd>,
}
