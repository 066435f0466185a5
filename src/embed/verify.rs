//! Whether one answer serves two prompts: a cross-encoder that reads both together, trained by this project (`models/verifier`).
//!
//! It runs in the engine of the embedder, on the same cores, behind a queue of its own.

use async_trait::async_trait;
use std::path::Path;

use super::bert::config::BertConfig;
use super::bert::{Bert, Kind};
use super::kernels::Kernels;
use super::local::{ID_DIGITS, read, sha256, threads};
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

impl LocalVerifier {
    /// Reads a verifier from its folder (`config.json`, `tokenizer.json`, `model.safetensors`) and runs it once. Passes take turns
    /// with those of other models on the same `cores`.
    ///
    /// Errors: as those of [`super::Model::load`].
    pub fn load(model_dir: &Path, name: &str, settings: &config::Embedding, cores: Cores) -> Result<Self> {
        let config = BertConfig::parse(&read(model_dir, "config.json")?)?;
        let max_tokens = config.longest_text();
        let tokenizer = BertTokenizer::from_bytes(&read(model_dir, "tokenizer.json")?, max_tokens)?;
        let weights = read(model_dir, "model.safetensors")?;
        let model = VerifierModel { id: format!("{name}@{}", &sha256(&weights)[..ID_DIGITS]), max_tokens };
        let threads = threads(settings.threads);
        let precision = settings.precision;
        let bert = Bert::load(config, Kind::Verifier, &weights, precision, (threads, cores), Kernels::best())?;
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
