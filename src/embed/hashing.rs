//! An embedder without a model: hashed character n-grams. For tests, and for demos on machines without model files.
//!
//! It knows spelling and nothing of meaning: texts that share most of their letters come out close, paraphrases in
//! other words do not, and a negation hardly moves the vector. Never serve real traffic with it.

use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

use super::{Embedder, EmbeddingModel};
use crate::types::{Embedding, Error, ErrorKind, Result, TenantId};

/// Values per vector, as many as MiniLM has.
const DIM: usize = 384;
/// Characters that are read of one text; the rest is cut off.
const MAX_CHARS: usize = 1024;
/// Lengths of the n-grams, in characters. A whole word also counts as one.
const GRAMS: std::ops::RangeInclusive<usize> = 2..=4;

/// Texts worked on at once, unless told.
const PLACES: usize = 1024;
/// When to come back after a refusal.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// A bag of hashed character n-grams, signed, scaled to unit length. The same text gives the same vector on every
/// machine and in every version that has the same id.
#[derive(Debug)]
pub struct HashEmbedder {
    model: EmbeddingModel,
    capacity: usize,
    places: Semaphore,
    delay: Duration,
}

impl HashEmbedder {
    /// What `embedding.model` says to choose it.
    pub const NAME: &str = "hashed-ngrams";

    pub fn new() -> Self {
        Self::with(PLACES, Duration::ZERO)
    }

    /// One that works on at most `places` texts at once, refuses further calls as [`ErrorKind::Overloaded`], and
    /// lets every call wait for `delay` on tokio's clock: a slow or a full model, for the tests of those above.
    pub fn with(places: usize, delay: Duration) -> Self {
        let model =
            EmbeddingModel { id: "hashed-ngrams@1".into(), name: Self::NAME.into(), dim: DIM, max_tokens: MAX_CHARS };
        let capacity = places.max(1);
        Self { model, capacity, places: Semaphore::new(capacity), delay }
    }

    async fn embed_some(&self, texts: &[String], first: bool) -> Result<Vec<Embedding>> {
        let wanted = u32::try_from(texts.len()).unwrap_or(u32::MAX);
        let _places = if first {
            self.places.try_acquire_many(wanted).map_err(|_| overloaded())?
        } else {
            self.places.acquire_many(wanted).await.map_err(|_| overloaded())?
        };
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        Ok(texts.iter().map(|text| embed_one(text)).collect())
    }
}

impl Default for HashEmbedder {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Embedder for HashEmbedder {
    fn model(&self) -> &EmbeddingModel {
        &self.model
    }

    /// A call with more texts than there are places goes through in parts.
    async fn embed(&self, _: &TenantId, texts: Vec<String>) -> Result<Vec<Embedding>> {
        let mut embeddings = Vec::with_capacity(texts.len());
        for (at, part) in texts.chunks(self.capacity).enumerate() {
            embeddings.extend(self.embed_some(part, at == 0).await?);
        }
        Ok(embeddings)
    }
}

fn overloaded() -> Error {
    Error::new(ErrorKind::Overloaded, "the embedding queue is full").with_retry_after(RETRY_AFTER)
}

fn embed_one(text: &str) -> Embedding {
    let chars: Vec<char> = text.chars().take(MAX_CHARS).collect();
    let kept: String = chars.iter().collect();
    let mut vector = [0f32; DIM];
    add(&mut vector, "", 0.01); // so that an empty text has a direction too
    for word in kept.to_lowercase().split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        add(&mut vector, word, 1.0);
        let padded: Vec<char> = std::iter::once('^').chain(word.chars()).chain(std::iter::once('$')).collect();
        for size in GRAMS {
            for gram in padded.windows(size) {
                add(&mut vector, &gram.iter().collect::<String>(), 0.5);
            }
        }
    }
    // The constant term cannot be cancelled to an exact zero by sums of 0.5 and 1.0, so the length is never zero.
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    let vector: Arc<[f32]> = vector.iter().map(|x| x / length).collect();
    // Special tokens do not exist here; one "token" is one character, at least one as for any text.
    let tokens = u32::try_from(chars.len().max(1)).unwrap_or(u32::MAX);
    Embedding { vector, tokens, truncated: chars.len() < text.chars().count(), unknown: 0 }
}

/// Adds `weight` at the place, and with the sign, that the hash of `gram` says.
fn add(vector: &mut [f32; DIM], gram: &str, weight: f32) {
    let hash = blake3::hash(gram.as_bytes());
    let bytes = hash.as_bytes();
    let place = usize::from(u16::from_le_bytes([bytes[0], bytes[1]])) % DIM;
    vector[place] += if bytes[2] & 1 == 0 { weight } else { -weight };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine(a: &str, b: &str) -> f32 {
        embed_one(a).vector.iter().zip(embed_one(b).vector.iter()).map(|(x, y)| x * y).sum()
    }

    #[test]
    fn near_spellings_are_close_and_other_words_are_not() {
        assert!(cosine("How do I reset my password?", "how do i reset my password") > 0.999);
        assert!(cosine("How do I reset my password?", "How do I reset my passwords?") > 0.9);
        assert!(cosine("How do I reset my password?", "What is the capital of France?") < 0.4);
    }

    #[test]
    fn the_vector_of_a_text_never_changes() {
        let vector = embed_one("semantic cache").vector;
        let first: Vec<(usize, f32)> =
            vector.iter().copied().enumerate().filter(|(_, x)| x.abs() > 0.2).map(|(i, x)| (i, x.signum())).collect();
        assert_eq!(first, vec![(40, 1.0), (274, -1.0), (335, -1.0)]);
    }
}
