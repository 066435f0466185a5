//! Texts to unit vectors, on the model's own threads.
//!
//! [`verify`] reads two texts together and says whether one answer serves both; it goes the same way through the same engine.
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
mod verify;
mod worker;

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};

use std::sync::Arc;

use crate::types::{Embedding, Result, TenantId};

pub use hashing::HashEmbedder;
pub use local::{Engine, LocalEmbedder, Model};
pub use memo::Memo;
pub use verify::{LocalVerifier, Verification, Verifier, VerifierFiles, VerifierModel};

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

/// A model as its worker sees it: tokens in, values out. Runs on the worker's thread alone.
trait Forward: Send + 'static {
    /// One unit vector for each text, or one number for each pair, in order. `batch` is not empty, and none of its sequences is.
    fn forward(&self, batch: &[Input]) -> Result<Vec<Arc<[f32]>>>;
}

impl Forward for Box<dyn Forward> {
    fn forward(&self, batch: &[Input]) -> Result<Vec<Arc<[f32]>>> {
        (**self).forward(batch)
    }
}

/// Token ids of a text, or of a pair of texts.
#[derive(Debug, Clone, Copy)]
struct Input<'a> {
    ids: &'a [u32],
    /// Where the second text begins; the end where there is none.
    second: usize,
}

impl<'a> Input<'a> {
    fn text(ids: &'a [u32]) -> Self {
        Self { ids, second: ids.len() }
    }
}

/// The cores that models compute on. A pass uses as many threads as it was given, so those of models that share
/// cores take turns: threads of two passes on one core would wait for one another at every step.
#[derive(Debug, Clone, Default)]
pub struct Cores(Arc<Mutex<()>>);

impl Cores {
    fn turn(&self) -> MutexGuard<'_, ()> {
        self.0.lock()
    }
}
