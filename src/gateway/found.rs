//! What the cache said to a request.

use std::sync::Arc;

use super::admit::Admitted;
use crate::cache::{Candidate, Judge};
use crate::types::{CacheStatus, Entry, HitId, Outcome, PairId, Similarity, UnixMillis};

pub(super) enum Found {
    Hit(Hit),
    Miss(Miss),
}

#[derive(Debug, Clone)]
pub(super) struct Hit {
    pub entry: Arc<Entry>,
    /// What it rests on; `None` for an exact hit.
    pub near: Option<Near>,
}

/// What a semantic hit rests on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Near {
    pub similarity: Similarity,
    /// Chance that its answer is wrong; `None` where similarity alone decided.
    pub risk: Option<f64>,
    pub pair: PairId,
    /// What gave the risk; see [`HitId`].
    pub judge: [u8; 4],
}

impl Hit {
    /// The entry of a candidate, for `prompt`, as `judge` found it.
    pub fn near(entry: &Arc<Entry>, candidate: &Candidate, prompt: &str, judge: &Judge) -> Self {
        let near = Near {
            similarity: candidate.similarity,
            risk: candidate.judgement.as_ref().map(|judgement| judgement.risk),
            pair: PairId::new(entry.probe.as_ref().map_or("", |probe| &probe.prompt), prompt),
            judge: HitId::judge_of(judge.id()),
        };
        Self { entry: entry.clone(), near: Some(near) }
    }

    /// What a caller can report it by; `None` for an exact hit.
    pub fn id(&self) -> Option<HitId> {
        let near = self.near?;
        Some(HitId {
            entry: self.entry.key,
            pair: near.pair,
            risk: near.risk.map(|risk| risk as f32),
            version: HitId::version_of(self.entry.created),
            judge: near.judge,
        })
    }

    pub fn outcome(&self) -> Outcome {
        Outcome {
            status: if self.near.is_some() { CacheStatus::Semantic } else { CacheStatus::Exact },
            entry: self.entry.key,
            similarity: self.near.map(|near| near.similarity),
            risk: self.near.and_then(|near| near.risk),
            hit: self.id(),
            age: Some(self.entry.age(UnixMillis::now())),
            reason: None,
            saved: Some(self.entry.cost),
        }
    }
}

pub(super) struct Miss {
    /// The prompt's vector, where it was computed and says all of the prompt.
    pub vector: Option<Arc<[f32]>>,
    /// Whether the answer may be found by meaning later.
    pub comparable: bool,
    pub reason: Option<&'static str>,
    /// What would have been served, if the mode were not `shadow`.
    pub shadowed: Option<Hit>,
}

impl Miss {
    pub fn new(admitted: &Admitted) -> Self {
        let comparable = admitted.probe.is_some() && !admitted.request.chat.has_tools();
        Self { vector: None, comparable, reason: admitted.allowed.reason, shadowed: None }
    }
}
