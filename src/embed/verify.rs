//! Whether one answer serves two prompts: a cross-encoder that reads both together, trained by this project (`models/verifier`).
//!
//! It runs in the engine of the embedder, on the same cores, behind a queue of its own.

use async_trait::async_trait;

use super::bert::config::BertConfig;
use super::bert::{Bert, Kind};
use super::kernels::Kernels;
use super::local::{ID_DIGITS, sha256, threads};
use super::tokenize::{BertTokenizer, Tokenise};
use super::worker::Worker;
use super::{Cores, Forward};
use crate::config;
use crate::types::{Error, Result, TenantId};

/// Reads two prompts together.
#[async_trait]
pub trait Verifier: Send + Sync + 'static {
    fn model(&self) -> &VerifierModel;

    /// One verification per pair, in order; the order within a pair makes no difference. Sheds with
    /// [`crate::types::ErrorKind::Overloaded`] when its queue is full; a dropped future takes its pairs out of the queue.
    async fn verify(&self, tenant: &TenantId, pairs: Vec<(String, String)>) -> Result<Vec<Verification>>;
}

/// What there is to know of a verifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierModel {
    /// Name and a short hash of its weights: scores with different ids are never compared.
    pub id: String,
    /// Tokens it reads of a pair, special tokens included; what lies before is cut off.
    pub max_tokens: usize,
}

/// What a verifier says of a pair.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verification {
    /// Log-odds, by the data it was trained on, that one answer serves both.
    pub logit: f32,
    /// Tokens read, special tokens included.
    pub tokens: u32,
    /// Not all of the pair was read.
    pub truncated: bool,
    /// Tokens that stand for something that is not in the vocabulary.
    pub unknown: u32,
}

/// A verifier on its own threads, behind a bounded queue.
pub struct LocalVerifier {
    model: VerifierModel,
    worker: Worker<(String, String)>,
}

/// What makes a verifier: the bytes of its files.
#[derive(Debug, Clone, Copy)]
pub struct VerifierFiles<'a> {
    pub config: &'a [u8],
    pub tokenizer: &'a [u8],
    pub weights: &'a [u8],
}

impl VerifierFiles<'static> {
    /// What [`VerifierFiles::OWN`] was trained on, by codes of ISO 639-3.
    pub const LANGUAGES: [&'static str; 1] = ["eng"];

    /// The one that this project trained, which is part of the program.
    pub const OWN: Self = Self {
        config: include_bytes!("../../models/verifier/config.json"),
        tokenizer: include_bytes!("../../models/verifier/tokenizer.json"),
        weights: include_bytes!("../../models/verifier/verifier.safetensors"),
    };
}

impl LocalVerifier {
    /// Name of [`VerifierFiles::OWN`].
    pub const OWN: &'static str = "reprise-verifier";

    /// Lays the weights out and runs the verifier once. Passes take turns with those of other models on the same `cores`. Blocks
    /// for some tenths of a second.
    ///
    /// Errors: as those of [`super::Model::load`], but for missing files.
    pub fn load(files: VerifierFiles, name: &str, settings: &config::Embedding, cores: Cores) -> Result<Self> {
        let config = BertConfig::parse(files.config)?;
        let max_tokens = config.longest_text();
        let tokenizer = BertTokenizer::from_bytes(files.tokenizer, max_tokens)?;
        let weights = files.weights;
        let model = VerifierModel { id: format!("{name}@{}", &sha256(weights)[..ID_DIGITS]), max_tokens };
        let threads = threads(settings.threads);
        let precision = settings.precision;
        let bert = Bert::load(config, Kind::Verifier, weights, precision, (threads, cores), Kernels::best())?;
        let probe = Tokenise::tokenise(&tokenizer, &("warm".to_owned(), "up".to_owned()))?;
        if bert.forward(&[probe.input()])?.iter().any(|score| score.len() != 1) {
            return Err(Error::internal("the verifier does not give one number for a pair"));
        }
        let worker = Worker::start("verify", tokenizer, bert, settings.queue, settings.batch_tokens)?;
        Ok(Self { model, worker })
    }

    /// Refuses new pairs, finishes those that wait, ends the threads; within 30 seconds.
    pub async fn close(&self) -> Result<()> {
        self.worker.close().await
    }
}

#[async_trait]
impl Verifier for LocalVerifier {
    fn model(&self) -> &VerifierModel {
        &self.model
    }

    async fn verify(&self, tenant: &TenantId, pairs: Vec<(String, String)>) -> Result<Vec<Verification>> {
        let scored = self.worker.call(tenant, pairs).await?;
        let verification = |score: crate::types::Embedding| Verification {
            logit: score.vector.first().copied().unwrap_or(f32::NEG_INFINITY),
            tokens: score.tokens,
            truncated: score.truncated,
            unknown: score.unknown,
        };
        Ok(scored.into_iter().map(verification).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Reference {
        a: String,
        b: String,
        logit: f32,
    }

    /// Logits that the training pipeline computed from the same weights in full precision.
    /// All of them where the code is fast, some of each sort where it is not.
    fn references() -> Vec<Reference> {
        let all: Vec<Reference> =
            serde_json::from_slice(include_bytes!("../../models/verifier/reference.json")).unwrap();
        assert!(all.len() > 300);
        all.into_iter().step_by(if cfg!(debug_assertions) { 9 } else { 1 }).collect()
    }

    async fn logits(precision: config::Precision, pairs: Vec<(String, String)>) -> Vec<Verification> {
        let settings = config::Embedding { precision, ..Default::default() };
        let verifier =
            LocalVerifier::load(VerifierFiles::OWN, LocalVerifier::OWN, &settings, Cores::default()).unwrap();
        let verified = verifier.verify(&TenantId::new("t").unwrap(), pairs).await.unwrap();
        verifier.close().await.unwrap();
        verified
    }

    #[tokio::test]
    async fn the_logits_are_those_of_the_training_pipeline_and_both_orders_have_the_same() {
        let references = references();
        let pairs = |swap: bool| -> Vec<_> {
            let pair = |r: &Reference| if swap { (r.b.clone(), r.a.clone()) } else { (r.a.clone(), r.b.clone()) };
            references.iter().map(pair).collect()
        };
        for (precision, most) in [(config::Precision::F32, 2e-3), (config::Precision::Bf16, 0.25)] {
            let found = logits(precision, pairs(false)).await;
            for (found, expected) in found.iter().zip(&references) {
                let off = (found.logit - expected.logit).abs();
                assert!(off < most, "{precision:?}: {off} for {:?} / {:?}", expected.a, expected.b);
            }
            assert_eq!(logits(precision, pairs(true)).await, found);
        }
    }
}
