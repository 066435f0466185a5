//! Deciding by meaning: which of the candidates, if any, may answer a new prompt.
//!
//! Two prompts are first laid side by side, word by word, and a guard may veto. The likeliest of what is left are read together
//! by the verifier, in one batch. The one with the lowest risk is the hit, if its risk is within the bound.

use std::collections::HashSet;
use std::sync::Arc;

use super::compare::{Comparison, compare};
use super::language::Languages;
use super::risk::{Evidence, RiskModel};
use super::{FLOOR, Rule, Verdict};
use crate::cache::Candidate;
use crate::embed::Verifier;
use crate::types::{PairId, Result, Similarity, TenantId, WrongRate};

/// Candidates that the verifier reads at most for one request: two take not much longer than one, as the cores share them.
const VERIFIED: usize = 2;

/// What similarity and words say is so risky that the verifier is not asked: of held-out pairs that are served at the default bound,
/// 98 in 100 or more are below this before it reads them; of all pairs of questions and of our own, four to five in ten are above.
const HOPELESS: f64 = 0.75;

/// Risk of two prompts that are one text: what is left is a capital letter that mattered.
const SAME: f64 = 0.001;

impl Judgement {
    /// Whether the answer to one prompt may be given to the other, if nothing is served above a risk of `max_risk`.
    pub fn verdict(&self, max_risk: f64) -> Verdict {
        match self {
            _ if self.similarity < FLOOR => Verdict::BelowThreshold,
            _ if !self.compared.guards.is_empty() => Verdict::Vetoed,
            _ if !self.compared.same && !self.readable => Verdict::Unreadable,
            _ if self.is_hopeless(max_risk) => Verdict::TooRisky,
            // What cannot be compared is not within it either.
            _ if self.risk <= max_risk => Verdict::Hit,
            _ => Verdict::TooRisky,
        }
    }

    /// Whether it is not worth while to let a verifier read the two. A looser bound leaves more to it.
    fn is_hopeless(&self, max_risk: f64) -> bool {
        !self.compared.same && self.prior > HOPELESS.max((1.0 + max_risk) / 2.0)
    }
}

/// Reads prompts together, and says how risky it is to answer one with the answer to the other.
#[derive(Clone)]
pub struct Judge {
    /// Names what gives the risks: verifier and risk model.
    id: Arc<str>,
    verifier: Option<Arc<dyn Verifier>>,
    languages: Languages,
    model: &'static RiskModel,
}

/// What holds for one decision.
#[derive(Debug, Clone, Copy)]
pub struct Limits<'a> {
    pub rule: Rule,
    /// The highest risk that is served, where the rule is a wrong rate.
    pub max_risk: f64,
    /// Pairs of prompts that must not meet.
    pub blocked: &'a HashSet<PairId>,
}

/// What is known of two prompts.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// Cosine of their vectors.
    pub similarity: f32,
    pub compared: Comparison,
    /// The verifier's log-odds that one answer serves both; `None` where it did not read them.
    pub logit: Option<f32>,
    /// False where the verifier could not read all of both.
    pub readable: bool,
    /// Chance, from 0 to 1, that the answer to one is wrong for the other, before a verifier read them.
    pub prior: f64,
    /// The same by all that is known. A veto is part of it.
    pub risk: f64,
}

impl Judge {
    /// `languages`: those that the models know.
    ///
    /// Errors: `Corrupt`, if the program was built with a risk model that does not parse.
    pub fn new(verifier: Option<Arc<dyn Verifier>>, languages: Languages) -> Result<Self> {
        let name = verifier.as_ref().map_or("none", |verifier| &verifier.model().id);
        let id = format!("{name}+{}", RiskModel::own_id()).into();
        Ok(Self { id, verifier, languages, model: RiskModel::own()? })
    }

    /// Whether the models know the language of a prompt, as far as it can be told.
    pub fn knows_language_of(&self, prompt: &str) -> bool {
        let knows = self.languages.know(prompt);
        if !knows {
            metrics::counter!("reprise_unknown_language_total").increment(1);
        }
        knows
    }

    /// The highest risk that may be served at that wrong rate, by what held-out pairs tell.
    pub fn max_risk(&self, rate: WrongRate) -> f64 {
        self.model.max_risk(rate.get(), self.verifier.is_some())
    }

    /// Names what gives the risks: those of different judges are never compared.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn verifier(&self) -> Option<&Arc<dyn Verifier>> {
        self.verifier.as_ref()
    }

    /// Compares two prompts word by word; the verifier has not read them yet.
    pub fn read(&self, a: &str, b: &str, similarity: Similarity) -> Judgement {
        let compared = compare(a, b);
        let similarity = similarity.get();
        let mut read = Judgement { similarity, compared, logit: None, readable: true, prior: 1.0, risk: 1.0 };
        read.risk = self.risk(&read);
        read.prior = read.risk;
        read
    }

    /// Lets the verifier read pairs, in one batch. Without a verifier nothing changes.
    ///
    /// Errors: as those of [`Verifier::verify`].
    pub async fn verify(
        &self,
        tenant: &TenantId,
        pairs: Vec<(String, String)>,
        judgements: &mut [&mut Judgement],
    ) -> Result<()> {
        let Some(verifier) = self.verifier.as_ref().filter(|_| !pairs.is_empty()) else { return Ok(()) };
        let verified = verifier.verify(tenant, pairs).await?;
        for (judgement, verified) in judgements.iter_mut().zip(verified) {
            judgement.logit = Some(verified.logit);
            judgement.readable = !verified.truncated && verified.unknown == 0;
            judgement.risk = self.risk(judgement);
        }
        Ok(())
    }

    fn risk(&self, judgement: &Judgement) -> f64 {
        if judgement.compared.same {
            return SAME;
        }
        self.model.wrong(&Evidence {
            similarity: judgement.similarity,
            logit: judgement.logit,
            likeness: judgement.compared.likeness,
            lengths: judgement.compared.lengths,
            vetoed: !judgement.compared.guards.is_empty(),
        })
    }

    /// Judges the candidates that are still open, which are in the order of their similarity. At most one of them is a hit
    /// afterwards. With `all`, every one is judged to the end.
    pub async fn decide(
        &self,
        (tenant, prompt): (&TenantId, &str),
        limits: Limits<'_>,
        candidates: &mut [Candidate],
        all: bool,
    ) -> Result<()> {
        keep_apart(prompt, limits.blocked, candidates);
        let mut open: Vec<&mut Candidate> = candidates.iter_mut().filter(|c| c.verdict == Verdict::Open).collect();
        if let Rule::MinSimilarity(_) = limits.rule {
            for (place, candidate) in open.into_iter().enumerate() {
                candidate.verdict = if place == 0 { Verdict::Hit } else { Verdict::Outdone };
            }
            return Ok(());
        }
        for candidate in &mut open {
            self.compare_to(prompt, candidate);
        }
        open.retain(|c| c.verdict == Verdict::Open);
        if self.verifier.is_some() && !all {
            let hopeless = |c: &Candidate| c.judgement.as_ref().is_some_and(|j| j.is_hopeless(limits.max_risk));
            for candidate in open.extract_if(.., |c| hopeless(c)) {
                candidate.verdict = Verdict::TooRisky;
            }
        }
        open.sort_by(|a, b| risk(a).total_cmp(&risk(b)));
        let same = open.iter().any(|c| c.judgement.as_ref().is_some_and(|j| j.compared.same));
        if all || !same {
            open.truncate(if all { usize::MAX } else { VERIFIED });
            let texts = open.iter().map(|c| (cached_prompt(c).to_owned(), prompt.to_owned())).collect();
            let mut judgements: Vec<_> = open.iter_mut().filter_map(|c| c.judgement.as_mut()).collect();
            self.verify(tenant, texts, &mut judgements).await?;
            open.sort_by(|a, b| risk(a).total_cmp(&risk(b)));
        }
        let mut best = Verdict::Hit;
        for candidate in open {
            let Some(judgement) = &candidate.judgement else { continue };
            candidate.verdict = match judgement.verdict(limits.max_risk) {
                _ if !judgement.compared.same && self.verifier.is_some() && judgement.logit.is_none() => Verdict::Open,
                Verdict::Hit => std::mem::replace(&mut best, Verdict::Outdone),
                verdict => verdict,
            };
        }
        Ok(())
    }

    /// Word by word; where the entry has no prompt to compare, nothing can be known.
    fn compare_to(&self, prompt: &str, candidate: &mut Candidate) {
        let Some(probe) = candidate.entry.as_ref().and_then(|entry| entry.probe.as_ref()) else {
            candidate.verdict = Verdict::Unreadable;
            return;
        };
        let judgement = self.read(&probe.prompt, prompt, candidate.similarity);
        for guard in &judgement.compared.guards {
            metrics::counter!("reprise_guard_vetoes_total", "guard" => guard.as_str()).increment(1);
        }
        if !judgement.compared.guards.is_empty() {
            candidate.verdict = Verdict::Vetoed;
        }
        candidate.judgement = Some(judgement);
    }
}

/// Candidates whose prompts and this one were reported wrong together, whichever of the two was the new one.
fn keep_apart(prompt: &str, blocked: &HashSet<PairId>, candidates: &mut [Candidate]) {
    if blocked.is_empty() {
        return;
    }
    for candidate in candidates.iter_mut().filter(|c| c.verdict == Verdict::Open) {
        let cached = cached_prompt(candidate);
        let pairs = [PairId::new(cached, prompt), PairId::new(prompt, cached)];
        if pairs.iter().any(|pair| blocked.contains(pair)) {
            candidate.verdict = Verdict::Blocked;
        }
    }
}

fn risk(candidate: &Candidate) -> f64 {
    candidate.judgement.as_ref().map_or(1.0, |judgement| judgement.risk)
}

/// What the candidate's entry answered. The conversations before the two prompts are equal: they are part of the scope.
fn cached_prompt(candidate: &Candidate) -> &str {
    candidate.entry.as_ref().and_then(|entry| entry.probe.as_ref()).map_or("", |probe| &probe.prompt)
}

#[cfg(test)]
mod tests;
