//! Decisions, with a verifier that says what it is told.

use async_trait::async_trait;
use parking_lot::Mutex;

use super::*;
use crate::cache::decide::guards::Guard;
use crate::embed::{Verification, VerifierModel};
use crate::types::{Answer, Entry, EntryKey, ErrorKind, Namespace, Owner, Probe, ScopeId, UnixMillis, Usage, Usd};

/// Gives each cached prompt the log-odds that stand behind its last space.
struct Told {
    model: VerifierModel,
    asked: Mutex<Vec<usize>>,
    fails: bool,
}

#[async_trait]
impl Verifier for Told {
    fn model(&self) -> &VerifierModel {
        &self.model
    }

    async fn verify(&self, _: &TenantId, pairs: Vec<(String, String)>) -> Result<Vec<Verification>> {
        if self.fails {
            return Err(crate::types::Error::unavailable("gone"));
        }
        self.asked.lock().push(pairs.len());
        let verification = |(cached, _): &(String, String)| {
            let logit = cached.rsplit(' ').next().and_then(|last| last.parse().ok()).unwrap_or(-9.0);
            Verification { logit, tokens: 9, truncated: cached.contains("long"), unknown: 0 }
        };
        Ok(pairs.iter().map(verification).collect())
    }
}

fn told(fails: bool) -> (Judge, Arc<Told>) {
    let model = VerifierModel { id: "told".into(), max_tokens: 512 };
    let told = Arc::new(Told { model, asked: Mutex::default(), fails });
    (Judge::new(Some(told.clone()), Languages::default()).unwrap(), told)
}

fn candidate(prompt: &str, similarity: f32) -> Candidate {
    let key = EntryKey::from_bytes(*blake3::hash(prompt.as_bytes()).as_bytes());
    let entry = Entry {
        key,
        scope: ScopeId::from_bytes([2; 32]),
        owner: Owner { tenant: tenant(), namespace: Namespace::new("n").unwrap() },
        probe: Some(Probe { history: Vec::new(), prompt: prompt.to_owned() }),
        answer: Answer::text("m", "a", Usage::new(1, 1)).into(),
        cost: Usd::default(),
        created: UnixMillis(1),
        expires: UnixMillis(2),
        tags: Vec::new(),
        depends_on: Vec::new(),
        source: Default::default(),
        trust: Default::default(),
    };
    let similarity = Similarity::new(similarity).unwrap();
    Candidate { key, similarity, entry: Some(Arc::new(entry)), judgement: None, verdict: Verdict::Open }
}

fn tenant() -> TenantId {
    TenantId::new("t").unwrap()
}

fn limits<'a>(judge: &Judge, rate: WrongRate, blocked: &'a HashSet<PairId>) -> Limits<'a> {
    Limits { rule: Rule::MaxWrongRate(rate), max_risk: judge.max_risk(rate), blocked }
}

/// The verdicts on candidates, by a bound of one in a hundred.
async fn verdicts(judge: &Judge, prompt: &str, candidates: &mut [Candidate], all: bool) -> Vec<Verdict> {
    let rate = WrongRate::new(0.01).unwrap();
    judge.decide((&tenant(), prompt), limits(judge, rate, &HashSet::new()), candidates, all).await.unwrap();
    candidates.iter().map(|c| c.verdict).collect()
}

const PROMPT: &str = "What must I do to get my money back?";

#[tokio::test]
async fn the_least_risky_within_the_bound_is_the_hit() {
    let (judge, told) = told(false);
    let mut candidates = [
        candidate("refund steps please 1", 0.9),
        candidate("how do refunds work here 5", 0.85),
        candidate("bake -8", 0.6),
    ];
    let found = verdicts(&judge, PROMPT, &mut candidates, true).await;
    assert_eq!(found, [Verdict::TooRisky, Verdict::Hit, Verdict::TooRisky]);
    let mut two = [candidate("how refunds work 6", 0.9), candidate("how do refunds work here 5", 0.9)];
    assert_eq!(verdicts(&judge, PROMPT, &mut two, true).await, [Verdict::Hit, Verdict::Outdone]);
    assert_eq!(*told.asked.lock(), [3, 2], "one batch each");
    let risks: Vec<f64> = candidates.iter().map(risk).collect();
    assert!(risks[1] < risks[0] && risks[0] < risks[2], "{risks:?}");
}

#[tokio::test]
async fn a_guard_vetoes_before_the_verifier_reads() {
    let (judge, told) = told(false);
    let mut candidates = [candidate("Convert 5 miles to km", 0.99)];
    assert_eq!(verdicts(&judge, "Convert 7 miles to km", &mut candidates, false).await, [Verdict::Vetoed]);
    assert_eq!(candidates[0].judgement.as_ref().unwrap().compared.guards, [Guard::Number]);
    assert!(told.asked.lock().is_empty());
}

#[tokio::test]
async fn the_same_text_needs_no_verifier_and_beats_all_others() {
    let (judge, told) = told(false);
    let mut candidates =
        [candidate("get my money back how 9", 0.99), candidate("what must I do to get my money back", 0.98)];
    assert_eq!(verdicts(&judge, PROMPT, &mut candidates, false).await, [Verdict::Open, Verdict::Hit]);
    assert!(told.asked.lock().is_empty());
}

#[tokio::test]
async fn no_more_than_the_likeliest_are_read_on_the_way_of_a_request() {
    let (judge, told) = told(false);
    let mut candidates: Vec<_> =
        (0..4).map(|n| candidate(&format!("refund {n} please 6"), 0.9 - 0.1 * n as f32)).collect();
    let found = verdicts(&judge, PROMPT, &mut candidates, false).await;
    assert_eq!(found, [Verdict::Hit, Verdict::Outdone, Verdict::Open, Verdict::Open]);
    assert_eq!(*told.asked.lock(), [VERIFIED]);
}

#[tokio::test]
async fn what_cannot_be_read_whole_is_never_served() {
    let (judge, _) = told(false);
    let mut cut = [candidate("a long text about refunds 9", 0.95)];
    assert_eq!(verdicts(&judge, PROMPT, &mut cut, false).await, [Verdict::Unreadable]);
    let mut without = [candidate("x", 0.95)];
    let entry = Entry { probe: None, ..(**without[0].entry.as_ref().unwrap()).clone() };
    without[0].entry = Some(Arc::new(entry));
    assert_eq!(verdicts(&judge, PROMPT, &mut without, false).await, [Verdict::Unreadable]);
}

#[tokio::test]
async fn a_bound_of_nothing_serves_nothing_and_one_of_all_serves_what_no_guard_vetoes() {
    let (judge, _) = told(false);
    for (rate, expected) in [(0.0, Verdict::TooRisky), (1.0, Verdict::Hit)] {
        let rate = WrongRate::new(rate).unwrap();
        let mut candidates = [candidate("what must I do to get my money back", 1.0)];
        judge.decide((&tenant(), PROMPT), limits(&judge, rate, &HashSet::new()), &mut candidates, false).await.unwrap();
        assert_eq!(candidates[0].verdict, expected, "{rate}");
    }
}

#[tokio::test]
async fn a_verifier_that_fails_is_an_error_and_no_hit() {
    let (judge, _) = told(true);
    let mut candidates = [candidate("refund steps 9", 0.95)];
    let none = HashSet::new();
    let limits = limits(&judge, WrongRate::new(0.5).unwrap(), &none);
    let failed = judge.decide((&tenant(), PROMPT), limits, &mut candidates, false).await;
    assert_eq!(failed.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(candidates[0].verdict, Verdict::Open);
}

#[tokio::test]
async fn without_a_verifier_similarity_and_words_decide() {
    let judge = Judge::new(None, Languages::default()).unwrap();
    let mut candidates =
        [candidate("What must I do to get all of my money back?", 0.97), candidate("bread recipes", 0.55)];
    let found = verdicts(&judge, PROMPT, &mut candidates, true).await;
    assert_eq!(found[1], Verdict::TooRisky);
    assert!(risk(&candidates[0]) < risk(&candidates[1]));
}

#[tokio::test]
async fn a_blocked_pair_never_meets_again_whatever_the_rule() {
    let (judge, _) = told(false);
    let cached = "what must I do to get my money back";
    let blocked = HashSet::from([PairId::new(cached, PROMPT)]);
    let by_rate = limits(&judge, WrongRate::new(1.0).unwrap(), &blocked);
    for limits in [by_rate, Limits { rule: Rule::MinSimilarity(Similarity::new(0.5).unwrap()), ..by_rate }] {
        let mut candidates = [candidate(cached, 0.99), candidate("refunds please 9", 0.9)];
        judge.decide((&tenant(), PROMPT), limits, &mut candidates, false).await.unwrap();
        assert_eq!(candidates.map(|c| c.verdict), [Verdict::Blocked, Verdict::Hit]);
    }
}

#[tokio::test]
async fn the_verifier_is_not_asked_where_there_is_no_hope() {
    let (judge, told) = told(false);
    let far = || [candidate("Which lorries may drive through the tunnel at night 9", 0.52)];
    let mut candidates = far();
    assert_eq!(verdicts(&judge, PROMPT, &mut candidates, false).await, [Verdict::TooRisky]);
    assert!(told.asked.lock().is_empty() && risk(&candidates[0]) > HOPELESS);
    // Who asks why is told what the verifier says, and the verdict is the same.
    let mut candidates = far();
    assert_eq!(verdicts(&judge, PROMPT, &mut candidates, true).await, [Verdict::TooRisky]);
    assert_eq!(*told.asked.lock(), [1]);
}
