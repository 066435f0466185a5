//! Judgements of labelled pairs, by the parts that decide in the service.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::data::Pair;
use crate::cache::{Judge, Judgement};
use crate::embed::Embedder;
use crate::types::{Error, Probe, Result, Similarity, TenantId};

/// Texts handed over at once; the embedder makes its own batches of them.
const CHUNK: usize = 256;

/// Who judges.
pub struct Judges<'a> {
    pub embedder: &'a dyn Embedder,
    pub judge: &'a Judge,
    pub tenant: &'a TenantId,
}

/// Time each step took for all pairs together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Took {
    pub embedding: Duration,
    pub guards: Duration,
    pub verifying: Duration,
}

/// Judges every pair, and tells whether the service would compare the two at all: their language is known and their vectors say
/// all of them. Judged are the last turns by vectors and word by word, the whole conversations by the verifier. `done` hears how many
/// texts and pairs are behind it, of how many.
pub async fn judge(
    judges: &Judges<'_>,
    pairs: &[Pair],
    done: impl Fn(usize, usize),
) -> Result<(Vec<Judgement>, Vec<bool>, Took)> {
    let probes = pairs.iter().map(|pair| Ok((probe(&pair.cached)?, probe(&pair.new)?))).collect::<Result<Vec<_>>>()?;
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut texts: Vec<&str> = Vec::new();
    for probe in probes.iter().flat_map(|(a, b)| [a, b]) {
        places.entry(&probe.prompt).or_insert_with(|| {
            texts.push(&probe.prompt);
            texts.len() - 1
        });
    }
    let steps = texts.len() + judges.judge.verifier().map_or(0, |_| pairs.len());
    let mut took = Took::default();

    let started = Instant::now();
    let mut vectors: Vec<Arc<[f32]>> = Vec::with_capacity(texts.len());
    let mut known: Vec<bool> = texts.iter().map(|text| judges.judge.knows_language_of(text)).collect();
    for chunk in texts.chunks(CHUNK) {
        let chunk = chunk.iter().map(|text| (*text).to_owned()).collect();
        let embedded = judges.embedder.embed(judges.tenant, chunk).await?;
        for embedding in embedded {
            known[vectors.len()] &= embedding.is_whole();
            vectors.push(embedding.vector);
        }
        done(vectors.len(), steps);
    }
    took.embedding = started.elapsed();

    let started = Instant::now();
    let mut found: Vec<Judgement> = probes
        .iter()
        .map(|(a, b)| {
            let (x, y) = (&vectors[places[a.prompt.as_str()]], &vectors[places[b.prompt.as_str()]]);
            judges.judge.read(&a.prompt, &b.prompt, Similarity::between(x, y))
        })
        .collect();
    took.guards = started.elapsed();

    let started = Instant::now();
    if judges.judge.verifier().is_some() {
        for (n, (found, probes)) in found.chunks_mut(CHUNK).zip(probes.chunks(CHUNK)).enumerate() {
            let texts = probes.iter().map(|(a, b)| (a.text().into_owned(), b.text().into_owned())).collect();
            judges.judge.verify(judges.tenant, texts, &mut found.iter_mut().collect::<Vec<_>>()).await?;
            done(texts_before(vectors.len(), n, pairs.len()), steps);
        }
    }
    took.verifying = started.elapsed();
    let place = |probe: &Probe| known[places[probe.prompt.as_str()]];
    let comparable = probes.iter().map(|(a, b)| place(a) && place(b)).collect();
    Ok((found, comparable, took))
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
    use crate::cache::Languages;
    use crate::cache::decide::guards::Guard;
    use crate::embed::{HashEmbedder, Verification, Verifier, VerifierModel};
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
        let judge = Judge::new(Some(Arc::new(verifier)), Languages::default()).unwrap();
        let (tenant, embedder) = (TenantId::new("t").unwrap(), HashEmbedder::new());
        let judges = Judges { embedder: &embedder, judge: &judge, tenant: &tenant };
        let last = Mutex::new((0, 0));
        let (found, _, _) = super::judge(&judges, &pairs, |done, of| *last.lock().unwrap() = (done, of)).await.unwrap();
        assert!(found.iter().enumerate().all(|(n, found)| found.logit == Some((n % 7 + 1) as f32)));
        assert_eq!(*last.lock().unwrap(), (7 + 600 + 600, 7 + 600 + 600));
        let same = [pair("buy 3 apples", "buy 3 apples"), pair("buy 3 apples", "buy 4 apples")];
        let (found, _, _) = super::judge(
            &Judges { judge: &Judge::new(None, Languages::default()).unwrap(), ..judges },
            &same,
            |_, _| {},
        )
        .await
        .unwrap();
        assert!(
            (found[0].similarity - 1.0).abs() < 1e-5 && found[0].compared.guards.is_empty() && found[0].logit.is_none()
        );
        assert_eq!(found[1].compared.guards, [Guard::Number]);
    }
}
