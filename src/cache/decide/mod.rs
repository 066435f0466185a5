//! Whether a near entry may answer a request.
//!
//! [`fits`] holds every rule that is not about meaning (age, owner, the new request's own limits). [`judge`] decides by meaning:
//! [`compare`] lays two prompts side by side, word by word; its [`guards`] say what they differ in though they look alike; the
//! verifier reads both together; [`risk`] weighs all of it. [`language`] says
//! what is not compared at all. [`words`], [`align`] and [`lexicon`] are what `compare` reads with.

pub mod align;
pub mod bound;
pub mod compare;
pub mod guards;
pub mod judge;
pub mod language;
mod lexicon;
pub mod risk;
pub mod words;

use std::time::Duration;

use crate::types::{ChatRequest, Entry, Owner, ScopeId, Similarity, UnixMillis, WrongRate};

pub use judge::{Judge, Judgement, Limits};
pub use language::Languages;

/// What holds for one lookup.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    pub rule: Rule,
    /// Oldest entry that is served.
    pub max_age: Option<Duration>,
}

/// How hits are decided.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// By all that is known of two prompts: at most this share of requests gets a wrong answer.
    MaxWrongRate(WrongRate),
    /// By cosine similarity alone, from this one up.
    MinSimilarity(Similarity),
}

/// Nothing less similar than this is looked at, unless a rule by similarity says so: two prompts that one answer serves are
/// hardly ever farther apart, and the risk of those that are is never within a bound.
const FLOOR: f32 = 0.5;

impl Rule {
    /// Lowest similarity worth looking at.
    pub fn floor(self) -> Similarity {
        match self {
            Self::MaxWrongRate(_) => Similarity::from_dot(FLOOR),
            Self::MinSimilarity(lowest) => lowest,
        }
    }
}

/// What is said of one candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Hit,
    /// Not judged by meaning: a better one was, or nothing was decided.
    Open,
    /// Less similar than the rule in force looks at.
    BelowThreshold,
    /// Somebody reported that its answer was wrong for that prompt.
    Blocked,
    /// A guard spoke against it.
    Vetoed,
    /// The verifier cannot read both prompts whole.
    Unreadable,
    /// The risk that its answer is wrong is above the bound in force.
    TooRisky,
    /// It would be within the bound, but another one is less risky.
    Outdone,
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
            Self::Open => "not judged",
            Self::BelowThreshold => "below the threshold",
            Self::Blocked => "reported wrong before",
            Self::Vetoed => "vetoed by a guard",
            Self::Unreadable => "not readable for the verifier",
            Self::TooRisky => "too risky",
            Self::Outdone => "another one is less risky",
            Self::Gone => "its answer is gone",
            Self::TooOld => "older than max_age",
            Self::TooLong => "longer than max_tokens",
            Self::Foreign => "belongs to another scope",
        }
    }
}

/// What speaks against an entry, by rules that are not about meaning, as the answer to `request`, which was put by `owner` in
/// `scope`; [`Verdict::Open`] when nothing does.
pub fn fits(
    entry: &Entry,
    policy: &Policy,
    request: &ChatRequest,
    (owner, scope): (&Owner, &ScopeId),
    now: UnixMillis,
) -> Verdict {
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
    Verdict::Open
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

    fn verdict(entry: &Entry, request: &ChatRequest, max_age: Option<Duration>) -> Verdict {
        let policy = Policy { rule: Rule::MaxWrongRate(WrongRate::new(0.01).unwrap()), max_age };
        fits(entry, &policy, request, (&owner("t"), &ScopeId::from_bytes([2; 32])), NOW)
    }

    #[test]
    fn never_serves_what_is_expired_or_foreign() {
        let request = ChatRequest::prompt("m", "q");
        assert_eq!(verdict(&Entry { expires: NOW, ..entry() }, &request, None), Verdict::Gone);
        assert_eq!(verdict(&Entry { owner: owner("other"), ..entry() }, &request, None), Verdict::Foreign);
        let elsewhere = Entry { scope: ScopeId::from_bytes([3; 32]), ..entry() };
        assert_eq!(verdict(&elsewhere, &request, None), Verdict::Foreign);
    }

    #[test]
    fn the_new_requests_own_limits_hold() {
        let mut request = ChatRequest::prompt("m", "q");
        let ten = Some(Duration::from_secs(10));
        assert_eq!(verdict(&entry(), &request, ten), Verdict::Open);
        assert_eq!(verdict(&entry(), &request, Some(Duration::from_secs(9))), Verdict::TooOld);
        request.max_tokens = Some(9);
        assert_eq!(verdict(&entry(), &request, None), Verdict::Open);
        request.max_tokens = Some(8);
        assert_eq!(verdict(&entry(), &request, None), Verdict::TooLong);
    }

    #[test]
    fn an_uncounted_answer_is_as_long_as_its_bytes() {
        let mut request = ChatRequest::prompt("m", "q");
        request.max_tokens = Some(9);
        let uncounted = Entry { answer: Answer::text("m", "ten bytes!", Usage::default()).into(), ..entry() };
        assert_eq!(verdict(&uncounted, &request, None), Verdict::TooLong);
    }
}
