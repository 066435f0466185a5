//! Scores of labelled pairs, by the parts that decide: the embedder, the guards, the verifier.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::data::Pair;
use crate::cache::decide::guards::{Comparison, compare};
use crate::cache::decide::risk::Evidence;
use crate::embed::{Embedder, Verifier};
use crate::types::{Error, Probe, Result, TenantId};

/// Texts handed over at once; the embedder makes its own batches of them.
const CHUNK: usize = 256;

/// Who scores.
pub struct Judges<'a> {
    pub embedder: &'a dyn Embedder,
    pub verifier: Option<&'a dyn Verifier>,
    pub tenant: &'a TenantId,
}

/// What was found of one pair.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Cosine of the last turns.
    pub similarity: f32,
    /// The last turns, word by word.
    pub compared: Comparison,
    /// The verifier's log-odds, of the whole conversations.
    pub logit: Option<f32>,
}

impl Found {
    /// As the risk model sees it.
    pub fn evidence(&self) -> Evidence {
        Evidence {
            similarity: self.similarity,
            logit: self.logit,
            likeness: self.compared.likeness,
            lengths: self.compared.lengths,
            vetoed: !self.compared.guards.is_empty(),
        }
    }
}

/// Time each step took for all pairs together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Took {
    pub embedding: Duration,
    pub guards: Duration,
    pub verifying: Duration,
}

/// Scores every pair. `done` hears how many texts and pairs are behind it, of how many.
pub async fn judge(judges: &Judges<'_>, pairs: &[Pair], done: impl Fn(usize, usize)) -> Result<(Vec<Found>, Took)> {
    let probes = pairs.iter().map(|pair| Ok((probe(&pair.cached)?, probe(&pair.new)?))).collect::<Result<Vec<_>>>()?;
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut texts: Vec<&str> = Vec::new();
    for probe in probes.iter().flat_map(|(a, b)| [a, b]) {
        places.entry(&probe.prompt).or_insert_with(|| {
            texts.push(&probe.prompt);
            texts.len() - 1
        });
    }
    let steps = texts.len() + judges.verifier.map_or(0, |_| pairs.len());
    let mut took = Took::default();

    let started = Instant::now();
    let mut vectors: Vec<Arc<[f32]>> = Vec::with_capacity(texts.len());
    for chunk in texts.chunks(CHUNK) {
        let chunk = chunk.iter().map(|text| (*text).to_owned()).collect();
        let embedded = judges.embedder.embed(judges.tenant, chunk).await?;
        vectors.extend(embedded.into_iter().map(|embedding| embedding.vector));
        done(vectors.len(), steps);
    }
    took.embedding = started.elapsed();

    let started = Instant::now();
    let mut found: Vec<Found> = probes
        .iter()
        .map(|(a, b)| {
            let (x, y) = (&vectors[places[a.prompt.as_str()]], &vectors[places[b.prompt.as_str()]]);
            let similarity = x.iter().zip(y.iter()).map(|(x, y)| x * y).sum();
            Found { similarity, compared: compare(&a.prompt, &b.prompt), logit: None }
        })
        .collect();
    took.guards = started.elapsed();

    let started = Instant::now();
    if let Some(verifier) = judges.verifier {
        for (n, (found, probes)) in found.chunks_mut(CHUNK).zip(probes.chunks(CHUNK)).enumerate() {
            let texts = probes.iter().map(|(a, b)| (a.text().into_owned(), b.text().into_owned())).collect();
            let verified = verifier.verify(judges.tenant, texts).await?;
            found.iter_mut().zip(verified).for_each(|(found, verified)| found.logit = Some(verified.logit));
            done(texts_before(vectors.len(), n, pairs.len()), steps);
        }
    }
    took.verifying = started.elapsed();
    Ok((found, took))
}

fn texts_before(texts: usize, chunk: usize, pairs: usize) -> usize {
    texts + ((chunk + 1) * CHUNK).min(pairs)
}

fn probe(request: &crate::types::ChatRequest) -> Result<Probe> {
    request.probe().ok_or_else(|| Error::invalid("pair", "has no user's turn to compare"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::decide::guards::Guard;
    use crate::embed::{HashEmbedder, Verification, VerifierModel};
    use crate::types::ChatRequest;
    use async_trait::async_trait;
    use std::sync::Mutex;

    /// Says how long the first text is, and keeps what it was asked.
    struct Lengths(VerifierModel, Mutex<Vec<(String, String)>>);

    #[async_trait]
    impl Verifier for Lengths {
        fn model(&self) -> &VerifierModel {
            &self.0
        }

        async fn verify(&self, _: &TenantId, pairs: Vec<(String, String)>) -> Result<Vec<Verification>> {
            self.1.lock().unwrap().extend(pairs.clone());
            let verification = |(a, _): &(String, String)| Verification {
                logit: a.len() as f32,
                tokens: 1,
                truncated: false,
                unknown: 0,
            };
            Ok(pairs.iter().map(verification).collect())
        }
    }

    fn pair(cached: &str, new: &str) -> Pair {
        let (cached, new) = (ChatRequest::prompt("m", cached), ChatRequest::prompt("m", new));
        Pair { cached, new, is_right: true, source: "s".into() }
    }

    #[tokio::test]
    async fn every_pair_gets_the_scores_of_its_own_texts() {
        let pairs: Vec<_> = (0..600).map(|n| pair(&"x".repeat(n % 7 + 1), &format!("send {n} apples home"))).collect();
        let verifier = Lengths(VerifierModel { id: "l".into(), max_tokens: 9 }, Mutex::default());
        let (tenant, embedder) = (TenantId::new("t").unwrap(), HashEmbedder::new());
        let judges = Judges { embedder: &embedder, verifier: Some(&verifier), tenant: &tenant };
        let last = Mutex::new((0, 0));
        let (found, _) = judge(&judges, &pairs, |done, of| *last.lock().unwrap() = (done, of)).await.unwrap();
        assert!(found.iter().enumerate().all(|(n, found)| found.logit == Some((n % 7 + 1) as f32)));
        assert_eq!(*last.lock().unwrap(), (7 + 600 + 600, 7 + 600 + 600));
        let same = [pair("buy 3 apples", "buy 3 apples"), pair("buy 3 apples", "buy 4 apples")];
        let (found, _) = judge(&Judges { verifier: None, ..judges }, &same, |_, _| {}).await.unwrap();
        assert!(
            (found[0].similarity - 1.0).abs() < 1e-5 && found[0].compared.guards.is_empty() && found[0].logit.is_none()
        );
        assert_eq!(found[1].compared.guards, [Guard::Number]);
    }
}
