//! Texts to unit vectors, on the model's own threads.
//!
//! A call's way through [`CandleEmbedder`]: [`queue`] (bounded; sheds) -> the tokeniser's thread ([`tokenize`]) ->
//! batches by token budget -> the model's thread ([`bert`]) -> back to the caller. [`worker`] runs the two threads.

mod bert;
mod candle;
#[cfg(test)]
mod contract;
mod hashing;
#[cfg(test)]
mod minilm_tests;
mod queue;
mod tokenize;
mod worker;

use async_trait::async_trait;

use crate::types::{Embedding, Result};

pub use candle::CandleEmbedder;
pub use hashing::HashEmbedder;

/// Turns texts into unit vectors of one model.
#[async_trait]
pub trait Embedder: Send + Sync + 'static {
    fn model(&self) -> &EmbeddingModel;

    /// One embedding per text, in order. Sheds with [`crate::types::ErrorKind::Overloaded`] when its queue is full;
    /// a dropped future takes its texts out of the queue.
    async fn embed(&self, texts: Vec<String>) -> Result<Vec<Embedding>>;

    /// Answers when texts are taken; costs no forward pass.
    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}

/// What there is to know of an embedding model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddingModel {
    /// Name and a short hash of its weights: vectors with different ids are never compared.
    pub id: String,
    /// Name in the models manifest, for example `all-MiniLM-L6-v2`.
    pub name: String,
    /// Values per vector.
    pub dim: usize,
    /// Tokens it reads of one text, special tokens included; the rest is cut off.
    pub max_tokens: usize,
}
