//! Whether a near entry may answer a request. For now by similarity alone; every rule that is not about meaning
//! (age, the new request's own limits) stands here too, so that one place says why a candidate was not served.
//!
//! [`guards`] tell what two prompts differ in that look alike; they read [`words`] that [`align`] lays side by side, with the
//! lists of [`lexicon`]. [`risk`] weighs all that is known of two prompts. Nothing asks these yet but `eval`.

pub mod align;
pub mod guards;
mod lexicon;
pub mod risk;
pub mod words;

use std::time::Duration;

use crate::types::{ChatRequest, Entry, Owner, ScopeId, Similarity, UnixMillis};

/// What holds for one lookup.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Lowest similarity that is served.
    pub min_similarity: Similarity,
    /// Oldest entry that is served.
    pub max_age: Option<Duration>,
}

/// What is said of one candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Hit,
    /// Less similar than the threshold in force.
    BelowThreshold,
    /// Its body has expired or was deleted.
    Gone,
    /// Older than the request allows.
    TooOld,
    /// Its answer has more tokens than the request allows.
    TooLong,
    /// It belongs to another owner or scope: a store gave what it must not.
    Foreign,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::BelowThreshold => "below the threshold",
            Self::Gone => "its answer is gone",
            Self::TooOld => "older than max_age",
            Self::TooLong => "longer than max_tokens",
            Self::Foreign => "belongs to another scope",
        }
    }
}

/// Judges an entry that is to answer `request`, which was put by `owner` in `scope`.
///
/// `entry` is `None` when its body is gone.
pub fn judge(
    entry: Option<&Entry>,
    similarity: Similarity,
    policy: &Policy,
    request: &ChatRequest,
    (owner, scope): (&Owner, &ScopeId),
    now: UnixMillis,
) -> Verdict {
    if similarity < policy.min_similarity {
        return Verdict::BelowThreshold;
    }
    let Some(entry) = entry else { return Verdict::Gone };
    if entry.owner != *owner || entry.scope != *scope {
        return Verdict::Foreign;
    }
    if entry.is_expired(now) {
        return Verdict::Gone;
    }
    if !is_fresh(entry, policy.max_age, now) {
        return Verdict::TooOld;
    }
    if request.max_answer_tokens().is_some_and(|limit| answer_tokens(entry) > u64::from(limit)) {
        return Verdict::TooLong;
    }
    Verdict::Hit
}

/// Whether an entry is young enough for a request.
pub(super) fn is_fresh(entry: &Entry, max_age: Option<Duration>, now: UnixMillis) -> bool {
    max_age.is_none_or(|limit| entry.age(now) <= limit)
}

/// Tokens of an answer; where its provider did not count them, its bytes, which no tokeniser exceeds.
fn answer_tokens(entry: &Entry) -> u64 {
    match entry.answer.usage.completion_tokens {
        0 => entry.answer.content().len() as u64,
        tokens => tokens,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Answer, EntryKey, Namespace, TenantId, Usage, Usd};

    const NOW: UnixMillis = UnixMillis(1_000_000);

    fn owner(tenant: &str) -> Owner {
        Owner { tenant: TenantId::new(tenant).unwrap(), namespace: Namespace::new("n").unwrap() }
    }

    fn entry() -> Entry {
        Entry {
            key: EntryKey::from_bytes([1; 32]),
            scope: ScopeId::from_bytes([2; 32]),
            owner: owner("t"),
            probe: None,
            answer: Answer::text("m", "Paris. It is in France.", Usage::new(5, 9)).into(),
            cost: Usd::default(),
            created: UnixMillis(NOW.0 - 10_000),
            expires: UnixMillis(NOW.0 + 10_000),
            tags: vec![],
            depends_on: vec![],
            source: Default::default(),
            trust: Default::default(),
        }
    }

    fn verdict(entry: Option<&Entry>, similarity: f32, request: &ChatRequest, max_age: Option<Duration>) -> Verdict {
        let policy = Policy { min_similarity: Similarity::new(0.95).unwrap(), max_age };
        let similarity = Similarity::new(similarity).unwrap();
        judge(entry, similarity, &policy, request, (&owner("t"), &ScopeId::from_bytes([2; 32])), NOW)
    }

    #[test]
    fn serves_at_the_threshold_and_not_below() {
        let request = ChatRequest::prompt("m", "q");
        assert_eq!(verdict(Some(&entry()), 0.95, &request, None), Verdict::Hit);
        assert_eq!(verdict(Some(&entry()), 0.949, &request, None), Verdict::BelowThreshold);
    }

    #[test]
    fn never_serves_what_is_gone_expired_or_foreign() {
        let request = ChatRequest::prompt("m", "q");
        assert_eq!(verdict(None, 1.0, &request, None), Verdict::Gone);
        assert_eq!(verdict(Some(&Entry { expires: NOW, ..entry() }), 1.0, &request, None), Verdict::Gone);
        assert_eq!(verdict(Some(&Entry { owner: owner("other"), ..entry() }), 1.0, &request, None), Verdict::Foreign);
        let elsewhere = Entry { scope: ScopeId::from_bytes([3; 32]), ..entry() };
        assert_eq!(verdict(Some(&elsewhere), 1.0, &request, None), Verdict::Foreign);
    }

    #[test]
    fn the_new_requests_own_limits_hold() {
        let mut request = ChatRequest::prompt("m", "q");
        let ten = Some(Duration::from_secs(10));
        assert_eq!(verdict(Some(&entry()), 1.0, &request, ten), Verdict::Hit);
        assert_eq!(verdict(Some(&entry()), 1.0, &request, Some(Duration::from_secs(9))), Verdict::TooOld);
        request.max_tokens = Some(9);
        assert_eq!(verdict(Some(&entry()), 1.0, &request, None), Verdict::Hit);
        request.max_tokens = Some(8);
        assert_eq!(verdict(Some(&entry()), 1.0, &request, None), Verdict::TooLong);
    }

    #[test]
    fn an_uncounted_answer_is_as_long_as_its_bytes() {
        let mut request = ChatRequest::prompt("m", "q");
        request.max_tokens = Some(9);
        let uncounted = Entry { answer: Answer::text("m", "ten bytes!", Usage::default()).into(), ..entry() };
        assert_eq!(verdict(Some(&uncounted), 1.0, &request, None), Verdict::TooLong);
    }
}
