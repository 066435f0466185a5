//! Texts to unit vectors, on the model's own threads.
//!
//! A call's way through [`LocalEmbedder`]: [`queue`] (bounded; sheds) -> the tokeniser's thread ([`tokenize`]) ->
//! batches by token budget -> the model's threads ([`bert`], on [`kernels`]) -> back to the caller. [`worker`] runs it;
//! [`lines`] keeps the queue fair between tenants; [`Memo`] spares repeated texts the way.

mod bert;
#[cfg(test)]
mod contract;
#[cfg(test)]
#[cfg(feature = "cuda")]
mod cuda_tests;
mod hashing;
mod kernels;
mod lines;
mod local;
mod memo;
#[cfg(test)]
mod minilm_tests;
mod queue;
mod stock;
mod tokenize;
mod worker;

use async_trait::async_trait;

use std::sync::Arc;

use crate::types::{Embedding, Result, TenantId};

pub use hashing::HashEmbedder;
pub use local::{Engine, LocalEmbedder, Model};
pub use memo::Memo;

/// Turns texts into unit vectors of one model.
#[async_trait]
pub trait Embedder: Send + Sync + 'static {
    fn model(&self) -> &EmbeddingModel;

    /// One embedding per text, in order. Sheds with [`crate::types::ErrorKind::Overloaded`] when its queue is full;
    /// a dropped future takes its texts out of the queue. Tenants take turns.
    async fn embed(&self, tenant: &TenantId, texts: Vec<String>) -> Result<Vec<Embedding>>;

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

/// A model as its worker sees it: tokens in, vectors out. Runs on the worker's thread alone.
trait Forward: Send + 'static {
    /// One unit vector per sequence of token ids, in order. `batch` is not empty, and none of its sequences is.
    fn forward(&self, batch: &[&[u32]]) -> Result<Vec<Arc<[f32]>>>;
}

impl Forward for Box<dyn Forward> {
    fn forward(&self, batch: &[&[u32]]) -> Result<Vec<Arc<[f32]>>> {
        (**self).forward(batch)
    }
}
