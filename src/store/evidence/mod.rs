//! What served hits turned out to be, and which pairs of prompts must not meet again. It survives restarts and is shared by the
//! replicas that share entries, so it lives where they do.
//!
//! Backends: [`sqlite`] (embedded) and [`redis`].

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

use crate::types::{EntryKey, Owner, PairId, Result, UnixMillis};

#[cfg(test)]
mod contract;
pub mod redis;
pub mod sqlite;

/// Labels of an owner that are kept: the newest. Older ones say little of the prompts of today.
pub const LABELS: usize = 500;
/// Blocked pairs of an owner that are kept: the newest.
pub const BLOCKED: usize = 10_000;

/// Remembers labels and blocked pairs, by owner.
#[async_trait]
pub trait EvidenceStore: Send + Sync + 'static {
    /// Adds a label; durable, as far as the backend is, when this returns. A second one for the same hit and source is ignored;
    /// false then.
    async fn add(&self, owner: &Owner, label: &Label) -> Result<bool>;

    /// From here on the pair is [`Evidence::blocked`], until `until`.
    async fn block(&self, owner: &Owner, pair: PairId, until: UnixMillis) -> Result<()>;

    /// All that is known for an owner.
    async fn read(&self, owner: &Owner) -> Result<Evidence>;
}

/// What one hit turned out to be, and who says so. Holds no text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Label {
    /// The entry that was served, and the two prompts.
    pub entry: EntryKey,
    pub pair: PairId,
    /// The risk that was said of it, and by which verifier: risks of different ones are never mixed.
    pub risk: f64,
    pub judge: String,
    pub right: bool,
    pub source: LabelSource,
    pub at: UnixMillis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelSource {
    /// A caller reported it.
    Report,
    /// The entry's answer was compared with a fresh one.
    Audit,
}

impl LabelSource {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Report => "report",
            Self::Audit => "audit",
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evidence {
    /// Newest first, at most [`LABELS`].
    pub labels: Vec<Label>,
    pub blocked: HashSet<PairId>,
}
